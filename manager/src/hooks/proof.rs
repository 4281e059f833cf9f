//! How a registry shows that a notification is its own: with the hook's secret itself, or with a
//! signature made with it. Compared in constant time.

use aws_lc_rs::{constant_time, hmac};
use http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};

use super::Kind;

/// GitHub's signature of the body.
const SIGNATURE: &str = "x-hub-signature-256";

/// What is kept to check a proof by. `Debug` shows nothing of it.
pub(super) struct Kept(pub(super) Vec<u8>);

impl Kept {
    /// Of a secret, what is needed: of one that is sent as it is, a hash is enough.
    pub(super) fn of(kind: Kind, secret: &str) -> Self {
        match kind {
            Kind::Harbor | Kind::Distribution => Self(Sha256::digest(secret.as_bytes()).to_vec()),
            Kind::Github => Self(secret.as_bytes().to_vec()),
        }
    }

    /// Whether this is the secret itself, so that it is not to be kept in the open.
    pub(super) fn is_secret(kind: Kind) -> bool {
        matches!(kind, Kind::Github)
    }

    /// Whether who sends `headers` and `body` has the secret.
    pub(super) fn is_shown(&self, kind: Kind, headers: &HeaderMap, body: &[u8]) -> bool {
        match kind {
            Kind::Harbor | Kind::Distribution => self.is_sent(headers),
            Kind::Github => self.has_signed(headers, body),
        }
    }

    /// `Authorization: Bearer SECRET`, or the secret alone, as Harbor's field is filled in.
    fn is_sent(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION);
        let Some(given) = given.and_then(|given| given.to_str().ok()) else {
            return false;
        };
        let secret = given.strip_prefix("Bearer ").unwrap_or(given).trim();
        let hash = Sha256::digest(secret.as_bytes());
        constant_time::verify_slices_are_equal(&hash, &self.0).is_ok()
    }

    fn has_signed(&self, headers: &HeaderMap, body: &[u8]) -> bool {
        let given = headers.get(SIGNATURE);
        let given = given.and_then(|given| given.to_str().ok()?.strip_prefix("sha256="));
        let Some(signature) = given.and_then(crate::random::from_hex) else {
            return false;
        };
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        hmac::verify(&key, body, &signature).is_ok()
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kept")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        [(
            header::HeaderName::from_static(name),
            value.parse().unwrap(),
        )]
        .into_iter()
        .collect()
    }

    #[test]
    fn a_secret_is_shown_as_it_is() {
        for kind in [Kind::Harbor, Kind::Distribution] {
            let kept = Kept::of(kind, "s3cret");
            assert_ne!(kept.0, b"s3cret");
            for good in ["s3cret", "Bearer s3cret"] {
                assert!(kept.is_shown(kind, &headers("authorization", good), b""));
            }
            for bad in ["", "s3cre", "Basic s3cret", "Bearer"] {
                assert!(!kept.is_shown(kind, &headers("authorization", bad), b""));
            }
            assert!(!kept.is_shown(kind, &HeaderMap::new(), b""));
        }
    }

    /// The example of GitHub's documentation.
    #[test]
    fn a_body_is_signed() {
        let kept = Kept::of(Kind::Github, "It's a Secret to Everybody");
        let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let given = headers(SIGNATURE, signature);
        assert!(kept.is_shown(Kind::Github, &given, b"Hello, World!"));
        assert!(!kept.is_shown(Kind::Github, &given, b"Hello, World?"));
        let other = Kept::of(Kind::Github, "another");
        assert!(!other.is_shown(Kind::Github, &given, b"Hello, World!"));
        for bad in ["", "sha256=", "sha256=zz", "sha1=757107"] {
            assert!(!kept.is_shown(Kind::Github, &headers(SIGNATURE, bad), b"Hello, World!"));
        }
    }
}
