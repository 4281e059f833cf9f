//! Logins with a provider of the test's own, over each kind of database.

use std::collections::BTreeMap;
use std::sync::Mutex;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse as _;
use axum::routing::{get, post};
use axum::{Json, Router};
use darner_service::listener::{Listener, WhenFull};
use darner_service::secret::Secret;
use darner_service::shutdown::Shutdown;
use serde_json::{Value, json};
use url::Url;

use super::token::tests::Signer;
use super::*;
use crate::database::testing::Place;
use crate::users::audit;
use crate::users::credentials::by_session;

/// A provider: who logs in next, and what it was asked.
#[derive(Clone)]
struct Fake(Arc<Inner>);

struct Inner {
    issuer: String,
    signer: Mutex<Arc<Signer>>,
    /// What the token for the next code says.
    says: Mutex<Value>,
    /// The verifier's digest of each code given out.
    codes: Mutex<BTreeMap<String, String>>,
}

impl Fake {
    async fn start(shutdown: &Shutdown) -> Self {
        let anywhere = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(anywhere, 16, WhenFull::Wait).await.unwrap();
        let fake = Self(Arc::new(Inner {
            issuer: format!("http://{}", listener.address()),
            signer: Mutex::new(Arc::new(Signer::new())),
            says: Mutex::default(),
            codes: Mutex::default(),
        }));
        let routes = Router::new()
            .route("/.well-known/openid-configuration", get(about))
            .route("/keys", get(keys))
            .route("/token", post(grant))
            .with_state(fake.clone());
        shutdown.spawn(async move { axum::serve(listener, routes).await.unwrap() });
        fake
    }

    /// Somebody logs in where `url` leads: what the browser comes back with.
    fn log_in(&self, url: &str, who: &str, groups: &[&str]) -> (String, String) {
        let url: Url = url.parse().unwrap();
        let asked: BTreeMap<_, _> = url.query_pairs().into_owned().collect();
        assert_eq!(asked["response_type"], "code");
        assert_eq!(asked["code_challenge_method"], "S256");
        assert_eq!(asked["redirect_uri"], "https://darner.test/oidc/callback");
        let now = now() / 1000;
        *self.0.says.lock().unwrap() = json!({
            "iss": self.0.issuer, "aud": "darner", "sub": format!("id of {who}"),
            "preferred_username": who, "groups": groups, "nonce": asked["nonce"],
            "iat": now, "exp": now + 60,
        });
        let code = random::hexadecimal::<8>();
        let challenge = asked["code_challenge"].clone();
        self.0.codes.lock().unwrap().insert(code.clone(), challenge);
        (code, asked["state"].clone())
    }
}

async fn about(State(fake): State<Fake>) -> Json<Value> {
    let issuer = &fake.0.issuer;
    Json(json!({
        "issuer": issuer, "authorization_endpoint": format!("{issuer}/login?tenant=1"),
        "token_endpoint": format!("{issuer}/token"), "jwks_uri": format!("{issuer}/keys"),
    }))
}

async fn keys(State(fake): State<Fake>) -> Json<Value> {
    let signer = fake.0.signer.lock().unwrap().clone();
    Json(signer.keys())
}

