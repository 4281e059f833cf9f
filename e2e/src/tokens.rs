//! A token server in the way registries know them (JSON web tokens, signed with ES256), which knows
//! one user.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::registry::{Access, ISSUER, SERVICE};

/// How long a token is good for.
const LIFETIME: u64 = 300;

/// A running token server.
#[derive(Debug)]
pub struct Tokens {
    address: SocketAddr,
    certificate: PathBuf,
    _tasks: JoinSet<()>,
}

/// Whom it knows.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The user, who may read everything.
    pub user: String,
    /// And the password.
    pub password: String,
    /// Repositories that anybody may read.
    pub public: Vec<String>,
}

struct Office {
    policy: Policy,
    key: EcdsaKeyPair,
    certificate: Vec<u8>,
}

impl Tokens {
    /// Starts one, with its certificate in a file of `directory`.
    pub async fn start(directory: &Path, policy: Policy) -> Result<Self> {
        let key = rcgen::KeyPair::generate()?;
        let certificate = rcgen::CertificateParams::default().self_signed(&key)?;
        let file = directory.join("tokens.pem");
        std::fs::write(&file, certificate.pem())?;
        let pkcs8 = key.serialize_der();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8)
            .map_err(|error| anyhow!("the tokens' key: {error}"))?;
        let office = Office {
            policy,
            key,
            certificate: certificate.der().to_vec(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let routes = Router::new().route("/token", axum::routing::get(get).post(post));
        let routes = routes.with_state(Arc::new(office));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // It ends with the test.
            let _ = axum::serve(listener, routes).await;
        });
        Ok(Self {
            address,
            certificate: file,
            _tasks: tasks,
        })
    }

    /// For the registry whose tokens these are.
    pub fn access(&self) -> Access {
        Access::Token {
            realm: format!("http://{}/token", self.address),
            certificate: self.certificate.clone(),
        }
    }
}

/// As Docker and the containers' libraries ask.
async fn get(
    State(office): State<Arc<Office>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let login = headers.get(header::AUTHORIZATION).map(|value| {
        let shown = value.to_str().ok()?.strip_prefix("Basic ")?;
        let login = String::from_utf8(BASE64_STANDARD.decode(shown).ok()?).ok()?;
        let (user, password) = login.split_once(':')?;
        Some((user.to_owned(), password.to_owned()))
    });
    // The containers' libraries say who they are not: an empty user.
    let login = login.filter(|login| login.as_ref().is_none_or(|(user, _)| !user.is_empty()));
    office.answer(login, &query.unwrap_or_default())
}

/// As containerd asks: the way of OAuth 2.
async fn post(State(office): State<Arc<Office>>, body: String) -> Response {
    let login = field(&body, "username").map(|user| Some((user, field(&body, "password")?)));
    office.answer(login, &body)
}

/// The first value of a form's field.
fn field(form: &str, name: &str) -> Option<String> {
    fields(form, name).next()
}

fn fields(form: &str, name: &str) -> impl Iterator<Item = String> {
    let pairs = reqwest::Url::parse(&format!("http://x/?{form}"));
    let pairs: Vec<_> = pairs
        .map(|url| url.query_pairs().into_owned().collect())
        .unwrap_or_default();
    let mut found = Vec::new();
    for (key, value) in pairs {
        if key == name {
            found.push(value);
        }
    }
    found.into_iter()
}

impl Office {
    /// What `login` is given: `None` is nobody, `Some(None)` is nonsense.
    fn answer(&self, login: Option<Option<(String, String)>>, form: &str) -> Response {
        let known = match &login {
            None => false,
            Some(Some((user, password)))
                if *user == self.policy.user && *password == self.policy.password =>
            {
                true
            }
            Some(_) => return StatusCode::UNAUTHORIZED.into_response(),
        };
        match self.token(known, form) {
            Ok(token) => {
                Json(json!({"token": token, "access_token": token, "expires_in": LIFETIME}))
                    .into_response()
            }
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")).into_response(),
        }
    }

    fn token(&self, known: bool, form: &str) -> Result<String> {
        let scopes: Vec<_> = fields(form, "scope").collect();
        let scopes = scopes.iter().flat_map(|scopes| scopes.split(' '));
        let granted: Vec<Value> = scopes
            .filter_map(|scope| self.granted(known, scope))
            .collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let head = json!({
            "typ": "JWT",
            "alg": "ES256",
            "x5c": [BASE64_STANDARD.encode(&self.certificate)],
        });
        let claims = json!({
            "iss": ISSUER, "aud": SERVICE, "sub": if known { &self.policy.user } else { "" },
            "exp": now + LIFETIME, "nbf": now - 10, "iat": now, "jti": now.to_string(),
            "access": granted,
        });
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&head), part(&claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = signature.ok().context("no signature")?;
        let signature = BASE64_URL_SAFE_NO_PAD.encode(signature);
        Ok(format!("{signed}.{signature}"))
    }

    /// Of `repository:name:pull,push`, reading.
    fn granted(&self, known: bool, scope: &str) -> Option<Value> {
        let (kind, rest) = scope.split_once(':')?;
        let (name, _) = rest.rsplit_once(':')?;
        let may = known || self.policy.public.iter().any(|public| public == name);
        may.then(|| json!({"type": kind, "name": name, "actions": ["pull"]}))
    }
}
