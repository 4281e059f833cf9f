//! Files of hosts that are no registries.

use darner_proto::file::{Located, Validator};
use darner_service::settings::{Route, RouteHost, RouteTo};
use url::Url;

use super::scripted::{Scripted, Seen, answer};
use super::*;

const FILE: &[u8] = b"0123456789";
const TAG: &str = "\"v1\"";

/// A route for this machine.
fn route(host: &str, private: bool) -> Route {
    let (name, port) = host.rsplit_once(':').unwrap();
    Route {
        host: RouteHost {
            name: name.to_owned(),
            port: port.parse().ok(),
        },
        path: "*".to_owned(),
        to: RouteTo::Swarm,
        ignore_query: vec!["Sig*".to_owned()],
        private,
        ca_file: None,
    }
}

fn files(routes: &[Route]) -> Files {
    let metrics = Metrics::default();
    let upstreams = Upstreams::new(&[], &metrics, &Shutdown::default()).unwrap();
    upstreams.routed(routes).unwrap().files().clone()
}

/// A client that may read at the server, under the name `localhost`.
fn for_server(server: &Scripted) -> (Files, Url) {
    let url = Url::parse(&server.url_as_localhost()).unwrap();
    let host = format!("localhost:{}", url.port().unwrap());
    (files(&[route(&host, true)]), url.join("/file").unwrap())
}

/// A web server's answer, with versions and ranges.
fn served(seen: &Seen) -> axum::response::Response {
    let wanted = seen.header("if-match");
    if !wanted.is_empty() && wanted != TAG {
        return answer(412, &[], "");
    }
    let range = seen.header("range").strip_prefix("bytes=");
    let Some((first, last)) = range.and_then(|range| range.split_once('-')) else {
        let body = if seen.method == Method::HEAD {
            &b""[..]
        } else {
            FILE
        };
        return answer(200, &[("etag", TAG), ("content-length", "10")], body);
    };
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let range = format!("bytes {first}-{last}/10");
    let headers = [("etag", TAG), ("content-range", range.as_str())];
    answer(206, &headers, &FILE[first..=last])
}

fn located(url: &Url, tag: &str) -> Located {
    Located {
        url: url.to_string(),
        validator: Validator::strong_tag(tag),
    }
}

async fn read(
    files: &Files,
    located: &Located,
    range: Range<u64>,
) -> Result<Vec<u8>, UpstreamError> {
    use futures_util::TryStreamExt as _;
    let body = files.read(located, range, 10).await?;
    let chunks: Vec<_> = body.stream.try_collect().await?;
    Ok(chunks.concat())
}

#[tokio::test]
async fn a_version_is_asked_for_and_read() {
    let server = Scripted::start(|seen, _| served(seen)).await;
    let (files, url) = for_server(&server);
    let head = files.head(&url).await.unwrap();
    assert_eq!((head.size, head.shared), (Some(10), true));
    assert_eq!(head.validator, Validator::strong_tag(TAG));
    let file = located(&url, TAG);
    assert_eq!(read(&files, &file, 2..5).await.unwrap(), b"234");
    assert_eq!(read(&files, &file, 0..10).await.unwrap(), FILE);
    let seen = server.seen();
    assert_eq!(seen[1].header("if-match"), TAG);
    assert_eq!(seen[1].header("range"), "bytes=2-4");
    assert_eq!(seen[2].header("range"), "");
    assert_eq!(seen[0].header("accept-encoding"), "identity");
}

#[tokio::test]
async fn another_version_is_an_error_whether_the_server_heeds_conditions_or_not() {
    let heeds = Scripted::start(|seen, _| served(seen)).await;
    let ignores = Scripted::start(|_, _| answer(200, &[("etag", "\"v2\"")], FILE)).await;
    let untold = Scripted::start(|_, _| answer(200, &[], FILE)).await;
    let shorter = Scripted::start(|_, _| answer(416, &[("content-range", "bytes */3")], "")).await;
    for server in [heeds, ignores, untold, shorter] {
        let (files, url) = for_server(&server);
        for range in [0..10, 2..5] {
            let error = read(&files, &located(&url, "\"v0\""), range)
                .await
                .unwrap_err();
            assert_eq!(error.kind(), UpstreamErrorKind::NotFound, "{error}");
        }
    }
}

#[tokio::test]
async fn what_refuses_a_head_is_asked_for_one_byte() {
    let server = Scripted::start(|seen, _| match seen.method {
        Method::HEAD => answer(403, &[], ""),
        _ => served(seen),
    });
    let server = server.await;
    let (files, url) = for_server(&server);
    let head = files.head(&url).await.unwrap();
    assert_eq!((head.status.as_u16(), head.size), (200, Some(10)));
    assert_eq!(server.seen()[1].header("range"), "bytes=0-0");
}