async fn grant(
    State(fake): State<Fake>,
    headers: HeaderMap,
    body: String,
) -> axum::response::Response {
    let form = url::form_urlencoded::parse(body.as_bytes());
    let form: BTreeMap<_, _> = form.into_owned().collect();
    // darner:pass%2Bword, each part a form's value.
    let knows = headers
        .get("authorization")
        .is_some_and(|given| given == "Basic ZGFybmVyOnBhc3MlMkJ3b3Jk");
    let challenge = fake.0.codes.lock().unwrap().remove(&form["code"]);
    let verifier = Sha256::digest(form["code_verifier"].as_bytes());
    if !knows || challenge != Some(URL_SAFE_NO_PAD.encode(verifier)) {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let says = fake.0.says.lock().unwrap().clone();
    let signer = fake.0.signer.lock().unwrap().clone();
    let token = signer.sign(&json!({ "alg": "ES256", "kid": "one" }), &says);
    Json(json!({ "access_token": "x", "token_type": "Bearer", "id_token": token })).into_response()
}

fn oidc(fake: &Fake, database: &Database) -> Oidc {
    let groups = |name: &str| vec![name.to_owned()];
    let settings = settings::Oidc {
        issuer: fake.0.issuer.clone(),
        client_id: "darner".to_owned(),
        client_secret: Some(Secret::new("pass+word")),
        public_url: "https://darner.test".to_owned(),
        scopes: vec!["openid".to_owned(), "groups".to_owned()],
        name_claim: "preferred_username".to_owned(),
        groups_claim: "groups".to_owned(),
        admin_groups: groups("admins"),
        operator_groups: groups("operators"),
        viewer_groups: groups("staff"),
    };
    Oidc::new(settings, database.clone()).unwrap()
}

/// Begins and ends a login: who it is then, and what it may do.
async fn logged_in(
    oidc: &Oidc,
    fake: &Fake,
    database: &Database,
    who: &str,
    groups: &[&str],
) -> Result<(String, Role), OidcError> {
    let begun = oidc.begin("/jobs").await?;
    let (code, state) = fake.log_in(&begun.url, who, groups);
    let answer = Answer {
        code: &code,
        state: &state,
        browser: &begun.browser,
    };
    let (session, to) = oidc.end(&answer).await?;
    assert_eq!(to, "/jobs");
    let caller = by_session(database, session.secret.reveal()).await.unwrap();
    let caller = caller.unwrap();
    Ok((caller.account.to_string(), caller.role))
}

#[tokio::test]
async fn somebody_is_what_its_groups_say_now() {
    for place in Place::each() {
        let database = place.open().await;
        let shutdown = Shutdown::default();
        let fake = Fake::start(&shutdown).await;
        let oidc = oidc(&fake, &database);
        let log_in = async |who: &str, groups: &[&str]| {
            logged_in(&oidc, &fake, &database, who, groups).await
        };
        for (groups, role) in [
            (&["staff"][..], Role::Viewer),
            (&["staff", "admins"], Role::Admin),
            (&["operators", "other"], Role::Operator),
        ] {
            let (name, has) = log_in("eve", groups).await.unwrap();
            assert_eq!((name.as_str(), has), ("eve", role));
        }
        let nobody = log_in("mallory", &["other"]).await;
        assert!(matches!(nobody, Err(OidcError::NoRole(_))), "{nobody:?}");
        let unnamed = log_in("e v e", &["staff"]).await;
        assert!(matches!(unnamed, Err(OidcError::Name(_))), "{unnamed:?}");

        // It has lost its groups: what it had here ends.
        let begun = oidc.begin("").await.unwrap();
        let (code, state) = fake.log_in(&begun.url, "eve", &["staff"]);
        let answer = Answer {
            code: &code,
            state: &state,
            browser: &begun.browser,
        };
        let (session, _) = oidc.end(&answer).await.unwrap();
        let gone = log_in("eve", &[]).await;
        assert!(matches!(gone, Err(OidcError::NoRole(_))), "{gone:?}");
        let caller = by_session(&database, session.secret.reveal()).await;
        assert!(caller.unwrap().is_none());
        let lines = audit::read(&database, audit::Filter::default(), None, 10)
            .await
            .unwrap();
        assert!(
            lines
                .iter()
                .all(|line| line.actor == "openid-connect" && line.object == "eve")
        );
    }
}

#[tokio::test]
async fn a_local_account_is_nobody_elses_whatever_it_is_called() {
    let place = Place::file();
    let database = place.open().await;
    let shutdown = Shutdown::default();
    let fake = Fake::start(&shutdown).await;
    let oidc = oidc(&fake, &database);
    let ann: Name = "ann".parse().unwrap();
    let made = crate::users::accounts::create(&database, "test", &ann, Role::Admin, "hash");
    made.await.unwrap();
    let taken = logged_in(&oidc, &fake, &database, "ann", &["admins"]).await;
    assert!(matches!(taken, Err(OidcError::Taken(_))), "{taken:?}");
    // And an account of elsewhere has no password.
    logged_in(&oidc, &fake, &database, "eve", &["staff"])
        .await
        .unwrap();
    let eve = "eve".parse().unwrap();
    let found = crate::users::accounts::with_password(&database, &eve).await;
    assert!(found.unwrap().is_none());
    // Another person whom the provider has given the name since is not the one before.
    let begun = oidc.begin("").await.unwrap();
    let (code, state) = fake.log_in(&begun.url, "eve", &["admins"]);
    fake.0.says.lock().unwrap()["sub"] = json!("another");
    let answer = Answer {
        code: &code,
        state: &state,
        browser: &begun.browser,
    };
    let other = oidc.end(&answer).await;
    assert!(matches!(other, Err(OidcError::Taken(_))), "{other:?}");
}

#[tokio::test]
async fn a_login_ends_once_in_the_browser_it_was_begun_in() {
    for place in Place::each() {
        let database = place.open().await;
        let shutdown = Shutdown::default();
        let fake = Fake::start(&shutdown).await;
        let oidc = oidc(&fake, &database);
        let begun = oidc.begin("").await.unwrap();
        let (code, state) = fake.log_in(&begun.url, "eve", &["staff"]);
        let end = async |code: &str, state: &str, browser: &str| {
            let answer = Answer {
                code,
                state,
                browser,
            };
            oidc.end(&answer).await.map(drop)
        };
        for (state, browser) in [(&*state, "another"), (&*state, ""), ("", &*begun.browser)] {
            let refused = end(&code, state, browser).await;
            assert!(matches!(refused, Err(OidcError::Unknown)), "{refused:?}");
        }
        end(&code, &state, &begun.browser).await.unwrap();
        let again = end(&code, &state, &begun.browser).await;
        assert!(matches!(again, Err(OidcError::Unknown)), "{again:?}");

        // A token of another login: its nonce is not this one's.
        let (one, other) = (oidc.begin("").await.unwrap(), oidc.begin("").await.unwrap());
        let (code, state) = fake.log_in(&one.url, "eve", &["staff"]);
        let says = fake.0.says.lock().unwrap().clone();
        let _ = fake.log_in(&other.url, "eve", &["staff"]);
        fake.0.says.lock().unwrap()["sub"] = says["sub"].clone();
        let mixed = end(&code, &state, &one.browser).await;
        assert!(
            matches!(mixed, Err(OidcError::Token(TokenError::Claim("nonce")))),
            "{mixed:?}"
        );
        // And a code of another: its verifier is not this one's.
        let (code, _) = fake.log_in(&one.url, "eve", &["staff"]);
        let (_, state) = fake.log_in(&other.url, "eve", &["staff"]);
        let stolen = end(&code, &state, &other.browser).await;
        assert!(matches!(stolen, Err(OidcError::Provider(_))), "{stolen:?}");
    }
}

#[tokio::test]
async fn a_provider_that_is_another_or_away_lets_nobody_in() {
    let place = Place::file();
    let database = place.open().await;
    let shutdown = Shutdown::default();
    let fake = Fake::start(&shutdown).await;
    let mut other = oidc(&fake, &database).shared.settings.clone();
    other.issuer += "/";
    let other = Oidc::new(other, database.clone()).unwrap();
    let refused = other.begin("").await.unwrap_err();
    assert!(refused.to_string().contains("issuer"), "{refused}");
    // It signs with a new key, which is not to be asked for at every try.
    let oidc = oidc(&fake, &database);
    logged_in(&oidc, &fake, &database, "eve", &["staff"])
        .await
        .unwrap();
    *fake.0.signer.lock().unwrap() = Arc::new(Signer::new());
    let forged = logged_in(&oidc, &fake, &database, "eve", &["staff"]).await;
    assert!(
        matches!(forged, Err(OidcError::Token(TokenError::Signature))),
        "{forged:?}"
    );
}
