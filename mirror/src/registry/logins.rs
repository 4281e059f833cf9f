//! Credentials that clients keep under the mirror's own address, where the operator has asked for
//! them (`[registry] logins`).
//!
//! Podman, CRI-O, Skopeo and Buildah name the registry in the path, look credentials up under the
//! mirror's host, and send none before `/v2/` has asked for some. So there `/v2/` asks for a token of
//! this process, and `/token` gives one to everybody: with the account that the client shows, if it
//! asks about one of the named registries, else with nobody's. What a token has in it this process
//! alone can read. An account goes to the registry that it was shown for, when somebody without one
//! has been refused there, and to nobody else.

use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use darner_proto::id::parse_address;
use darner_proto::name::{RegistryName, Source};
use darner_service::identity::Caller;
use darner_service::telemetry::with_causes;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::refusal::{Code, Refusal, refusal_of};
use super::request;
use crate::access::{NoRandom, is_basic};
use crate::upstream::{Account, UpstreamErrorKind, Upstreams};

/// Where tokens are given.
const PATH: &str = "/token";
const SERVICE: &str = "darner";
/// Tells tokens of this process from a registry's.
const MARK: &str = "darner-";
const BEARER: &str = "Bearer ";
/// As long as a grant counts.
const TOKEN_LIFE: Duration = Duration::from_secs(300);
/// What opened a repository a moment ago is used again; and for so long while its token service is
/// away, as a grant counts then.
const KEPT_FOR: Duration = Duration::from_secs(3600);
const KEPT: u64 = 10_000;

/// Its `Debug` shows no key and no credential.
pub(super) struct Logins {
    registries: Vec<RegistryName>,
    default: RegistryName,
    upstreams: Upstreams,
    seal: RandomizedNonceKey,
    key: hmac::Key,
    began: Instant,
    opened: moka::future::Cache<[u8; 32], Opened>,
}

/// What opened a repository.
#[derive(Clone)]
struct Opened {
    header: Option<HeaderValue>,
    until: Instant,
}

/// What a token says of whoever shows it.
#[derive(Debug, PartialEq, Eq)]
enum Holder {
    Nobody,
    /// As the client showed it, for this registry.
    Account(RegistryName, HeaderValue),
}

impl std::fmt::Debug for Logins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Logins").field(&self.registries).finish()
    }
}

impl Logins {
    /// For these registries; requests that name none mean `default`.
    pub(super) fn new(
        registries: &[RegistryName],
        default: &RegistryName,
        upstreams: &Upstreams,
    ) -> Result<Option<Self>, NoRandom> {
        if registries.is_empty() {
            return Ok(None);
        }
        let (mut seal, mut key) = ([0; 32], [0; 32]);
        let random = SystemRandom::new();
        let filled = random.fill(&mut seal).and_then(|()| random.fill(&mut key));
        let seal = filled.and_then(|()| RandomizedNonceKey::new(&AES_256_GCM, &seal));
        Ok(Some(Self {
            registries: registries.to_vec(),
            default: default.clone(),
            upstreams: upstreams.clone(),
            seal: seal.map_err(|Unspecified| NoRandom)?,
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            began: Instant::now(),
            opened: moka::future::Cache::builder()
                .max_capacity(KEPT)
                .time_to_live(KEPT_FOR)
                .build(),
        }))
    }

    /// Answers a request for a token, or one that shows none where it has to. Any other is left, with
    /// the account in the place of the token; `None`.
    pub(super) async fn meet(
        &self,
        parts: &mut Parts,
        deadline: Instant,
    ) -> Option<Response<Body>> {
        if parts.uri.path() == PATH {
            return Some(self.give(parts, deadline).await);
        }
        let shown = parts.headers.get(header::AUTHORIZATION);
        let token = shown.and_then(of_ours);
        let holder = token.map(|token| self.open(token, self.began.elapsed()));
        let is_ping = request::is_ping(parts.uri.path());
        match holder {
            // A registry's own token, or a password that a registry has asked for.
            None if shown.is_some() || !is_ping => {}
            None | Some(None) => return Some(challenge(parts)),
            Some(Some(Holder::Nobody)) => {
                parts.headers.remove(header::AUTHORIZATION);
            }
            Some(Some(Holder::Account(registry, account))) => {
                parts.headers.insert(header::AUTHORIZATION, account);
                parts.extensions.insert(For(registry));
            }
        }
        None
    }

