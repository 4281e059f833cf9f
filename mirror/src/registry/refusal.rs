//! Answers other than content, in the form of the OCI distribution specification.

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::json;

/// The error codes of the specification that a mirror has use for. `TOOMANYREQUESTS` is left out:
/// containerd repeats such a request at once, podman for half a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    BlobUnknown,
    Denied,
    DigestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    Unauthorized,
    Unsupported,
}

/// What an upstream may say to a client of ours: every code of the specification but the one that
/// makes clients hammer.
const SPECIFIED: [&str; 13] = [
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
];

impl Code {
    fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::Denied => "DENIED",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Unsupported => "UNSUPPORTED",
        }
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: Code,
    pub(super) message: String,
    /// For a range outside of the content: the content's size.
    pub(super) size: Option<u64>,
    /// Nothing more is read from this connection.
    pub(super) close: bool,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            size: None,
            close: false,
        }
    }

    /// A blob that cannot be served now is not there: Docker repeats 5xx for a minute, while on
    /// 404 every client that has another source turns to it at once.
    pub(super) fn no_blob(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, Code::BlobUnknown, message)
    }

    pub(super) fn no_manifest(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, Code::ManifestUnknown, message)
    }

    /// Every client takes a 503 for anything but a blob as a reason to ask upstream.
    pub(super) fn unavailable(code: Code, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
    }

    pub(super) fn outside(size: u64) -> Self {
        Self {
            size: Some(size),
            ..Self::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                Code::SizeInvalid,
                format!("the range lies outside of the content's {size} bytes"),
            )
        }
    }

    pub(super) fn and_close(self) -> Self {
        Self {
            close: true,
            ..self
        }
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let error = json!({"code": self.code.as_str(), "message": self.message, "detail": null});
        let body = json!({"errors": [error]}).to_string();
        let mut response = refusal_of(self.status, body.into());
        let headers = response.headers_mut();
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        if let Some(size) = self.size
            && let Ok(value) = HeaderValue::try_from(format!("bytes */{size}"))
        {
            headers.insert(header::CONTENT_RANGE, value);
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// A refusal with this body, which is the specification's JSON.
pub(super) fn refusal_of(status: StatusCode, body: Bytes) -> Response<Body> {
    let length = body.len();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// Whether a body has the specification's form and codes.
pub(super) fn is_of_specification(body: &[u8]) -> bool {
    let Ok(told) = serde_json::from_slice::<Told>(body) else {
        return false;
    };
    let specified = |error: &ToldError| SPECIFIED.contains(&error.code.as_str());
    !told.errors.is_empty() && told.errors.iter().all(specified)
}

#[derive(Deserialize)]
struct Told {
    errors: Vec<ToldError>,
}

#[derive(Deserialize)]
struct ToldError {
    code: String,
}
