use futures_util::StreamExt as _;

use super::scripted::{Scripted, Seen, answer, chunked, cut, hanging};
use super::*;

const BLOB: &[u8] = b"0123456789";

fn digest() -> Digest {
    Digest::sha256(BLOB)
}

/// A storage host's answer, with ranges.
fn stored(seen: &Seen) -> axum::response::Response {
    let range = seen.header("range").strip_prefix("bytes=");
    let Some((first, last)) = range.and_then(|range| range.split_once('-')) else {
        return answer(200, &[], BLOB);
    };
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let range = format!("bytes {first}-{last}/10");
    answer(206, &[("content-range", &range)], &BLOB[first..=last])
}

async fn read(mut body: BlobBody) -> (Vec<u8>, Option<UpstreamError>) {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.stream.next().await {
        match chunk {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(error) => {
                assert!(
                    body.stream.next().await.is_none(),
                    "something after an error"
                );
                return (bytes, Some(error));
            }
        }
    }
    (bytes, None)
}

async fn open(upstream: &Upstream, range: Range<u64>) -> Result<BlobBody, UpstreamError> {
    upstream
        .blob(&repository(), &digest(), range, BLOB.len() as u64)
        .await
}

#[tokio::test]
async fn ranges_are_asked_for_and_the_whole_is_not_one() {
    let registry = Scripted::start(|seen, _| stored(seen)).await;
    let upstream = plain(&registry);
    let part = open(&upstream, 2..5).await.unwrap();
    assert_eq!((part.ranged, part.range.clone()), (true, 2..5));
    assert_eq!(read(part).await.0, b"234");
    let whole = open(&upstream, 0..10).await.unwrap();
    assert_eq!((whole.ranged, whole.range.clone()), (false, 0..10));
    assert_eq!(read(whole).await.0, BLOB);
    let seen = registry.seen();
    assert_eq!(seen[0].path, format!("/v2/team/app/blobs/{}", digest()));
    assert_eq!(seen[0].header("range"), "bytes=2-4");
    assert_eq!(seen[1].header("range"), "");
}

#[tokio::test]
async fn an_empty_blob_is_a_blob() {
    let registry = Scripted::start(|_, _| answer(200, &[], "")).await;
    let upstream = plain(&registry);
    let empty = Digest::sha256(b"");
    let body = upstream.blob(&repository(), &empty, 0..0, 0).await.unwrap();
    let (bytes, error) = read(body).await;
    assert!(bytes.is_empty() && error.is_none());
}

#[tokio::test]
async fn an_upstream_without_ranges_sends_everything() {
    let registry = Scripted::start(|_, _| answer(200, &[], BLOB)).await;
    let body = open(&plain(&registry), 2..5).await.unwrap();
    assert_eq!((body.ranged, body.range.clone()), (false, 0..10));
    assert_eq!(read(body).await.0, BLOB);
}

#[tokio::test]
async fn answers_to_something_else_are_invalid() {
    type Script = fn() -> axum::response::Response;
    let scripts: [Script; 6] = [
        || answer(206, &[("content-range", "bytes 0-2/10")], "012"),
        || answer(206, &[("content-range", "bytes 2-4/11")], "234"),
        || answer(206, &[], "234"),
        || answer(200, &[], "0123456789a"),
        || answer(200, &[("content-encoding", "gzip")], BLOB),
        || answer(416, &[("content-range", "bytes */1")], ""),
    ];
    for script in scripts {
        let registry = Scripted::start(move |_, _| script()).await;
        let error = open(&plain(&registry), 2..5).await.unwrap_err();
        assert_eq!(error.kind(), UpstreamErrorKind::Invalid, "{error}");
    }
}

#[tokio::test]
async fn ranges_outside_the_blob_are_not_asked_for() {
    let registry = Scripted::start(|seen, _| stored(seen)).await;
    let upstream = plain(&registry);
    for range in [3..3, 5..11] {
        assert!(open(&upstream, range).await.is_err());
    }
    assert!(registry.seen().is_empty());
}

#[tokio::test]
async fn a_cut_body_ends_with_an_error() {
    let registry =
        Scripted::start(|_, _| answer(200, &[("content-length", "10")], cut(b"0123"))).await;
    let body = open(&plain(&registry), 0..10).await.unwrap();
    let (bytes, error) = read(body).await;
    assert_eq!(bytes, b"0123");
    assert_eq!(error.unwrap().kind(), UpstreamErrorKind::Unavailable);
}

#[tokio::test]
async fn a_body_of_another_length_ends_with_an_error() {
    for (sent, kind) in [
        (&b"0123"[..], UpstreamErrorKind::Unavailable),
        (&b"0123456789abc"[..], UpstreamErrorKind::Invalid),
    ] {
        let registry = Scripted::start(move |_, _| answer(200, &[], chunked(sent.to_vec()))).await;
        let body = open(&plain(&registry), 0..10).await.unwrap();
        assert_eq!(read(body).await.1.unwrap().kind(), kind);
    }
}

