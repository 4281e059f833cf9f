//! The provider, as this manager asks it: what it is (OpenID Connect Discovery 1.0), what it signs with,
//! and a token for a code (RFC 6749, with RFC 7636). Nothing it says is followed elsewhere, and no answer
//! is longer than it may be.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use darner_service::secret::Secret;
use reqwest::header::ACCEPT;
use reqwest::{Client, RequestBuilder, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::token::Keys;

/// An answer that takes longer keeps somebody waiting who looks at a page.
const PATIENCE: Duration = Duration::from_secs(10);
/// Nothing that a provider says is longer.
const MAX_ANSWER: usize = 1 << 20;
/// What it is and what it signs with is asked again after this long.
const KEEPS: Duration = Duration::from_secs(600);
/// A token with an unknown key asks for the keys anew, but no more often than this.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// The provider. What was learned of it is kept for a while.
#[derive(Debug)]
pub(super) struct Provider {
    http: Client,
    issuer: String,
    client_id: String,
    client_secret: Option<Secret>,
    known: Mutex<Option<Known>>,
}

#[derive(Debug, Clone)]
struct Known {
    when: Instant,
    about: About,
    keys: Keys,
}

/// Where it is asked what.
#[derive(Debug, Clone)]
struct About {
    authorization_endpoint: Url,
    token_endpoint: Url,
    jwks_uri: Url,
    /// Whether the secret goes in the form, and not in a header.
    secret_in_form: bool,
}

/// What it says of itself.
#[derive(Deserialize)]
struct Said {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Vec<String>,
}

#[derive(Deserialize)]
struct Granted {
    id_token: String,
}

/// The provider cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// HTTP cannot be spoken.
    #[error("HTTP cannot be spoken from here")]
    Http(#[source] reqwest::Error),
    /// It does not answer.
    #[error("the provider does not answer at {0}")]
    Away(&'static str, #[source] reqwest::Error),
    /// It says no.
    #[error("the provider answers {status} at {what}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The status.
        status: u16,
    },
    /// It makes no sense.
    #[error("what the provider says at {what} makes no sense: {why}")]
    Nonsense {
        /// What was asked.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl Provider {
    pub(super) fn new(
        issuer: String,
        client_id: String,
        client_secret: Option<Secret>,
    ) -> Result<Self, ProviderError> {
        let http = Client::builder()
            .timeout(PATIENCE)
            .redirect(redirect::Policy::none())
            .build()
            .map_err(ProviderError::Http)?;
        Ok(Self {
            http,
            issuer,
            client_id,
            client_secret,
            known: Mutex::default(),
        })
    }

    /// Where people log in.
    pub(super) async fn authorization_endpoint(&self) -> Result<Url, ProviderError> {
        Ok(self.known(KEEPS).await?.about.authorization_endpoint)
    }

    /// What it signs with, as of late.
    pub(super) async fn keys(&self) -> Result<Keys, ProviderError> {
        Ok(self.known(KEEPS).await?.keys)
    }

    /// What it signs with now: for a key that was not there before.
    pub(super) async fn newer_keys(&self) -> Result<Keys, ProviderError> {
        Ok(self.known(LOOK_AGAIN).await?.keys)
    }

    /// The identity token for a code.
    pub(super) async fn redeem(
        &self,
        code: &str,
        verifier: &str,
        redirect: &str,
    ) -> Result<String, ProviderError> {
        let about = self.known(KEEPS).await?.about;
        let mut request = self.http.post(about.token_endpoint);
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect),
            ("code_verifier", verifier),
            ("client_id", &self.client_id),
        ];
        if let Some(secret) = &self.client_secret {
            match about.secret_in_form {
                true => fields.push(("client_secret", secret.reveal())),
                // Each part is a form's value first (RFC 6749, section 2.3.1).
                false => {
                    let (id, secret) = (encoded(&self.client_id), encoded(secret.reveal()));
                    request = request.basic_auth(id, Some(secret));
                }
            }
        }
        let kind = "application/x-www-form-urlencoded";
        let request = request.header("content-type", kind).body(form(&fields));
        let granted: Granted = answer("its token endpoint", request).await?;
        Ok(granted.id_token)
    }

    async fn known(&self, keeps: Duration) -> Result<Known, ProviderError> {
        let known = self.lock().clone();
        if let Some(known) = known.filter(|known| known.when.elapsed() < keeps) {
            return Ok(known);
        }
        let about = self.about().await?;
        let keys = self.http.get(about.jwks_uri.clone());
        let known = Known {
            when: Instant::now(),
            keys: answer("its keys", keys).await?,
            about,
        };
        *self.lock() = Some(known.clone());
        Ok(known)
    }

    async fn about(&self) -> Result<About, ProviderError> {
        let what = "/.well-known/openid-configuration";
        let url = format!("{}{what}", self.issuer.trim_end_matches('/'));
        let said: Said = answer(what, self.http.get(url)).await?;
        let nonsense = |why: String| ProviderError::Nonsense { what, why };
        if said.issuer != self.issuer {
            let told = &said.issuer;
            let why = format!("its issuer is {told:?}, not what [oidc] issuer says");
            return Err(nonsense(why));
        }
        // What the issuer is trusted with over TLS is not to be said in plain text elsewhere.
        let secure = self.issuer.starts_with("https:");
        let place = |text: &str| match Url::parse(text) {
            Ok(url) if url.scheme() == "https" || !secure => Ok(url),
            _ => Err(nonsense(format!("{text:?} is no https URL"))),
        };
        let methods = &said.token_endpoint_auth_methods_supported;
        let takes = |wanted: &str| methods.iter().any(|method| method == wanted);
        Ok(About {
            authorization_endpoint: place(&said.authorization_endpoint)?,
            token_endpoint: place(&said.token_endpoint)?,
            jwks_uri: place(&said.jwks_uri)?,
            secret_in_form: takes("client_secret_post") && !takes("client_secret_basic"),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn form(fields: &[(&str, &str)]) -> String {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(fields);
    form.finish()
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

async fn answer<T: DeserializeOwned>(
    what: &'static str,
    request: RequestBuilder,
) -> Result<T, ProviderError> {
    // What went wrong may have the URL in it, and that a secret.
    let away = |error: reqwest::Error| ProviderError::Away(what, error.without_url());
    let mut answer = request
        .header(ACCEPT, "application/json")
        .send()
        .await
        .map_err(away)?;
    let status = answer.status();
    if !status.is_success() {
        let status = status.as_u16();
        return Err(ProviderError::Refused { what, status });
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(away)? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER {
            let why = format!("it is longer than {MAX_ANSWER} bytes");
            return Err(ProviderError::Nonsense { what, why });
        }
    }
    serde_json::from_slice(&body).map_err(|error| ProviderError::Nonsense {
        what,
        why: error.to_string(),
    })
}
