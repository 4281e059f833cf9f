//! What went wrong with a request, as `application/problem+json` (RFC 9457).

use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use darner_service::telemetry::with_causes;
use serde::Serialize;
use utoipa::ToSchema;

use crate::database::DatabaseError;
use crate::users::password::PasswordError;

/// A database that is away is worth trying again this soon.
const RETRY_AFTER: &str = "5";

/// A refusal. Its type is `about:blank`: the status says what it is.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
    retry_after: Option<String>,
}

/// What went wrong (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Document<'a> {
    /// `about:blank`
    r#type: &'static str,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What is wrong with this request, and what to do about it.
    detail: &'a str,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            retry_after: None,
        }
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("nothing is at {what}"))
    }

    pub(crate) fn method_not_allowed(method: &Method) -> Self {
        let why = format!("{method} is not possible here");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, why)
    }

    pub(crate) fn unauthorized() -> Self {
        let why = "log in, or show a token: Authorization: Bearer …";
        Self::new(StatusCode::UNAUTHORIZED, why)
    }

    pub(crate) fn forbidden(why: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, why)
    }

    pub(crate) fn conflict(why: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, why)
    }

    pub(crate) fn unavailable(why: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, why).retry_after(RETRY_AFTER)
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// What is wrong, and what to do about it.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// Seconds after which it is worth trying again.
    pub(crate) fn wait(&self) -> Option<&str> {
        self.retry_after.as_deref()
    }

    pub(crate) fn retry_after(mut self, seconds: impl Into<String>) -> Self {
        self.retry_after = Some(seconds.into());
        self
    }
}

impl From<DatabaseError> for Problem {
    fn from(error: DatabaseError) -> Self {
        tracing::warn!(
            error = with_causes(&error),
            "a request fails for want of the database"
        );
        Self::unavailable("the manager's database cannot be used at the moment; pulls go on")
    }
}

impl From<PasswordError> for Problem {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Length => Self::bad_request(error.to_string()),
            PasswordError::Hash(_) => {
                tracing::error!(%error, "a password is not hashed");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the password cannot be hashed",
                )
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = Document {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            detail: &self.detail,
        };
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = match serde_json::to_vec(&document) {
            Ok(body) => (self.status, kind, body).into_response(),
            Err(_) => self.status.into_response(),
        };
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"darner\"");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        let retry = self.retry_after.map(HeaderValue::try_from);
        if let Some(Ok(retry)) = retry {
            headers.insert(header::RETRY_AFTER, retry);
        }
        response
    }
}