#[tokio::test]
async fn no_host_leads_to_this_machine_unless_a_route_says_so() {
    let server = Scripted::start(|seen, _| served(seen)).await;
    let url = Url::parse(&server.url_as_localhost()).unwrap();
    let port = url.port().unwrap();
    let by_name = format!("http://localhost:{port}/file");
    let by_address = format!("http://127.0.0.1:{port}/file");
    let unrouted = files(&[]);
    let routed = files(&[route(&format!("localhost:{port}"), false)]);
    for files in [&unrouted, &routed] {
        for url in [&by_name, &by_address] {
            let error = files.head(&Url::parse(url).unwrap()).await;
            assert!(error.is_err(), "{url}");
        }
    }
    assert!(server.seen().is_empty());
    let literal = files(&[route(&format!("127.0.0.1:{port}"), false)]);
    assert!(
        literal
            .head(&Url::parse(&by_address).unwrap())
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_redirect_is_guarded_as_the_first_request_is() {
    for target in [
        "http://169.254.169.254/latest",
        "http://127.0.0.1:1/x",
        "file:///etc/passwd",
        "http://[::1]/x",
        "//0x7f.1/x",
    ] {
        let server = Scripted::start(move |_, _| answer(302, &[("location", target)], "")).await;
        let (files, url) = for_server(&server);
        assert!(files.head(&url).await.is_err(), "{target}");
        assert_eq!(server.seen().len(), 1);
    }
    let round = Scripted::start(|_, _| answer(302, &[("location", "/again")], "")).await;
    let (files, url) = for_server(&round);
    assert!(files.head(&url).await.is_err());
    assert_eq!(round.seen().len(), 6);
}

#[test]
fn another_nodes_word_on_a_file_must_fit_its_task() {
    let files = files(&[route("files.example:443", false)]);
    let url = Url::parse("https://files.example/a?id=1&Sig=mine").unwrap();
    let validator = Validator::strong_tag(TAG).unwrap();
    let key = validator.key("https://files.example/a?id=1", 10);
    let right = located(&url, TAG);
    assert!(files.vet(&key, 10, &right));
    assert!(!files.vet(&key, 11, &right));
    assert!(!files.vet(&key, 10, &located(&url, "\"v2\"")));
    for other in [
        "https://files.example/b?id=1&Sig=mine",
        "https://files.example/a?id=2&Sig=mine",
        "https://evil.example/a?id=1&Sig=mine",
        "ftp://files.example/a",
        "nonsense",
    ] {
        let other = Located {
            url: other.to_owned(),
            ..right.clone()
        };
        assert!(!files.vet(&key, 10, &other), "{other}");
    }
    // Where the digest of the content decides, only the host must be one that may be asked.
    let digest = Digest::sha256(FILE);
    assert!(files.vet(&digest, 10, &right));
    let inside = Url::parse("http://169.254.169.254/a").unwrap();
    assert!(!files.vet(&digest, 10, &located(&inside, TAG)));
}

/// Forms of addresses that lead to this machine, its network, or nowhere anybody should be led.
const INSIDE: [&str; 40] = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "127.255.255.254",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.1.",
    "１２７.0.0.1",
    "127。0。0。1",
    "%31%32%37.0.0.1",
    "0.0.0.0",
    "0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "0xc0.0xa8.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "0xa9fea9fe",
    "2852039166",
    "169.254.43518",
    "192.0.0.192",
    "224.0.0.1",
    "255.255.255.255",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:169.254.169.254]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::a9fe:a9fe]",
    "[fe80::1]",
    "[fd00:ec2::254]",
    "localhost",
    "LOCALHOST.",
];

#[tokio::test]
async fn none_of_forty_forms_of_an_address_leads_inside() {
    let everything = Route {
        host: RouteHost {
            name: "*".to_owned(),
            port: None,
        },
        ..route("x:80", false)
    };
    let clients = [files(&[]), files(&[everything])];
    for host in INSIDE {
        for port in [80, 443] {
            let text = format!("http://{host}:{port}/");
            // What cannot be parsed is never asked.
            let Ok(url) = Url::parse(&text) else { continue };
            for files in &clients {
                assert!(files.addresses(&url).await.is_err(), "{text}");
                assert!(files.head(&url).await.is_err(), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn the_forty_forms_are_asked_at_no_other_port_either() {
    let files = files(&[]);
    for host in INSIDE {
        for port in [22, 2375, 6443, 10250] {
            if let Ok(url) = Url::parse(&format!("http://{host}:{port}/")) {
                assert!(files.check(&url).is_err(), "{url}");
            }
        }
    }
}
