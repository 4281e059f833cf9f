//! As Google's storage, by its XML: a service account's key signs queries, and the token of whoever lists.

use std::path::PathBuf;

use anyhow::Result;
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use axum::http::header;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PKCS_RSA_SHA256};
use serde_json::{Value, json};

use super::v4::Dialect;
use super::{Asked, BUCKET, Service, Whose, list_version_2};
use crate::scene::Scene;

const ACCOUNT: &str = "reader@project.iam.gserviceaccount.example";
/// The host that is signed, wherever a client is told to find it.
const HOST: &str = "storage.googleapis.com";
const DIALECT: Dialect = Dialect {
    prefix: "X-Goog",
    algorithm: "GOOG4-RSA-SHA256",
};

#[derive(Debug)]
pub(super) struct Google {
    key: KeyPair,
    reader: PathBuf,
    stranger: PathBuf,
}

impl Google {
    /// The files of two accounts that differ in nothing but their key.
    pub(super) fn new(scene: &Scene) -> Result<Self> {
        let file = |name: &str, key: &KeyPair| {
            let account = json!({
                "type": "service_account",
                "client_email": ACCOUNT,
                "private_key_id": "1",
                "private_key": key.serialize_pem(),
            });
            let path = scene.path(name);
            std::fs::write(&path, account.to_string()).map(|()| path)
        };
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256)?;
        let other = KeyPair::generate_for(&PKCS_RSA_SHA256)?;
        Ok(Self {
            reader: file("reader.json", &key)?,
            stranger: file("stranger.json", &other)?,
            key,
        })
    }

    fn has_signed(&self, text: &str, signature: &[u8]) -> bool {
        let public = self.key.public_key_raw();
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public);
        public.verify(text.as_bytes(), signature).is_ok()
    }

    /// Whether a token is the account's own, as a client makes one without asking anybody.
    fn has_made(&self, token: &str) -> Option<bool> {
        let (text, signature) = token.rsplit_once('.')?;
        let (_, claims) = text.split_once('.')?;
        let decoded = |part| BASE64_URL_SAFE_NO_PAD.decode(part).ok();
        let claims: Value = serde_json::from_slice(&decoded(claims)?).ok()?;
        Some(claims["iss"] == ACCOUNT && self.has_signed(text, &decoded(signature)?))
    }
}

impl Service for Google {
    fn scheme(&self) -> &'static str {
        "gs"
    }

    fn root(&self) -> String {
        format!("/{BUCKET}")
    }

    fn is_signed(&self, asked: &Asked) -> bool {
        let Some(found) = DIALECT.signature(asked, HOST) else {
            return false;
        };
        let signature = bytes(&found.signature).unwrap_or_default();
        let of_storage = found.scope.ends_with("/auto/storage/goog4_request");
        of_storage && found.signer == ACCOUNT && self.has_signed(&found.text, &signature)
    }

    fn may_list(&self, asked: &Asked) -> bool {
        let shown = asked.header(header::AUTHORIZATION);
        let token = shown.and_then(|shown| shown.strip_prefix("Bearer "));
        token.and_then(|token| self.has_made(token)) == Some(true)
    }

    fn page(&self, listed: &[(&str, usize)]) -> String {
        list_version_2(listed)
    }

    fn codes(&self) -> (&'static str, &'static str) {
        ("NoSuchKey", "SignatureDoesNotMatch")
    }

    fn environment(&self, url: String, whose: Whose) -> Vec<(&'static str, String)> {
        let file = match whose {
            Whose::Reader => &self.reader,
            Whose::Stranger => &self.stranger,
        };
        vec![
            ("GOOGLE_BASE_URL", url),
            ("GOOGLE_APPLICATION_CREDENTIALS", file.display().to_string()),
        ]
    }

    fn secrets(&self) -> Vec<String> {
        vec!["PRIVATE KEY".to_owned(), "X-Goog-Signature".to_owned()]
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let at = (0..hex.len()).step_by(2);
    at.map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok())
        .collect()
}
