//! Passwords: argon2id with the parameters OWASP recommends (19 MiB, two passes), a few at once.

use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use darner_service::secret::Secret;
use tokio::sync::Semaphore;

/// Hashed at once: each takes 19 MiB and a core for some ten milliseconds. More wait.
const AT_ONCE: usize = 2;
/// NIST SP 800-63B asks for eight at least; without other rules twelve is the usual choice.
pub const MIN_LENGTH: usize = 12;
/// Longer ones only cost time.
pub const MAX_LENGTH: usize = 256;

/// Why a password cannot be hashed.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Too short or too long.
    #[error("password: must have {MIN_LENGTH} to {MAX_LENGTH} letters")]
    Length,
    /// The library refuses.
    #[error("the password cannot be hashed: {0}")]
    Hash(String),
}

/// Hashes and compares. Clones share the bound.
#[derive(Debug, Clone)]
pub struct Passwords {
    places: Arc<Semaphore>,
    /// Of nobody's password: compared with for names that do not exist, so that they take as long.
    nobody: Arc<str>,
}

/// As people count, whatever they write with.
fn letters(password: &Secret) -> usize {
    password.reveal().chars().count()
}

impl Passwords {
    /// Ready to hash.
    ///
    /// # Errors
    /// The library refuses its parameters.
    pub fn new() -> Result<Self, PasswordError> {
        let nobody = hash(&crate::random::hexadecimal::<16>())?;
        Ok(Self {
            places: Arc::new(Semaphore::new(AT_ONCE)),
            nobody: nobody.into(),
        })
    }

    /// The hash to keep, as a PHC string.
    ///
    /// # Errors
    /// The password is too short or too long.
    pub async fn hash(&self, password: &Secret) -> Result<String, PasswordError> {
        if !(MIN_LENGTH..=MAX_LENGTH).contains(&letters(password)) {
            return Err(PasswordError::Length);
        }
        let password = password.clone();
        self.work(move || hash(password.reveal())).await?
    }

    /// Whether `password` is the one `kept` was made of; without one, no, after as long.
    pub async fn verify(&self, password: &Secret, kept: Option<String>) -> bool {
        let exists = kept.is_some();
        let kept = kept.unwrap_or_else(|| self.nobody.to_string());
        let password = password.clone();
        if letters(&password) > MAX_LENGTH {
            return false;
        }
        let matches = self.work(move || match PasswordHash::new(&kept) {
            Ok(kept) => argon2().is_ok_and(|argon2| {
                let tried = argon2.verify_password(password.reveal().as_bytes(), &kept);
                tried.is_ok()
            }),
            Err(_) => false,
        });
        matches.await.unwrap_or(false) && exists
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let failed = |error: &dyn std::fmt::Display| PasswordError::Hash(error.to_string());
        let place = self.places.clone().acquire_owned().await;
        let place = place.map_err(|closed| failed(&closed))?;
        let worked = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(place);
            done
        });
        worked.await.map_err(|lost| failed(&lost))
    }
}

fn argon2() -> Result<Argon2<'static>, PasswordError> {
    let params = Params::new(19 * 1024, 2, 1, None);
    let params = params.map_err(|error| PasswordError::Hash(error.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash(password: &str) -> Result<String, PasswordError> {
    let salt = crate::random::bytes::<16>();
    let hashed = argon2()?.hash_password_with_salt(password.as_bytes(), &salt);
    hashed
        .map(|hash| hash.to_string())
        .map_err(|error| PasswordError::Hash(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn letters_are_counted_and_not_bytes() {
        let passwords = Passwords::new().unwrap();
        for (password, fits) in [
            ("é".repeat(MIN_LENGTH - 1), false),
            ("é".repeat(MIN_LENGTH), true),
            ("é".repeat(MAX_LENGTH), true),
            ("é".repeat(MAX_LENGTH + 1), false),
        ] {
            let password = Secret::new(password);
            let hashed = passwords.hash(&password).await;
            assert_eq!(hashed.is_ok(), fits);
            if let Ok(kept) = hashed {
                assert!(passwords.verify(&password, Some(kept)).await);
            }
        }
    }
}
