use super::scripted::{Scripted, Seen, answer};
use super::*;

const MANIFEST: &str = r#"{"layers":[]}"#;

/// A registry that serves only who shows `token`, and its token service, in one.
async fn token_registry(token: &'static str) -> Scripted {
    Scripted::start(move |seen, _| {
        if seen.path == "/token" {
            let reply = format!(r#"{{"token":"{token}","expires_in":300}}"#);
            return answer(200, &[], reply);
        }
        if seen.header("authorization") == format!("Bearer {token}") {
            return answer(200, &[("content-type", "application/x")], MANIFEST);
        }
        challenge(&format!("http://{}/token", seen.header("host")))
    })
    .await
}

fn challenge(realm: &str) -> axum::response::Response {
    let text = format!(r#"Bearer realm="{realm}",service="reg",scope="repository:team/app:pull""#);
    answer(401, &[("www-authenticate", &text)], "{}")
}

fn at<'a>(seen: &'a [Seen], path: &str) -> Vec<&'a Seen> {
    seen.iter().filter(|seen| seen.path == path).collect()
}

#[tokio::test]
async fn a_token_is_fetched_once_and_used_again() {
    let registry = token_registry("t1").await;
    let upstream = plain(&registry);
    for _ in 0..3 {
        let manifest = upstream
            .manifest(&repository(), &tag(), Access::Configured)
            .await;
        assert_eq!(manifest.unwrap().bytes, MANIFEST);
    }
    let seen = registry.seen();
    let tokens = at(&seen, "/token");
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].header("authorization"), "");
    assert_eq!(tokens[0].parameter("service").as_deref(), Some("reg"));
    let scope = tokens[0].parameter("scope");
    assert_eq!(scope.as_deref(), Some("repository:team/app:pull"));
    // One challenge, then the token at once.
    assert_eq!(at(&seen, "/v2/team/app/manifests/latest").len(), 4);
}

#[tokio::test]
async fn many_at_once_share_one_token() {
    let registry = token_registry("t1").await;
    let upstream = plain(&registry);
    let (repository, tag) = (repository(), tag());
    let asked = (0..20).map(|_| upstream.manifest(&repository, &tag, Access::Anonymous));
    for manifest in futures_util::future::join_all(asked).await {
        manifest.unwrap();
    }
    assert_eq!(at(&registry.seen(), "/token").len(), 1);
}

#[tokio::test]
async fn tokens_belong_to_repository_and_access() {
    let registry = token_registry("t1").await;
    let upstream = configured(&registry);
    let other = "other/app".parse().unwrap();
    for repository in [&repository(), &other] {
        for access in [Access::Anonymous, Access::Configured] {
            upstream.manifest(repository, &tag(), access).await.unwrap();
        }
    }
    let seen = registry.seen();
    let tokens = at(&seen, "/token");
    let shown: Vec<_> = tokens
        .iter()
        .map(|seen| seen.header("authorization"))
        .collect();
    // "operator:canary-5ecre7"
    let basic = "Basic b3BlcmF0b3I6Y2FuYXJ5LTVlY3JlNw==";
    assert_eq!(shown, ["", basic, "", basic]);
}