    /// What is shown to upstream in the client's name in place of an account that was kept for the
    /// mirror: what the registry gives for it, or nothing.
    pub(super) async fn exchange(
        &self,
        source: &Source,
        headers: &mut HeaderMap,
        deadline: Instant,
    ) {
        let Some(shown) = headers.get(header::AUTHORIZATION) else {
            return;
        };
        if !is_basic(shown) || !self.registries.contains(&source.registry) {
            return;
        }
        let opened = timeout_at(deadline, self.opens(source, shown)).await;
        match opened.ok().flatten() {
            Some(mut header) => {
                header.set_sensitive(true);
                headers.insert(header::AUTHORIZATION, header);
            }
            None => {
                headers.remove(header::AUTHORIZATION);
            }
        }
    }

    async fn opens(&self, source: &Source, shown: &HeaderValue) -> Option<HeaderValue> {
        let key = self.key_of(source, shown);
        let known = self.opened.get(&key).await;
        if let Some(known) = known.as_ref().filter(|known| known.until > Instant::now()) {
            return known.header.clone();
        }
        let account = Account::of_basic(shown)?;
        let upstream = self.upstreams.get(&source.registry)?;
        match upstream.sign_in(Some(&source.repository), &account).await {
            Ok(signed_in) => {
                let opened = Opened {
                    until: Instant::now() + signed_in.as_ref().map_or(TOKEN_LIFE, |had| had.life),
                    header: signed_in.map(|had| had.header),
                };
                self.opened.insert(key, opened.clone()).await;
                opened.header
            }
            Err(error) => {
                tracing::debug!(%source, error = %with_causes(&error), "an account that a client keeps for this mirror opens nothing");
                match error.kind() {
                    // Who was let in may still have a grant.
                    UpstreamErrorKind::Unavailable => known?.header,
                    _ => {
                        self.opened.invalidate(&key).await;
                        None
                    }
                }
            }
        }
    }

    fn key_of(&self, source: &Source, shown: &HeaderValue) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [source.registry.as_str(), source.repository.as_str()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        context.update(shown.as_bytes());
        let mut key = [0; 32];
        key.copy_from_slice(context.sign().as_ref());
        key
    }

    /// A token for whoever asks.
    async fn give(&self, parts: &Parts, deadline: Instant) -> Response<Body> {
        if parts.method != Method::GET {
            let message = "tokens are given in answer to GET";
            let status = StatusCode::METHOD_NOT_ALLOWED;
            return Refusal::new(status, Code::Unsupported, message).into_response();
        }
        let shown = parts.headers.get(header::AUTHORIZATION);
        let account = shown.filter(|shown| Account::of_basic(shown).is_some());
        let about = self.about(parts.uri.query().unwrap_or_default());
        let holder = match (account, about) {
            (Some(account), About::Registry(registry)) => {
                Holder::Account(registry, account.clone())
            }
            (Some(account), About::Nothing) => match self.checked(account, deadline).await {
                Ok(holder) => holder,
                Err(refusal) => return refusal.into_response(),
            },
            (None, _) | (_, About::Elsewhere) => Holder::Nobody,
        };
        match self.seal(&holder, self.began.elapsed()) {
            Some(token) => {
                let seconds = TOKEN_LIFE.as_secs();
                let body = json!({"token": token, "access_token": token, "expires_in": seconds});
                let mut response = refusal_of(StatusCode::OK, body.to_string().into());
                let no_store = HeaderValue::from_static("no-store");
                response
                    .headers_mut()
                    .insert(header::CACHE_CONTROL, no_store);
                response
            }
            None => {
                Refusal::unavailable(Code::Unauthorized, "no token can be made").into_response()
            }
        }
    }

    /// An account that is shown for nothing in particular, as at a login: which registry's it is, is
    /// known where there is only one.
    async fn checked(&self, account: &HeaderValue, deadline: Instant) -> Result<Holder, Refusal> {
        let ([registry], Some(read)) = (&*self.registries, Account::of_basic(account)) else {
            return Ok(Holder::Nobody);
        };
        let Some(upstream) = self.upstreams.get(registry) else {
            return Ok(Holder::Nobody);
        };
        match timeout_at(deadline, upstream.sign_in(None, &read)).await {
            Ok(Ok(_)) => Ok(Holder::Account(registry.clone(), account.clone())),
            Ok(Err(error)) if error.kind() == UpstreamErrorKind::Denied => {
                let message = format!("{registry} does not know this user and password");
                let status = StatusCode::UNAUTHORIZED;
                Err(Refusal::new(status, Code::Unauthorized, message))
            }
            _ => {
                let message = format!("{registry} cannot be asked whether it knows this user");
                Err(Refusal::unavailable(Code::Unauthorized, message))
            }
        }
    }

