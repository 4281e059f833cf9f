//! What refers to a manifest: signatures, SBOMs, attestations.
//!
//! Upstream's own list where it has one. For registries without that part of the specification, the
//! index that clients then keep under a tag. Nothing known is an empty list, never "not found": a
//! client would take that for a registry without referrers and give up. The filter by artifact type
//! is applied here where upstream has not.

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use darner_proto::digest::Digest;
use serde_json::Value;

use super::refusal::Refusal;
use super::relay::Errand;
use super::serve::{Call, Front, Reply};
use crate::access::proof::collected;
use crate::upstream::MAX_MANIFEST;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An index as the specification wants it where nothing refers to a manifest.
const NONE: &[u8] =
    br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
/// A tag has at most this much of a digest's hex in the specification's referrers tag schema.
const TAG_HEX: usize = 64;
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
const FILTER: &str = "artifactType";

impl Front {
    pub(super) async fn referrers(
        &self,
        call: &Call<'_>,
        digest: &Digest,
    ) -> Result<Reply, Refusal> {
        let errand = Errand {
            // Also for a HEAD: how long the list is shows only once it has been filtered.
            method: Method::GET,
            path: call.question.object.to_string(),
            query: call.question.query.clone(),
            accept: Some(HeaderValue::from_static(INDEX)),
        };
        let relayed = self.ask_upstream(call, errand).await?;
        let status = relayed.status();
        if lacks_referrers(status) || (status.is_success() && !is_index(&relayed.headers)) {
            return self.referrers_by_tag(call, digest).await;
        }
        if !status.is_success() {
            return self.pass(call, relayed).await;
        }
        let headers = call.passed_headers(&relayed);
        let wanted = artifact_type(call).filter(|_| !headers.contains_key(FILTERS_APPLIED));
        let list = collected(relayed, MAX_MANIFEST, call.deadline).await;
        let list = list.ok_or_else(|| call.unavailable("the registry's list does not come"))?;
        Ok(call.list(list, wanted, headers))
    }

    async fn referrers_by_tag(&self, call: &Call<'_>, digest: &Digest) -> Result<Reply, Refusal> {
        let errand = Errand {
            method: Method::GET,
            path: format!("manifests/{}", tag(digest)),
            query: None,
            accept: Some(HeaderValue::from_static(INDEX)),
        };
        let relayed = self.ask_upstream(call, errand).await?;
        let status = relayed.status();
        if !status.is_success() && status != StatusCode::NOT_FOUND {
            return self.pass(call, relayed).await;
        }
        let index = status.is_success() && is_index(&relayed.headers);
        let list = match index {
            true => collected(relayed, MAX_MANIFEST, call.deadline)
                .await
                .ok_or_else(|| call.unavailable("the registry's list does not come"))?,
            false => Bytes::from_static(NONE),
        };
        Ok(call.list(list, artifact_type(call), HeaderMap::new()))
    }
}

impl Call<'_> {
    fn list(&self, list: Bytes, wanted: Option<String>, mut headers: HeaderMap) -> Reply {
        let list = match &wanted {
            Some(wanted) => filtered(&list, wanted),
            None => list,
        };
        if wanted.is_some() {
            headers.insert(FILTERS_APPLIED, HeaderValue::from_static(FILTER));
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(INDEX));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(list.len()));
        let body = if self.is_head() { Bytes::new() } else { list };
        let mut response = Response::new(Body::from(body));
        *response.headers_mut() = headers;
        Reply {
            response,
            source: None,
        }
    }
}

/// How registries without the API answer a path that they do not know.
fn lacks_referrers(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED
    )
}

fn is_index(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    let value = value.and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case(INDEX))
}

fn artifact_type(call: &Call<'_>) -> Option<String> {
    let query = call.question.query.as_deref()?;
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    let (_, value) = pairs.find(|(name, _)| name == FILTER)?;
    Some(value.into_owned())
}

/// The index with only the entries of this type. What is no index has none.
fn filtered(index: &[u8], wanted: &str) -> Bytes {
    let Ok(mut index) = serde_json::from_slice::<Value>(index) else {
        return Bytes::from_static(NONE);
    };
    let Some(Value::Array(entries)) = index.get_mut("manifests") else {
        return Bytes::from_static(NONE);
    };
    entries.retain(|entry| entry.get(FILTER).and_then(Value::as_str) == Some(wanted));
    index.to_string().into()
}

fn tag(digest: &Digest) -> String {
    let hex = digest.hex();
    let cut = &hex[..hex.len().min(TAG_HEX)];
    format!("{}-{cut}", digest.algorithm())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_tag_is_cut_to_the_specifications_length() {
        let digest: Digest = format!("sha512:{}", "ab".repeat(64)).parse().unwrap();
        assert_eq!(tag(&digest), format!("sha512-{}", "ab".repeat(32)));
    }

    #[test]
    fn entries_of_another_type_are_left_out_and_the_rest_stays() {
        let index = br#"{"schemaVersion":2,"manifests":[{"artifactType":"a/b","digest":"x","annotations":{"k":"v"}},{"artifactType":"c/d"},{"digest":"y"}],"annotations":{"n":"1"}}"#;
        let left: Value = serde_json::from_slice(&filtered(index, "a/b")).unwrap();
        assert_eq!(left["manifests"].as_array().unwrap().len(), 1);
        assert_eq!(left["manifests"][0]["annotations"]["k"], "v");
        assert_eq!(left["annotations"]["n"], "1");
        assert_eq!(filtered(b"<html>", "a/b"), NONE);
        assert_eq!(filtered(br#"{"manifests":7}"#, "a/b"), NONE);
    }

    proptest! {
        #[test]
        fn any_bytes_are_filtered_into_json(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _: Value = serde_json::from_slice(&filtered(&bytes, "a/b")).unwrap();
        }
    }
}
