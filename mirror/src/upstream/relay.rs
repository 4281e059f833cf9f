//! A client's own request, passed on to upstream in the client's own name, and what of the answer
//! is passed back.

use darner_proto::digest::Digest;
use darner_proto::invalid::Invalid;
use darner_proto::name::{Reference, RepositoryName};
use http::header::{
    ACCEPT, ACCEPT_RANGES, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, LINK,
    RANGE, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, Method};

use super::answer::{CONTENT_DIGEST, check_encoding};
use super::ask::{Ask, Asker, Identity};
use super::body::{Body, ByteStream};
use super::error::Fault;
use super::metrics::Kind;
use super::token::Challenge;

/// A client's request.
#[derive(Debug)]
pub struct Relay {
    /// GET or HEAD.
    pub method: Method,
    /// What follows `/v2/`: `<repository>/manifests/<reference>`, `<repository>/blobs/<digest>`,
    /// `<repository>/tags/list` or `<repository>/referrers/<digest>`.
    pub path: String,
    /// What follows `?`.
    pub query: Option<String>,
    /// Only `Accept`, `Authorization` and `Range` of these are passed on.
    pub headers: HeaderMap,
}

/// Upstream's answer to a client.
pub struct Relayed {
    /// Anything but 429 and 5xx, which are errors.
    pub status: u16,
    /// What a client needs of upstream's headers. A challenge is among them only if its token
    /// service is vetted. `Link` is as upstream wrote it.
    pub headers: HeaderMap,
    /// The body as it comes, whatever the status.
    pub body: ByteStream,
}

/// What of a client's headers goes to upstream.
const TO_UPSTREAM: [HeaderName; 2] = [ACCEPT, RANGE];
/// What of upstream's headers goes to a client.
const TO_CLIENT: [HeaderName; 8] = [
    CONTENT_TYPE,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    ACCEPT_RANGES,
    CONTENT_DIGEST,
    ETAG,
    LINK,
    HeaderName::from_static("oci-filters-applied"),
];

impl std::fmt::Debug for Relayed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relayed")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

/// An answer before its body has become a stream.
pub(super) struct Passed {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

/// Passes `request` on.
pub(super) async fn relay(asker: &Asker, request: Relay) -> Result<Passed, Fault> {
    let answer = asker.ask(&ask(asker, request)?).await?;
    check_encoding(&answer.headers)?;
    let mut headers = picked(&answer.headers, &TO_CLIENT);
    for challenge in answer.headers.get_all(WWW_AUTHENTICATE) {
        if Challenge::is_vetted(&asker.wire.origin, challenge) {
            headers.append(WWW_AUTHENTICATE, challenge.clone());
        } else {
            tracing::warn!(
                registry = asker.wire.counts.registry(),
                "a challenge is kept from a client: it names a token service that is not vetted for this registry"
            );
        }
    }
    Ok(Passed {
        status: answer.status.as_u16(),
        headers,
        body: answer.body,
    })
}

fn ask(asker: &Asker, request: Relay) -> Result<Ask, Fault> {
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(Invalid::new("method", "is neither GET nor HEAD").into());
    }
    let (repository, kind, rest) = parsed(&request.path)?;
    let repository = asker.wire.origin.repository(&repository);
    let mut shown = request.headers.get(AUTHORIZATION).cloned();
    if let Some(shown) = &mut shown {
        shown.set_sensitive(true);
    }
    Ok(Ask {
        method: request.method,
        url: asker
            .wire
            .origin
            .url(&repository, rest, request.query.as_deref()),
        headers: picked(&request.headers, &TO_UPSTREAM),
        kind,
        identity: Identity::Client(shown),
    })
}

/// The repository, what is asked of it, and the rest of the path.
fn parsed(path: &str) -> Result<(RepositoryName, Kind, &str), Invalid> {
    let bad = || Invalid::new("path", "is no request of the distribution specification");
    let (rest, last) = path.rsplit_once('/').ok_or_else(bad)?;
    let (repository, what) = rest.rsplit_once('/').ok_or_else(bad)?;
    let kind = match what {
        "manifests" => {
            last.parse::<Reference>()?;
            Kind::Manifest
        }
        "blobs" => {
            last.parse::<Digest>()?;
            Kind::Blob
        }
        "referrers" => {
            last.parse::<Digest>()?;
            Kind::List
        }
        "tags" if last == "list" => Kind::List,
        _ => return Err(bad()),
    };
    Ok((repository.parse()?, kind, &path[repository.len() + 1..]))
}

fn picked(from: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let mut picked = HeaderMap::new();
    for name in names {
        for value in from.get_all(name) {
            picked.append(name.clone(), value.clone());
        }
    }
    picked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_requests_of_the_specification_are_passed_on() {
        let digest = Digest::sha256(b"x");
        for (path, repository, kind, rest) in [
            (
                "a/manifests/latest".to_owned(),
                "a",
                Kind::Manifest,
                "manifests/latest".to_owned(),
            ),
            (
                format!("a/manifests/b/blobs/{digest}"),
                "a/manifests/b",
                Kind::Blob,
                format!("blobs/{digest}"),
            ),
            (
                "a/b/tags/list".to_owned(),
                "a/b",
                Kind::List,
                "tags/list".to_owned(),
            ),
            (
                format!("a/referrers/{digest}"),
                "a",
                Kind::List,
                format!("referrers/{digest}"),
            ),
        ] {
            let found = parsed(&path).unwrap();
            assert_eq!(
                (found.0.as_str(), found.1, found.2),
                (repository, kind, &*rest)
            );
        }
        for path in [
            "",
            "a",
            "manifests/latest",
            "/manifests/latest",
            "a/manifests/",
            "a/manifests/../../x",
            "a/manifests/latest?x",
            "a/blobs/latest",
            "a/tags/other",
            "a/blobs/uploads/",
            "A/manifests/latest",
            "a/../b/manifests/latest",
            "http://evil.example/manifests/latest",
        ] {
            assert!(parsed(path).is_err(), "{path}");
        }
    }
}
