use super::scripted::{Scripted, answer};
use super::*;

async fn head(upstream: &Upstream) -> Result<ManifestHead, UpstreamError> {
    upstream
        .head_manifest(&repository(), &tag(), Access::Anonymous)
        .await
}

#[tokio::test]
async fn statuses_mean_what_they_say_and_only_5xx_is_tried_again() {
    for (status, kind, requests) in [
        (401, UpstreamErrorKind::Denied, 1),
        (403, UpstreamErrorKind::Denied, 1),
        (404, UpstreamErrorKind::NotFound, 1),
        (400, UpstreamErrorKind::Invalid, 1),
        (429, UpstreamErrorKind::Unavailable, 1),
        (500, UpstreamErrorKind::Unavailable, 3),
        (503, UpstreamErrorKind::Unavailable, 3),
    ] {
        let registry = Scripted::start(move |_, _| answer(status, &[], CANARY)).await;
        let error = head(&plain(&registry)).await.unwrap_err();
        assert_eq!((error.kind(), error.status()), (kind, Some(status)));
        assert_eq!(registry.seen().len(), requests, "{status}");
        assert!(!everything(&error).contains(CANARY));
    }
}

#[tokio::test]
async fn a_passing_fault_passes() {
    let registry = Scripted::start(|_, before| match before {
        0 | 1 => answer(502, &[], ""),
        _ => answer(200, &[("content-type", "a/b")], ""),
    })
    .await;
    assert_eq!(head(&plain(&registry)).await.unwrap().media_type, "a/b");
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_unavailable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = head(&client(settings(url)).upstream).await.unwrap_err();
    assert_eq!(error.kind(), UpstreamErrorKind::Unavailable);
    assert_eq!(error.status(), None);
}

