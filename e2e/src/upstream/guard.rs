//! Who may read: nothing asked, a password, or a token that the same host gives out.

use std::net::SocketAddr;

use axum::body::Body;
use http::{HeaderValue, Request, Response, StatusCode, header};

/// What a request has to show.
#[derive(Debug, Clone, Default)]
pub enum Guard {
    /// Nothing.
    #[default]
    Open,
    /// This `Authorization` header, and the challenge is `Basic`.
    Basic(String),
    /// A token from this host's `/token`, which gives it to whoever shows this `Authorization`
    /// header, or when it is `None`, to anybody.
    Bearer(Option<String>),
    /// For a repository of the first name, the second as a token; nothing gives it out here.
    Tokens(Vec<(String, String)>),
}

/// The one token there is.
pub const TOKEN: &str = "token-that-no-log-may-show";

impl Guard {
    /// The answer to a request that the registry is not to see.
    pub(super) fn answer<B>(&self, request: &Request<B>, me: SocketAddr) -> Option<Response<Body>> {
        let shown = request.headers().get(header::AUTHORIZATION);
        let shown = shown.and_then(|value| value.to_str().ok());
        match self {
            Self::Open => None,
            Self::Basic(wanted) if shown == Some(wanted) => None,
            Self::Basic(_) => Some(challenge("Basic realm=\"upstream\"".to_owned())),
            Self::Bearer(wanted) if request.uri().path() == "/token" => {
                let granted = wanted.is_none() || shown == wanted.as_deref();
                Some(token(granted))
            }
            Self::Bearer(_) if shown == Some(&format!("Bearer {TOKEN}")) => None,
            Self::Tokens(tokens) if opens(tokens, request.uri().path(), shown) => None,
            Self::Bearer(_) | Self::Tokens(_) => Some(challenge(format!(
                "Bearer realm=\"http://{me}/token\",service=\"upstream\",scope=\"{}\"",
                scope(request.uri().path())
            ))),
        }
    }
}

fn opens(tokens: &[(String, String)], path: &str, shown: Option<&str>) -> bool {
    let token = shown.and_then(|shown| shown.strip_prefix("Bearer "));
    tokens.iter().any(|(repository, wanted)| {
        path.starts_with(&format!("/v2/{repository}/")) && token == Some(wanted)
    })
}

fn scope(path: &str) -> String {
    let name = path.trim_start_matches("/v2/");
    let end = name.find("/manifests/").or_else(|| name.find("/blobs/"));
    format!("repository:{}:pull", &name[..end.unwrap_or(name.len())])
}

fn challenge(challenge: String) -> Response<Body> {
    let mut response = Response::new(Body::from(super::fault::error_body(401)));
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    if let Ok(value) = HeaderValue::try_from(challenge) {
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, value);
    }
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn token(granted: bool) -> Response<Body> {
    if !granted {
        let mut response = Response::new(Body::from(super::fault::error_body(401)));
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        return response;
    }
    let body = format!(r#"{{"token":"{TOKEN}","expires_in":300}}"#);
    let mut response = Response::new(Body::from(body));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
