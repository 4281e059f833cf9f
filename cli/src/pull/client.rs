//! Requests to a mirror, as a container runtime makes them: the distribution API with `?ns=` naming
//! the registry. One request each; going on after a cut is [`super::blob`]'s business.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use darner_proto::digest::Digest;
use darner_proto::name::{Reference, Source};
use oci_distribution::errors::OciEnvelope;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, RANGE,
};
use reqwest::{Response, StatusCode, Url, redirect};

use super::error::{Detail, PullError};

/// A mirror is on this host or the next one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A mirror answers within ten seconds, and then bytes keep moving.
const SILENCE: Duration = Duration::from_secs(30);
/// The largest manifest or index, as registries have it.
pub(super) const MAX_MANIFEST: usize = 4 << 20;
/// More of a refusal's body is not read.
const MAX_REFUSAL: usize = 16 << 10;
/// More of a refusal's words is not shown.
const MAX_DETAIL: usize = 300;
/// Every form that an image can have.
pub(crate) const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// A mirror, asked about one repository.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    /// `…/v2/<repository>`, with `ns` as its query.
    base: Url,
    /// The mirror, for messages.
    via: String,
    source: Source,
}

/// A manifest or index whose bytes are those of its digest.
#[derive(Debug, Clone)]
pub(super) struct Manifest {
    pub(super) digest: Digest,
    pub(super) media_type: String,
    pub(super) bytes: Bytes,
}

/// The bytes of a blob from `at` on, as they come.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) response: Response,
    /// Where in the blob the first byte belongs: where it was asked for, or the beginning.
    pub(super) at: u64,
    /// `X-Darner-Source`, if that is a Darner.
    pub(super) source: Option<String>,
}

/// The URL of a mirror, from a command line.
pub(crate) fn parse_mirror(text: &str) -> Result<Box<Url>, String> {
    let example = "a mirror's URL is like http://127.0.0.1:7420";
    let url: Url = text
        .parse()
        .map_err(|error| format!("{error}; {example}"))?;
    let plain = url.query().is_none() && url.fragment().is_none();
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !plain {
        return Err(example.to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials in a URL end up in logs; a mirror needs none".to_owned());
    }
    Ok(Box::new(url))
}

impl Client {
    /// To ask the mirror at `via` about `source`. `ca`: the only authority to trust, PEM.
    pub(super) fn new(via: &Url, ca: Option<&str>, source: &Source) -> Result<Self, PullError> {
        let mut builder = reqwest::Client::builder();
        if let Some(ca) = ca {
            let ca = reqwest::Certificate::from_pem_bundle(ca.as_bytes());
            builder = builder.tls_certs_only(ca.map_err(PullError::Client)?);
        }
        let http = builder
            .user_agent(concat!("darner/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE)
            // A mirror never redirects, and is near enough to need no proxy.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(PullError::Client)?;
        let mut base = via.clone();
        let prefix = via.path().trim_end_matches('/');
        base.set_path(&format!("{prefix}/v2/{}", source.repository));
        base.query_pairs_mut()
            .append_pair("ns", source.registry.as_str());
        Ok(Self {
            http,
            base,
            via: via.as_str().trim_end_matches('/').to_owned(),
            source: source.clone(),
        })
    }

    /// A manifest by tag or digest.
    pub(super) async fn manifest(&self, reference: &Reference) -> Result<Manifest, PullError> {
        let what = self.manifest_name(reference);
        let request = self
            .http
            .get(self.url("manifests", reference))
            .header(ACCEPT, MANIFEST_TYPES);
        let response = self.send(&what, request).await?;
        let headers = response.headers().clone();
        let bytes = read_all(&what, response, MAX_MANIFEST).await?;
        let told = text(&headers, "docker-content-digest");
        let told = told.and_then(|text| text.parse::<Digest>().ok());
        let digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(_) => told.unwrap_or_else(|| Digest::sha256(&bytes)),
        };
        if !digest.matches(&bytes) {
            let found = found(&digest, &bytes);
            return Err(PullError::WrongBytes { what, found });
        }
        let media_type = text(&headers, CONTENT_TYPE.as_str()).unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        Ok(Manifest {
            digest,
            media_type: media_type.to_owned(),
            bytes,
        })
    }

    /// A blob of `size` bytes, from `at` on if the mirror takes ranges. What the answer says of the
    /// size is checked, not yet what it brings.
    pub(super) async fn blob(
        &self,
        digest: &Digest,
        at: u64,
        size: u64,
    ) -> Result<Body, PullError> {
        let what = blob_name(digest);
        let mut request = self
            .http
            .get(self.url("blobs", digest))
            .header(ACCEPT_ENCODING, "identity");
        if at > 0 {
            request = request.header(RANGE, format!("bytes={at}-"));
        }
        let response = self.send(&what, request).await?;
        let headers = response.headers();
        let at = match response.status() {
            StatusCode::PARTIAL_CONTENT => part(&what, headers, at, size)?,
            _ => 0,
        };
        let length = text(headers, CONTENT_LENGTH.as_str()).and_then(|text| text.parse().ok());
        if let Some(length) = length.filter(|length: &u64| *length != size - at) {
            return Err(PullError::WrongSize {
                what,
                expected: size,
                found: at.saturating_add(length),
            });
        }
        Ok(Body {
            source: text(headers, "x-darner-source").map(str::to_owned),
            response,
            at,
        })
    }

    /// A manifest, for messages.
    pub(super) fn manifest_name(&self, reference: &Reference) -> String {
        match reference {
            Reference::Tag(tag) => format!("{}:{tag}", self.source),
            Reference::Digest(digest) => format!("{}@{digest}", self.source),
        }
    }

    fn url(&self, kind: &str, name: &impl ToString) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{kind}/{}", self.base.path(), name.to_string()));
        url
    }

    async fn send(
        &self,
        what: &str,
        request: reqwest::RequestBuilder,
    ) -> Result<Response, PullError> {
        let sent = request.send().await.map_err(reqwest::Error::without_url);
        let response = match sent {
            Ok(response) => response,
            Err(source) if source.is_connect() => {
                let via = self.via.clone();
                return Err(PullError::Unreachable { via, source });
            }
            Err(source) => return Err(cut(what, Some(source))),
        };
        let status = response.status();
        if matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Ok(response);
        }
        let detail = detail(what, response).await;
        Err(PullError::refused(what.to_owned(), status, detail))
    }
}

