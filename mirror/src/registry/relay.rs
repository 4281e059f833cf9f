//! Requests that upstream answers, on the caller's own credentials and without a trace here: what
//! is not public, and lists that are never kept.

use std::io;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use darner_proto::digest::Digest;
use futures_util::StreamExt as _;
use tokio::time::timeout_at;

use super::metrics::Trouble;
use super::range::{Wanted, wanted};
use super::refusal::Refusal;
use super::serve::{CONTENT_DIGEST, Call, Front, Reply};
use super::{link, through};
use crate::task::ServedFrom;
use crate::upstream::{Relay, Relayed};

/// What a client needs of upstream's answer.
const PASSED_ON: [HeaderName; 8] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::ACCEPT_RANGES,
    header::ETAG,
    header::WWW_AUTHENTICATE,
    CONTENT_DIGEST,
    HeaderName::from_static("oci-filters-applied"),
];
/// An index as the specification wants it where nothing refers to a manifest.
const NO_REFERRERS: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// A tag has at most this much of a digest's hex in the specification's referrers tag schema.
const REFERRERS_HEX: usize = 64;

impl Front {
    /// Lets upstream answer.
    pub(super) async fn relay(&self, call: &Call<'_>) -> Result<Reply, Refusal> {
        let object = &call.question.object;
        let relayed = self.ask_upstream(call, object.path()).await?;
        let status = StatusCode::from_u16(relayed.status).unwrap_or(StatusCode::BAD_GATEWAY);
        if let super::request::Object::Referrers(digest) = object
            && status == StatusCode::NOT_FOUND
        {
            return self.referrers_by_tag(call, digest).await;
        }
        if !call.passes(status) {
            self.metrics.trouble(Trouble::Relay);
            return Err(call.unavailable("the registry cannot answer now"));
        }
        Ok(call.reply(status, relayed))
    }

    async fn ask_upstream(&self, call: &Call<'_>, path: String) -> Result<Relayed, Refusal> {
        let source = &call.question.source;
        let upstream = self
            .upstreams
            .get(&source.registry)
            .ok_or_else(|| call.unavailable("its registry is not configured"))?;
        let request = Relay {
            method: call.method.clone(),
            path: format!("{}/{path}", source.repository),
            query: call.question.query.clone().filter(|_| call.is_list()),
            headers: carried(call.headers),
        };
        match timeout_at(call.deadline, upstream.relay(request)).await {
            Ok(Ok(relayed)) => Ok(relayed),
            Ok(Err(error)) => {
                tracing::warn!(%source, %error, "upstream cannot be asked on a caller's behalf");
                self.metrics.trouble(Trouble::Relay);
                Err(call.unavailable("the registry cannot be reached"))
            }
            Err(_) => {
                self.metrics.trouble(Trouble::Relay);
                Err(call.unavailable("the registry does not answer in time"))
            }
        }
    }

    /// For registries without the referrers API: the index that clients then keep under a tag.
    async fn referrers_by_tag(&self, call: &Call<'_>, digest: &Digest) -> Result<Reply, Refusal> {
        let path = format!("manifests/{}", referrers_tag(digest));
        let relayed = self.ask_upstream(call, path).await?;
        let status = StatusCode::from_u16(relayed.status).unwrap_or(StatusCode::BAD_GATEWAY);
        if status == StatusCode::NOT_FOUND {
            let body = if call.is_head() { "" } else { NO_REFERRERS };
            let mut response = Response::new(Body::from(body));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(INDEX));
            headers.insert(
                header::CONTENT_LENGTH,
                HeaderValue::from(NO_REFERRERS.len()),
            );
            return Ok(Reply {
                response,
                source: None,
            });
        }
        if !call.passes(status) {
            return Err(call.unavailable("the registry cannot answer now"));
        }
        Ok(call.reply(status, relayed))
    }
}

/// What upstream learns of the client's own headers. All `Accept` lines become one: registries
/// that look at the first only would answer with the wrong kind of manifest.
fn carried(client: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let accepted: Vec<_> = client
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .collect();
    if !accepted.is_empty()
        && let Ok(value) = HeaderValue::try_from(accepted.join(", "))
    {
        headers.insert(header::ACCEPT, value);
    }
    for name in [header::AUTHORIZATION, header::RANGE] {
        if let Some(value) = client.get(&name) {
            let mut value = value.clone();
            value.set_sensitive(name == header::AUTHORIZATION);
            headers.insert(name, value);
        }
    }
    headers
}

