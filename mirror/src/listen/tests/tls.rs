//! Clients under TLS, and those who should be.

use std::net::{IpAddr, Ipv4Addr};

use darner_service::identity::local::AUTHORITY;
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// Says who asks, under TLS.
struct Secured {
    local: Local,
    takes_plain: bool,
}

impl Front for Secured {
    type Body = Full<Bytes>;

    const NAME: &'static str = "secured";
    const MAX_CONNECTIONS: usize = 8;
    const STALL_TIMEOUT: Duration = Duration::from_secs(60);

    fn tls(&self) -> Option<&Local> {
        Some(&self.local)
    }

    fn takes_plain(&self) -> bool {
        self.takes_plain
    }

    async fn answer(&self, request: Request<Incoming>, _: Outlet) -> Response<Self::Body> {
        let caller = request.extensions().get::<Caller>();
        Response::new(Full::from(format!("{caller:?}")))
    }
}

async fn start(takes_plain: bool) -> (SocketAddr, reqwest::Client, Shutdown, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let local = Local::open(directory.path(), IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = Shutdown::default();
    let front = Secured { local, takes_plain };
    let (metrics, ending) = (ListenMetrics::default(), shutdown.clone());
    shutdown.spawn(accept(listener, front, metrics, ending));
    let pem = std::fs::read(directory.path().join(AUTHORITY)).unwrap();
    let authority = reqwest::Certificate::from_pem(&pem).unwrap();
    let client = reqwest::Client::builder().no_proxy();
    let client = client.tls_certs_only([authority]).build().unwrap();
    (address, client, shutdown, directory)
}

#[tokio::test]
async fn on_loopback_one_port_takes_both() {
    let (address, client, shutdown, _directory) = start(true).await;
    for (scheme, caller) in [("https", "Stranger"), ("http", "Unproved")] {
        let answer = client.get(format!("{scheme}://{address}/")).send().await;
        let text = answer.unwrap().text().await.unwrap();
        assert!(text.contains(caller), "{scheme}: {text}");
    }
    shutdown.drain();
}

#[tokio::test]
async fn where_others_can_listen_plain_http_is_refused_in_words() {
    let (address, client, shutdown, _directory) = start(false).await;
    let answer = client.get(format!("https://{address}/")).send().await;
    assert_eq!(answer.unwrap().status(), 200);
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())));
    assert!(body.contains("plain HTTP request"), "{answer}");
    shutdown.drain();
}

#[tokio::test]
async fn who_stops_in_a_handshake_is_let_go() {
    let (address, client, shutdown, _directory) = start(true).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The beginning of a record, and no more.
    stream.write_all(&[0x16, 3, 1]).await.unwrap();
    drop(stream);
    let mut stream = TcpStream::connect(address).await.unwrap();
    let garbage = [&[0x16, 3, 1, 0, 5][..], b"hello"].concat();
    stream.write_all(&garbage).await.unwrap();
    let mut rest = Vec::new();
    // An alert, or nothing; but an end.
    let _ = stream.read_to_end(&mut rest).await;
    let answer = client.get(format!("https://{address}/")).send().await;
    assert_eq!(answer.unwrap().status(), 200);
    shutdown.drain();
}
