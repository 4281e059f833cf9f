//! The guarded client of upstream registries: everything that leaves for a registry, and every
//! rule about where it may go and what may come back.
//!
//! [`Upstreams`] knows the configured registries, and no other is ever contacted. An [`Upstream`]
//! is one of them: manifests and blobs in the operator's name or anonymously, and a client's own
//! request in the client's name ([`Upstream::relay`]). Files of other hosts are read by [`files`].
//!
//! What holds for all of it: credentials go to the host they belong to and nowhere else; token
//! services are vetted; redirects are followed by hand and checked; nothing waits for ever, and
//! nothing is larger than it may be; no secret is in an error or a log. Answers are checked against
//! what was asked, but the digest of a blob is the task's business, and who may see what is the
//! resolver's.
//!
//! ```text
//! Files ----> files (routes, versions, redirects) --------------------------------> dial
//! Upstream --> ask (turn, deadline, retries, challenge) --> wire (redirects) --> clients --> dial
//!                  |-- limit: exchanges at once, 429          |-- origin: what belongs to whom
//!                  '-- token: what meets a challenge          '-- body: stalls, lengths
//! ```

mod allowance;
mod answer;
mod ask;
mod body;
mod clients;
mod credentials;
mod dial;
mod endpoint;
mod error;
pub mod files;
mod health;
mod limit;
mod metrics;
mod origin;
mod relay;
mod routes;
mod setup;
mod sign_in;
mod table;
mod token;
mod version;
mod wire;

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use backon::{ConstantBuilder, Retryable as _};
use bytes::Bytes;
use darner_proto::digest::Digest;
use darner_proto::name::{Reference, RegistryName, RepositoryName};
use darner_service::metrics::Metrics;
use darner_service::settings;
use darner_service::shutdown::Shutdown;
use http::HeaderValue;
use url::Url;

use crate::bandwidth::Bandwidth;
pub use body::ByteStream;
use endpoint::Endpoint;
use error::Fault;
pub use error::{UpstreamError, UpstreamErrorKind};
use files::Files;
use health::Turns;
use metrics::UpstreamMetrics;
pub use relay::{Relay, Relayed};
pub use setup::Setup;
use sign_in::Opens;
pub use sign_in::{Account, SignedIn};
use table::{Maker, Table};

/// The largest manifest or index. The specification lets registries refuse larger ones.
pub const MAX_MANIFEST: usize = 4 << 20;
/// That anyone may read a repository is found out again after this time.
const PUBLIC_FOR: Duration = Duration::from_secs(10 * 60);
/// Such repositories remembered.
const MAX_PUBLIC: u64 = 10_000;
/// A manifest is here within this time or not at all: a client waits for it.
const MANIFEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The configured registries, which may change while the process runs. Clones share them.
#[derive(Debug, Clone)]
pub struct Upstreams {
    table: Arc<RwLock<Arc<Table>>>,
    bandwidth: Bandwidth,
    files: Files,
    maker: Maker,
}

/// One configured registry. Clones share its connections, tokens and limits.
#[derive(Debug, Clone)]
pub struct Upstream {
    inner: Arc<Inner>,
    bandwidth: Bandwidth,
}

/// One registry, in a caller's name.
#[derive(Debug)]
pub struct AsCaller {
    upstream: Upstream,
    shown: HeaderValue,
}

