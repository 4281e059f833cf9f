//! Nonsense, and worse: the status and code the specification gives, no panic, and no connection to
//! a host that is not configured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};
use darner_e2e::client::{Answer, Client};
use darner_e2e::cluster::start_up;
use darner_e2e::darner::Darner;
use darner_e2e::scene::Scene;
use darner_e2e::upstream::{NAME, Upstream};
use darner_e2e::{raw, scene};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A listener that nobody has a reason to connect to.
struct Sentinel {
    address: SocketAddr,
    connections: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Sentinel {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let connections = Arc::new(AtomicU64::new(0));
        let counted = connections.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while listener.accept().await.is_ok() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(Self {
            address,
            connections,
            _tasks: tasks,
        })
    }
}

struct Target {
    upstream: Upstream,
    up: Darner,
    address: SocketAddr,
}

impl Target {
    async fn start(scene: &Scene) -> Result<Self> {
        let upstream = Upstream::start(scene).await?;
        let up = start_up(scene, &upstream).await?;
        let address = up.address("registry")?;
        Ok(Self {
            upstream,
            up,
            address,
        })
    }

    async fn get(&self, target: &str) -> Result<Answer> {
        raw::request(self.address, "GET", target, "").await
    }

    /// Sends each target and checks the answer; `(status, code)` pairs are all that is allowed.
    async fn expect(&self, targets: &[String], allowed: &[(u16, &str)]) -> Result<()> {
        for target in targets {
            let answer = self.get(target).await?;
            let code = answer.error_code()?;
            let fits = allowed.contains(&(answer.status, code.as_str()));
            ensure!(fits, "{target:.120}: {}", answer.describe());
        }
        Ok(())
    }

    /// It still works, has not panicked, and asked upstream nothing.
    async fn unharmed(&mut self) -> Result<()> {
        let asked = self.upstream.ledger().describe();
        ensure!(asked.is_empty(), "upstream was asked:\n{asked}");
        let output = self.up.output();
        ensure!(!output.contains("panicked"), "a panic in the log");
        ensure!(self.up.is_running());
        let client = Client::new(&self.up, NAME)?;
        client.pull(&self.upstream.images.tiny).await.map(drop)
    }
}

fn each(values: &[&str], form: impl Fn(&str) -> String) -> Vec<String> {
    values.iter().map(|value| form(value)).collect()
}

#[test]
fn malformed_names() {
    scene::run("bad_names", async |scene| {
        let mut target = Target::start(scene).await?;
        let long = "a".repeat(300);
        let names = [
            "UPPER/case",
            "..",
            "a/../../b",
            "a//b",
            "/a",
            "a/",
            "_a",
            "a_",
            "a.-b",
            "a___b",
            "a%20b",
            "a%2e%2e%2fb",
            "%2e%2e",
            "a%00b",
            "a%0d%0ab",
            "a:b",
            "a@b",
            "%ff",
            &long,
        ];
        let manifests = each(&names, |name| format!("/v2/{name}/manifests/v1?ns={NAME}"));
        let blobs = each(&names, |name| {
            format!("/v2/{name}/blobs/sha256:{HEX}?ns={NAME}")
        });
        // A dot segment may already be resolved by an HTTP library: then it is another path.
        let allowed = [
            (400, "NAME_INVALID"),
            (404, "NAME_UNKNOWN"),
            (404, "UNSUPPORTED"),
        ];
        target.expect(&manifests, &allowed).await?;
        target.expect(&blobs, &allowed).await?;
        target.unharmed().await
    });
}