#[tokio::test]
async fn a_limited_registry_is_not_asked() {
    let registry = Scripted::start(|_, _| answer(429, &[("retry-after", "30")], "")).await;
    let client = client(settings(registry.url()));
    for _ in 0..3 {
        let error = head(&client.upstream).await.unwrap_err();
        assert_eq!(error.kind(), UpstreamErrorKind::Unavailable);
        assert_eq!(error.status(), Some(429));
    }
    assert_eq!(registry.seen().len(), 1);
    let text = client.exposition();
    assert!(
        text.contains(r#"darner_upstream_rate_limited_total{registry="r.example"} 1"#),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_says_nothing_is_given_up() {
    // Accepted by the system, never answered.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let began = tokio::time::Instant::now();
    let error = head(&client(settings(url)).upstream).await.unwrap_err();
    assert_eq!(error.kind(), UpstreamErrorKind::Unavailable);
    assert_eq!(began.elapsed().as_secs(), 8);
}

#[tokio::test]
async fn redirects_end() {
    let registry = Scripted::start(|_, _| answer(302, &[("location", "/again")], "")).await;
    let error = head(&plain(&registry)).await.unwrap_err();
    assert_eq!(error.kind(), UpstreamErrorKind::Invalid);
    assert_eq!(registry.seen().len(), 6);
}

#[tokio::test]
async fn redirects_that_are_refused_are_not_quoted() {
    for location in [
        format!("http://169.254.169.254/latest?sig={CANARY}"),
        format!("http://u:{CANARY}@127.0.0.1/"),
        format!("ftp://127.0.0.1/{CANARY}"),
        format!("http://[{CANARY}/"),
    ] {
        let registry =
            Scripted::start(move |_, _| answer(302, &[("location", &location)], "")).await;
        let error = head(&plain(&registry)).await.unwrap_err();
        assert_eq!(error.kind(), UpstreamErrorKind::Invalid);
        assert!(!everything(&error).contains(CANARY), "{error:?}");
    }
}

#[tokio::test]
async fn signed_urls_are_in_no_error() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let location = format!("http://{}/x?sig={CANARY}", listener.local_addr().unwrap());
    drop(listener);
    let registry = Scripted::start(move |_, _| answer(307, &[("location", &location)], "")).await;
    let error = head(&plain(&registry)).await.unwrap_err();
    assert_eq!(error.kind(), UpstreamErrorKind::Unavailable);
    assert!(
        !everything(&error).contains(CANARY),
        "{}",
        everything(&error)
    );
}

#[tokio::test]
async fn storage_that_refuses_says_nothing_about_access() {
    for (status, kind) in [
        (403, UpstreamErrorKind::Unavailable),
        (404, UpstreamErrorKind::NotFound),
    ] {
        let storage = Scripted::start(move |_, _| answer(status, &[], "")).await;
        let location = storage.url();
        let registry =
            Scripted::start(move |_, _| answer(307, &[("location", &location)], "")).await;
        let error = head(&plain(&registry)).await.unwrap_err();
        assert_eq!(error.kind(), kind);
    }
}

#[tokio::test]
async fn what_is_asked_is_counted() {
    let registry = Scripted::start(|_, before| match before {
        0 => answer(500, &[], ""),
        1 => answer(200, &[("content-type", "a/b")], "12345"),
        _ => answer(404, &[], ""),
    })
    .await;
    let client = client(settings(registry.url()));
    for _ in 0..2 {
        let _ = client
            .upstream
            .manifest(&repository(), &tag(), Access::Anonymous)
            .await;
    }
    let text = client.exposition();
    for line in [
        r#"darner_upstream_requests_total{registry="r.example",method="GET",kind="manifest",status="5xx"} 1"#,
        r#"darner_upstream_requests_total{registry="r.example",method="GET",kind="manifest",status="2xx"} 1"#,
        r#"darner_upstream_requests_total{registry="r.example",method="GET",kind="manifest",status="4xx"} 1"#,
        r#"darner_upstream_bytes_total{registry="r.example",kind="manifest"} 5"#,
        r#"darner_upstream_errors_total{registry="r.example",kind="not_found"} 1"#,
        r#"darner_upstream_connections{registry="r.example"} 0"#,
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
}

#[tokio::test]
async fn a_stopping_process_asks_nothing() {
    let registry = Scripted::start(|_, _| answer(200, &[], "")).await;
    let shutdown = Shutdown::default();
    let upstreams = Upstreams::new(&[settings(registry.url())], &Metrics::default(), &shutdown);
    let upstream = upstreams
        .unwrap()
        .get(&"r.example".parse().unwrap())
        .unwrap();
    shutdown.finish(Duration::ZERO).await;
    assert!(head(&upstream).await.is_err());
    assert!(registry.seen().is_empty());
}

#[test]
fn only_what_is_configured_exists() {
    let upstreams = Upstreams::new(&[], &Metrics::default(), &Shutdown::default()).unwrap();
    let name = "evil.example".parse().unwrap();
    assert!(upstreams.get(&name).is_none());
    assert_eq!(
        UpstreamError::unknown(&name).kind(),
        UpstreamErrorKind::NotFound
    );
}

#[test]
fn bad_certificates_are_told_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "nothing").unwrap();
    for ca_file in [dir.path().join("none.pem"), empty] {
        let settings = settings::Upstream {
            ca_file: Some(ca_file),
            ..settings("https://r.example".to_owned())
        };
        let error =
            Upstreams::new(&[settings], &Metrics::default(), &Shutdown::default()).unwrap_err();
        assert!(error.to_string().contains("ca_file"), "{error}");
    }
}

#[test]
fn what_callers_spawn_can_be_sent() {
    fn sent<T: Send>(_: T) {}
    let upstream = client(settings("http://127.0.0.1:1".to_owned())).upstream;
    let (repository, tag, digest) = (repository(), tag(), Digest::sha256(b""));
    sent(upstream.head_manifest(&repository, &tag, Access::Anonymous));
    sent(upstream.manifest(&repository, &tag, Access::Anonymous));
    sent(upstream.head_blob(&repository, &digest, Access::Anonymous));
    sent(upstream.blob(&repository, &digest, 0..1, 1));
    sent(upstream.relay(Relay {
        method: Method::GET,
        path: String::new(),
        query: None,
        headers: HeaderMap::new(),
    }));
}