struct Inner {
    setup: Setup,
    name: RegistryName,
    tag_ttl: Duration,
    tag_stale: Duration,
    registry: Endpoint,
    /// Asked before the registry itself, in this order.
    mirrors: Vec<Endpoint>,
    /// Repositories that anyone could read a moment ago.
    public: moka::future::Cache<RepositoryName, ()>,
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
        let maker = Maker {
            metrics: UpstreamMetrics::new(metrics),
            shutdown: shutdown.clone(),
        };
        let setups = settings.iter().map(Setup::from).collect();
        let (table, faults) = Table::default().with(setups, &maker);
        if let Some(fault) = faults.into_iter().next() {
            return Err(fault);
        }
        Ok(Self {
            table: Arc::new(RwLock::new(Arc::new(table))),
            bandwidth: Bandwidth::default(),
            files: Files::new(&[], maker.metrics.of_files(), shutdown)?,
            maker,
        })
    }

    /// The same, with these routes for what is no registry.
    pub fn routed(self, routes: &[settings::Route]) -> Result<Self, UpstreamError> {
        let table = self.table();
        let table = Table {
            registries: table.registries.clone(),
            routes: routes.to_vec(),
        };
        self.files.reroute(&table.ways())?;
        self.put(table);
        Ok(self)
    }

    /// From now on these are the registries. One that cannot be set up is left out; why is returned.
    /// What is under way goes on as it began.
    pub fn replace(&self, setups: Vec<Setup>) -> Vec<UpstreamError> {
        let (table, mut faults) = self.table().with(setups, &self.maker);
        faults.extend(self.files.reroute(&table.ways()).err());
        self.put(table);
        faults
    }

    fn table(&self) -> Arc<Table> {
        let table = self.table.read();
        table.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, table: Table) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }

    /// The client for what is no registry.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Where a URL leads whose host is what clients call a registry that the operator has put
    /// elsewhere, at `http://`.
    pub fn own_url(&self, url: &Url) -> Option<Url> {
        let host = url.host_str()?;
        let called = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let table = self.table();
        let inner = table.registries.get(&called.parse().ok()?)?;
        inner.registry.asker.wire.origin.moved(url)
    }

    /// The registry whose own host a URL leads to, at no path of its own there.
    pub fn registry_at(&self, url: &Url) -> Option<RegistryName> {
        let table = self.table();
        let is_at = |inner: &&Arc<Inner>| inner.registry.asker.wire.origin.is_whole(url);
        let found = table.registries.values().find(is_at);
        found.map(|inner| inner.name.clone())
    }

    /// The same, with limits on how fast the bodies of blobs come.
    pub fn limited(self, bandwidth: Bandwidth) -> Self {
        Self {
            files: self.files.limited(bandwidth.clone()),
            bandwidth,
            ..self
        }
    }

    /// The registry that clients call `name`, if it is configured.
    pub fn get(&self, name: &RegistryName) -> Option<Upstream> {
        let inner = self.table().registries.get(name)?.clone();
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

    /// While the registry cannot be asked, a tag's answer goes on for this long.
    pub fn tag_stale(&self) -> Duration {
        self.inner.tag_stale
    }

    /// For how long the registry has asked to be left alone.
    pub fn quiet(&self) -> Duration {
        self.inner.registry.asker.wire.quiet()
    }

    /// Leaves the registry alone, as it has asked another node.
    pub fn keep_quiet(&self, wait: Duration) {
        if wait > self.quiet() {
            self.inner.registry.asker.wire.keep_quiet(wait);
        }
    }

    /// What a reference means, without the manifest itself.
    pub async fn head_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        access: Access,
    ) -> Result<ManifestHead, UpstreamError> {
        let mut turns = Turns::new(&self.inner);
        loop {
            let endpoint = turns.next();
            let head = endpoint.head_manifest(repository, reference, access).await;
            if let Some(settled) = turns.settle(endpoint, head) {
                return settled.map_err(|fault| self.inner.blame(fault));
            }
        }
    }

    /// A manifest, checked against the digest it was asked by, or the one that upstream states.
    pub async fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        access: Access,
    ) -> Result<Manifest, UpstreamError> {
        let mut turns = Turns::new(&self.inner);
        loop {
            let endpoint = turns.next();
            // A body that was cut is asked for once more: it is small.
            let again = ConstantBuilder::default().with_max_times(1);
            let manifest = (|| endpoint.manifest(repository, reference, access))
                .retry(again.with_delay(Duration::ZERO))
                .when(|fault| matches!(fault, Fault::Broken(_) | Fault::Short { .. }));
            let manifest = tokio::time::timeout(MANIFEST_TIMEOUT, manifest).await;
            let manifest = manifest.unwrap_or(Err(Fault::Silent(MANIFEST_TIMEOUT)));
            if let Some(settled) = turns.settle(endpoint, manifest) {
                return settled.map_err(|fault| self.inner.blame(fault));
            }
        }
    }

    /// A blob's size in bytes.
    pub async fn head_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        access: Access,
    ) -> Result<u64, UpstreamError> {
        let mut turns = Turns::new(&self.inner);
        loop {
            let endpoint = turns.next();
            let size = endpoint.head_blob(repository, digest, access).await;
            if let Some(settled) = turns.settle(endpoint, size) {
                return settled.map_err(|fault| self.inner.blame(fault));
            }
        }
    }

    /// Reads `range` of a blob of `size` bytes in the operator's name. The whole is asked for
    /// without a range, as every registry and cache on the way takes it; whether ranges work is
    /// learnt from the first that is not the whole. Only what anyone may read: what comes is shared,
    /// and the operator's credentials do not stand in for anybody's right.
    pub async fn blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: Range<u64>,
        size: u64,
    ) -> Result<BlobBody, UpstreamError> {
        let public = self.inner.check_public(repository, digest).await;
        public.map_err(|fault| self.inner.blame(fault))?;
        let mut turns = Turns::new(&self.inner);
        let opened = loop {
            let endpoint = turns.next();
            let opened = match endpoint.ask_blob(repository, digest, &range, size) {
                Ok(ask) => endpoint.blob(&ask, &range, size).await,
                Err(fault) => Err(fault),
            };
            if let Some(settled) = turns.settle(endpoint, opened) {
                break settled;
            }
        };
        let opened = opened.map_err(|fault| self.inner.blame(fault))?;
        Ok(self.body(opened))
    }

    /// The registry, read in the name of whoever showed `shown`.
    pub fn as_caller(&self, shown: HeaderValue) -> AsCaller {
        let upstream = self.clone();
        AsCaller { upstream, shown }
    }

    fn body(&self, (ranged, range, answer): (bool, Range<u64>, ask::Answer)) -> BlobBody {
        let body = answer.body.with_length(range.end - range.start);
        let inner = self.inner.clone();
        BlobBody {
            ranged,
            range,
            stream: body.into_stream(&self.bandwidth, move |fault| inner.blame(fault)),
        }
    }

    /// What opens `repository` with a client's own account; without a repository, whether the registry
    /// knows the account. `None` where it asks nobody for credentials.
    pub async fn sign_in(
        &self,
        repository: Option<&RepositoryName>,
        account: &Account,
    ) -> Result<Option<SignedIn>, UpstreamError> {
        let asker = &self.inner.registry.asker;
        let repository = repository.map(|name| asker.wire.origin.repository(name));
        let opens = repository
            .as_deref()
            .map_or(Opens::Nothing, Opens::Repository);
        let signed_in = asker.sign_in(opens, account).await;
        signed_in.map_err(|fault| self.inner.blame(fault))
    }

    /// Passes a client's own request on, in the client's name. Redirects are followed without its
    /// credentials. 429 and 5xx are errors, so that no client is told to hammer.
    pub async fn relay(&self, request: Relay) -> Result<Relayed, UpstreamError> {
        let Inner { registry, .. } = &*self.inner;
        let passed = relay::relay(&registry.asker, request).await;
        registry.heard(&passed);
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

impl AsCaller {
    /// Reads `range` of a blob of `size` bytes from the registry itself, on the caller's credential.
    /// Redirects are followed without it.
    pub async fn blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: Range<u64>,
        size: u64,
    ) -> Result<BlobBody, UpstreamError> {
        let Inner { registry, .. } = &*self.upstream.inner;
        let mut shown = self.shown.clone();
        shown.set_sensitive(true);
        let opened = match registry.ask_blob(repository, digest, &range, size) {
            Ok(ask) => {
                let ask = ask.in_the_name_of(shown);
                registry.blob(&ask, &range, size).await
            }
            Err(fault) => Err(fault),
        };
        let opened = opened.map_err(|fault| self.upstream.inner.blame(fault))?;
        Ok(self.upstream.body(opened))
    }
}

impl Inner {
    /// Fails unless anyone may read the blob. Without credentials, reading it shows that.
    async fn check_public(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), Fault> {
        if !self.registry.asker.has_credentials() || self.public.contains_key(repository) {
            return Ok(());
        }
        let anyones = Access::Anonymous;
        self.registry.head_blob(repository, digest, anyones).await?;
        self.public.insert(repository.clone(), ()).await;
        Ok(())
    }

    fn blame(&self, fault: Fault) -> UpstreamError {
        self.registry.asker.wire.counts.error(fault.kind());
        UpstreamError::new(&self.name, fault)
    }
}

#[cfg(test)]
mod tests;
