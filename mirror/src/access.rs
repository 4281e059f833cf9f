//! Who may read what is not public, and where it is kept.
//!
//! Upstream alone decides: a caller's own credential is shown to it with a `HEAD` for what is asked,
//! and a yes is a grant for a few minutes, kept in memory under an HMAC of registry, repository and
//! credential, never with the credential itself. What the decision is at each point is [`grants`]'
//! business (pure); [`proof`] asks upstream.
//!
//! Private content has a store and downloads of its own, which no scheduler hears of. Being in that
//! store proves nothing: content is read only under a grant for a repository that upstream has
//! linked it to. It travels between nodes from a seed alone, and only after that seed has itself
//! asked upstream whether the credential behind it is good ([`tickets`]).

pub mod grants;
pub mod proof;
pub mod tickets;
pub mod wallet;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use darner_proto::name::Source;
use http::HeaderValue;
use serde::Deserialize;
use tokio::time::Instant;

use crate::store::Store;
use grants::{Ask, Caller, GRANT_FOR, GrantKey, Grants, Proof, Step};
use wallet::Wallet;

/// Grants, and what they give access to. Its `Debug` shows neither keys nor credentials.
#[derive(Debug)]
pub struct Access {
    grants: Mutex<Grants>,
    key: hmac::Key,
    began: Instant,
    store: Store,
    wallet: Wallet,
}

/// The system gives no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("no key can be made for grants: the system gives no random bytes")]
pub struct NoRandom;

impl Access {
    /// No grants yet; private content is kept in `store`, which is nobody else's.
    pub fn new(store: Store) -> Result<Self, NoRandom> {
        let mut key = [0; 32];
        SystemRandom::new().fill(&mut key).map_err(|_| NoRandom)?;
        Ok(Self {
            grants: Mutex::default(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            began: Instant::now(),
            store,
            wallet: Wallet::default(),
        })
    }

    /// Credentials that upstream accepted a moment ago.
    pub fn wallet(&self) -> &Wallet {
        &self.wallet
    }

    /// Where private content is kept.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whoever shows this header, as grants know them. `confined`: what is sent between the caller
    /// and this process stays on this machine.
    pub fn caller(
        &self,
        source: &Source,
        authorization: Option<&HeaderValue>,
        confined: bool,
    ) -> Caller {
        let Some(shown) = authorization else {
            return Caller::Nobody;
        };
        if !confined && is_basic(shown) {
            return Caller::Exposed;
        }
        let mut context = hmac::Context::with_key(&self.key);
        for part in [source.registry.as_str(), source.repository.as_str()] {
            // With its length, so that no two pairs of names are the same bytes.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        context.update(shown.as_bytes());
        let mut key = [0; 32];
        key.copy_from_slice(context.sign().as_ref());
        Caller::Shown(GrantKey(key))
    }

    /// What is to be done first.
    pub fn begin(&self, ask: &Ask) -> Step {
        self.grants().begin(self.now(), ask)
    }

    /// What is to be done now that upstream has been asked.
    pub fn proved(&self, ask: &Ask, proof: Proof) -> Step {
        let now = self.now();
        self.grants().proved(now, ask, proof)
    }

    /// What is to be done while upstream is known to be away.
    pub fn without_upstream(&self, ask: &Ask) -> Step {
        self.grants().without_upstream(self.now(), ask)
    }

    /// For how long the caller's grant still counts.
    pub fn left(&self, caller: Caller) -> Duration {
        match caller {
            Caller::Shown(key) => self.grants().left(&key, self.now()),
            Caller::Nobody | Caller::Exposed => Duration::ZERO,
        }
    }

    /// Grants held.
    pub fn held(&self) -> usize {
        self.grants().len()
    }

    fn grants(&self) -> MutexGuard<'_, Grants> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

/// Whether a header shows a password.
pub fn is_basic(authorization: &HeaderValue) -> bool {
    let scheme = authorization.as_bytes().split(|byte| *byte == b' ').next();
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"basic"))
}

/// For how long a yes to this header counts: as long as a grant does, or less where the header is a
/// token that says when it ends. What it says is not verified, and can only shorten.
pub fn life(authorization: Option<&HeaderValue>) -> Duration {
    #[derive(Deserialize)]
    struct Claims {
        exp: u64,
    }
    let ends = || {
        let token = authorization?.to_str().ok()?.split_once(' ')?.1;
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        let claims: Claims = serde_json::from_slice(&claims).ok()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        Some(Duration::from_secs(claims.exp).saturating_sub(now))
    };
    ends().map_or(GRANT_FOR, |left| left.min(GRANT_FOR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Options;
    use darner_service::metrics::Metrics;

    fn access() -> (Access, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let options = Options::new(directory.path().join("private"), Some(1 << 20));
        let store = Store::open(options, &Metrics::default()).unwrap();
        (Access::new(store).unwrap(), directory)
    }

    fn source(registry: &str, repository: &str) -> Source {
        Source {
            registry: registry.parse().unwrap(),
            repository: repository.parse().unwrap(),
        }
    }

    #[tokio::test]
    async fn a_caller_is_known_by_registry_repository_and_credential_and_by_no_secret() {
        let (access, _directory) = access();
        let canary = HeaderValue::from_static("Bearer canary-5ecre7");
        let other = HeaderValue::from_static("Bearer canary-5ecre8");
        let caller = |source, shown| access.caller(&source, Some(shown), true);
        let me = caller(source("a.test", "b/c"), &canary);
        assert_eq!(me, caller(source("a.test", "b/c"), &canary));
        assert_ne!(me, caller(source("a.test", "b/c"), &other));
        assert_ne!(me, caller(source("a.test", "b"), &canary));
        assert_ne!(me, caller(source("b.test", "b/c"), &canary));
        let ask = Ask {
            caller: me,
            target: grants::Target::Unlinked,
        };
        let life = GRANT_FOR;
        access.proved(&ask, Proof::Granted { life });
        assert_eq!(access.held(), 1);
        let shown = format!("{access:?} {me:?}");
        assert!(!shown.contains("canary"), "{shown}");
    }

    #[tokio::test]
    async fn passwords_are_taken_only_where_nobody_can_listen() {
        let (access, _directory) = access();
        let source = source("a.test", "b");
        for (text, confined, exposed) in [
            ("Basic YTpi", false, true),
            ("basic YTpi", false, true),
            ("Basic YTpi", true, false),
            ("Bearer t", false, false),
        ] {
            let shown = HeaderValue::from_static(text);
            let caller = access.caller(&source, Some(&shown), confined);
            assert_eq!(caller == Caller::Exposed, exposed, "{text} {confined}");
        }
        assert_eq!(access.caller(&source, None, false), Caller::Nobody);
    }

    #[test]
    fn a_token_that_ends_sooner_is_a_shorter_grant() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let token = |exp: u64| {
            let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{exp},"sub":"me"}}"#));
            HeaderValue::try_from(format!("Bearer e30.{claims}.sig")).unwrap()
        };
        let soon = life(Some(&token(now.as_secs() + 60)));
        assert!(soon <= Duration::from_secs(60) && soon > Duration::from_secs(50));
        assert_eq!(life(Some(&token(now.as_secs() + 9999))), GRANT_FOR);
        assert_eq!(life(Some(&token(5))), Duration::ZERO);
        for opaque in ["Bearer opaque", "Basic YTpi", "Bearer a.b.c", "x"] {
            let shown = HeaderValue::from_static(opaque);
            assert_eq!(life(Some(&shown)), GRANT_FOR, "{opaque}");
        }
    }
}
