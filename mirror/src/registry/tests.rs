//! The front end of a whole mirror, as clients meet it.

use std::net::SocketAddr;
use std::time::Duration;

use axum::http::StatusCode;
use darner_service::config::{self, Command, Flag, Sources};
use darner_service::health::Health;
use darner_service::metrics::Metrics;
use darner_service::settings::Settings;
use darner_service::shutdown::Shutdown;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::resolve::tests::fake::{Fake, IMAGE};
use crate::server::Mirror;

mod crowd;
mod private;

struct Front {
    address: SocketAddr,
    pieces: SocketAddr,
    client: reqwest::Client,
    shutdown: Shutdown,
    _directory: tempfile::TempDir,
}

impl Front {
    async fn start(fake: &Fake) -> Self {
        Self::with(fake, |_| ()).await
    }

    async fn with(fake: &Fake, change: impl FnOnce(&mut Settings)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut settings = settings(directory.path(), fake);
        settings.store.capacity = Some(1 << 30);
        change(&mut settings);
        let shutdown = Shutdown::default();
        let metrics = Metrics::default();
        let mirror = Mirror::bind(
            &settings,
            &metrics,
            &Health::default(),
            darner_service::identity::Identity::insecure(&Default::default()),
            &shutdown,
        )
        .await
        .unwrap();
        let [(_, address), (_, pieces)] = mirror.addresses()[..] else {
            panic!("there are two listeners");
        };
        mirror.serve();
        Self {
            address,
            pieces,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            shutdown,
            _directory: directory,
        }
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        self.send(reqwest::Method::GET, path, &[]).await
    }

