//! As Azure's blobs: the account's key signs what a URL is good for, and the headers of whoever lists.

use aws_lc_rs::hmac;
use axum::http::{HeaderName, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::{Asked, BUCKET, CHANGED, Service, Whose, is_now};

const ACCOUNT: &str = "teststorage";
/// In base64, as Azure gives them out.
const KEY: &str = "Y2FuYXJ5LXNlY3JldC1vZi10aGUtYWNjb3VudA==";
const OTHER_KEY: &str = "YW5vdGhlciBzZWNyZXQ=";

#[derive(Debug)]
pub(super) struct Azure;

impl Service for Azure {
    fn scheme(&self) -> &'static str {
        "az"
    }

    /// As its emulators have it: the account is no part of the host.
    fn root(&self) -> String {
        format!("/{ACCOUNT}/{BUCKET}")
    }

    fn is_signed(&self, asked: &Asked) -> bool {
        let said = |name| asked.said(name);
        let counts = said("sr") == "b" && said("sp").contains('r');
        counts && is_now(said("st"), said("se")) && said("sig") == signed(&signed_fields(asked))
    }

    fn may_list(&self, asked: &Asked) -> bool {
        let expected = format!("SharedKey {ACCOUNT}:{}", signed(&signed_request(asked)));
        let is_list = asked.said("restype") == "container" && asked.said("comp") == "list";
        is_list && asked.header(header::AUTHORIZATION) == Some(&expected)
    }

    fn page(&self, listed: &[(&str, usize)]) -> String {
        let listed = listed.iter().map(|(key, size)| {
            format!(
                "<Blob><Name>{key}</Name><Properties><Last-Modified>{}</Last-Modified><Etag>x</Etag>\
                 <Content-Length>{size}</Content-Length><Content-Type>application/octet-stream</Content-Type>\
                 </Properties></Blob>",
                CHANGED.0
            )
        });
        format!(
            "<?xml version=\"1.0\"?><EnumerationResults><Blobs>{}</Blobs><NextMarker/></EnumerationResults>",
            listed.collect::<String>()
        )
    }

    fn codes(&self) -> (&'static str, &'static str) {
        ("BlobNotFound", "AuthenticationFailed")
    }

    fn environment(&self, url: String, whose: Whose) -> Vec<(&'static str, String)> {
        let key = match whose {
            Whose::Reader => KEY,
            Whose::Stranger => OTHER_KEY,
        };
        vec![
            ("AZURE_STORAGE_USE_EMULATOR", "true".to_owned()),
            ("AZURITE_BLOB_STORAGE_URL", url),
            ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT.to_owned()),
            ("AZURE_STORAGE_ACCOUNT_KEY", key.to_owned()),
        ]
    }

    fn secrets(&self) -> Vec<String> {
        vec![KEY.to_owned(), "sig=".to_owned()]
    }
}

/// What is signed of a query, since the version of December 2020: every field as it is meant, the name of
/// the blob included, not as a URL spells it.
fn signed_fields(asked: &Asked) -> String {
    let name = format!("/blob{}", asked.name());
    let fields = [
        asked.said("sp"),
        asked.said("st"),
        asked.said("se"),
        &name,
        asked.said("si"),
        asked.said("sip"),
        asked.said("spr"),
        asked.said("sv"),
        asked.said("sr"),
        asked.said("snapshot"),
        asked.said("ses"),
        asked.said("rscc"),
        asked.said("rscd"),
        asked.said("rsce"),
        asked.said("rscl"),
        asked.said("rsct"),
    ];
    fields.join("\n")
}

/// What is signed of a request that has no body.
fn signed_request(asked: &Asked) -> String {
    let mut lines = vec![asked.method.to_string()];
    // The length is one of them only where there is something.
    let headers = [
        header::CONTENT_ENCODING,
        header::CONTENT_LANGUAGE,
        HeaderName::from_static("x-no-length"),
        HeaderName::from_static("content-md5"),
        header::CONTENT_TYPE,
        header::DATE,
        header::IF_MODIFIED_SINCE,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_UNMODIFIED_SINCE,
        header::RANGE,
    ];
    let headers = headers.map(|name| asked.header(name).unwrap_or_default().to_owned());
    lines.extend(headers);
    let mut own: Vec<_> = asked
        .headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-ms-"))
        .map(|(name, value)| format!("{name}:{}", value.to_str().unwrap_or_default()))
        .collect();
    own.sort_unstable();
    lines.extend(own);
    lines.push(format!("/{ACCOUNT}{}", asked.path));
    let query = asked.query.iter();
    lines.extend(query.map(|(name, value)| format!("{}:{value}", name.to_lowercase())));
    lines.join("\n")
}

fn signed(text: &str) -> String {
    let key = BASE64_STANDARD.decode(KEY).unwrap_or_default();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    BASE64_STANDARD.encode(hmac::sign(&key, text.as_bytes()))
}
