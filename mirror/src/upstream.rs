//! The guarded client of upstream registries: everything that leaves for a registry, and every
//! rule about where it may go and what may come back.
//!
//! [`Upstreams`] knows the configured registries, and no other is ever contacted. An [`Upstream`]
//! is one of them: manifests and blobs in the operator's name or anonymously, and a client's own
//! request in the client's name ([`Upstream::relay`]).
//!
//! What holds for all of it: credentials go to the host they belong to and nowhere else; token
//! services are vetted; redirects are followed by hand and checked; nothing waits for ever, and
//! nothing is larger than it may be; no secret is in an error or a log. Answers are checked against
//! what was asked, but the digest of a blob is the task's business, and who may see what is the
//! resolver's.
//!
//! ```text
//! Upstream --> ask (turn, deadline, retries, challenge) --> wire (redirects) --> dial (addresses)
//!                  |-- limit: exchanges at once, 429          |-- origin: what belongs to whom
//!                  '-- token: what meets a challenge          '-- body: stalls, lengths
//! ```

mod answer;
mod ask;
mod body;
mod dial;
mod error;
mod limit;
mod metrics;
mod origin;
mod relay;
mod token;
mod wire;

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use backon::{ConstantBuilder, Retryable as _};
use bytes::Bytes;
use darner_proto::digest::Digest;
use darner_proto::name::{Reference, RegistryName, RepositoryName};
use darner_service::metrics::Metrics;
use darner_service::settings;
use darner_service::shutdown::Shutdown;
use http::header::{ACCEPT, CONTENT_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::bandwidth::Bandwidth;
use answer::{blob_range, check_encoding, content_digest, content_length, content_range};
use ask::{Answer, Ask, Asker};
pub use body::ByteStream;
use error::Fault;
pub use error::{UpstreamError, UpstreamErrorKind};
use metrics::{Kind, UpstreamMetrics};
pub use relay::{Relay, Relayed};

/// The largest manifest or index. The specification lets registries refuse larger ones.
pub const MAX_MANIFEST: usize = 4 << 20;
/// A manifest is here within this time or not at all: a client waits for it.
const MANIFEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Every form of a manifest that a client may want, so that upstream converts nothing.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     */*";

/// The configured registries. Clones share them.
#[derive(Debug, Clone)]
pub struct Upstreams {
    by_name: Arc<HashMap<RegistryName, Arc<Inner>>>,
    bandwidth: Bandwidth,
}

/// One configured registry. Clones share its connections, tokens and limits.
#[derive(Debug, Clone)]
pub struct Upstream {
    inner: Arc<Inner>,
    bandwidth: Bandwidth,
}

struct Inner {
    name: RegistryName,
    tag_ttl: Duration,
    asker: Asker,
}

/// In whose name upstream is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Nobody's: what anyone may see.
    Anonymous,
    /// The operator's, where credentials are configured; else nobody's.
    Configured,
}

/// What upstream says of a manifest without sending it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestHead {
    /// Its digest: the one asked for, or the one that a tag means now. Not every registry tells.
    pub digest: Option<Digest>,
    /// `Content-Type` without parameters; empty when upstream does not tell.
    pub media_type: String,
    /// Its size in bytes, when upstream tells.
    pub size: Option<u64>,
}

/// A manifest or index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The digest of `bytes`: the one asked for, else their sha256.
    pub digest: Digest,
    /// `Content-Type` without parameters, or what the manifest says of itself.
    pub media_type: String,
    /// As upstream sent them, at most [`MAX_MANIFEST`].
    pub bytes: Bytes,
}

/// A blob on its way.
pub struct BlobBody {
    /// Upstream answered with the range asked for (206), not with everything (200).
    pub ranged: bool,
    /// The bytes that come: the range asked for, or all.
    pub range: Range<u64>,
    /// Ends well only after all of `range`. Not verified against the digest.
    pub stream: ByteStream,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Upstream").field(&self.name).finish()
    }
}

impl fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobBody")
            .field("ranged", &self.ranged)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

impl Upstreams {
    /// Sets a client up for each registry; reads their `ca_file`s. Where a name stands twice, the
    /// first counts.
    pub fn new(
        settings: &[settings::Upstream],
        metrics: &Metrics,
        shutdown: &Shutdown,
    ) -> Result<Self, UpstreamError> {
        let metrics = UpstreamMetrics::new(metrics);
        let mut by_name = HashMap::new();
        for settings in settings {
            let name = &settings.name;
            if by_name.contains_key(name) {
                continue;
            }
            let asker = Asker::new(settings, metrics.of(name), shutdown.cancellation())
                .map_err(|fault| UpstreamError::new(name, fault))?;
            let inner = Arc::new(Inner {
                name: name.clone(),
                tag_ttl: settings.tag_ttl,
                asker,
            });
            by_name.insert(name.clone(), inner);
        }
        Ok(Self {
            by_name: Arc::new(by_name),
            bandwidth: Bandwidth::default(),
        })
    }

    /// The same, with limits on how fast the bodies of blobs come.
    pub fn limited(self, bandwidth: Bandwidth) -> Self {
        Self { bandwidth, ..self }
    }

    /// The registry that clients call `name`, if it is configured.
    pub fn get(&self, name: &RegistryName) -> Option<Upstream> {
        let inner = self.by_name.get(name)?.clone();
        let bandwidth = self.bandwidth.clone();
        Some(Upstream { inner, bandwidth })
    }
}

impl Upstream {
    /// As clients call it.
    pub fn name(&self) -> &RegistryName {
        &self.inner.name
    }

    /// How long a tag's answer counts as fresh.
    pub fn tag_ttl(&self) -> Duration {
        self.inner.tag_ttl
    }

    /// What a reference means, without the manifest itself.
    pub async fn head_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        access: Access,
    ) -> Result<ManifestHead, UpstreamError> {
        let head = self.inner.head_manifest(repository, reference, access);
        head.await.map_err(|fault| self.inner.blame(fault))
    }

    /// A manifest, checked against the digest it was asked by, or the one that upstream states.
    pub async fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        access: Access,
    ) -> Result<Manifest, UpstreamError> {
        // A body that was cut is asked for once more: it is small.
        let again = ConstantBuilder::default().with_max_times(1);
        let manifest = (|| self.inner.manifest(repository, reference, access))
            .retry(again.with_delay(Duration::ZERO))
            .when(|fault| matches!(fault, Fault::Broken(_) | Fault::Short { .. }));
        let manifest = tokio::time::timeout(MANIFEST_TIMEOUT, manifest).await;
        let manifest = manifest.unwrap_or(Err(Fault::Silent(MANIFEST_TIMEOUT)));
        manifest.map_err(|fault| self.inner.blame(fault))
    }

    /// A blob's size in bytes.
    pub async fn head_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        access: Access,
    ) -> Result<u64, UpstreamError> {
        let size = self.inner.head_blob(repository, digest, access);
        size.await.map_err(|fault| self.inner.blame(fault))
    }

    /// Reads `range` of a blob of `size` bytes in the operator's name. The whole is asked for
    /// without a range, as every registry and cache on the way takes it; whether ranges work is
    /// learnt from the first that is not the whole.
    pub async fn blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: Range<u64>,
        size: u64,
    ) -> Result<BlobBody, UpstreamError> {
        let opened = self.inner.blob(repository, digest, &range, size).await;
        let (ranged, range, answer) = opened.map_err(|fault| self.inner.blame(fault))?;
        let body = answer.body.with_length(range.end - range.start);
        let inner = self.inner.clone();
        Ok(BlobBody {
            ranged,
            range,
            stream: body.into_stream(&self.bandwidth, move |fault| inner.blame(fault)),
        })
    }

    /// Passes a client's own request on, in the client's name. Redirects are followed without its
    /// credentials. 429 and 5xx are errors, so that no client is told to hammer.
    pub async fn relay(&self, request: Relay) -> Result<Relayed, UpstreamError> {
        let passed = relay::relay(&self.inner.asker, request).await;
        let passed = passed.map_err(|fault| self.inner.blame(fault))?;
        let inner = self.inner.clone();
        Ok(Relayed {
            status: passed.status,
            headers: passed.headers,
            body: passed
                .body
                .into_stream(&self.bandwidth, move |fault| inner.blame(fault)),
        })
    }
}

impl Inner {
    fn blame(&self, fault: Fault) -> UpstreamError {
        self.asker.wire.counts.error(fault.kind());
        UpstreamError::new(&self.name, fault)
    }

    async fn head_manifest(
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

    async fn manifest(
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

    async fn head_blob(
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

    async fn blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: &Range<u64>,
        size: u64,
    ) -> Result<(bool, Range<u64>, Answer), Fault> {
        let rest = format!("blobs/{digest}");
        let mut ask = self.ask(Kind::Blob, repository, &rest, Access::Configured);
        if *range != (0..size) {
            ask = ask.with_header(RANGE, range_header(range, size)?);
        }
        let answer = self.asker.ask(&ask).await?;
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

#[cfg(test)]
mod tests;
