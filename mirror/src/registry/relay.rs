//! Requests that upstream answers, on the caller's own credentials and without a trace here: what
//! is not public, and lists that are never kept.
//!
//! A refusal is passed on with upstream's challenge. Its body is passed on only in the form and with
//! the codes of the specification; anything else (a proxy's page, a code of somebody's own) becomes
//! a refusal of ours with the same status.

use std::io;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use darner_service::telemetry::with_causes;
use futures_util::StreamExt as _;
use tokio::time::timeout_at;

use super::metrics::Trouble;
use super::range::{Wanted, wanted};
use super::refusal::{Code, Refusal, is_of_specification, refusal_of};
use super::request::Object;
use super::serve::{CONTENT_DIGEST, Call, Front, Reply};
use super::{link, through};
use crate::access::is_basic;
use crate::access::proof::collected;
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
/// A refusal longer than this is not read.
const MAX_REFUSAL: usize = 64 << 10;

/// What upstream is asked on a caller's behalf.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) method: Method,
    /// Within the repository.
    pub(super) path: String,
    pub(super) query: Option<String>,
    /// In place of the caller's own `Accept`.
    pub(super) accept: Option<HeaderValue>,
}

impl Front {
    /// Lets upstream answer.
    pub(super) async fn relay(&self, call: &Call<'_>) -> Result<Reply, Refusal> {
        let object = &call.question.object;
        match object {
            Object::Referrers(digest) => return self.referrers(call, digest).await,
            Object::Tags => return self.tags(call).await,
            Object::Manifest(_) | Object::Blob(_) => {}
        }
        let errand = Errand {
            method: call.method.clone(),
            path: object.to_string(),
            query: None,
            accept: None,
        };
        let relayed = self.ask_upstream(call, errand).await?;
        self.pass(call, relayed).await
    }

    /// Upstream's answer as the client gets it.
    pub(super) async fn pass(&self, call: &Call<'_>, relayed: Relayed) -> Result<Reply, Refusal> {
        let status = relayed.status();
        if !call.passes(status) {
            self.metrics.trouble(Trouble::Relay);
            return Err(call.unavailable("the registry cannot answer now"));
        }
        if status.is_success() {
            return Ok(call.reply(status, relayed));
        }
        Ok(call.refusal(status, relayed, self.confined()).await)
    }

    /// What upstream is shown of the caller.
    pub(super) async fn shown(&self, call: &Call<'_>) -> HeaderMap {
        let mut headers = carried(call.headers);
        if let Some(logins) = &self.logins {
            let source = &call.question.source;
            logins.exchange(source, &mut headers, call.deadline).await;
        }
        headers
    }

    pub(super) async fn ask_upstream(
        &self,
        call: &Call<'_>,
        errand: Errand,
    ) -> Result<Relayed, Refusal> {
        let source = &call.question.source;
        let upstream = self
            .upstreams
            .get(&source.registry)
            .ok_or_else(|| call.unavailable("its registry is not configured"))?;
        let mut headers = self.shown(call).await;
        if !call.is_blob() {
            headers.remove(header::RANGE);
        }
        if let Some(accept) = errand.accept {
            headers.insert(header::ACCEPT, accept);
        }
        let request = Relay {
            method: errand.method,
            path: format!("{}/{}", source.repository, errand.path),
            query: errand.query,
            headers,
        };
        match timeout_at(call.deadline, upstream.relay(request)).await {
            Ok(Ok(relayed)) => Ok(relayed),
            Ok(Err(error)) => {
                tracing::warn!(%source, error = %with_causes(&error), "upstream cannot be asked on a caller's behalf");
                self.metrics.trouble(Trouble::Relay);
                Err(call.unavailable("the registry cannot be reached"))
            }
            Err(_) => {
                self.metrics.trouble(Trouble::Relay);
                Err(call.unavailable("the registry does not answer in time"))
            }
        }
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

impl Relayed {
    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_GATEWAY)
    }
}

impl Call<'_> {
    fn is_list(&self) -> bool {
        matches!(self.question.object, Object::Tags | Object::Referrers(_))
    }

    fn is_blob(&self) -> bool {
        matches!(self.question.object, Object::Blob(_))
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

    /// Upstream's refusal, with its challenge, and with its words where they are the
    /// specification's.
    async fn refusal(&self, status: StatusCode, relayed: Relayed, confined: bool) -> Reply {
        let kept: Vec<_> = [header::WWW_AUTHENTICATE, header::CONTENT_RANGE]
            .into_iter()
            .flat_map(|name| {
                let values = relayed.headers.get_all(&name).iter().cloned();
                // Nobody is asked for a password where others can listen.
                let values = values.filter(move |value| confined || !is_basic(value));
                values
                    .map(move |value| (name.clone(), value))
                    .collect::<Vec<_>>()
            })
            .collect();
        let told = match self.is_head() {
            true => None,
            false => collected(relayed, MAX_REFUSAL, self.deadline).await,
        };
        let mut reply = match told.filter(|body| is_of_specification(body)) {
            Some(body) => refusal_of(status, body),
            None => self.plain_refusal(status).into_response(),
        };
        reply.headers_mut().extend(kept);
        Reply {
            response: reply,
            source: None,
        }
    }

    /// What is said where upstream says nothing of use.
    fn plain_refusal(&self, status: StatusCode) -> Refusal {
        let (code, message) = match (status, &self.question.object) {
            (StatusCode::UNAUTHORIZED, _) => (Code::Unauthorized, "authentication is required"),
            (StatusCode::FORBIDDEN, _) => (Code::Denied, "the registry denies access"),
            (StatusCode::RANGE_NOT_SATISFIABLE, _) => (Code::SizeInvalid, "there is no such range"),
            (StatusCode::NOT_FOUND, _) => return self.not_found(),
            _ => (Code::Unsupported, "the registry refuses this request"),
        };
        Refusal::new(status, code, message)
    }

    /// Upstream's headers that a client needs, with the link to the next page led to this mirror.
    pub(super) fn passed_headers(&self, relayed: &Relayed) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for name in PASSED_ON {
            for value in relayed.headers.get_all(&name) {
                headers.append(name.clone(), value.clone());
            }
        }
        let links = relayed.headers.get_all(header::LINK);
        let next = links.iter().find_map(|value| {
            let namespace = self.question.namespace.as_deref();
            link::rewrite(value.to_str().ok()?, self.path, namespace)
        });
        if let Some(value) = next.and_then(|next| HeaderValue::try_from(next).ok()) {
            headers.insert(header::LINK, value);
        }
        headers
    }

    fn reply(&self, status: StatusCode, relayed: Relayed) -> Reply {
        let headers = self.passed_headers(&relayed);
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
    fn only_errors_of_the_specification_are_its_words() {
        let error = |code: &str| format!(r#"{{"errors":[{{"code":"{code}","message":"m"}}]}}"#);
        for code in ["MANIFEST_UNKNOWN", "DENIED", "UNAUTHORIZED"] {
            assert!(is_of_specification(error(code).as_bytes()), "{code}");
        }
        for body in [
            "",
            "<html>",
            "{}",
            r#"{"errors":[]}"#,
            r#"{"errors":[{"message":"m"}]}"#,
            &error("TOOMANYREQUESTS"),
            &error("PAYMENT_REQUIRED"),
        ] {
            assert!(!is_of_specification(body.as_bytes()), "{body}");
        }
    }
}
