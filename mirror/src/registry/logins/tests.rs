//! Tokens and what is in them, without a registry.

use axum::http::Request;
use darner_service::metrics::Metrics;
use darner_service::settings;
use darner_service::shutdown::Shutdown;
use proptest::prelude::*;

use super::*;

const BASIC: &str = "Basic YWxpY2U6Y2FuYXJ5LXBhc3N3b3Jk";

fn name(text: &str) -> RegistryName {
    text.parse().unwrap()
}

/// For one of two registries.
fn logins() -> Logins {
    let named = ["one.test", "other.test"];
    let of = |text: &&str| settings::Upstream::new(name(text), format!("https://{text}"), 4);
    let upstreams: Vec<_> = named.iter().map(of).collect();
    let upstreams = Upstreams::new(&upstreams, &Metrics::default(), &Shutdown::default());
    let logins = Logins::new(
        &[name("one.test")],
        &name("other.test"),
        &upstreams.unwrap(),
    );
    logins.unwrap().unwrap()
}

fn account() -> Holder {
    Holder::Account(name("one.test"), HeaderValue::from_static(BASIC))
}

fn parts(path: &str, authorization: Option<&str>) -> Parts {
    let mut request = Request::get(path).header(header::HOST, "127.0.0.1:7420");
    if let Some(shown) = authorization {
        request = request.header(header::AUTHORIZATION, shown);
    }
    request.body(()).unwrap().into_parts().0
}

async fn met(logins: &Logins, parts: &mut Parts) -> Option<Response<Body>> {
    let deadline = Instant::now() + Duration::from_secs(5);
    logins.meet(parts, deadline).await
}

#[tokio::test]
async fn a_token_says_who_shows_it_for_as_long_as_it_lives_and_to_nobody_else() {
    let logins = logins();
    let now = Duration::from_secs(100);
    for holder in [Holder::Nobody, account()] {
        let token = logins.seal(&holder, now).unwrap();
        assert!(!token.contains("YWxpY2U"), "{token}");
        let token = token.strip_prefix(MARK).unwrap();
        assert_eq!(logins.open(token, now), Some(holder));
        assert_eq!(logins.open(token, now + TOKEN_LIFE), None, "it is over");
        let other = super::tests::logins();
        assert_eq!(other.open(token, now), None, "of another process");
    }
    assert!(!format!("{logins:?}").contains("canary"));
}

proptest! {
    #[test]
    fn what_is_no_token_opens_nothing(at in 0usize..60, bit in 0u8..8, text in ".{0,80}") {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _entered = runtime.enter();
        let logins = logins();
        prop_assert_eq!(logins.open(&text, Duration::ZERO), None);
        let token = logins.seal(&account(), Duration::ZERO).unwrap();
        let mut sealed = URL_SAFE_NO_PAD.decode(&token[MARK.len()..]).unwrap();
        sealed[at] ^= 1 << bit;
        prop_assert_eq!(logins.open(&URL_SAFE_NO_PAD.encode(sealed), Duration::ZERO), None);
    }
}

#[tokio::test]
async fn a_ping_without_a_token_is_told_where_to_get_one() {
    let logins = logins();
    let response = met(&logins, &mut parts("/v2/", None)).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let asked = response.headers()[header::WWW_AUTHENTICATE]
        .to_str()
        .unwrap();
    assert_eq!(
        asked,
        "Bearer realm=\"http://127.0.0.1:7420/token\",service=\"darner\""
    );
    let mut secured = parts("/v2/", None);
    secured.extensions.insert(Caller::Stranger);
    let response = met(&logins, &mut secured).await.unwrap();
    let asked = response.headers()[header::WWW_AUTHENTICATE]
        .to_str()
        .unwrap();
    assert!(
        asked.contains("\"https://127.0.0.1:7420/token\""),
        "{asked}"
    );
    for host in ["a\"b", "evil.test/x", "a b"] {
        let mut odd = parts("/v2/", None);
        odd.headers
            .insert(header::HOST, HeaderValue::from_str(host).unwrap());
        let response = met(&logins, &mut odd).await.unwrap();
        assert!(
            !response.headers().contains_key(header::WWW_AUTHENTICATE),
            "{host}"
        );
    }
}

#[tokio::test]
async fn a_token_is_replaced_by_what_is_in_it_and_others_tokens_are_left() {
    let logins = logins();
    let now = logins.began.elapsed();
    let path = "/v2/one.test/a/manifests/b";
    let shown = |token: &str| format!("Bearer {token}");
    let nobody = shown(&logins.seal(&Holder::Nobody, now).unwrap());
    let mut asked = parts(path, Some(&nobody));
    assert!(met(&logins, &mut asked).await.is_none());
    assert!(!asked.headers.contains_key(header::AUTHORIZATION));

    let token = shown(&logins.seal(&account(), now).unwrap());
    let mut asked = parts(path, Some(&token));
    assert!(met(&logins, &mut asked).await.is_none());
    assert_eq!(asked.headers[header::AUTHORIZATION], BASIC);
    assert!(asked.headers[header::AUTHORIZATION].is_sensitive());
    confine(&mut asked, &name("one.test"));
    assert_eq!(asked.headers[header::AUTHORIZATION], BASIC);
    confine(&mut asked, &name("other.test"));
    assert!(!asked.headers.contains_key(header::AUTHORIZATION));
    assert!(
        met(&logins, &mut parts("/v2/", Some(&token)))
            .await
            .is_none()
    );

    let forged = shown("darner-AAAA");
    let refused = met(&logins, &mut parts(path, Some(&forged))).await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    for theirs in ["Bearer eyJ.e30.x", BASIC] {
        let mut asked = parts(path, Some(theirs));
        assert!(met(&logins, &mut asked).await.is_none());
        assert_eq!(asked.headers[header::AUTHORIZATION], theirs);
        confine(&mut asked, &name("other.test"));
        assert_eq!(asked.headers[header::AUTHORIZATION], theirs);
    }
    assert!(met(&logins, &mut parts(path, None)).await.is_none());
}

#[tokio::test]
async fn an_account_is_put_into_tokens_for_the_registries_named_alone() {
    let logins = logins();
    for (query, expected) in [
        (
            "scope=repository:one.test/a/b:pull&service=darner",
            account(),
        ),
        (
            "scope=repository%3Aone.test%2Fa%3Apull&account=alice",
            account(),
        ),
        ("scope=repository:other.test/a/b:pull", Holder::Nobody),
        // Of the default registry.
        ("scope=repository:library/a:pull", Holder::Nobody),
        ("scope=registry:catalog:*", Holder::Nobody),
    ] {
        let asked = parts(&format!("/token?{query}"), Some(BASIC));
        let response = logins.give(&asked, Instant::now()).await;
        assert_eq!(response.status(), StatusCode::OK, "{query}");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        let body = axum::body::to_bytes(response.into_body(), 1 << 16)
            .await
            .unwrap();
        let told: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(told["expires_in"], 300);
        let token = told["token"].as_str().unwrap().strip_prefix(MARK).unwrap();
        assert_eq!(
            logins.open(token, Duration::ZERO),
            Some(expected),
            "{query}"
        );
    }
    // As clients send who have no account.
    let empty = parts(
        "/token?scope=repository:one.test/a:pull",
        Some("Basic Og=="),
    );
    let response = logins.give(&empty, Instant::now()).await;
    assert_eq!(response.status(), StatusCode::OK);
}
