//! Requests of real clients, and of no client.

use super::*;
use proptest::prelude::*;

const HEX: &str = "0000000000000000000000000000000000000000000000000000000000000001";

fn parse_path(path: &str) -> Result<Asked, Refusal> {
    let default: RegistryName = "docker.io".parse().unwrap();
    let known = ["docker.io", "reg.test", "127.0.0.1:5000"];
    let registries = Registries {
        known: |name: &RegistryName| known.contains(&name.as_str()),
        default: &default,
    };
    parse(&path.parse().unwrap(), registries)
}

fn question(path: &str) -> Question {
    match parse_path(path) {
        Ok(Asked::Of(question)) => question,
        other => panic!("{path}: {other:?}"),
    }
}

fn source_of(path: &str) -> String {
    question(path).source.to_string()
}

fn refused(path: &str) -> (u16, Code) {
    let refusal = parse_path(path).expect_err(path);
    (refusal.status.as_u16(), refusal.code)
}

#[test]
fn pings() {
    assert_eq!(parse_path("/v2/"), Ok(Asked::Ping));
    assert_eq!(parse_path("/v2"), Ok(Asked::Ping));
}

#[test]
fn the_registry_comes_from_ns_then_the_path_then_the_default() {
    assert_eq!(
        source_of("/v2/public/mid/manifests/v1?ns=reg.test"),
        "reg.test/public/mid"
    );
    assert_eq!(
        source_of("/v2/a/manifests/v1?ns=127.0.0.1%3A5000"),
        "127.0.0.1:5000/a"
    );
    assert_eq!(
        source_of("/v2/reg.test/public/mid/manifests/v1"),
        "reg.test/public/mid"
    );
    assert_eq!(
        source_of("/v2/127.0.0.1:5000/a/tags/list"),
        "127.0.0.1:5000/a"
    );
    assert_eq!(
        source_of("/v2/127.0.0.1%3a5000/a/tags/list"),
        "127.0.0.1:5000/a"
    );
    assert_eq!(
        source_of("/v2/library/debian/manifests/latest"),
        "docker.io/library/debian"
    );
    assert_eq!(
        source_of("/v2/reg.test/a/manifests/v1?ns=reg.test"),
        "reg.test/a"
    );
    assert_eq!(
        source_of("/v2/reg.test/a/manifests/v1?ns=docker.io"),
        "docker.io/reg.test/a"
    );
    assert_eq!(
        source_of("/v2/reg.test/manifests/v1"),
        "docker.io/library/reg.test"
    );
}

#[test]
fn docker_hub_has_many_names() {
    for name in ["docker.io", "index.docker.io", "registry-1.docker.io"] {
        assert_eq!(
            source_of(&format!("/v2/a/b/manifests/v1?ns={name}")),
            "docker.io/a/b"
        );
        assert_eq!(
            source_of(&format!("/v2/{name}/a/b/manifests/v1")),
            "docker.io/a/b"
        );
    }
    for path in [
        "/v2/debian/manifests/v1",
        "/v2/docker.io/debian/manifests/v1",
        "/v2/docker.io/library/debian/manifests/v1",
        "/v2/debian/manifests/v1?ns=docker.io",
        "/v2/docker.io/debian/manifests/v1?ns=registry-1.docker.io",
    ] {
        assert_eq!(source_of(path), "docker.io/library/debian", "{path}");
    }
    assert_eq!(source_of("/v2/a/tags/list?ns=reg.test"), "reg.test/a");
    let namespace = question("/v2/a/manifests/v1?ns=index.docker.io").namespace;
    assert_eq!(namespace.as_deref(), Some("index.docker.io"));
}

#[test]
fn objects() {
    let digest: Digest = format!("sha256:{HEX}").parse().unwrap();
    let object = |path: &str| question(path).object;
    assert_eq!(
        object(&format!("/v2/a/manifests/sha256:{HEX}")),
        Object::Manifest(Reference::Digest(digest))
    );
    assert_eq!(
        object(&format!("/v2/a/blobs/sha256%3A{HEX}")),
        Object::Blob(digest)
    );
    assert_eq!(
        object(&format!("/v2/a/referrers/sha256:{HEX}")),
        Object::Referrers(digest)
    );
    assert_eq!(object("/v2/a/tags/list"), Object::Tags);
    let tag = question("/v2/a/manifests/tags/manifests/list");
    assert_eq!(tag.source.repository.as_str(), "a/manifests/tags");
    assert_eq!(tag.object, Object::Manifest("list".parse().unwrap()));
}

#[test]
fn other_parameters_are_kept_and_encoded_anew() {
    let question = question("/v2/a/tags/list?n=10&ns=reg.test&last=a%26b");
    assert_eq!(question.query.as_deref(), Some("n=10&last=a%26b"));
    assert_eq!(question.namespace.as_deref(), Some("reg.test"));
}

#[test]
fn registries_that_are_not_configured() {
    for path in [
        "/v2/a/manifests/v1?ns=evil.test",
        "/v2/a/manifests/v1?ns=169.254.169.254",
        "/v2/a/manifests/v1?ns=localhost:22",
        "/v2/a/manifests/v1?ns=docker.io:443",
    ] {
        assert_eq!(refused(path), (404, Code::NameUnknown), "{path}");
    }
    let long = "a".repeat(300);
    for ns in [
        "",
        "..",
        "Docker.io",
        "a/b",
        "a@b",
        "user:pw@docker.io",
        "a%00b",
        "docker.io%2F..",
        "%5B::1%5D",
        "docker.io.",
        "a:0",
        "a:99999",
        "docker.io&ns=docker.io",
        &long,
    ] {
        let path = format!("/v2/a/manifests/v1?ns={ns}");
        assert_eq!(refused(&path), (400, Code::NameInvalid), "{path}");
    }
}