#[test]
fn malformed_tags_and_digests() {
    scene::run("bad_references", async |scene| {
        let mut target = Target::start(scene).await?;
        let long = "t".repeat(129);
        let tags = [".hidden", "-dash", "a%20b", "%00", "ta+g", &long];
        let tags = each(&tags, |tag| {
            format!("/v2/test/tiny/manifests/{tag}?ns={NAME}")
        });
        let allowed = [
            (400, "TAG_INVALID"),
            (400, "MANIFEST_INVALID"),
            (400, "NAME_INVALID"),
            (404, "MANIFEST_UNKNOWN"),
        ];
        target.expect(&tags, &allowed).await?;
        let upper = HEX.to_uppercase();
        let digests = [
            "sha256:".to_owned(),
            "sha256:abc".to_owned(),
            format!("sha256:{upper}"),
            format!("sha256:{HEX}00"),
            format!("sha256:{}", &HEX[1..]),
            format!("md5:{HEX}"),
            format!(":{HEX}"),
            format!("sha256:{HEX}:{HEX}"),
            format!("sha256:..%2f{}", &HEX[5..]),
            format!("sha512:{HEX}"),
        ];
        for kind in ["blobs", "manifests"] {
            let targets: Vec<_> = digests
                .iter()
                .map(|digest| format!("/v2/test/tiny/{kind}/{digest}?ns={NAME}"))
                .collect();
            let allowed = [(400, "DIGEST_INVALID"), (400, "NAME_INVALID")];
            target.expect(&targets, &allowed).await?;
        }
        target.unharmed().await
    });
}

/// What a registry's name is refused with: malformed, not configured, or too long to look at.
const REFUSED: [(u16, &str); 3] = [
    (400, "NAME_INVALID"),
    (404, "NAME_UNKNOWN"),
    (414, "NAME_INVALID"),
];

#[test]
fn registries_that_cannot_be() {
    scene::run("bad_registries", async |scene| {
        let mut target = Target::start(scene).await?;
        let long = "a".repeat(5000);
        let label = "a".repeat(64);
        let names = [
            "",
            "..",
            "../registry.test",
            "REGISTRY.TEST",
            "registry.test/",
            "registry.test%00",
            "%5B%3A%3A1%5D",
            "user:pw%40registry.test",
            "registry.test%2F..%2Fx",
            "http:%2F%2Fregistry.test",
            "registry.test:0",
            "registry.test:99999",
            "registry.test:",
            "registry..test",
            "%20registry.test",
            "registry.test%23",
            "registry.test%3F",
            &label,
            &long,
        ];
        let targets = each(&names, |ns| format!("/v2/test/tiny/manifests/v1?ns={ns}"));
        target.expect(&targets, &REFUSED).await?;
        target.unharmed().await
    });
}

#[test]
fn registries_that_are_not_configured() {
    scene::run("unknown_registries", async |scene| {
        let mut target = Target::start(scene).await?;
        let sentinel = Sentinel::start().await?;
        let port = sentinel.address.port();
        let spelt = [
            "127.0.0.1",
            "localhost",
            "0.0.0.0",
            "2130706433",
            "0x7f000001",
            "127.1",
        ];
        let here = each(&spelt, |host| format!("{host}:{port}"));
        let elsewhere = [
            "169.254.169.254",
            "10.0.0.1:22",
            "localhost",
            "evil.test",
            "registry.test:5000",
            "registry.tes",
        ];
        let mut targets = Vec::new();
        for ns in here.iter().map(String::as_str).chain(elsewhere) {
            let escaped = ns.replace(':', "%3A");
            targets.push(format!("/v2/test/tiny/manifests/v1?ns={escaped}"));
            targets.push(format!("/v2/test/tiny/blobs/sha256:{HEX}?ns={ns}"));
        }
        let local = &here[0];
        for both in [format!("{NAME}&ns={local}"), format!("{local}&ns={NAME}")] {
            targets.push(format!("/v2/test/tiny/manifests/v1?ns={both}"));
        }
        // In the path such a name is a malformed repository of the default registry.
        targets.extend(
            here.iter()
                .map(|host| format!("/v2/{host}/test/tiny/manifests/v1")),
        );
        target.expect(&targets, &REFUSED).await?;
        // Nor does a header or a request line name a host to go to.
        for headers in [
            format!("X-Forwarded-Host: {local}\r\n"),
            format!("X-Original-Url: http://{local}/\r\n"),
        ] {
            raw::request(target.address, "GET", "/v2/", &headers).await?;
        }
        let absolute = format!("http://{local}/v2/");
        raw::request(target.address, "GET", &absolute, "").await?;
        raw::request(target.address, "CONNECT", local, "").await?;
        target.unharmed().await?;
        let connections = sentinel.connections.load(Ordering::Relaxed);
        ensure!(
            connections == 0,
            "{connections} connections to a host nobody configured"
        );
        Ok(())
    });
}

