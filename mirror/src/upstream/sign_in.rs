//! A client's own user name and password, and what they are worth at a registry: the password itself
//! where it asks for that, else a token that its token service gives for them. The token service is
//! vetted as for anything else ([`super::origin`]).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use darner_service::secret::Secret;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::ask::{Ask, Asker, Identity};
use super::credentials::Login;
use super::error::Fault;
use super::metrics::Kind;
use super::token::{BASIC_LIFE, Challenge};

/// A user's name and password. Its `Debug` does not show the password.
#[derive(Debug, Clone)]
pub struct Account {
    username: String,
    password: Secret,
}

/// What an account is shown to a registry as.
#[derive(Debug, Clone)]
pub struct SignedIn {
    /// The `Authorization` header.
    pub header: HeaderValue,
    /// For how long it is good, unless it is refused.
    pub life: Duration,
}

impl Account {
    /// From the value of an `Authorization` header of the scheme Basic. One without a user, as clients
    /// send who have none, is nobody's.
    pub fn of_basic(authorization: &HeaderValue) -> Option<Self> {
        let (scheme, encoded) = authorization.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
        let (username, password) = text.split_once(':')?;
        (!username.is_empty()).then(|| Self {
            username: username.to_owned(),
            password: Secret::new(password),
        })
    }
}

/// What of the registry an account is to open.
#[derive(Debug, Clone, Copy)]
pub(super) enum Opens<'a> {
    /// Nothing yet: whether it is one.
    Nothing,
    /// A repository, to read.
    Repository(&'a str),
}

impl Asker {
    /// What opens it with `account`; `None` where nobody is asked for anything.
    pub(super) async fn sign_in(
        &self,
        opens: Opens<'_>,
        account: &Account,
    ) -> Result<Option<SignedIn>, Fault> {
        let answer = self.ask(&self.asking(opens, None)).await?;
        let challenge = Challenge::of(&self.wire.origin, &answer.headers)?;
        let refused = answer.status == StatusCode::UNAUTHORIZED;
        let Some(challenge) = challenge.filter(|_| refused) else {
            return match refused || answer.status == StatusCode::FORBIDDEN {
                true => Err(Fault::Status(answer.status)),
                false => Ok(None),
            };
        };
        // Its place among the connections is needed for what follows.
        drop(answer);
        let login = || Login::Password {
            username: account.username.clone(),
            password: account.password.clone(),
        };
        if challenge != Challenge::Basic {
            let repository = match opens {
                Opens::Nothing => None,
                Opens::Repository(name) => Some(name),
            };
            let token = self.token(repository, &challenge, login()).await?;
            return Ok(Some(token));
        }
        let header = self.wire.basic(&account.username, &account.password)?;
        if let Opens::Nothing = opens {
            let asked = self.asking(opens, Some(header.clone()));
            let answer = self.ask(&asked).await?;
            if !answer.status.is_success() {
                return Err(Fault::Status(answer.status));
            }
        }
        Ok(Some(SignedIn {
            header,
            life: BASIC_LIFE,
        }))
    }

    fn asking(&self, opens: Opens<'_>, shown: Option<HeaderValue>) -> Ask {
        let origin = &self.wire.origin;
        // Whether there is such a tag does not matter: who asks is asked for credentials first.
        let (method, url) = match opens {
            Opens::Nothing => (Method::GET, origin.ping()),
            Opens::Repository(name) => (Method::HEAD, origin.url(name, "manifests/latest", None)),
        };
        Ask {
            method,
            url,
            headers: HeaderMap::new(),
            kind: Kind::Manifest,
            identity: Identity::Client(shown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_read_as_they_are_sent_and_not_shown() {
        let of = |text: &str| Account::of_basic(&HeaderValue::from_str(text).unwrap());
        let encoded = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let account = of(&encoded("alice:canary:with:colons")).unwrap();
        assert_eq!(account.username, "alice");
        assert_eq!(account.password.reveal(), "canary:with:colons");
        assert!(!format!("{account:?}").contains("canary"));
        for text in [
            "Basic Og==",
            "Bearer abc",
            "Basic",
            "Basic !!!",
            &encoded("nocolon"),
            &encoded(":password"),
        ] {
            assert!(of(text).is_none(), "{text}");
        }
        assert!(of(&encoded("alice:").replace("Basic", "basic")).is_some());
    }
}
