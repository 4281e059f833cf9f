//! As Amazon's S3: an access key signs queries, and the headers of whoever lists.

use aws_lc_rs::hmac;
use axum::http::header;

use super::v4::Dialect;
use super::{Asked, BUCKET, Service, Whose, hex, list_version_2};

const ACCESS_KEY: &str = "AKIATESTTESTTEST";
const SECRET: &str = "canary-secret-of-the-storage";
const REGION: &str = "eu-test-1";
const DIALECT: Dialect = Dialect {
    prefix: "X-Amz",
    algorithm: "AWS4-HMAC-SHA256",
};

#[derive(Debug)]
pub(super) struct S3;

impl Service for S3 {
    fn scheme(&self) -> &'static str {
        "s3"
    }

    fn root(&self) -> String {
        format!("/{BUCKET}")
    }

    fn is_signed(&self, asked: &Asked) -> bool {
        let host = asked.header(header::HOST).unwrap_or_default();
        let Some(found) = DIALECT.signature(asked, host) else {
            return false;
        };
        let mut key = format!("AWS4{SECRET}").into_bytes();
        for part in found.scope.split('/') {
            key = signed(&key, part);
        }
        found.signer == ACCESS_KEY && found.signature == hex(&signed(&key, &found.text))
    }

    /// The key's name is enough: what headers of a client's own say is not what is looked at here.
    fn may_list(&self, asked: &Asked) -> bool {
        let shown = asked.header(header::AUTHORIZATION);
        shown.is_some_and(|shown| shown.contains(ACCESS_KEY))
    }

    fn page(&self, listed: &[(&str, usize)]) -> String {
        list_version_2(listed)
    }

    fn codes(&self) -> (&'static str, &'static str) {
        ("NoSuchKey", "SignatureDoesNotMatch")
    }

    fn environment(&self, url: String, whose: Whose) -> Vec<(&'static str, String)> {
        let (key, secret) = match whose {
            Whose::Reader => (ACCESS_KEY, SECRET),
            Whose::Stranger => ("AKIAOTHEROTHER", "another"),
        };
        vec![
            ("AWS_ENDPOINT", url),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", key.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", secret.to_owned()),
        ]
    }

    fn secrets(&self) -> Vec<String> {
        vec![SECRET.to_owned(), "X-Amz-Signature".to_owned()]
    }
}

fn signed(key: &[u8], text: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}
