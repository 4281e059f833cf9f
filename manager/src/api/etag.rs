//! What has not changed need not be sent again: every answer to a `GET` has an `ETag`, and who shows it
//! (`If-None-Match`, RFC 9110, section 13.1.2) is told 304 while the answer would be the same.
//!
//! What people change has a version, which is its `ETag` ([`super::body::versioned`]); of anything else it is
//! made of the answer's bytes.

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest as _, Sha256};

use crate::random::hex;

/// So many bytes of the hash tell one answer from another.
const ENOUGH: usize = 16;

/// For answers that are whole: a stream of events has no version.
pub(crate) async fn conditional(request: Request, next: Next) -> Response {
    let asked = request.headers().clone();
    let reads = request.method() == Method::GET;
    let response = next.run(request).await;
    if reads && response.status() == StatusCode::OK && is_whole(response.headers()) {
        return tagged(&asked, response).await;
    }
    response
}

fn is_whole(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind == "application/json")
}

async fn tagged(asked: &HeaderMap, response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    // It is in memory already, and was bounded when it was made.
    let Ok(bytes) = to_bytes(body, usize::MAX).await else {
        return Response::from_parts(parts, Body::empty());
    };
    let tag = parts.headers.entry(header::ETAG);
    let tag = tag.or_insert_with(|| of(&bytes)).clone();
    if !is_known(asked, &tag) {
        return Response::from_parts(parts, Body::from(bytes));
    }
    parts.status = StatusCode::NOT_MODIFIED;
    parts.headers.remove(header::CONTENT_TYPE);
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::empty())
}

fn of(bytes: &[u8]) -> HeaderValue {
    let hash = Sha256::digest(bytes);
    let tag = format!("\"{}\"", hex(&hash[..ENOUGH]));
    HeaderValue::try_from(tag).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Whether the caller has shown the tag: weak or not, among others or not.
fn is_known(asked: &HeaderMap, tag: &HeaderValue) -> bool {
    let shown = asked.get_all(header::IF_NONE_MATCH).iter();
    let shown = shown.filter_map(|value| value.to_str().ok());
    let mut shown = shown.flat_map(|text| text.split(',').map(str::trim));
    shown.any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one).as_bytes() == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_known_however_it_is_shown() {
        let tag = of(b"{}");
        let text = tag.to_str().unwrap();
        let known = |shown: &[String]| {
            let shown = shown.iter().map(|one| {
                let value = HeaderValue::try_from(one.as_str()).unwrap();
                (header::IF_NONE_MATCH, value)
            });
            is_known(&shown.collect(), &tag)
        };
        assert!(known(&[text.to_owned()]));
        assert!(known(&[format!("\"a\", W/{text}")]));
        assert!(known(&["\"a\"".to_owned(), text.to_owned()]));
        assert!(known(&["*".to_owned()]));
        assert!(!known(&[]));
        assert!(!known(&["\"a\"".to_owned()]));
        assert_ne!(of(b"{}"), of(b"[]"));
    }
}
