//! What the authority remembers, and every rule about it: which authorities count, which tokens are
//! good for what, whose certificates were revoked. Pure: no clock, no network, no storage.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use darner_proto::id::{HostId, Role};
use darner_proto::trust::{MAX_AUTHORITIES, MAX_REVOCATIONS, Trust};
use darner_service::identity::token::{JoinToken, TokenHash};
use serde::{Deserialize, Serialize};

/// More tokens than this at once are refused: they are for people and their scripts to hand out.
pub const MAX_TOKENS: usize = 1000;
/// A token with a count is good for no more than this; each use is remembered.
pub const MAX_USES: u32 = 10_000;
/// Of so many processes it is remembered when they joined: more than a cluster has members. Beyond it the
/// earliest are forgotten.
const MAX_JOINED: usize = 20_000;
/// No certificate counts longer than this: a revocation is forgotten after it.
const LONGEST_LIFETIME: u64 = 400 * 24 * 3600;

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Those whose certificates count, oldest first; the last one signs.
    pub authorities: Vec<AuthorityRecord>,
    /// By their public part.
    pub tokens: BTreeMap<String, TokenRecord>,
    /// By node id: certificates that count from that second or an earlier one do not.
    pub revoked: BTreeMap<String, u64>,
    /// Who came in when with a token that was made here, by role and node id.
    pub joined: BTreeMap<String, u64>,
}

/// One authority. `Debug` shows no key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityRecord {
    /// Its subject's name.
    pub name: String,
    /// When it was made, in seconds since 1970.
    pub made: u64,
    /// Self-signed, DER.
    #[serde(with = "hexadecimal")]
    pub certificate: Vec<u8>,
    /// PKCS #8; none once another signs.
    #[serde(with = "maybe_hexadecimal")]
    pub key: Option<Vec<u8>>,
    /// The key, sealed: as it is stored where there is a key to seal it with.
    #[serde(with = "maybe_hexadecimal", default)]
    pub sealed: Option<Vec<u8>>,
    /// Its certificate by the authority before it, DER.
    #[serde(with = "maybe_hexadecimal")]
    pub cross: Option<Vec<u8>>,
    /// When the last certificate it signed is over; none while it signs.
    pub retires: Option<u64>,
}

/// What is kept of a token. The secret is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// SHA-256 of its secret.
    #[serde(with = "hexadecimal")]
    hash: Vec<u8>,
    role: String,
    /// When it was made.
    pub made: u64,
    /// When it is over.
    pub expires: u64,
    /// How many processes it is good for; none for any number.
    pub uses: Option<u32>,
    /// Those that came in with it: their id, and a hash of their key.
    pub used: BTreeSet<(String, String)>,
}

/// What is asked of the authority cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such token, or another secret.
    #[error("this join token is not known here; make one with `darner manager token create`")]
    UnknownToken,
    /// It was good until then.
    #[error("this join token has expired; make another with `darner manager token create`")]
    Expired,
    /// All its uses are gone.
    #[error(
        "this join token has been used as often as it is good for; make another with `darner manager token create`"
    )]
    UsedUp,
    /// It lets in others.
    #[error("this join token is for a {0}")]
    Role(Role),
    /// It was shown, and counts no more.
    #[error("this certificate was revoked; join again with a new token")]
    Revoked,
    /// It was sent away, and this token is older than that.
    #[error(
        "the certificates of this node were revoked after its join token was made; make another with `darner manager token create`"
    )]
    SentAway,
    /// Its name is another's.
    #[error(
        "a process of this role and [node] id has joined since this token was made, with another key: give this one another id, or make another token for it with `darner manager token create`"
    )]
    Taken,
    /// The certificates come from elsewhere.
    #[error("this manager issues no certificates: they come from files ([identity] certificate)")]
    NotIssuing,
    /// There are as many as fit.
    #[error("there are {0} already, which is the most there can be")]
    Full(usize),
}

/// A token, for those who ask which there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its public part.
    pub number: String,
    /// What it makes of its holder.
    pub role: String,
    /// When it is over, in seconds since 1970.
    pub expires: u64,
    /// How many processes it is good for; none for any number.
    pub uses: Option<u32>,
    /// How many came in with it.
    pub used: usize,
}

impl State {
    /// Takes note of a token that is good for `uses` processes until `expires`.
    ///
    /// # Errors
    /// There are too many.
    pub fn add_token(
        &mut self,
        token: &JoinToken,
        uses: Option<u32>,
        now: u64,
        expires: u64,
    ) -> Result<(), Refusal> {
        if self.tokens.len() >= MAX_TOKENS {
            return Err(Refusal::Full(MAX_TOKENS));
        }
        let record = TokenRecord {
            hash: token.hash().0.to_vec(),
            role: token.role().to_string(),
            made: now,
            expires,
            uses: uses.map(|uses| uses.min(MAX_USES)),
            used: BTreeSet::new(),
        };
        self.tokens.insert(token.number().to_owned(), record);
        Ok(())
    }

