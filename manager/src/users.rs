//! People and programs that use the API: accounts, personal access tokens, sessions, and the link
//! that makes the first administrator.
//!
//! There is no default password and no secret that can be read back: a password is kept as argon2id,
//! everything else as the SHA-256 of 256 random bits. Every change is written together with its line
//! in the [`audit`], or not at all. What a caller may do is decided in [`crate::api::access`].

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use darner_proto::invalid::Invalid;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

pub mod accounts;
pub mod audit;
pub mod credentials;
pub mod external;
pub mod password;
#[cfg(test)]
mod tests;
pub mod throttle;

/// A session ends after this long, however it is used.
pub const SESSION: Duration = Duration::from_secs(12 * 3600);
/// The link for the first administrator can be used for this long; a start makes another.
pub const INVITATION: Duration = Duration::from_secs(24 * 3600);
/// No token lasts longer.
pub const MAX_TOKEN_LIFE: Duration = Duration::from_secs(366 * 24 * 3600);
/// What tokens begin with, so that scanners for leaked secrets know one.
pub const TOKEN_PREFIX: &str = "darner_pat_";
/// A name travels in URLs and audit lines.
const MAX_NAME: usize = 64;

/// What somebody may do; each may do what those before it may.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sees everything but people.
    Viewer,
    /// Starts and ends work.
    Operator,
    /// Manages people.
    Admin,
}

/// The name of an account: letters, digits and `._@-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, pattern = "^[A-Za-z0-9._@-]{1,64}$")]
pub struct Name(String);

impl Role {
    /// All of them, the least first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// As written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for Role {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| Invalid::new("role", format!("{text:?} is none")))
    }
}

impl Name {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
        if text.is_empty() || text.len() > MAX_NAME || !text.bytes().all(fits) {
            let why = format!("is not 1 to {MAX_NAME} letters, digits and ._@-");
            return Err(Invalid::new("name", why));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Name {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is kept of a secret that is random itself.
pub fn hash_of(secret: &str) -> Vec<u8> {
    Sha256::digest(secret.as_bytes()).to_vec()
}

/// Unix time in ms.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    milliseconds(since.unwrap_or_default())
}

/// A span in ms.
pub fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
