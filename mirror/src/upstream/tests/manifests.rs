use super::scripted::{Scripted, answer, chunked, cut};
use super::*;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const BODY: &str = r#"{"manifests":[]}"#;

fn digest_of(bytes: &str) -> String {
    Digest::sha256(bytes.as_bytes()).to_string()
}

async fn fails(
    response: impl Fn() -> axum::response::Response + Send + Sync + 'static,
) -> UpstreamError {
    let registry = Scripted::start(move |_, _| response()).await;
    let by_digest = digest_of(BODY).parse().unwrap();
    let upstream = plain(&registry);
    let manifest = upstream
        .manifest(&repository(), &by_digest, Access::Anonymous)
        .await;
    manifest.unwrap_err()
}

#[tokio::test]
async fn a_manifest_comes_as_it_is() {
    let registry = Scripted::start(|_, _| {
        let digest = digest_of(BODY);
        answer(
            200,
            &[
                (
                    "content-type",
                    "application/vnd.oci.image.index.v1+json; charset=utf-8",
                ),
                ("docker-content-digest", &digest),
            ],
            BODY,
        )
    })
    .await;
    let upstream = plain(&registry);
    let expected = Manifest {
        digest: Digest::sha256(BODY.as_bytes()),
        media_type: INDEX.to_owned(),
        bytes: BODY.into(),
    };
    for reference in [tag(), digest_of(BODY).parse().unwrap()] {
        let manifest = upstream
            .manifest(&repository(), &reference, Access::Anonymous)
            .await;
        assert_eq!(manifest.unwrap(), expected);
        let head = upstream
            .head_manifest(&repository(), &reference, Access::Anonymous)
            .await;
        let expected = ManifestHead {
            digest: Some(expected.digest),
            media_type: INDEX.to_owned(),
            size: Some(BODY.len() as u64),
        };
        assert_eq!(head.unwrap(), expected);
    }
    let seen = registry.seen();
    assert_eq!(seen[0].path, "/v2/team/app/manifests/latest");
    assert_eq!(seen[1].method, Method::HEAD);
    assert!(seen[0].header("accept").contains(INDEX));
    assert_eq!(seen[0].header("accept-encoding"), "identity");
}

#[tokio::test]
async fn docker_hubs_short_names_are_in_its_library() {
    let registry = Scripted::start(|_, _| answer(200, &[("content-type", "a/b")], BODY)).await;
    let settings = settings::Upstream {
        name: "docker.io".parse().unwrap(),
        ..settings(registry.url())
    };
    let short = "debian".parse().unwrap();
    let upstream = client(settings).upstream;
    upstream
        .manifest(&short, &tag(), Access::Anonymous)
        .await
        .unwrap();
    assert_eq!(
        registry.seen()[0].path,
        "/v2/library/debian/manifests/latest"
    );
}

#[tokio::test]
async fn another_digest_is_invalid() {
    let error = fails(|| answer(200, &[("content-type", INDEX)], "{}")).await;
    assert_eq!(error.kind(), UpstreamErrorKind::Invalid);
    let other = digest_of("other");
    let told = move || {
        let headers = [
            ("content-type", INDEX),
            ("docker-content-digest", other.as_str()),
        ];
        answer(200, &headers, BODY)
    };
    let registry = Scripted::start(move |_, _| told()).await;
    let upstream = plain(&registry);
    let by_tag = upstream
        .manifest(&repository(), &tag(), Access::Anonymous)
        .await;
    assert_eq!(by_tag.unwrap_err().kind(), UpstreamErrorKind::Invalid);
    let by_digest = digest_of(BODY).parse().unwrap();
    let head = upstream
        .head_manifest(&repository(), &by_digest, Access::Anonymous)
        .await;
    assert_eq!(head.unwrap_err().kind(), UpstreamErrorKind::Invalid);
}

#[tokio::test]
async fn a_manifest_is_at_most_four_mebibytes() {
    for sent in [true, false] {
        let error = fails(move || {
            let body = vec![b' '; MAX_MANIFEST + 1];
            match sent {
                true => answer(200, &[("content-type", INDEX)], body),
                false => answer(200, &[("content-type", INDEX)], chunked(body)),
            }
        })
        .await;
        assert_eq!(error.kind(), UpstreamErrorKind::Invalid);
    }
}

#[tokio::test]
async fn encoded_manifests_are_invalid() {
    let error = fails(|| answer(200, &[("content-encoding", "gzip")], BODY)).await;
    assert_eq!(error.kind(), UpstreamErrorKind::Invalid);
}

#[tokio::test]
async fn a_cut_manifest_is_asked_for_once_more() {
    let registry = Scripted::start(|_, before| match before {
        0 => answer(
            200,
            &[("content-type", INDEX), ("content-length", "16")],
            cut(b"{\"mani"),
        ),
        _ => answer(200, &[("content-type", INDEX)], BODY),
    })
    .await;
    let upstream = plain(&registry);
    let manifest = upstream
        .manifest(&repository(), &tag(), Access::Anonymous)
        .await;
    assert_eq!(manifest.unwrap().bytes, BODY);
    let error = fails(|| answer(200, &[("content-length", "16")], cut(b"{\"mani"))).await;
    assert_eq!(error.kind(), UpstreamErrorKind::Unavailable);
}
