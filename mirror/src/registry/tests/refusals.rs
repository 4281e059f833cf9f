//! What is refused, and in which words.

use super::*;

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