#[tokio::test]
async fn a_refused_token_is_replaced_once() {
    let registry = Scripted::start(|seen, before| {
        if seen.path == "/token" {
            return answer(200, &[], format!(r#"{{"access_token":"t{before}"}}"#));
        }
        // The first token is taken away after its first use.
        match seen.header("authorization") {
            "Bearer t1" if before < 3 => answer(200, &[("content-type", "a/b")], MANIFEST),
            "Bearer t4" => answer(200, &[("content-type", "a/b")], MANIFEST),
            _ => challenge(&format!("http://{}/token", seen.header("host"))),
        }
    })
    .await;
    let upstream = plain(&registry);
    for _ in 0..2 {
        let manifest = upstream
            .manifest(&repository(), &tag(), Access::Anonymous)
            .await;
        manifest.unwrap();
    }
    let seen = registry.seen();
    assert_eq!(at(&seen, "/token").len(), 2);
    assert_eq!(seen.len(), 6);
}

#[tokio::test]
async fn a_password_is_shown_only_in_the_operators_name() {
    let basic = "Basic b3BlcmF0b3I6Y2FuYXJ5LTVlY3JlNw==";
    let registry = Scripted::start(move |seen, _| match seen.header("authorization") {
        shown if shown == basic => answer(200, &[("content-type", "a/b")], MANIFEST),
        _ => answer(401, &[("www-authenticate", r#"Basic realm="x""#)], "{}"),
    })
    .await;
    let upstream = configured(&registry);
    for _ in 0..2 {
        let manifest = upstream
            .manifest(&repository(), &tag(), Access::Configured)
            .await;
        manifest.unwrap();
    }
    assert_eq!(registry.seen().len(), 3);
    let denied = upstream
        .manifest(&repository(), &tag(), Access::Anonymous)
        .await;
    assert_eq!(denied.unwrap_err().kind(), UpstreamErrorKind::Denied);
    assert_eq!(registry.seen().last().unwrap().header("authorization"), "");
}

#[tokio::test]
async fn a_refused_password_is_not_shown_over_and_over() {
    let registry =
        Scripted::start(|_, _| answer(401, &[("www-authenticate", r#"Basic realm="x""#)], "{}"))
            .await;
    let upstream = configured(&registry);
    for requests in [2, 3] {
        let denied = upstream
            .head_manifest(&repository(), &tag(), Access::Configured)
            .await;
        let error = denied.unwrap_err();
        assert_eq!(error.status(), Some(401));
        assert!(!everything(&error).contains(CANARY));
        assert_eq!(registry.seen().len(), requests);
    }
}

#[tokio::test]
async fn a_token_service_elsewhere_gets_nothing() {
    let elsewhere = Scripted::start(|_, _| answer(200, &[], r#"{"token":"x"}"#)).await;
    let realm = format!("{}/token", elsewhere.url_as_localhost());
    let registry = Scripted::start(move |_, _| challenge(&realm)).await;
    let refused = configured(&registry);
    let refused = refused
        .manifest(&repository(), &tag(), Access::Configured)
        .await;
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), UpstreamErrorKind::Invalid);
    assert!(elsewhere.seen().is_empty());
    assert_eq!(registry.seen().len(), 1);
}

#[tokio::test]
async fn a_token_service_that_refuses_is_a_denial() {
    let registry = Scripted::start(|seen, _| match seen.path.as_str() {
        "/token" => answer(401, &[], "{}"),
        _ => challenge(&format!("http://{}/token", seen.header("host"))),
    })
    .await;
    let denied = plain(&registry);
    let denied = denied
        .head_manifest(&repository(), &tag(), Access::Anonymous)
        .await;
    assert_eq!(denied.unwrap_err().kind(), UpstreamErrorKind::Denied);
}

#[tokio::test]
async fn nonsense_from_a_token_service_is_not_quoted() {
    let huge = format!(r#"{{"token":"{}"}}"#, CANARY.repeat(1 << 13));
    for reply in [
        format!(r#"{{"token":"t","expires_in":"{CANARY}"}}"#),
        format!(r#"{{"token":"{CANARY}\n"}}"#),
        format!(r#"{{"tokens":"{CANARY}"}}"#),
        format!("<html>{CANARY}</html>"),
        huge,
    ] {
        let registry = Scripted::start(move |seen, _| match seen.path.as_str() {
            "/token" => answer(200, &[], reply.clone()),
            _ => challenge(&format!("http://{}/token", seen.header("host"))),
        })
        .await;
        let refused = plain(&registry);
        let refused = refused
            .head_manifest(&repository(), &tag(), Access::Anonymous)
            .await;
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), UpstreamErrorKind::Invalid);
        assert!(!everything(&error).contains(CANARY), "{error:?}");
    }
}

#[tokio::test]
async fn secrets_are_in_no_debug_text() {
    let registry = token_registry(CANARY).await;
    let client = client(settings::Upstream {
        credentials: credentials(),
        ..settings(registry.url())
    });
    let manifest = client
        .upstream
        .manifest(&repository(), &tag(), Access::Configured)
        .await;
    manifest.unwrap();
    let asker = &client.upstream.inner.registry.asker;
    let text = format!("{:?} {:?} {asker:?}", client.upstreams, client.upstream);
    assert!(!text.contains(CANARY), "{text}");
    assert!(!client.exposition().contains(CANARY));
}
