//! What a registry wants to see before it answers: challenges, and the tokens or passwords that
//! meet them. Tokens are kept for as long as they are good, and fetched once however many ask.

use std::time::{Duration, Instant};

use darner_service::secret::Secret;
use http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method};
use moka::Expiry;
use moka::future::Cache;
use reqwest::Request;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::Access;
use super::ask::Asker;
use super::body::Body;
use super::credentials::{Keyring, Login};
use super::error::Fault;
use super::metrics::Kind;
use super::origin::Origin;
use super::sign_in::SignedIn;
use super::wire::Wire;

/// Repositories of one registry whose tokens are kept.
const MAX_TOKENS: u64 = 10_000;
/// The token specification's own default and minimum.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// No token is trusted to live longer: rights are taken away, too.
const MAX_LIFE: Duration = Duration::from_secs(3600);
/// A token is not used in its last moments, which may be over when it arrives.
const MAX_MARGIN: Duration = Duration::from_secs(30);
/// A user name and password stay good until refused.
pub(super) const BASIC_LIFE: Duration = MAX_LIFE;
const MAX_REPLY: usize = 64 << 10;

/// What a token is good for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) repository: String,
    pub(super) access: Access,
}

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Bearer {
        service_url: Url,
        service: Option<String>,
        scope: Option<String>,
    },
    Basic,
}

/// An `Authorization` header that met a challenge, and for how long it will.
#[derive(Debug, Clone)]
struct Grant {
    header: HeaderValue,
    life: Duration,
}

struct ByLife;

impl Expiry<Key, Grant> for ByLife {
    fn expire_after_create(&self, _: &Key, grant: &Grant, _: Instant) -> Option<Duration> {
        Some(grant.life)
    }
}

/// What meets one registry's challenges.
#[derive(Debug)]
pub(super) struct Tokens {
    keyring: Keyring,
    cache: Cache<Key, Grant>,
    stop: CancellationToken,
}

impl Challenge {
    /// The challenge to meet among those of a 401, a bearer token before a password. A token
    /// service that is not vetted is an error, unless there is another way in.
    pub(super) fn of(origin: &Origin, headers: &HeaderMap) -> Result<Option<Self>, Fault> {
        let mut found = Ok(None);
        for value in headers.get_all(WWW_AUTHENTICATE) {
            for challenge in parsed(origin, value) {
                match challenge {
                    Ok(bearer @ Self::Bearer { .. }) => return Ok(Some(bearer)),
                    Ok(Self::Basic) => found = Ok(Some(Self::Basic)),
                    Err(fault) if matches!(found, Ok(None)) => found = Err(fault),
                    Err(_) => {}
                }
            }
        }
        found
    }

    /// Whether a client may be shown this header: every token service it names is vetted.
    pub(super) fn is_vetted(origin: &Origin, value: &HeaderValue) -> bool {
        let challenges = parsed(origin, value);
        !challenges.is_empty() && challenges.iter().all(Result::is_ok)
    }
}

