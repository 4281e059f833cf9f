//! Seals secrets with a key from a file, above all the authority's signing key, so that a copy of the
//! database alone lets nobody in: AES-256-GCM (NIST SP 800-38D), a random nonce before what is sealed, and the
//! name of whose it is bound to it.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use darner_service::secret::Secret;

use super::state::State;

/// The sealing key. `Debug` shows nothing of it.
#[derive(Debug)]
pub struct Seal(LessSafeKey);

/// What is sealed cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// There is no key to open it with.
    #[error(
        "the authority's signing key is sealed: set [manager] seal_key_file to the key it was sealed with"
    )]
    Sealed,
    /// It is another's, or was changed.
    #[error(
        "the authority's signing key does not open with the key in [manager] seal_key_file: it was sealed with another"
    )]
    Another,
    /// The file holds no key.
    #[error("[manager] seal_key_file does not hold 64 hexadecimal digits")]
    Key,
}

impl Seal {
    /// The key that `digits` stand for.
    pub(crate) fn new(digits: &Secret) -> Result<Self, SealError> {
        let bytes = crate::random::from_hex(digits.reveal()).ok_or(SealError::Key)?;
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| SealError::Key)?;
        Ok(Self(LessSafeKey::new(key)))
    }

    pub(crate) fn seal(&self, name: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let nonce = crate::random::bytes::<NONCE_LEN>();
        let mut sealed = plain.to_vec();
        let (unique, bound) = (
            Nonce::assume_unique_for_key(nonce),
            Aad::from(name.as_bytes()),
        );
        self.0
            .seal_in_place_append_tag(unique, bound, &mut sealed)
            .map_err(|_| SealError::Key)?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    pub(crate) fn open(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let split = sealed.split_first_chunk::<NONCE_LEN>();
        let (nonce, sealed) = split.ok_or(SealError::Another)?;
        let (unique, bound) = (
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(name.as_bytes()),
        );
        let mut opened = sealed.to_vec();
        let plain = self.0.open_in_place(unique, bound, &mut opened);
        Ok(plain.map_err(|_| SealError::Another)?.to_vec())
    }
}

/// `state` as it is stored: with `seal`, no key in it can be read.
pub(super) fn sealed(seal: Option<&Seal>, mut state: State) -> Result<State, SealError> {
    let Some(seal) = seal else { return Ok(state) };
    for authority in &mut state.authorities {
        if let Some(key) = authority.key.take() {
            authority.sealed = Some(seal.seal(&authority.name, &key)?);
        }
    }
    Ok(state)
}

/// `state` as it is worked with, from how it is stored.
pub(super) fn opened(seal: Option<&Seal>, mut state: State) -> Result<State, SealError> {
    for authority in &mut state.authorities {
        if let Some(sealed) = authority.sealed.take() {
            let seal = seal.ok_or(SealError::Sealed)?;
            authority.key = Some(seal.open(&authority.name, &sealed)?);
        }
    }
    Ok(state)
}
