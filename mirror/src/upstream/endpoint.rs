//! Requests to one place that a registry's content can be had from, and what its answers must be.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use darner_proto::digest::Digest;
use darner_proto::name::{Reference, RepositoryName};
use http::header::{ACCEPT, CONTENT_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::time::Instant;

use super::answer::{
    self, blob_range, check_encoding, content_digest, content_length, content_range,
};
use super::ask::{Answer, Ask, Asker};
use super::error::Fault;
use super::health::Health;
use super::metrics::Kind;
use super::{Access, MAX_MANIFEST, Manifest, ManifestHead};

/// Every form of a manifest that a client may want, so that upstream converts nothing.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     */*";

/// The registry itself, or a mirror of it.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) asker: Asker,
    health: Mutex<Health>,
}

impl Endpoint {
    pub(super) fn new(asker: Asker) -> Self {
        Self {
            asker,
            health: Mutex::default(),
        }
    }

    /// Whether it is worth a try.
    pub(super) fn is_up(&self) -> bool {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.is_up(Instant::now())
    }

    /// Notes what came of a request.
    pub(super) fn note(&self, failed: bool) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.note(Instant::now(), failed);
    }

    /// Notes that nobody waits any longer for what was asked then, unless something has come since.
    pub(super) fn given_up(&self, then: Instant) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if !health.has_answered_since(then) {
            health.note(Instant::now(), true);
        }
    }

    /// Notes what came of a request where any answer is a good sign.
    pub(super) fn heard<T>(&self, result: &Result<T, Fault>) {
        match result {
            Ok(_) => self.note(false),
            Err(Fault::Status(status)) if !status.is_server_error() => self.note(false),
            Err(fault) if fault.is_away() => self.note(true),
            Err(_) => {}
        }
    }

    pub(super) async fn head_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        access: Access,
    ) -> Result<ManifestHead, Fault> {
        let ask = self.ask_manifest(repository, reference, access).head();
        let headers = self.asker.ask(&ask).await?.headers;
        check_encoding(&headers)?;
        let told = content_digest(&headers);
        let digest = match reference {
            Reference::Digest(asked) => {
                if told.is_some_and(|told| differs(&told, asked)) {
                    return Err(Fault::Nonsense("a manifest of another digest"));
                }
                Some(*asked)
            }
            Reference::Tag(_) => told,
        };
        Ok(ManifestHead {
            digest,
            media_type: answer::media_type(&headers).unwrap_or_default(),
            size: content_length(&headers).filter(|size| *size > 0),
        })
    }

    pub(super) async fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        access: Access,
    ) -> Result<Manifest, Fault> {
        let ask = self.ask_manifest(repository, reference, access);
        let Answer { headers, body, .. } = self.asker.ask(&ask).await?;
        check_encoding(&headers)?;
        if content_length(&headers).is_some_and(|length| length > MAX_MANIFEST as u64) {
            return Err(Fault::Nonsense("a manifest larger than 4 MiB"));
        }
        let bytes = body.collect(MAX_MANIFEST).await?;
        let told = content_digest(&headers);
        let asked = match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(_) => None,
        };
        if ![asked, told]
            .iter()
            .flatten()
            .all(|digest| digest.matches(&bytes))
        {
            return Err(Fault::Nonsense("a manifest of another digest"));
        }
        Ok(Manifest {
            digest: asked.unwrap_or_else(|| Digest::sha256(&bytes)),
            media_type: answer::manifest_type(&headers, &bytes)?,
            bytes,
        })
    }

    fn ask_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        access: Access,
    ) -> Ask {
        let rest = format!("manifests/{reference}");
        let ask = self.ask(Kind::Manifest, repository, &rest, access);
        ask.with_header(ACCEPT, HeaderValue::from_static(MANIFEST_TYPES))
    }

    pub(super) async fn head_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        access: Access,
    ) -> Result<u64, Fault> {
        let rest = format!("blobs/{digest}");
        let ask = || self.ask(Kind::Blob, repository, &rest, access);
        match self.asker.ask(&ask().head()).await {
            Ok(answer) => {
                check_encoding(&answer.headers)?;
                if let Some(size) = content_length(&answer.headers) {
                    return Ok(size);
                }
            }
            // Storage whose signed URLs are good for GET alone, and servers without HEAD.
            Err(Fault::Storage(status)) if status != StatusCode::NOT_FOUND => {}
            Err(Fault::Status(StatusCode::METHOD_NOT_ALLOWED)) => {}
            Err(fault) => return Err(fault),
        }
        let first_byte = ask().with_header(RANGE, HeaderValue::from_static("bytes=0-0"));
        let answer = self.asker.ask(&first_byte).await?;
        check_encoding(&answer.headers)?;
        total(&answer).ok_or(Fault::Nonsense("a blob without a size"))
    }

    /// A request for `range` of a blob of `size` bytes, in our own name.
    pub(super) fn ask_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: &Range<u64>,
        size: u64,
    ) -> Result<Ask, Fault> {
        let rest = format!("blobs/{digest}");
        let ask = self.ask(Kind::Blob, repository, &rest, Access::Configured);
        match *range == (0..size) {
            true => Ok(ask),
            false => Ok(ask.with_header(RANGE, range_header(range, size)?)),
        }
    }

    /// What comes of [`Endpoint::ask_blob`].
    pub(super) async fn blob(
        &self,
        ask: &Ask,
        range: &Range<u64>,
        size: u64,
    ) -> Result<(bool, Range<u64>, Answer), Fault> {
        let answer = self.asker.ask(ask).await?;
        // A refusal of a caller is an answer too.
        if !answer.status.is_success() {
            return Err(Fault::Status(answer.status));
        }
        check_encoding(&answer.headers)?;
        let (ranged, range) = blob_range(answer.status, &answer.headers, range, size)?;
        Ok((ranged, range, answer))
    }

    fn ask(&self, kind: Kind, repository: &RepositoryName, rest: &str, access: Access) -> Ask {
        let origin = &self.asker.wire.origin;
        let repository = origin.repository(repository);
        Ask {
            method: Method::GET,
            url: origin.url(&repository, rest, None),
            headers: HeaderMap::new(),
            kind,
            identity: self.asker.own(&repository, access),
        }
    }
}

/// Whether two digests cannot be of the same bytes: only those of one algorithm compare.
fn differs(one: &Digest, other: &Digest) -> bool {
    one.algorithm() == other.algorithm() && one != other
}

fn range_header(range: &Range<u64>, size: u64) -> Result<HeaderValue, Fault> {
    if range.start >= range.end || range.end > size {
        return Err(Fault::Nonsense(
            "nothing: the range asked for is not within the blob",
        ));
    }
    let text = format!("bytes={}-{}", range.start, range.end - 1);
    HeaderValue::try_from(text).map_err(|_| Fault::Nonsense("nothing: the range fits in no header"))
}

/// A blob's size from an answer to a request for its first byte.
fn total(answer: &Answer) -> Option<u64> {
    if answer.status != StatusCode::PARTIAL_CONTENT {
        return content_length(&answer.headers);
    }
    let range = answer.headers.get(CONTENT_RANGE)?.to_str().ok()?;
    content_range(range)?.1
}