#[tokio::test]
async fn a_redirect_to_another_host_takes_the_range_but_no_credentials() {
    let storage = Scripted::start(|seen, _| stored(seen)).await;
    let location = format!("{}/bucket/x?sig={CANARY}", storage.url_as_localhost());
    let registry = Scripted::start(move |seen, _| match seen.header("authorization") {
        // Anybody may know of it; to read it, one has to be somebody.
        "" if seen.method == Method::HEAD => answer(200, &[], BLOB),
        "" => answer(401, &[("www-authenticate", r#"Basic realm="x""#)], ""),
        _ => answer(307, &[("location", &location)], ""),
    })
    .await;
    let body = open(&configured(&registry), 2..5).await.unwrap();
    assert_eq!(read(body).await.0, b"234");
    let seen = storage.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("authorization"), "");
    assert_eq!(seen[0].header("range"), "bytes=2-4");
    assert_eq!(seen[0].parameter("sig").as_deref(), Some(CANARY));
}

#[tokio::test]
async fn the_operators_credentials_read_only_what_anybody_may_read() {
    let registry = Scripted::start(|seen, _| match seen.header("authorization") {
        "" => answer(401, &[("www-authenticate", r#"Basic realm="x""#)], ""),
        _ => answer(200, &[], BLOB),
    })
    .await;
    let upstream = configured(&registry);
    for _ in 0..2 {
        let refused = open(&upstream, 0..10).await.unwrap_err();
        assert_eq!(refused.kind(), UpstreamErrorKind::Denied);
    }
    let seen = registry.seen();
    assert!(
        seen.iter()
            .all(|seen| seen.header("authorization").is_empty())
    );
}

#[tokio::test]
async fn another_port_is_another_host() {
    let storage = Scripted::start(|seen, _| stored(seen)).await;
    let location = storage.url();
    let registry = Scripted::start(move |seen, before| match before {
        0 => answer(200, &[], BLOB),
        1 => answer(401, &[("www-authenticate", r#"Basic realm="x""#)], ""),
        2 => answer(307, &[("location", "/elsewhere")], ""),
        3 if !seen.header("authorization").is_empty() => {
            answer(307, &[("location", &location)], "")
        }
        _ => answer(500, &[], ""),
    })
    .await;
    let body = open(&configured(&registry), 0..10).await.unwrap();
    assert_eq!(read(body).await.0, BLOB);
    assert_eq!(storage.seen()[0].header("authorization"), "");
}

#[tokio::test]
async fn a_blobs_size() {
    let registry = Scripted::start(|_, _| answer(200, &[], BLOB)).await;
    let size = plain(&registry);
    let size = size
        .head_blob(&repository(), &digest(), Access::Anonymous)
        .await;
    assert_eq!(size.unwrap(), 10);
    assert_eq!(registry.seen()[0].method, Method::HEAD);
}

#[tokio::test]
async fn a_blobs_size_where_storage_knows_only_get() {
    let storage = Scripted::start(|seen, _| match seen.method {
        Method::HEAD => answer(403, &[], ""),
        _ => stored(seen),
    })
    .await;
    let location = storage.url_as_localhost();
    let registry = Scripted::start(move |_, _| answer(307, &[("location", &location)], "")).await;
    let size = plain(&registry);
    let size = size
        .head_blob(&repository(), &digest(), Access::Anonymous)
        .await;
    assert_eq!(size.unwrap(), 10);
    assert_eq!(storage.seen().len(), 2);
}

#[tokio::test]
async fn a_body_holds_its_place_until_it_ends() {
    let registry = Scripted::start(|_, before| match before {
        0 => answer(200, &[], hanging(b"0123")),
        _ => answer(200, &[], BLOB),
    })
    .await;
    let client = client(settings::Upstream {
        max_connections: 1,
        ..settings(registry.url())
    });
    let in_use = || {
        client
            .exposition()
            .contains(r#"darner_upstream_connections{registry="r.example"} 1"#)
    };
    let mut first = open(&client.upstream, 0..10).await.unwrap();
    assert_eq!(first.stream.next().await.unwrap().unwrap(), "0123");
    assert!(in_use());
    let second = open(&client.upstream, 0..10);
    let mut second = std::pin::pin!(second);
    assert!(futures_util::poll!(&mut second).is_pending());
    assert_eq!(registry.seen().len(), 1);
    drop(first);
    let second = second.await.unwrap();
    assert_eq!(read(second).await.0, BLOB);
    assert!(!in_use());
}

#[tokio::test(start_paused = true)]
async fn clients_do_not_queue_for_long() {
    let registry = Scripted::start(|_, _| answer(200, &[], hanging(b"0123"))).await;
    let client = client(settings::Upstream {
        max_connections: 1,
        ..settings(registry.url())
    });
    let first = open(&client.upstream, 0..10).await.unwrap();
    let began = tokio::time::Instant::now();
    let head = client
        .upstream
        .head_blob(&repository(), &digest(), Access::Anonymous)
        .await;
    assert_eq!(head.unwrap_err().kind(), UpstreamErrorKind::Unavailable);
    assert_eq!(began.elapsed().as_secs(), 8);
    assert!(open(&client.upstream, 0..10).await.is_err());
    assert_eq!(began.elapsed().as_secs(), 38);
    assert_eq!(registry.seen().len(), 1);
    drop(first);
}