#[test]
fn methods_that_write_and_bodies_where_none_belong() {
    scene::run("bad_methods", async |scene| {
        let mut target = Target::start(scene).await?;
        let paths = [
            "/v2/".to_owned(),
            format!("/v2/test/tiny/manifests/v1?ns={NAME}"),
            format!("/v2/test/tiny/blobs/sha256:{HEX}?ns={NAME}"),
            format!("/v2/test/tiny/blobs/uploads/?ns={NAME}"),
        ];
        for path in &paths {
            for method in ["POST", "PUT", "PATCH", "DELETE", "PROPFIND"] {
                let headers = "Content-Length: 3\r\n\r\nabc";
                let answer = raw::request(target.address, method, path, headers).await?;
                ensure!(
                    answer.status == 405,
                    "{method} {path}: {}",
                    answer.describe()
                );
                ensure!(answer.error_code()? == "UNSUPPORTED", "{method} {path}");
                ensure!(answer.header("allow")?.contains("GET"));
            }
        }
        for headers in [
            "Content-Length: 3\r\n\r\nabc",
            "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n",
        ] {
            let answer = raw::request(target.address, "GET", &paths[1], headers).await?;
            ensure!(answer.status == 400, "a body on GET: {}", answer.describe());
        }
        target.unharmed().await
    });
}

#[test]
fn malformed_ranges() {
    scene::run("bad_ranges", async |scene| {
        let target = Target::start(scene).await?;
        let client = Client::new(&target.up, NAME)?;
        let image = &target.upstream.images.middle;
        client.pull(image).await?;
        let blob = image.largest()?;
        let path = format!("/v2/{}?ns={NAME}", image.blob_path(blob));
        let size = blob.size;
        for range in [
            "bytes=".to_owned(),
            "bytes=-".to_owned(),
            "bytes=-0".to_owned(),
            "bytes=5-4".to_owned(),
            "bytes=a-b".to_owned(),
            "bytes=0x0-0x5".to_owned(),
            "bytes=--5".to_owned(),
            "bytes=18446744073709551615-".to_owned(),
            "bytes=99999999999999999999999999-".to_owned(),
            format!("bytes={size}-"),
            format!("bytes={}-{}", size + 1, size + 2),
            "bytes=0-0,2-3,-1".to_owned(),
            "lines=1-2".to_owned(),
        ] {
            let headers = format!("Range: {range}\r\n");
            let answer = raw::request(target.address, "GET", &path, &headers).await?;
            // What cannot be satisfied is 416; what is no range of bytes may be ignored.
            let fits = match answer.status {
                416 => answer.header("content-range")? == format!("bytes */{size}"),
                200 => blob.digest.matches(&answer.body),
                _ => false,
            };
            ensure!(fits, "{range}: {} {:?}", answer.status, answer.headers);
        }
        // One byte past the end is cut to the end.
        let headers = format!("Range: bytes={}-{}\r\n", size - 2, size + 9);
        let answer = raw::request(target.address, "GET", &path, &headers).await?;
        ensure!(
            answer.status == 206 && answer.body.len() == 2,
            "{:?}",
            answer.headers
        );
        ensure!(!target.up.output().contains("panicked"));
        Ok(())
    });
}

#[test]
fn bytes_that_are_not_http() {
    scene::run("bad_http", async |scene| {
        let mut target = Target::start(scene).await?;
        let long_target = format!("GET /v2/{} HTTP/1.1\r\n\r\n", "a".repeat(200_000));
        let many_headers = format!("GET /v2/ HTTP/1.1\r\n{}\r\n", "X-A: b\r\n".repeat(5000));
        for bytes in [
            &b"\0\0\0\0\r\n\r\n"[..],
            b"GET\r\n\r\n",
            b"GET /v2/ HTTP/9.9\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
            b"GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"GET /v2/ HTTP/1.1\r\nNo colon\r\n\r\n",
            long_target.as_bytes(),
            many_headers.as_bytes(),
        ] {
            let answer = raw::exchange(target.address, bytes).await?;
            let text = String::from_utf8_lossy(&answer);
            ensure!(!text.starts_with("HTTP/1.1 200"), "{text:.200}");
        }
        target.unharmed().await
    });
}
