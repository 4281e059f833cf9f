//! What programs of ours on this machine ask, beside the registry's own paths:
//!
//! ```text
//! GET|HEAD /file            what is at the URL in Darner-Url, whose digest Darner-Digest may tell
//! GET|HEAD /file/<digest>   what is known by the digest
//! PUT      /file/<digest>   keeps what is sent, which must have it; for the seconds in Darner-Ttl, and
//!                           on as many other nodes as Darner-Replicas says
//! ```
//! The URL stands in a header: no page in a browser can set one for another site, and no log of
//! paths gets to see a signed URL.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, Response, StatusCode, header};
use darner_proto::digest::Digest;
use darner_service::settings::RouteTo;
use hyper::body::Incoming;
use tokio::time::Instant;
use url::Url;

use super::held::{ByDigest, Keeping};
use super::replicas::MAX_REPLICAS;
use super::{Asked, FileFront, Refusal};
use crate::listen::Outlet;
use crate::pieces::hold::MAX_SECONDS;

/// Where the paths of this begin.
const PATH: &str = "/file";
/// The URL of a file, whole.
pub const URL: &str = "darner-url";
/// The digest that it must have.
pub const DIGEST: &str = "darner-digest";

/// Seconds for which what is put is kept.
pub const TTL: &str = "darner-ttl";
/// Other nodes that are to hold what is put.
pub const REPLICAS: &str = "darner-replicas";

/// Whether a path is one of these.
pub(crate) fn is_ours(path: &str) -> bool {
    let rest = path.strip_prefix(PATH);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl FileFront {
    /// Answers one of the paths above.
    pub(crate) async fn local(
        &self,
        request: Request<Incoming>,
        deadline: Instant,
        outlet: &Outlet,
    ) -> Response<Body> {
        let answered = self.answered_locally(request, deadline, outlet).await;
        answered.unwrap_or_else(Refusal::into_response)
    }

    async fn answered_locally(
        &self,
        request: Request<Incoming>,
        deadline: Instant,
        outlet: &Outlet,
    ) -> Result<Response<Body>, Refusal> {
        let (parts, body) = request.into_parts();
        let named = parts.uri.path().strip_prefix("/file/");
        let reads = matches!(parts.method, Method::GET | Method::HEAD);
        match (named, &parts.method) {
            (None, _) if reads => {
                let url = url(&parts.headers)?;
                let asked = Asked {
                    method: &parts.method,
                    url: &url,
                    headers: &parts.headers,
                    digest: digest_in(&parts.headers)?,
                    deadline,
                };
                Ok(self.answer(&asked, RouteTo::Swarm, None, outlet).await)
            }
            (Some(named), _) if reads => {
                let asked = ByDigest {
                    digest: digest(named)?,
                    method: &parts.method,
                    headers: &parts.headers,
                    deadline,
                };
                self.held(&asked, outlet).await
            }
            (Some(named), &Method::PUT) => {
                let file = (digest(named)?, length(&parts.headers)?);
                let keeping = keeping(&parts.headers)?;
                self.put(file, keeping, Body::new(body)).await
            }
            _ => {
                let message = "files are read with GET and HEAD, and put by their digest";
                Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message))
            }
        }
    }
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, message)
}

fn url(headers: &HeaderMap) -> Result<Url, Refusal> {
    let text = headers.get(URL).and_then(|value| value.to_str().ok());
    let text = text.ok_or_else(|| bad(format!("the header {URL} tells no URL")))?;
    Url::parse(text).map_err(|error| bad(format!("the header {URL} tells no URL: {error}")))
}

fn digest(text: &str) -> Result<Digest, Refusal> {
    let text = text.replace("%3A", ":");
    text.parse().map_err(|invalid| bad(format!("{invalid}")))
}

fn digest_in(headers: &HeaderMap) -> Result<Option<Digest>, Refusal> {
    let Some(value) = headers.get(DIGEST) else {
        return Ok(None);
    };
    let text = value.to_str();
    let text = text.map_err(|_| bad(format!("the header {DIGEST} is no digest")))?;
    digest(text).map(Some)
}

fn keeping(headers: &HeaderMap) -> Result<Keeping, Refusal> {
    let number = |name: &str, most: u64| match headers.get(name) {
        None => Ok(None),
        Some(value) => {
            let number = value.to_str().ok().and_then(|text| text.parse().ok());
            let number = number.filter(|number| (1..=most).contains(number));
            let message = format!("the header {name} is not a number from 1 to {most}");
            number.map(Some).ok_or_else(|| bad(message))
        }
    };
    let replicas = number(REPLICAS, MAX_REPLICAS as u64)?.unwrap_or(0);
    Ok(Keeping {
        term: number(TTL, MAX_SECONDS)?.map(Duration::from_secs),
        replicas: usize::try_from(replicas).unwrap_or(MAX_REPLICAS),
    })
}

fn length(headers: &HeaderMap) -> Result<u64, Refusal> {
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
    length.ok_or_else(|| {
        let message = "Content-Length must tell the size of the file";
        Refusal::new(StatusCode::LENGTH_REQUIRED, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_names_are_ours() {
        assert!(is_ours("/file") && is_ours("/file/") && is_ours("/file/sha256:x"));
        assert!(!is_ours("/files") && !is_ours("/v2/file") && !is_ours("/"));
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let mut headers = HeaderMap::new();
        assert!(url(&headers).is_err() && length(&headers).is_err());
        headers.insert(URL, "not a url".parse().unwrap());
        headers.insert(DIGEST, "file:00".parse().unwrap());
        headers.insert(header::CONTENT_LENGTH, "-1".parse().unwrap());
        assert!(url(&headers).is_err() && length(&headers).is_err());
        assert!(digest_in(&headers).is_err());
        assert_eq!(keeping(&headers).ok(), Some(Keeping::default()));
        for (name, text) in [(TTL, "0"), (TTL, "1d"), (REPLICAS, "65"), (REPLICAS, "-1")] {
            let wrong = HeaderMap::from_iter([(name.parse().unwrap(), text.parse().unwrap())]);
            assert!(keeping(&wrong).is_err(), "{name}: {text}");
        }
        let key = format!("file:{}", "0".repeat(64));
        assert!(digest(&key).is_err());
    }
}
