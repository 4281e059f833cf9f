//! Requests that are passed on to a host, and what of the headers on both sides is about one
//! connection alone.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, Response, StatusCode, header};
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::time::timeout_at;

use super::metrics::Outcome;
use super::{Asked, FileFront, Refusal};

/// About one connection (RFC 9110, section 7.6.1), or for this node alone.
const OF_A_CONNECTION: [HeaderName; 8] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
];
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// What begins so is said to this node.
const OURS: &str = "darner-";

impl FileFront {
    /// Lets the host answer the request itself.
    pub(super) async fn pass(
        &self,
        asked: &Asked<'_>,
        body: Option<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let headers = end_to_end(asked.headers);
        let has_body = body.is_some();
        let body = body.map(|body| {
            let chunks = body.into_data_stream();
            chunks.map_err(std::io::Error::other).boxed()
        });
        let passed = self
            .hosts()
            .pass(asked.method.clone(), asked.url, headers, body);
        // How long a client takes to send its body is its own business.
        let passed = match has_body {
            true => Ok(passed.await),
            false => timeout_at(asked.deadline, passed).await,
        };
        let answer = match passed {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(Refusal::new(StatusCode::BAD_GATEWAY, error.to_string())),
            Err(_) => {
                let message = "its host does not answer in time";
                return Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, message));
            }
        };
        self.metrics.answered(Outcome::Straight);
        let mut response = Response::new(Body::from_stream(answer.body));
        *response.status_mut() = answer.status;
        *response.headers_mut() = end_to_end(&answer.headers);
        Ok(response)
    }
}

/// Headers that go on beyond this node.
pub(super) fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<_> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let goes_on = |name: &HeaderName| {
        !OF_A_CONNECTION.contains(name)
            && *name != KEEP_ALIVE
            && *name != PROXY_CONNECTION
            && !name.as_str().starts_with(OURS)
            && !named.iter().any(|other| other == name.as_str())
    };
    headers
        .iter()
        .filter(|(name, _)| goes_on(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Whether the client has the very version that `told` is about (RFC 9110, section 13.1).
pub(super) fn is_known(asked: &HeaderMap, told: &HeaderMap) -> bool {
    let text = |headers: &HeaderMap, name: HeaderName| {
        let value = headers.get(name)?.to_str().ok()?;
        Some(value.to_owned())
    };
    if let Some(tags) = text(asked, header::IF_NONE_MATCH) {
        let Some(tag) = text(told, header::ETAG) else {
            return false;
        };
        let bare = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
        return tags
            .split(',')
            .any(|one| one.trim() == "*" || bare(one) == bare(&tag));
    }
    let date = |headers: &HeaderMap, name| {
        let text = text(headers, name)?;
        httpdate::parse_http_date(&text).ok()
    };
    match (
        date(asked, header::IF_MODIFIED_SINCE),
        date(told, header::LAST_MODIFIED),
    ) {
        (Some(since), Some(modified)) => modified <= since,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn what_is_about_a_connection_stays_behind() {
        let given = headers(&[
            ("host", "a"),
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("proxy-authorization", "Basic x"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("darner-url", "x"),
            ("authorization", "Bearer y"),
            ("accept", "*/*"),
        ]);
        let mut left: Vec<_> = end_to_end(&given)
            .keys()
            .map(|name| name.as_str().to_owned())
            .collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "authorization"]);
    }

    #[test]
    fn a_client_that_has_the_version_is_told_so() {
        const OLD: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
        const NEW: &str = "Mon, 07 Nov 1994 08:49:37 GMT";
        let told = headers(&[("etag", "\"a\""), ("last-modified", OLD)]);
        for (asked, known) in [
            (&[("if-none-match", "\"b\", W/\"a\"")][..], true),
            (&[("if-none-match", "*")], true),
            (
                &[("if-none-match", "\"b\""), ("if-modified-since", NEW)],
                false,
            ),
            (&[("if-modified-since", OLD)], true),
            (&[("if-modified-since", NEW)], true),
            (
                &[("if-modified-since", "Sat, 05 Nov 1994 08:49:37 GMT")],
                false,
            ),
            (&[("if-modified-since", "yesterday")], false),
            (&[], false),
        ] {
            assert_eq!(is_known(&headers(asked), &told), known, "{asked:?}");
        }
    }
}
