//! Connections: their beginning, what is malformed on them, and their end.

use super::*;

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