    /// What the scopes of a request are about.
    fn about(&self, query: &str) -> About {
        let scopes = url::form_urlencoded::parse(query.as_bytes())
            .filter(|(name, _)| name == "scope")
            .map(|(_, scope)| scope.into_owned());
        let mut about = About::Nothing;
        for scope in scopes.filter(|scope| !scope.is_empty()) {
            let repository = scope.strip_prefix("repository:");
            let first = repository.and_then(|name| name.split_once('/'));
            let named = first.and_then(|(first, _)| first.parse::<RegistryName>().ok());
            let named = named.filter(|name| self.upstreams.get(name).is_some());
            let registry = named.unwrap_or_else(|| self.default.clone());
            match repository.is_some() && self.registries.contains(&registry) {
                true => return About::Registry(registry),
                false => about = About::Elsewhere,
            }
        }
        about
    }

    fn seal(&self, holder: &Holder, now: Duration) -> Option<String> {
        let ends = now + TOKEN_LIFE;
        let mut text = ends.as_secs().to_be_bytes().to_vec();
        if let Holder::Account(registry, account) = holder {
            text.extend_from_slice(registry.as_str().as_bytes());
            text.push(b' ');
            text.extend_from_slice(account.as_bytes());
        }
        let nonce = self
            .seal
            .seal_in_place_append_tag(Aad::empty(), &mut text)
            .ok()?;
        let sealed = [nonce.as_ref().as_slice(), &text].concat();
        Some(format!("{MARK}{}", URL_SAFE_NO_PAD.encode(sealed)))
    }

    /// `None`: not of this process, or over.
    fn open(&self, token: &str, now: Duration) -> Option<Holder> {
        let mut sealed = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (nonce, text) = sealed.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let text = self.seal.open_in_place(nonce, Aad::empty(), text).ok()?;
        let (ends, rest) = text.split_first_chunk()?;
        if u64::from_be_bytes(*ends) <= now.as_secs() {
            return None;
        }
        if rest.is_empty() {
            return Some(Holder::Nobody);
        }
        let (registry, account) = std::str::from_utf8(rest).ok()?.split_once(' ')?;
        let mut account = HeaderValue::try_from(account).ok()?;
        account.set_sensitive(true);
        Some(Holder::Account(registry.parse().ok()?, account))
    }
}

/// With a request: the registry that its account is for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct For(RegistryName);

/// Takes an account out of a request that is about another registry than it was shown for.
pub(super) fn confine(parts: &mut Parts, registry: &RegistryName) {
    let of = parts.extensions.get::<For>();
    if of.is_some_and(|For(of)| of != registry) {
        parts.headers.remove(header::AUTHORIZATION);
    }
}

/// What a token is asked for.
enum About {
    /// A repository of one of the named registries.
    Registry(RegistryName),
    /// One of another.
    Elsewhere,
    Nothing,
}

/// The token of this process in a header, without its mark.
fn of_ours(shown: &HeaderValue) -> Option<&str> {
    let token = shown.to_str().ok()?.strip_prefix(BEARER)?;
    token.strip_prefix(MARK)
}

/// Asks for a token. Where it is to be had is where the client has come: by the same name.
fn challenge(parts: &Parts) -> Response<Body> {
    let message = "this mirror asks for a token, which it gives to everybody";
    let mut response =
        Refusal::new(StatusCode::UNAUTHORIZED, Code::Unauthorized, message).into_response();
    let host = parts
        .headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    // The port may be the scheme's own.
    let fits = |host: &str| {
        [host, &format!("{host}:1")]
            .iter()
            .any(|text| is_address(text))
    };
    let host = host.filter(|host| fits(host));
    // Without a certificate, but under TLS.
    let secured = matches!(parts.extensions.get::<Caller>(), Some(Caller::Stranger));
    let scheme = if secured { "https" } else { "http" };
    let value =
        host.map(|host| format!("Bearer realm=\"{scheme}://{host}{PATH}\",service=\"{SERVICE}\""));
    if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, value);
    }
    response
}

fn is_address(text: &str) -> bool {
    parse_address(text.to_owned()).is_ok()
}

#[cfg(test)]
mod tests;
