//! What a request carries, parsed; what cannot be is a problem document. And versions of what is
//! changed, as ETags.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use url::form_urlencoded;

use super::problem::Problem;

/// A JSON body.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

/// The query of a URL.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        // An object, by name: a list would otherwise be taken for its fields in order.
        let read = axum::Json::<Map<String, Value>>::from_request(request, state).await;
        let refused = |refused: JsonRejection| {
            let status = match refused.status() {
                // What is well-formed and means nothing is as wrong as what is not.
                StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
                other => other,
            };
            Problem::new(status, refused.body_text())
        };
        let axum::Json(fields) = read.map_err(refused)?;
        let parsed = serde_json::from_value(Value::Object(fields));
        parsed
            .map(Self)
            .map_err(|error| Problem::bad_request(error.to_string()))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        // No text in PostgreSQL has one, so nothing is found by it either.
        let with_nul =
            form_urlencoded::parse(query.as_bytes()).find(|(_, value)| value.contains('\0'));
        if let Some((name, _)) = with_nul {
            return Err(Problem::bad_request(format!("{name}: has a NUL in it")));
        }
        let read = axum::extract::Query::from_request_parts(parts, state).await;
        let refused = |refused: QueryRejection| Problem::bad_request(refused.body_text());
        read.map(|axum::extract::Query(read)| Self(read))
            .map_err(refused)
    }
}

/// An answer with the version of what it shows.
pub(crate) fn versioned(status: StatusCode, body: impl Serialize, version: i64) -> Response {
    let mut response = (status, axum::Json(body)).into_response();
    if let Ok(tag) = HeaderValue::try_from(format!("\"{version}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// The version a change is meant for, which has to be said; none for any (`*`).
pub(crate) fn expected_version(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    if !headers.contains_key(header::IF_MATCH) {
        let why = "If-Match: is missing; give the ETag of what is to be changed, or *";
        return Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, why));
    }
    Ok(given_version(headers))
}

/// The version a change is meant for, if that is said.
pub(crate) fn given_version(headers: &HeaderMap) -> Option<i64> {
    let given = headers.get(header::IF_MATCH)?;
    if given == "*" {
        return None;
    }
    let version = given.to_str().ok().and_then(|text| {
        let version = text.strip_prefix('"')?.strip_suffix('"')?;
        version.parse().ok()
    });
    // An ETag of something else: not of this, in any case.
    Some(version.unwrap_or(-1))
}

/// When the version was another.
pub(crate) fn stale() -> Problem {
    let why = "it was changed meanwhile; look at it again";
    Problem::new(StatusCode::PRECONDITION_FAILED, why)
}
