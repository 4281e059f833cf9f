//! Signatures as Azure checks them: of a blob's name as it is.
//!
//! The library signs names as a URL spells them, and what has a space in its name, or a letter of
//! another alphabet, would be refused. The line that names the blob is put right here on its way into the
//! signature; with whose key that is made stays the library's.

use std::borrow::Cow;

use aws_lc_rs::hmac;
use object_store::client::{
    CryptoProvider, DigestAlgorithm, DigestContext, HmacContext, Signer, SigningAlgorithm,
};
use percent_encoding::percent_decode_str;

/// Of the fields that are signed, one a line, which names the blob; and how it begins.
const NAME: (usize, &str) = (3, "/blob/");

/// The signing that Azure needs.
#[derive(Debug)]
pub(super) struct Signing;

impl CryptoProvider for Signing {
    fn digest(&self, _: DigestAlgorithm) -> object_store::Result<Box<dyn DigestContext>> {
        Err(not_needed("digests"))
    }

    fn hmac(
        &self,
        algorithm: DigestAlgorithm,
        secret: &[u8],
    ) -> object_store::Result<Box<dyn HmacContext>> {
        if algorithm != DigestAlgorithm::Sha256 {
            return Err(not_needed("digests other than SHA-256"));
        }
        Ok(Box::new(Signature {
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
            text: Vec::new(),
            made: Vec::new(),
        }))
    }

    fn sign(&self, _: SigningAlgorithm, _: &[u8]) -> object_store::Result<Box<dyn Signer>> {
        Err(not_needed("RSA"))
    }
}

/// Those are for clouds that sign otherwise, and for keys that a client encrypts with.
fn not_needed(what: &str) -> object_store::Error {
    object_store::Error::NotSupported {
        source: format!("{what} at Azure").into(),
    }
}

struct Signature {
    key: hmac::Key,
    text: Vec<u8>,
    made: Vec<u8>,
}

impl HmacContext for Signature {
    fn update(&mut self, data: &[u8]) {
        self.text.extend_from_slice(data);
    }

    fn finish(&mut self) -> object_store::Result<&[u8]> {
        let text = String::from_utf8_lossy(&self.text);
        let tag = hmac::sign(&self.key, named(&text).as_bytes());
        self.made = tag.as_ref().to_vec();
        Ok(&self.made)
    }
}

/// The fields of a signature with the blob's name as it is. What is signed of a request is another text,
/// which has a number in that line, or nothing.
fn named(text: &str) -> Cow<'_, str> {
    let mut lines: Vec<_> = text.split('\n').map(Cow::Borrowed).collect();
    match lines.get_mut(NAME.0) {
        Some(line) if line.starts_with(NAME.1) => {
            let name = percent_decode_str(line).decode_utf8_lossy().into_owned();
            *line = name.into();
            lines.join("\n").into()
        }
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_signed_as_they_are() {
        for (given, signed) in [
            (
                "r\nfrom\nto\n/blob/account/container/a%20b/%C3%A9%25\n\nx%20y",
                "r\nfrom\nto\n/blob/account/container/a b/é%\n\nx%20y",
            ),
            (
                "r\nfrom\nto\n/blob/account/c/k\n",
                "r\nfrom\nto\n/blob/account/c/k\n",
            ),
            (
                "GET\n\n\n\n\n/account/c%20d\n",
                "GET\n\n\n\n\n/account/c%20d\n",
            ),
            ("", ""),
        ] {
            assert_eq!(named(given), signed);
        }
    }
}