/// A blob, for messages.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blob {digest}")
}

/// An answer that ended before its end.
pub(super) fn cut(what: &str, source: Option<reqwest::Error>) -> PullError {
    PullError::Cut {
        what: what.to_owned(),
        source: source.map(reqwest::Error::without_url),
    }
}

/// What the digest of `bytes` is, by the algorithm of the one expected.
fn found(expected: &Digest, bytes: &[u8]) -> Digest {
    let mut hasher = expected.hasher();
    hasher.update(bytes);
    hasher.finish()
}

/// Where a 206 begins, which has to be where it was asked to and go to the end.
fn part(what: &str, headers: &HeaderMap, at: u64, size: u64) -> Result<u64, PullError> {
    let range = text(headers, CONTENT_RANGE.as_str()).unwrap_or_default();
    let expected = format!("bytes {at}-{}/{size}", size - 1);
    if range == expected {
        return Ok(at);
    }
    Err(PullError::Nonsense {
        what: what.to_owned(),
        why: format!("its Content-Range is {range:?} where {expected:?} was asked for"),
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

async fn read_all(what: &str, mut response: Response, limit: usize) -> Result<Bytes, PullError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| cut(what, Some(error)))?
    {
        if body.len() + chunk.len() > limit {
            return Err(PullError::Nonsense {
                what: what.to_owned(),
                why: format!("it is larger than {limit} bytes"),
            });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// What a refusal says, made fit for a terminal.
async fn detail(what: &str, response: Response) -> Detail {
    let body = read_all(what, response, MAX_REFUSAL).await;
    let body = body.unwrap_or_default();
    let envelope = serde_json::from_slice::<OciEnvelope>(&body).ok();
    let message = envelope.and_then(|envelope| envelope.errors.into_iter().next());
    let message = message.map(|error| error.message);
    let shown = message.map(|message| {
        let shown = message.chars().filter(|letter| !letter.is_control());
        shown.take(MAX_DETAIL).collect::<String>()
    });
    Detail(shown.filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_name_the_registry_beside_the_path() {
        let source = Source {
            registry: "localhost:5000".parse().unwrap(),
            repository: "a/b".parse().unwrap(),
        };
        for (via, expected) in [
            (
                "http://127.0.0.1:7420",
                "http://127.0.0.1:7420/v2/a/b/blobs/x?ns=localhost%3A5000",
            ),
            (
                "https://m.example/pre/",
                "https://m.example/pre/v2/a/b/blobs/x?ns=localhost%3A5000",
            ),
        ] {
            let client = Client::new(&parse_mirror(via).unwrap(), None, &source).unwrap();
            assert_eq!(client.url("blobs", &"x").as_str(), expected);
        }
    }

    #[test]
    fn what_is_no_mirror_is_refused() {
        for text in [
            "",
            "127.0.0.1:7420",
            "ftp://x",
            "http://u:p@x",
            "http://x?a=b",
            "http://",
        ] {
            assert!(parse_mirror(text).is_err(), "{text:?}");
        }
    }
}
