//! Manifests and blobs: as they are, whole and by range, and never wrong.

use super::*;

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
    let head = front.send(reqwest::Method::HEAD, &path, &[]).await;
    assert_eq!(
        text(&head, "x-darner-source"),
        "",
        "it is not held, only known"
    );
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
    assert_eq!(text(&head, "x-darner-source"), "store");
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