    async fn send(
        &self,
        method: reqwest::Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> reqwest::Response {
        let url = format!("http://{}{path}", self.address);
        let mut request = self.client.request(method, url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    /// Waits until what was just served has been written down as well.
    async fn until_kept(&self, path: &str, headers: &[(&str, &str)]) {
        let kept = async {
            loop {
                let served = self.send(reqwest::Method::GET, path, headers).await;
                assert_eq!(served.status(), 200);
                if text(&served, "x-darner-source") == "store" {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let kept = tokio::time::timeout(Duration::from_secs(30), kept).await;
        kept.expect("it is kept");
    }

    /// Sends bytes as they are and reads until the front end hangs up.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn settings(directory: &std::path::Path, fake: &Fake) -> Settings {
    let set = [
        format!("data_dir={}", directory.display()),
        "node.id=me".to_owned(),
        "mirror.role=seed".to_owned(),
        "registry.listen=127.0.0.1:0".to_owned(),
        "pieces.listen=127.0.0.1:0".to_owned(),
        "identity.insecure=true".to_owned(),
    ];
    let sources = Sources {
        flags: set.iter().map(|setting| Flag::set(setting)).collect(),
        ..Sources::default()
    };
    let mut settings = config::load(Command::Mirror, &sources).unwrap();
    settings.upstreams = vec![fake.settings(Duration::from_secs(60))];
    settings.registry.default_upstream = "reg.test".parse().unwrap();
    settings
}

fn text(response: &reqwest::Response, name: &str) -> String {
    let value = response.headers().get(name);
    value.map_or(String::new(), |value| value.to_str().unwrap().to_owned())
}

async fn code(response: reqwest::Response) -> (u16, String) {
    assert!(!response.headers().contains_key("x-darner-source"));
    let status = response.status().as_u16();
    let body: serde_json::Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    (
        status,
        body["errors"][0]["code"].as_str().unwrap().to_owned(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ping_is_answered_without_the_network() {
    let fake = Fake::start().await;
    let front = Front::start(&fake).await;
    for path in ["/v2/", "/v2"] {
        let ping = front.get(path).await;
        assert_eq!(ping.status(), 200);
        assert_eq!(
            text(&ping, "docker-distribution-api-version"),
            "registry/2.0"
        );
        assert_eq!(ping.text().await.unwrap(), "{}");
    }
    let head = front.send(reqwest::Method::HEAD, "/v2/", &[]).await;
    assert_eq!(head.status(), 200);
    assert_eq!(fake.asked(""), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_comes_as_it_is_with_what_clients_check() {
    let fake = Fake::start().await;
    let image = fake.image("a/b", 10);
    let front = Front::start(&fake).await;
    for (method, by) in [
        (reqwest::Method::HEAD, "v1".to_owned()),
        (reqwest::Method::GET, "v1".to_owned()),
        (reqwest::Method::GET, image.manifest.to_string()),
    ] {
        let path = format!("/v2/a/b/manifests/{by}?ns=reg.test");
        let range = [("range", "bytes=0-")];
        let answer = front.send(method.clone(), &path, &range).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(text(&answer, "content-type"), IMAGE);
        assert_eq!(
            text(&answer, "docker-content-digest"),
            image.manifest.to_string()
        );
        assert_eq!(text(&answer, "oci-namespace"), "reg.test");
        assert!(text(&answer, "server-timing").starts_with("first;dur="));
        assert!(!text(&answer, "x-darner-source").is_empty());
        let length: usize = text(&answer, "content-length").parse().unwrap();
        let bytes = answer.bytes().await.unwrap();
        if method == reqwest::Method::GET {
            assert_eq!(bytes.len(), length);
            assert!(image.manifest.matches(&bytes));
        } else {
            assert!(length > 0 && bytes.is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_blob_is_served_by_range_and_a_warm_one_from_the_store() {
    let fake = Fake::start().await;
    let image = fake.image("a", 300_000);
    let front = Front::start(&fake).await;
    let path = format!("/v2/a/blobs/{}", image.layer);
    for (range, bytes) in [
        ("bytes=100000-", 100_000..300_000),
        ("bytes=-10", 299_990..300_000),
        ("bytes=5-9", 5..10),
    ] {
        let answer = front
            .send(reqwest::Method::GET, &path, &[("range", range)])
            .await;
        assert_eq!(answer.status(), 206, "{range}");
        assert_eq!(
            text(&answer, "content-range"),
            format!("bytes {}-{}/300000", bytes.start, bytes.end - 1)
        );
        assert_eq!(
            answer.bytes().await.unwrap(),
            image.layer_bytes.slice(bytes)
        );
    }
    let whole = front.get(&path).await;
    assert_eq!(whole.status(), 200);
    assert_eq!(text(&whole, "accept-ranges"), "bytes");
    assert_eq!(
        text(&whole, "docker-content-digest"),
        image.layer.to_string()
    );
    assert_eq!(text(&whole, "etag"), format!("\"{}\"", image.layer));
    assert_eq!(whole.bytes().await.unwrap(), image.layer_bytes);
    // The client had its last byte before the content was durable; from then on it is the store's.
    let stored = async { while text(&front.get(&path).await, "x-darner-source") != "store" {} };
    let stored = tokio::time::timeout(Duration::from_secs(10), stored).await;
    stored.expect("the content gets into the store");
    let head = front.send(reqwest::Method::HEAD, &path, &[]).await;
    assert_eq!(text(&head, "content-length"), "300000");
    let outside = [("range", "bytes=300000-")];
    let outside = front.send(reqwest::Method::GET, &path, &outside).await;
    assert_eq!(text(&outside, "content-range"), "bytes */300000");
    assert_eq!(code(outside).await, (416, "SIZE_INVALID".to_owned()));
    assert_eq!(fake.asked(&format!("GET {path}")), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_blob_is_served() {
    let fake = Fake::start().await;
    let digest = fake.put("a", "application/octet-stream", b"");
    let front = Front::start(&fake).await;
    let path = format!("/v2/a/blobs/{digest}");
    let answer = front
        .send(reqwest::Method::GET, &path, &[("range", "bytes=0-")])
        .await;
    assert_eq!(answer.status(), 200);
    assert_eq!(text(&answer, "content-length"), "0");
    assert!(answer.bytes().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn private_content_is_served_on_the_callers_own_credentials() {
    let fake = Fake::start().await;
    let image = fake.image("a", 1000);
    fake.make_private("a");
    let front = Front::start(&fake).await;
    let paths = [
        "/v2/a/manifests/v1".to_owned(),
        format!("/v2/a/blobs/{}", image.layer),
    ];
    let good = [("authorization", "Bearer good")];
    for path in &paths {
        let refused = front.get(path).await;
        assert_eq!(refused.status(), 401);
        assert!(text(&refused, "www-authenticate").contains(&fake.address.to_string()));
        assert!(!refused.headers().contains_key("x-darner-source"));
        let served = front.send(reqwest::Method::GET, path, &good).await;
        assert_eq!(served.status(), 200);
        assert_eq!(text(&served, "x-darner-source"), "upstream");
        assert!(!served.bytes().await.unwrap().is_empty());
        front.until_kept(path, &good).await;
        // What one caller may read is not there for the next.
        assert_eq!(front.get(path).await.status(), 401);
    }
    let part = [good[0], ("range", "bytes=5-9")];
    let part = front.send(reqwest::Method::GET, &paths[1], &part).await;
    assert_eq!(part.status(), 206);
    assert_eq!(part.bytes().await.unwrap(), image.layer_bytes.slice(5..10));
}

#[tokio::test(flavor = "multi_thread")]
async fn tag_lists_are_upstreams_and_page_on_this_mirror() {
    let fake = Fake::start().await;
    let front = Front::start(&fake).await;
    let list = front.get("/v2/a/tags/list?n=1&ns=reg.test").await;
    assert_eq!(list.status(), 200);
    assert_eq!(
        text(&list, "link"),
        r#"</v2/a/tags/list?last=v1&n=1&ns=reg.test>; rel="next""#
    );
    assert!(list.text().await.unwrap().contains("v1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_referrers_has_an_empty_list() {
    let fake = Fake::start().await;
    let image = fake.image("a", 10);
    let front = Front::start(&fake).await;
    let list = front
        .get(&format!("/v2/a/referrers/{}", image.manifest))
        .await;
    assert_eq!(list.status(), 200);
    assert_eq!(
        text(&list, "content-type"),
        "application/vnd.oci.image.index.v1+json"
    );
    assert!(list.text().await.unwrap().contains(r#""manifests":[]"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_kept_under_a_tag_are_found_and_filtered() {
    let fake = Fake::start().await;
    let image = fake.image("a", 10);
    let index = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"artifactType":"sig/x","digest":"d1"},{"artifactType":"sbom/y","digest":"d2"}]}"#;
    let kind = "application/vnd.oci.image.index.v1+json";
    let stored = fake.put("a", kind, index.as_bytes());
    fake.tag("a", &format!("sha256-{}", image.manifest.hex()), stored);
    let front = Front::start(&fake).await;
    let path = format!("/v2/a/referrers/{}", image.manifest);
    let all = front.get(&path).await;
    assert_eq!(text(&all, "content-type"), kind);
    assert_eq!(text(&all, "oci-filters-applied"), "");
    assert_eq!(all.text().await.unwrap(), index);
    let filtered = format!("{path}?artifactType=sbom%2Fy&ns=reg.test");
    let some = front.get(&filtered).await;
    assert_eq!(text(&some, "oci-filters-applied"), "artifactType");
    let length = text(&some, "content-length");
    let body = some.text().await.unwrap();
    assert!(body.contains("d2") && !body.contains("d1"), "{body}");
    let head = front.send(reqwest::Method::HEAD, &filtered, &[]).await;
    assert_eq!(text(&head, "content-length"), length);
    assert_eq!(length, body.len().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_upstream_are_in_the_specifications_words() {
    let fake = Fake::start().await;
    let image = fake.image("a", 1000);
    fake.make_private("a");
    let front = Front::start(&fake).await;
    for path in [
        "/v2/a/manifests/v1".to_owned(),
        "/v2/a/manifests/none".to_owned(),
        format!("/v2/a/blobs/{}", image.layer),
        "/v2/a/tags/list".to_owned(),
    ] {
        let refused = front.get(&path).await;
        assert!(text(&refused, "www-authenticate").starts_with("Bearer "));
        assert_eq!(code(refused).await, (401, "UNAUTHORIZED".to_owned()));
        let head = front.send(reqwest::Method::HEAD, &path, &[]).await;
        assert!(text(&head, "www-authenticate").starts_with("Bearer "));
        assert_eq!(head.status(), 401);
    }
    let good = [("authorization", "Bearer good")];
    let missing = front.send(reqwest::Method::GET, "/v2/a/manifests/none", &good);
    assert_eq!(
        code(missing.await).await,
        (404, "MANIFEST_UNKNOWN".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_send_clients_to_the_registry_itself() {
    let fake = Fake::start().await;
    let image = fake.image("a", 10);
    let front = Front::start(&fake).await;
    let missing = front.get("/v2/a/manifests/none").await;
    assert_eq!(code(missing).await, (404, "MANIFEST_UNKNOWN".to_owned()));
    let blob = format!("/v2/a/blobs/{}", image.layer);
    for status in [
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::TOO_MANY_REQUESTS,
    ] {
        fake.fail(Some(status));
        let manifest = front.get("/v2/a/manifests/v1").await;
        assert_eq!(code(manifest).await, (503, "MANIFEST_UNKNOWN".to_owned()));
        assert_eq!(
            code(front.get(&blob).await).await,
            (404, "BLOB_UNKNOWN".to_owned())
        );
        let list = front.get("/v2/a/tags/list").await;
        assert_eq!(list.status(), 503);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_without_a_connection_to_anywhere() {
    let fake = Fake::start().await;
    let front = Front::start(&fake).await;
    for (path, status, expected) in [
        ("/v2/a/manifests/v1?ns=evil.test", 404, "NAME_UNKNOWN"),
        ("/v2/a/manifests/v1?ns=Reg.Test", 400, "NAME_INVALID"),
        ("/v2/A/manifests/v1", 400, "NAME_INVALID"),
        ("/v2/a/manifests/.v1", 404, "MANIFEST_UNKNOWN"),
        ("/v2/a/blobs/sha256:0", 400, "DIGEST_INVALID"),
        ("/v2/_catalog", 404, "UNSUPPORTED"),
    ] {
        let refusal = code(front.get(path).await).await;
        assert_eq!(refusal, (status, expected.to_owned()), "{path}");
    }
    for method in [
        reqwest::Method::PUT,
        reqwest::Method::POST,
        reqwest::Method::DELETE,
    ] {
        let refused = front.send(method, "/v2/a/manifests/v1", &[]).await;
        assert_eq!(text(&refused, "allow"), "GET, HEAD");
        assert_eq!(code(refused).await, (405, "UNSUPPORTED".to_owned()));
    }
    assert_eq!(fake.asked(""), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_connections_are_answered_and_closed() {
    let fake = Fake::start().await;
    let front = Front::start(&fake).await;
    let hello = [&[0x16, 3, 1, 2, 0, 1][..], &[0; 500]].concat();
    assert!(front.raw(&hello).await.starts_with("HTTP/1.0 400 "));
    let body = front
        .raw(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
        .await;
    assert!(body.starts_with("HTTP/1.1 400 "), "{body}");
    assert!(body.contains("connection: close"), "{body}");
    let many: String = (0..70).map(|n| format!("X-{n}: y\r\n")).collect();
    let many = format!("GET /v2/ HTTP/1.1\r\nHost: x\r\n{many}\r\n");
    assert!(
        front
            .raw(many.as_bytes())
            .await
            .starts_with("HTTP/1.1 431 ")
    );
    let large = format!(
        "GET /v2/ HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "y".repeat(20_000)
    );
    assert!(
        front
            .raw(large.as_bytes())
            .await
            .starts_with("HTTP/1.1 431 ")
    );
    let long = format!(
        "GET /v2/{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "y".repeat(5000)
    );
    assert!(
        front
            .raw(long.as_bytes())
            .await
            .starts_with("HTTP/1.1 414 ")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_front_end_finishes_and_takes_nothing_new() {
    let fake = Fake::start().await;
    let front = Front::start(&fake).await;
    let mut idle = TcpStream::connect(front.address).await.unwrap();
    idle.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    front.shutdown.drain();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(5), idle.read_to_end(&mut rest)).await;
    ended.unwrap().unwrap();
    let refusing = async {
        while TcpStream::connect(front.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), refusing)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_between_requests() {
    let fake = Fake::start().await;
    let front = Front::start(&fake).await;
    let request = "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n";
    let last = "GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answers = front
        .raw(format!("{request}{request}{last}").as_bytes())
        .await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_the_store_cannot_take_passes_through() {
    let fake = Fake::start().await;
    let image = fake.image("a", 3 << 20);
    let front = Front::with(&fake, |settings| settings.store.capacity = Some(1 << 20)).await;
    let path = format!("/v2/a/blobs/{}", image.layer);
    for _ in 0..2 {
        let whole = front.get(&path).await;
        assert_eq!(whole.status(), 200);
        assert_eq!(text(&whole, "x-darner-source"), "upstream");
        assert_eq!(whole.bytes().await.unwrap(), image.layer_bytes);
    }
    let part = [("range", "bytes=1000000-2999999")];
    let part = front.send(reqwest::Method::GET, &path, &part).await;
    assert_eq!(part.status(), 206);
    let bytes = part.bytes().await.unwrap();
    assert_eq!(bytes, image.layer_bytes.slice(1_000_000..3_000_000));
    assert_eq!(fake.asked(&format!("GET {path}")), 3);
    fake.corrupt("a", &image.layer);
    assert!(front.get(&path).await.bytes().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_never_make_a_whole_answer() {
    let fake = Fake::start().await;
    let image = fake.image("a", 300_000);
    fake.corrupt("a", &image.layer);
    let front = Front::start(&fake).await;
    let path = format!("/v2/a/blobs/{}", image.layer);
    for _ in 0..2 {
        // Refused, or broken off: before the headers are out, or after.
        let url = format!("http://{}{path}", front.address);
        if let Ok(answer) = front.client.get(url).send().await {
            let refused = answer.status() == 404;
            assert!(refused || answer.bytes().await.is_err());
        }
    }
}