    /// Lets `id` with its key come in for `token`, or says why not. Who asks again with the same key has
    /// not heard the answer, and uses nothing up.
    ///
    /// # Errors
    /// The token is not good for this.
    pub fn redeem(
        &mut self,
        now: u64,
        token: &JoinToken,
        id: &HostId,
        role: Role,
        key: &str,
    ) -> Result<(), Refusal> {
        let record = self.tokens.get_mut(token.number());
        let record = record.ok_or(Refusal::UnknownToken)?;
        let hash = record.hash().ok_or(Refusal::UnknownToken)?;
        if !hash.matches(&token.hash()) {
            return Err(Refusal::UnknownToken);
        }
        // What the token's text says of its role was not kept; what was kept counts.
        if record.role != role.to_string() {
            return Err(Refusal::Role(token.role()));
        }
        if record.expires <= now {
            return Err(Refusal::Expired);
        }
        // A token that was made in the very second of a revocation may be the one to come back with.
        let revoked = self.revoked.get(id.as_str());
        if revoked.is_some_and(|revoked| *revoked > record.made) {
            return Err(Refusal::SentAway);
        }
        let user = (id.to_string(), key.to_owned());
        if record.used.contains(&user) {
            return Ok(());
        }
        if record
            .uses
            .is_some_and(|uses| record.used.len() >= uses as usize)
        {
            return Err(Refusal::UsedUp);
        }
        // Otherwise who has a token takes the name of any node that happens to be down.
        let name = format!("{role}/{id}");
        if self
            .joined
            .get(&name)
            .is_some_and(|joined| *joined >= record.made)
        {
            return Err(Refusal::Taken);
        }
        if record.uses.is_some() {
            record.used.insert(user);
        }
        self.note_joined(now, name);
        Ok(())
    }

    fn note_joined(&mut self, now: u64, name: String) {
        self.joined.insert(name, now);
        if self.joined.len() > MAX_JOINED {
            let earliest = self.joined.iter().min_by_key(|(_, joined)| **joined);
            let earliest = earliest.map(|(name, _)| name.clone());
            earliest.map(|name| self.joined.remove(&name));
        }
    }

    /// What is kept of a token's secret.
    pub fn token_hash(&self, number: &str) -> Option<TokenHash> {
        self.tokens.get(number)?.hash()
    }

    /// Every token.
    pub fn tokens(&self) -> Vec<Token> {
        let tokens = self.tokens.iter().map(|(number, record)| Token {
            number: number.clone(),
            role: record.role.clone(),
            expires: record.expires,
            uses: record.uses,
            used: record.used.len(),
        });
        tokens.collect()
    }

    /// No certificate of `id` that exists at `now` counts any more.
    ///
    /// # Errors
    /// There are too many.
    pub fn revoke(&mut self, now: u64, id: &HostId) -> Result<(), Refusal> {
        if self.revoked.len() >= MAX_REVOCATIONS && !self.revoked.contains_key(id.as_str()) {
            return Err(Refusal::Full(MAX_REVOCATIONS));
        }
        let until = self.revoked.entry(id.to_string()).or_default();
        *until = (*until).max(now);
        self.joined
            .retain(|name, _| name.split_once('/').is_none_or(|(_, of)| of != id.as_str()));
        Ok(())
    }

    /// The authority that signs.
    pub fn signing(&self) -> Option<&AuthorityRecord> {
        self.authorities.last()
    }

    /// Lets `new` sign from now on. The one before it counts until its last certificate, which may
    /// have been signed just now, is over; its key is not needed any more.
    ///
    /// # Errors
    /// Too many rotations in the time of one certificate.
    pub fn rotate(
        &mut self,
        now: u64,
        lifetime: Duration,
        new: AuthorityRecord,
    ) -> Result<(), Refusal> {
        if self.authorities.len() >= MAX_AUTHORITIES {
            return Err(Refusal::Full(MAX_AUTHORITIES));
        }
        if let Some(old) = self.authorities.last_mut() {
            old.key = None;
            old.retires = Some(now + lifetime.as_secs() + 1);
        }
        self.authorities.push(new);
        Ok(())
    }

    /// Forgets what is over.
    pub fn prune(&mut self, now: u64) {
        self.tokens.retain(|_, token| token.expires > now);
        self.authorities
            .retain(|authority| authority.retires.is_none_or(|retires| retires > now));
        self.revoked
            .retain(|_, until| *until + LONGEST_LIFETIME > now);
    }

    /// What is sent along with a certificate: the way from each older authority to the one that signs.
    pub fn crosses(&self) -> impl Iterator<Item = &Vec<u8>> {
        // The first one's own leads from an authority that does not count any more.
        let newer = self.authorities.iter().skip(1).rev();
        newer.filter_map(|authority| authority.cross.as_ref())
    }

    /// What everybody is told.
    pub fn trust(&self) -> Trust {
        let authorities = self.authorities.iter();
        let revoked = self.revoked.iter();
        Trust {
            authorities: authorities
                .map(|authority| authority.certificate.clone().into())
                .collect(),
            revoked: revoked
                .filter_map(|(id, until)| Some((id.parse().ok()?, *until)))
                .collect(),
        }
    }
}

impl TokenRecord {
    fn hash(&self) -> Option<TokenHash> {
        let bytes = self.hash.as_slice().try_into().ok()?;
        Some(TokenHash(bytes))
    }
}

impl std::fmt::Debug for AuthorityRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthorityRecord")
            .field("name", &self.name)
            .field("retires", &self.retires)
            .finish_non_exhaustive()
    }
}

/// Bytes as hexadecimal digits.
pub(super) mod hexadecimal {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&crate::random::hex(bytes))
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        crate::random::from_hex(&text).ok_or_else(|| D::Error::custom("not hexadecimal digits"))
    }
}

mod maybe_hexadecimal {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[allow(clippy::ref_option, reason = "serde's own form")]
    pub(super) fn serialize<S: Serializer>(
        bytes: &Option<Vec<u8>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => super::hexadecimal::serialize(bytes, to),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(
        from: D,
    ) -> Result<Option<Vec<u8>>, D::Error> {
        let Some(text) = Option::<String>::deserialize(from)? else {
            return Ok(None);
        };
        let bytes = crate::random::from_hex(&text);
        bytes
            .map(Some)
            .ok_or_else(|| D::Error::custom("not hexadecimal digits"))
    }
}