/// The challenges of one header that are of a kind we know. A header that cannot be read has none.
fn parsed(origin: &Origin, value: &HeaderValue) -> Vec<Result<Challenge, Fault>> {
    let challenges = value.to_str().ok().map(http_auth::parse_challenges);
    let Some(Ok(challenges)) = challenges else {
        return Vec::new();
    };
    let known = challenges.iter().filter_map(|challenge| {
        let parameter = |name: &str| {
            let found = challenge
                .params
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        if challenge.scheme.eq_ignore_ascii_case("basic") {
            return Some(Ok(Challenge::Basic));
        }
        if !challenge.scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let realm = parameter("realm").unwrap_or_default();
        Some(
            origin
                .token_service(&realm)
                .map(|service_url| Challenge::Bearer {
                    service_url,
                    service: parameter("service"),
                    scope: parameter("scope"),
                }),
        )
    });
    known.collect()
}

impl Tokens {
    pub(super) fn new(keyring: Keyring, stop: CancellationToken) -> Self {
        let cache = Cache::builder()
            .max_capacity(MAX_TOKENS)
            .expire_after(ByLife)
            .build();
        Self {
            keyring,
            cache,
            stop,
        }
    }

    /// Whether the operator has set any.
    pub(super) fn has_credentials(&self) -> bool {
        !self.keyring.is_empty()
    }

    /// What a request for `repository` is sent with. Without credentials every access is anonymous.
    pub(super) fn key(&self, repository: &str, access: Access) -> Key {
        let access = match self.keyring.is_empty() {
            false => access,
            true => Access::Anonymous,
        };
        Key {
            repository: repository.to_owned(),
            access,
        }
    }

    /// What met the last challenge, if it still does.
    pub(super) async fn known(&self, key: &Key) -> Option<HeaderValue> {
        self.cache.get(key).await.map(|grant| grant.header)
    }

    /// Meets a challenge, when we can: `None` is for want of credentials. `refused` is what the
    /// challenge answered.
    pub(super) async fn meet(
        &self,
        wire: &Wire,
        key: &Key,
        challenge: &Challenge,
        refused: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, Fault> {
        let known = self.known(key).await;
        if known.is_some() && known.as_ref() == refused {
            self.cache.invalidate(key).await;
        }
        let grant = self.grant(wire, key, challenge);
        let granted = self.cache.try_get_with_by_ref(key, grant).await;
        match granted {
            Ok(grant) if refused == Some(&grant.header) => {
                self.cache.invalidate(key).await;
                Ok(None)
            }
            Ok(grant) => Ok(Some(grant.header)),
            Err(fault) if matches!(*fault, Fault::NoCredentials) => Ok(None),
            Err(fault) => Err(Fault::Token(fault)),
        }
    }

    async fn grant(&self, wire: &Wire, key: &Key, challenge: &Challenge) -> Result<Grant, Fault> {
        let login = match key.access {
            Access::Configured => self.keyring.login(&key.repository).await?,
            Access::Anonymous => None,
        };
        match (challenge, login) {
            (_, Some(Login::Bearer(token))) => Ok(Grant {
                header: bearer(token.reveal())?,
                life: MAX_LIFE,
            }),
            (Challenge::Basic, Some(Login::Password { username, password })) => Ok(Grant {
                header: wire.basic(&username, &password)?,
                life: BASIC_LIFE,
            }),
            (Challenge::Basic, _) => Err(Fault::NoCredentials),
            (Challenge::Bearer { .. }, login) => {
                self.fetch(wire, Some(&key.repository), (challenge, login))
                    .await
            }
        }
    }

    /// Asks the token service, for a repository or for nothing in particular.
    async fn fetch(
        &self,
        wire: &Wire,
        repository: Option<&str>,
        (challenge, login): (&Challenge, Option<Login>),
    ) -> Result<Grant, Fault> {
        let Challenge::Bearer {
            service_url,
            service,
            scope,
        } = challenge
        else {
            return Err(Fault::NoToken("it does not ask for one"));
        };
        let pull = || Some(format!("repository:{}:pull", repository?));
        let scope = scope.clone().or_else(pull);
        let mut asked: Vec<_> = scope.map(|scope| ("scope", scope)).into_iter().collect();
        if let Some(service) = service {
            asked.push(("service", service.clone()));
        }
        let request = match login {
            Some(Login::Identity(token)) => refresh(service_url, &asked, &token),
            Some(Login::Password { username, password }) => {
                let mut request = query(service_url, &asked);
                let header = wire.basic(&username, &password)?;
                request.headers_mut().insert(AUTHORIZATION, header);
                request
            }
            Some(Login::Bearer(_)) | None => query(service_url, &asked),
        };
        let response = wire.exchange(request, Kind::Token).await?;
        if !response.status().is_success() {
            return Err(Fault::Status(response.status()));
        }
        let received = wire.counts.bytes(Kind::Token);
        let body = Body::new(response, received, self.stop.clone(), None);
        Grant::from_reply(&body.collect(MAX_REPLY).await?)
    }
}

impl Asker {
    /// The token that the token service gives for a client's login.
    pub(super) async fn token(
        &self,
        repository: Option<&str>,
        challenge: &Challenge,
        login: Login,
    ) -> Result<SignedIn, Fault> {
        let asked = (challenge, Some(login));
        let grant = self.tokens.fetch(&self.wire, repository, asked).await?;
        Ok(SignedIn {
            header: grant.header,
            life: grant.life,
        })
    }
}

/// As the token specification has it.
fn query(service_url: &Url, asked: &[(&str, String)]) -> Request {
    let mut url = service_url.clone();
    url.query_pairs_mut().extend_pairs(asked);
    Request::new(Method::GET, url)
}

/// As OAuth 2 has it, with a refresh token.
fn refresh(service_url: &Url, asked: &[(&str, String)], token: &Secret) -> Request {
    let form = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "refresh_token")
        .append_pair("client_id", "darner")
        .append_pair("refresh_token", token.reveal())
        .extend_pairs(asked)
        .finish();
    let mut request = Request::new(Method::POST, service_url.clone());
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
    request.headers_mut().insert(CONTENT_TYPE, kind);
    *request.body_mut() = Some(form.into());
    request
}

fn bearer(token: &str) -> Result<HeaderValue, Fault> {
    let header = HeaderValue::try_from(format!("Bearer {token}"));
    let mut header = header.map_err(|_| Fault::NoToken("its token fits into no header"))?;
    header.set_sensitive(true);
    Ok(header)
}

/// The token service's answer. It has no way to be printed.
#[derive(Deserialize)]
struct Reply {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Grant {
    fn from_reply(json: &[u8]) -> Result<Self, Fault> {
        // The parser's own error may quote what it found.
        let reply: Reply = serde_json::from_slice(json)
            .map_err(|_| Fault::NoToken("not the JSON of the token specification"))?;
        let token = reply.token.filter(|token| !token.is_empty());
        let token = token
            .or(reply.access_token)
            .ok_or(Fault::NoToken("it has no token in it"))?;
        let header = bearer(&token)?;
        let life = reply.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs);
        let life = life.min(MAX_LIFE);
        Ok(Self {
            header,
            life: life - MAX_MARGIN.min(life / 4),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_challenge_leads_to_a_host_that_is_not_vetted() {
        let name = "r.example".parse().unwrap();
        let origin = Origin::new(&name, "https://r.example").unwrap();
        let good = [
            r#"Bearer realm="https://r.example/token",service="r.example",scope="repository:a:pull""#,
            r#"Basic realm="r", Bearer realm="https://auth.r.example/t",service=x"#,
            r#"Bearer realm="https://evil.test/token",error="insufficient_scope""#,
            "Negotiate abc==, Basic realm=x",
        ];
        darner_mutate::each_text(&good, |text| {
            let Ok(value) = HeaderValue::from_str(text) else {
                return;
            };
            let _ = Challenge::is_vetted(&origin, &value);
            let headers = std::iter::once((WWW_AUTHENTICATE, value)).collect();
            if let Ok(Some(Challenge::Bearer { service_url, .. })) =
                Challenge::of(&origin, &headers)
            {
                let host = service_url.host_str().unwrap_or_default();
                assert!(host.ends_with("r.example"), "{text}: {service_url}");
                assert_eq!(service_url.scheme(), "https", "{text}");
            }
        });
    }

    #[test]
    fn what_is_no_token_is_refused_without_being_quoted() {
        let good = [
            &br#"{"token":"canary","expires_in":300,"issued_at":"2026-01-01T00:00:00Z"}"#[..],
            br#"{"access_token":"canary","refresh_token":"canary"}"#,
        ];
        darner_mutate::each(&good, |bytes| match Grant::from_reply(bytes) {
            Ok(grant) => assert!(grant.life <= MAX_LIFE && grant.header.is_sensitive()),
            Err(fault) => assert!(!format!("{fault} {fault:?}").contains("canary")),
        });
    }
}
