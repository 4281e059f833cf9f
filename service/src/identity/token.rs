//! Join tokens: `darner-join.<role>.<number>.<secret>`. Whoever has one gets a certificate of its role,
//! and can tell the cluster's authorities from anybody else's.
//!
//! The manager keeps the number and the SHA-256 of the secret. The secret travels to a manager that
//! has shown to know that hash ([`proof`]); so a joining process needs nothing but its token, and
//! whoever stands between the two learns nothing.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::{constant_time, digest, hmac};
use darner_proto::id::Role;

use crate::secret::Secret;

const PREFIX: &str = "darner-join";
/// Hexadecimal digits of the number: nobody meets one by chance.
const NUMBER: usize = 16;
/// And of the secret: 128 bits cannot be guessed, however often somebody tries.
const SECRET: std::ops::RangeInclusive<usize> = 32..=128;
/// What a proof is about, so that it cannot be taken for anything else made with the same key.
const CONTEXT: &[u8] = b"darner authorities 1";

/// A token as a joining process has it. `Debug` shows no secret.
#[derive(Debug, Clone)]
pub struct JoinToken {
    role: Role,
    number: String,
    secret: Secret,
}

/// What is written is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not a join token, darner-join.<mirror|seed|scheduler>.<16 hexadecimal digits>.<32 or more>; `darner manager token create` makes one"
)]
pub struct NotAToken;

/// The SHA-256 of a token's secret: what the manager keeps of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash(pub [u8; 32]);

impl JoinToken {
    /// A new one.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn generate(role: Role) -> Result<Self, aws_lc_rs::error::Unspecified> {
        let mut random = [0; (NUMBER + 32) / 2];
        aws_lc_rs::rand::fill(&mut random)?;
        let text = hex(&random);
        let (number, secret) = text.split_at(NUMBER);
        Ok(Self {
            role,
            number: number.to_owned(),
            secret: Secret::new(secret),
        })
    }

    /// What its holder may become.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Its public part.
    pub fn number(&self) -> &str {
        &self.number
    }

    /// What the manager keeps of it.
    pub fn hash(&self) -> TokenHash {
        let hash = digest::digest(&digest::SHA256, self.secret.reveal().as_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hash.as_ref());
        TokenHash(bytes)
    }

    /// The whole, for its holder and for the manager.
    pub fn reveal(&self) -> String {
        let Self {
            role,
            number,
            secret,
        } = self;
        format!("{PREFIX}.{role}.{number}.{}", secret.reveal())
    }
}

impl FromStr for JoinToken {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let mut parts = text.split('.');
        let mut next = || parts.next().ok_or(NotAToken);
        let (prefix, role, number, secret) = (next()?, next()?, next()?, next()?);
        let hexadecimal = |text: &str| {
            text.bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let fits = prefix == PREFIX
            && parts.next().is_none()
            && number.len() == NUMBER
            && SECRET.contains(&secret.len())
            && hexadecimal(number)
            && hexadecimal(secret);
        let role = match role {
            "mirror" => Role::Mirror,
            "seed" => Role::Seed,
            "scheduler" => Role::Scheduler,
            _ => return Err(NotAToken),
        };
        match fits {
            true => Ok(Self {
                role,
                number: number.to_owned(),
                secret: Secret::new(secret),
            }),
            false => Err(NotAToken),
        }
    }
}

impl TokenHash {
    /// Whether it is the same, in a time that does not tell how much of it is.
    pub fn matches(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash")
    }
}

/// Shows to whoever made `nonce` that `authorities` come from somebody who knows the token's hash.
pub fn proof(key: &TokenHash, nonce: &[u8], authorities: &[impl AsRef<[u8]>]) -> Vec<u8> {
    hmac::sign(&hmac_key(key), &message(nonce, authorities))
        .as_ref()
        .to_vec()
}

/// Whether `proof` is right.
pub fn is_proved(
    key: &TokenHash,
    nonce: &[u8],
    authorities: &[impl AsRef<[u8]>],
    proof: &[u8],
) -> bool {
    hmac::verify(&hmac_key(key), &message(nonce, authorities), proof).is_ok()
}

fn hmac_key(key: &TokenHash) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &key.0)
}

/// Every part with its length before it: no two sets of parts make the same message.
fn message(nonce: &[u8], authorities: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let parts = [CONTEXT, nonce].into_iter();
    let parts = parts.chain(authorities.iter().map(AsRef::as_ref));
    let mut message = Vec::new();
    for part in parts {
        message.extend_from_slice(&(part.len() as u64).to_be_bytes());
        message.extend_from_slice(part);
    }
    message
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_being_written_down() {
        let token = JoinToken::generate(Role::Seed).unwrap();
        let again: JoinToken = token.reveal().parse().unwrap();
        assert_eq!(again.role(), Role::Seed);
        assert_eq!(again.number(), token.number());
        assert!(again.hash().matches(&token.hash()));
        assert!(!format!("{token:?}").contains(token.secret.reveal()));
    }

    #[test]
    fn two_tokens_are_never_the_same() {
        let make = || JoinToken::generate(Role::Mirror).unwrap();
        let (one, two) = (make(), make());
        assert_ne!(one.number(), two.number());
        assert!(!one.hash().matches(&two.hash()));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let number = "0123456789abcdef";
        let secret = "0123456789abcdef0123456789abcdef";
        assert!(
            format!("darner-join.mirror.{number}.{secret}")
                .parse::<JoinToken>()
                .is_ok()
        );
        for text in [
            String::new(),
            secret.to_owned(),
            format!("darner-join.manager.{number}.{secret}"),
            format!("darner-join.mirror.{number}.short"),
            format!("darner-join.mirror.{number}."),
            format!("darner-join.mirror.{number}.{secret}.more"),
            format!("darner-join.mirror.{number}.{}", secret.to_uppercase()),
            format!("other.mirror.{number}.{secret}"),
        ] {
            assert_eq!(text.parse::<JoinToken>().err(), Some(NotAToken), "{text}");
        }
    }

    #[test]
    fn a_proof_is_of_one_key_one_nonce_and_one_list() {
        let token = JoinToken::generate(Role::Mirror).unwrap().hash();
        let other = JoinToken::generate(Role::Mirror).unwrap().hash();
        let shown = proof(&token, b"once", &["ab", "c"]);
        assert!(is_proved(&token, b"once", &["ab", "c"], &shown));
        assert!(!is_proved(&other, b"once", &["ab", "c"], &shown));
        assert!(!is_proved(&token, b"twice", &["ab", "c"], &shown));
        assert!(!is_proved(&token, b"once", &["a", "bc"], &shown));
        assert!(!is_proved(&token, b"once", &["ab"], &shown));
        assert!(!is_proved(&token, b"once", &["ab", "c"], b""));
    }
}
