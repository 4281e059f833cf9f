//! Logging in with an account of elsewhere: OpenID Connect's authorization code flow, with PKCE.
//!
//! A login is begun in a browser and ends in the same one: a cookie that only this site reads, the
//! `state`, the `nonce` and the code's verifier are of one login, which is remembered in the database (the
//! browser may come back to another manager), for minutes, and used once. [`token`] decides whether the
//! provider's word is believed, [`provider`] asks for it, [`crate::users::external`] keeps the account.
//! What somebody may do is what its groups say now, at every login anew.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use darner_service::settings;
use sha2::{Digest as _, Sha256};

use crate::database::{Database, DatabaseError};
use crate::random;
use crate::users::credentials::Session;
use crate::users::external::{self, Came, Pending, Person};
use crate::users::{Name, Role, now};

mod provider;
#[cfg(test)]
mod tests;
mod token;

pub use provider::ProviderError;
pub use token::TokenError;

use provider::Provider;
use token::{Claims, Expected};

/// Somebody who looks for a password has this long.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// Where the provider sends browsers back to.
pub const CALLBACK: &str = "/oidc/callback";
/// Everybody's group.
const ALL: &str = "*";

/// The way in. Clones share it.
#[derive(Debug, Clone)]
pub struct Oidc {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: settings::Oidc,
    provider: Provider,
    database: Database,
}

/// A login that was begun.
#[derive(Debug)]
pub struct Begun {
    /// Where the browser is to go.
    pub url: String,
    /// What it is to keep until it comes back.
    pub browser: String,
}

/// What comes back with a browser.
#[derive(Debug)]
pub struct Answer<'a> {
    /// What the provider gives.
    pub code: &'a str,
    /// What it was sent with.
    pub state: &'a str,
    /// What the browser has kept.
    pub browser: &'a str,
}

/// Nobody is logged in.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// The login was not begun in this browser, is over, or has ended already.
    #[error("this login was not begun in this browser, or is over: begin again")]
    Unknown,
    /// The provider is of no help.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// Its word is not believed.
    #[error("the provider's token is not believed: {0}")]
    Token(#[from] TokenError),
    /// There is no name in it.
    #[error("the provider gives no {0} that can be a name here: 1 to 64 letters, digits and ._@-")]
    Name(String),
    /// Whoever it is has no business here.
    #[error("{0} is in no group that is let in here")]
    NoRole(Name),
    /// Somebody else has the name.
    #[error(
        "there is an account {0} here already, which is not this one: an administrator can remove it"
    )]
    Taken(Name),
    /// Nothing can be looked up.
    #[error("the database fails")]
    Database(#[from] DatabaseError),
}

impl Oidc {
    /// With the provider that `settings` name.
    ///
    /// # Errors
    /// HTTP cannot be spoken.
    pub fn new(settings: settings::Oidc, database: Database) -> Result<Self, ProviderError> {
        let (issuer, client_id) = (settings.issuer.clone(), settings.client_id.clone());
        let provider = Provider::new(issuer, client_id, settings.client_secret.clone())?;
        Ok(Self {
            shared: Arc::new(Shared {
                settings,
                provider,
                database,
            }),
        })
    }

    /// Begins a login, to come back to the page `to` from.
    ///
    /// # Errors
    /// The provider or the database is away.
    pub async fn begin(&self, to: &str) -> Result<Begun, OidcError> {
        let Shared {
            settings,
            provider,
            database,
        } = &*self.shared;
        let mut url = provider.authorization_endpoint().await?;
        let browser = random::hexadecimal::<32>();
        let state = random::hexadecimal::<32>();
        let pending = Pending {
            nonce: random::hexadecimal::<32>(),
            verifier: random::hexadecimal::<32>(),
            to: to.to_owned(),
        };
        let challenge = Sha256::digest(pending.verifier.as_bytes());
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &settings.client_id)
            .append_pair("redirect_uri", &self.callback())
            .append_pair("scope", &settings.scopes.join(" "))
            .append_pair("state", &state)
            .append_pair("nonce", &pending.nonce)
            .append_pair("code_challenge", &URL_SAFE_NO_PAD.encode(challenge))
            .append_pair("code_challenge_method", "S256");
        external::begin(database, &state, &browser, &pending).await?;
        Ok(Begun {
            url: url.into(),
            browser,
        })
    }

    /// Ends a login with a session, and the page to go to.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn end(&self, answer: &Answer<'_>) -> Result<(Session, String), OidcError> {
        let Shared {
            provider, database, ..
        } = &*self.shared;
        let pending = external::end(database, answer.state, answer.browser).await?;
        let pending = pending.ok_or(OidcError::Unknown)?;
        let redirect = self.callback();
        let token = provider
            .redeem(answer.code, &pending.verifier, &redirect)
            .await?;
        let claims = self.believed(&token, &pending.nonce).await?;
        let person = self.person(&claims)?;
        let Some(role) = person.role else {
            external::send_away(database, &person).await?;
            return Err(OidcError::NoRole(person.name));
        };
        match external::come_in(database, &person, role).await? {
            Came::In(session) => {
                tracing::info!(user = %person.name, role = role.as_str(), "logged in by the provider's word");
                Ok((session, pending.to))
            }
            Came::Taken => Err(OidcError::Taken(person.name)),
        }
    }

    async fn believed(&self, token: &str, nonce: &str) -> Result<Claims, OidcError> {
        let Shared {
            settings, provider, ..
        } = &*self.shared;
        let expected = Expected {
            issuer: &settings.issuer,
            client_id: &settings.client_id,
            nonce,
            now: now() / 1000,
        };
        let keys = provider.keys().await?;
        match token::verified(token, &keys, &expected) {
            // It may have begun to sign with another one.
            Err(TokenError::Key) => {
                let keys = provider.newer_keys().await?;
                Ok(token::verified(token, &keys, &expected)?)
            }
            verified => Ok(verified?),
        }
    }

    fn person(&self, claims: &Claims) -> Result<Person, OidcError> {
        let settings = &self.shared.settings;
        let claim = &settings.name_claim;
        let name = claims.text(claim).and_then(|name| name.parse().ok());
        let name = name.ok_or_else(|| OidcError::Name(claim.clone()))?;
        let groups = claims.names(&settings.groups_claim);
        let is_in = |lists: &[String]| {
            let mut lists = lists.iter();
            lists.any(|group| group == ALL || groups.contains(group))
        };
        let role = [
            (Role::Admin, &settings.admin_groups),
            (Role::Operator, &settings.operator_groups),
            (Role::Viewer, &settings.viewer_groups),
        ];
        let role = role.into_iter().find(|(_, groups)| is_in(groups));
        Ok(Person {
            subject: format!("{} {}", settings.issuer, claims.subject()),
            name,
            role: role.map(|(role, _)| role),
        })
    }

    fn callback(&self) -> String {
        format!("{}{CALLBACK}", self.shared.settings.public_url)
    }
}