fn referrers_tag(digest: &Digest) -> String {
    let hex = digest.hex();
    format!(
        "{}-{}",
        digest.algorithm(),
        &hex[..hex.len().min(REFERRERS_HEX)]
    )
}

impl super::request::Object {
    /// Its path within its repository.
    fn path(&self) -> String {
        match self {
            Self::Manifest(reference) => format!("manifests/{reference}"),
            Self::Blob(digest) => format!("blobs/{digest}"),
            Self::Tags => "tags/list".to_owned(),
            Self::Referrers(digest) => format!("referrers/{digest}"),
        }
    }
}

impl Call<'_> {
    fn is_list(&self) -> bool {
        use super::request::Object;
        matches!(self.question.object, Object::Tags | Object::Referrers(_))
    }

    fn is_blob(&self) -> bool {
        matches!(self.question.object, super::request::Object::Blob(_))
    }

    /// Whether an answer of upstream's with this status is good for the client. One that is not
    /// would keep it from going there itself.
    fn passes(&self, status: StatusCode) -> bool {
        if status.is_success() {
            return true;
        }
        let refused = [
            StatusCode::UNAUTHORIZED,
            StatusCode::FORBIDDEN,
            StatusCode::NOT_FOUND,
            StatusCode::RANGE_NOT_SATISFIABLE,
        ];
        if self.is_blob() {
            return refused.contains(&status);
        }
        status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS
    }

    fn reply(&self, status: StatusCode, relayed: Relayed) -> Reply {
        let mut headers = HeaderMap::new();
        for name in PASSED_ON {
            for value in relayed.headers.get_all(&name) {
                headers.append(name.clone(), value.clone());
            }
        }
        let next = relayed
            .headers
            .get_all(header::LINK)
            .iter()
            .find_map(|value| {
                let namespace = self.question.namespace.as_deref();
                link::rewrite(value.to_str().ok()?, self.path, namespace)
            });
        if let Some(value) = next.and_then(|next| HeaderValue::try_from(next).ok()) {
            headers.insert(header::LINK, value);
        }
        let chunks = relayed.body.map(|chunk| chunk.map_err(io::Error::other));
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        if !self.is_head() {
            match self.part_of_whole(&response) {
                Some((part, size)) => {
                    let length = part.end - part.start;
                    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                    let headers = response.headers_mut();
                    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
                    let range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
                    super::serve::insert(headers, header::CONTENT_RANGE, range);
                    *response.body_mut() = Body::from_stream(through::cut(chunks, 0, part));
                }
                None => *response.body_mut() = Body::from_stream(chunks),
            }
        }
        let content = status.is_success() && !self.is_list();
        Reply {
            response,
            source: content.then_some(ServedFrom::Upstream),
        }
    }

    /// The range that was asked for of a blob that upstream sends whole: podman fails when it gets
    /// the whole.
    fn part_of_whole(&self, response: &Response<Body>) -> Option<(std::ops::Range<u64>, u64)> {
        if !self.is_blob() || response.status() != StatusCode::OK {
            return None;
        }
        let length = response.headers().get(header::CONTENT_LENGTH)?;
        let size = length.to_str().ok()?.parse().ok()?;
        match wanted(self.headers, size, "") {
            Wanted::Part(part) => Some((part, size)),
            Wanted::Whole | Wanted::Outside => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_lines_are_merged_and_only_what_upstream_needs_is_carried() {
        let mut client = HeaderMap::new();
        client.append(header::ACCEPT, HeaderValue::from_static("a/b"));
        client.append(header::ACCEPT, HeaderValue::from_static("c/d, */*"));
        client.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer t"));
        client.append(header::COOKIE, HeaderValue::from_static("a=b"));
        client.append(header::HOST, HeaderValue::from_static("127.0.0.1"));
        let carried = carried(&client);
        assert_eq!(carried[header::ACCEPT], "a/b, c/d, */*");
        assert_eq!(carried[header::AUTHORIZATION], "Bearer t");
        assert!(carried[header::AUTHORIZATION].is_sensitive());
        assert_eq!(carried.len(), 2);
    }

    #[test]
    fn the_referrers_tag_is_cut_to_the_specification_s_length() {
        let digest: Digest = format!("sha512:{}", "ab".repeat(64)).parse().unwrap();
        assert_eq!(
            referrers_tag(&digest),
            format!("sha512-{}", "ab".repeat(32))
        );
    }
}
