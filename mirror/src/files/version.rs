//! One version of a file, by what its host says of it, and how it is known in the cluster.

use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode};
use darner_proto::digest::Digest;
use darner_proto::file::{Located, Supply, Validator};
use url::Url;

use crate::upstream::files::{FileHead, Files};

/// A version that may be shared.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) key: Digest,
    pub(crate) size: u64,
    /// For `If-Range`.
    pub(crate) tag: String,
    pub(crate) sources: Vec<Supply>,
    pub(crate) headers: HeaderMap,
}

impl Version {
    /// What `head` says of the file at a URL, whose digest the caller may tell; `None` when there is
    /// nothing to go by, or it is not to be shared.
    pub(crate) fn of(
        head: FileHead,
        hosts: &Files,
        (url, digest): (&Url, Option<Digest>),
    ) -> Option<Self> {
        let size = head.size.filter(|size| *size > 0)?;
        if head.status != StatusCode::OK || !head.shared {
            return None;
        }
        let canonical = hosts.canonical(url);
        // Whoever knows the digest may have what is known by it. What is at a URL that may be a
        // secret is not known so.
        let open = canonical.query().is_none() && canonical.as_str() == without_fragment(url);
        let key = match (digest, &head.validator) {
            (Some(digest), _) if open => digest,
            (_, Some(validator)) => validator.key(canonical.as_str(), size),
            (_, None) => return None,
        };
        let tag = match &head.validator {
            Some(Validator::Tag(text) | Validator::Modified(text)) => text.clone(),
            None => String::new(),
        };
        let located = Located {
            url: without_fragment(url).to_owned(),
            validator: head.validator,
        };
        Some(Self {
            key,
            size,
            tag,
            sources: vec![Supply::File(Arc::new(located))],
            headers: head.headers,
        })
    }
}

/// A fragment is the client's own business.
fn without_fragment(url: &Url) -> &str {
    let text = url.as_str();
    text.split('#').next().unwrap_or(text)
}