#[test]
fn names_that_cannot_be() {
    let long = format!("/v2/{}/manifests/v1", "a".repeat(256));
    for path in [
        "/v2/A/manifests/v1",
        "/v2/../manifests/v1",
        "/v2/a/../b/manifests/v1",
        "/v2/a//b/manifests/v1",
        "/v2//a/manifests/v1",
        "/v2/a%2Fb/manifests/v1",
        "/v2/%2e%2e/manifests/v1",
        "/v2/a:b/manifests/v1",
        "/v2/unknown:5000/a/manifests/v1",
        "/v2/a_/tags/list",
        &long,
    ] {
        assert_eq!(refused(path), (400, Code::NameInvalid), "{path}");
    }
}

#[test]
fn references_that_cannot_be() {
    let long = format!("/v2/a/manifests/{}", "a".repeat(129));
    for path in [
        "/v2/a/manifests/.x",
        "/v2/a/manifests/",
        "/v2/a/manifests/-",
        "/v2/a/manifests/a/b",
        &long,
    ] {
        assert_eq!(refused(path), (404, Code::ManifestUnknown), "{path}");
    }
    for path in [
        "/v2/a/manifests/sha256:00",
        "/v2/a/manifests/md5:d41d8cd98f00b204e9800998ecf8427e",
        "/v2/a/blobs/sha256:00",
        "/v2/a/blobs/latest",
        "/v2/a/blobs/uploads/",
        "/v2/a/blobs/",
        "/v2/a/referrers/x",
    ] {
        assert_eq!(refused(path), (400, Code::DigestInvalid), "{path}");
    }
    let upper = format!("/v2/a/blobs/sha256:{}", HEX.replace('0', "A"));
    assert_eq!(refused(&upper), (400, Code::DigestInvalid));
}

#[test]
fn paths_that_are_not_there() {
    for path in [
        "/",
        "/v1/_ping",
        "/v2/_catalog",
        "/v2/a",
        "/v2/manifests/v1",
        "/V2/",
        "/v2/a/tags/list/",
    ] {
        let (status, code) = refused(path);
        assert_eq!((status, code), (404, Code::Unsupported), "{path}");
    }
    let long = format!("/v2/a/tags/list?last={}", "a".repeat(5000));
    assert_eq!(refused(&long).0, 414);
}

#[test]
fn methods_and_bodies() {
    let none = HeaderMap::new();
    assert!(check_method(&Method::GET, &none).is_ok());
    assert!(check_method(&Method::HEAD, &none).is_ok());
    for method in [
        Method::PUT,
        Method::POST,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ] {
        let refusal = check_method(&method, &none).expect_err("refused");
        assert_eq!(
            (refusal.status.as_u16(), refusal.code),
            (405, Code::Unsupported)
        );
    }
    let with = |name: header::HeaderName, value: &str| {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    };
    assert!(check_method(&Method::GET, &with(header::CONTENT_LENGTH, "0")).is_ok());
    for headers in [
        with(header::CONTENT_LENGTH, "1"),
        with(header::TRANSFER_ENCODING, "chunked"),
    ] {
        let refusal = check_method(&Method::GET, &headers).expect_err("refused");
        assert_eq!((refusal.status.as_u16(), refusal.close), (400, true));
    }
}

proptest! {
    #[test]
    fn any_path_is_understood_or_refused(path in "/v2/[a-zA-Z0-9._:/%?=&-]{0,80}") {
        if let Ok(uri) = path.parse::<Uri>()
            && let Ok(Asked::Of(question)) = {
                let default: RegistryName = "docker.io".parse().unwrap();
                let registries = Registries { known: |name: &RegistryName| name.as_str() == "docker.io", default: &default };
                parse(&uri, registries)
            }
        {
            prop_assert_eq!(question.source.registry.as_str(), "docker.io");
            prop_assert!(!question.source.repository.as_str().contains(".."));
        }
    }
}

#[test]
fn requests_as_nobody_sends_them_are_refused_or_have_names_of_the_grammar() {
    let blob = format!("/v2/library/debian/blobs/sha256:{HEX}?ns=docker.io");
    let referrers = format!("/v2/reg.test/a/referrers/sha256:{HEX}?artifactType=a%2Fb");
    let good = [
        "/v2/",
        "/v2/debian/manifests/latest",
        "/v2/127.0.0.1:5000/a/b/tags/list?n=5&last=v1",
        &blob,
        &referrers,
    ];
    let digits = format!("%2e%2e%2f{}", "a/".repeat(40));
    darner_mutate::each_text(&[&good[..], &[&*digits]].concat(), |text| {
        let Ok(uri) = text.parse::<Uri>() else { return };
        let default: RegistryName = "docker.io".parse().unwrap();
        let registries = Registries {
            known: |name: &RegistryName| name.as_str() != "a",
            default: &default,
        };
        if let Ok(Asked::Of(question)) = parse(&uri, registries) {
            let repository = question.source.repository.to_string();
            assert_eq!(repository.parse(), Ok(question.source.repository.clone()));
            assert_ne!(question.source.registry.as_str(), "a", "{text}");
        }
    });
}
