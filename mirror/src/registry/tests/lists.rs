//! Lists of tags and of referrers.

use super::*;

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
