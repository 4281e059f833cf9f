use futures_util::StreamExt as _;

use super::scripted::{Scripted, answer};
use super::*;

fn request(path: &str) -> Relay {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("accept", "a/b"),
        ("authorization", "Bearer client-token"),
        ("range", "bytes=0-1"),
        ("cookie", "x=1"),
        ("x-forwarded-for", "10.0.0.1"),
    ] {
        headers.insert(name, value.parse().unwrap());
    }
    Relay {
        method: Method::GET,
        path: path.to_owned(),
        query: Some("n=2&last=a".to_owned()),
        headers,
    }
}

async fn text(relayed: Relayed) -> String {
    let mut body = relayed.body;
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn a_client_is_passed_on_as_itself() {
    let registry = Scripted::start(|_, _| {
        let headers = [
            ("content-type", "application/json"),
            ("link", "</v2/team/app/tags/list?last=b>; rel=\"next\""),
            ("set-cookie", "x=1"),
            ("server", "x"),
        ];
        answer(200, &headers, "{}")
    })
    .await;
    let upstream = configured(&registry);
    let relayed = upstream.relay(request("team/app/tags/list")).await.unwrap();
    assert_eq!(relayed.status, 200);
    let mut names: Vec<_> = relayed.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "content-type", "link"]);
    assert_eq!(text(relayed).await, "{}");
    let seen = &registry.seen()[0];
    assert_eq!(
        (seen.path.as_str(), seen.query.as_str()),
        ("/v2/team/app/tags/list", "n=2&last=a")
    );
    assert_eq!(seen.header("authorization"), "Bearer client-token");
    assert_eq!(seen.header("range"), "bytes=0-1");
    assert_eq!(seen.header("accept"), "a/b");
    assert!(seen.header("cookie").is_empty() && seen.header("x-forwarded-for").is_empty());
}

#[tokio::test]
async fn refusals_are_passed_back_with_vetted_challenges_only() {
    for (challenge, passed) in [
        (
            r#"Bearer realm="http://127.0.0.1:1/token",service="x""#,
            true,
        ),
        (r#"Basic realm="x""#, true),
        (
            r#"Bearer realm="https://evil.example/token",service="x""#,
            false,
        ),
        (
            r#"Basic realm="x", Bearer realm="https://evil.example/token""#,
            false,
        ),
        ("Bearer", false),
        ("Negotiate", false),
        ("\"", false),
    ] {
        let registry = Scripted::start(move |_, _| {
            answer(401, &[("www-authenticate", challenge)], "{\"errors\":[]}")
        })
        .await;
        // The operator's credentials never stand in for the client's.
        let upstream = configured(&registry);
        let relayed = upstream
            .relay(request("team/app/manifests/latest"))
            .await
            .unwrap();
        assert_eq!(relayed.status, 401);
        let found = relayed.headers.get("www-authenticate");
        assert_eq!(
            found.is_some_and(|found| found == challenge),
            passed,
            "{challenge}"
        );
        assert_eq!(text(relayed).await, "{\"errors\":[]}");
        assert_eq!(registry.seen().len(), 1);
    }
}

#[tokio::test]
async fn redirects_are_followed_without_the_clients_credentials() {
    let storage =
        Scripted::start(|_, _| answer(206, &[("content-range", "bytes 0-1/9")], "01")).await;
    let location = storage.url_as_localhost();
    let registry = Scripted::start(move |_, _| answer(307, &[("location", &location)], "")).await;
    let path = format!("team/app/blobs/{}", Digest::sha256(b"x"));
    let relayed = plain(&registry).relay(request(&path)).await.unwrap();
    assert_eq!(relayed.status, 206);
    assert_eq!(relayed.headers["content-range"], "bytes 0-1/9");
    assert_eq!(text(relayed).await, "01");
    let seen = &storage.seen()[0];
    assert_eq!(
        (seen.header("authorization"), seen.header("range")),
        ("", "bytes=0-1")
    );
}

#[tokio::test]
async fn heads_keep_the_length_of_what_they_leave_out() {
    let registry = Scripted::start(|_, _| answer(200, &[("content-type", "a/b")], "12345")).await;
    let mut request = request("team/app/manifests/latest");
    request.method = Method::HEAD;
    let relayed = plain(&registry).relay(request).await.unwrap();
    assert_eq!(relayed.headers["content-length"], "5");
    assert_eq!(text(relayed).await, "");
}

#[tokio::test]
async fn clients_are_not_told_to_hammer() {
    for status in [429, 500] {
        let registry = Scripted::start(move |_, _| answer(status, &[], "")).await;
        let relayed = plain(&registry);
        let error = relayed
            .relay(request("team/app/manifests/latest"))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), UpstreamErrorKind::Unavailable);
        assert_eq!(error.status(), Some(status));
    }
}

#[tokio::test]
async fn other_requests_are_not_passed_on() {
    let registry = Scripted::start(|_, _| answer(200, &[], "")).await;
    let upstream = plain(&registry);
    let mut write = request("team/app/manifests/latest");
    write.method = Method::PUT;
    assert!(upstream.relay(write).await.is_err());
    assert!(upstream.relay(request("_catalog")).await.is_err());
    assert!(registry.seen().is_empty());
}
