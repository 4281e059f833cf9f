//! Content on this node's disk, and what is known of repositories.
//!
//! Content is kept as plain files in the form of an OCI image layout, see [`layout`]; what their names
//! do not say is in an index, see [`index`]. Content is visible only after its whole digest has
//! matched and it is durable; it becomes so in the order: verified, synced, renamed, directory
//! synced, indexed, told. After a crash a file either is in the index or is hashed before it counts.
//! When room is needed, what was not used for the longest time goes: [`ledger`] decides that, and
//! knows what everything takes; what is to stay for a time is in [`terms`]. Whoever has content open reads it to its end. Disks forget: see
//! [`scrub`].
//!
//! The store fetches nothing and serves nobody: it is told what to keep. Disk is touched on threads
//! that may block; a look-up opens one file, a piece map is a read of the index.

mod begin;
mod catalog;
mod check;
mod content;
mod disk;
mod encoding;
mod error;
mod hot;
mod index;
mod inner;
mod journal;
mod keep;
mod keeper;
mod layout;
mod ledger;
mod metrics;
mod partial;
mod publish;
mod records;
mod recover;
mod removal;
mod scrub;
mod span;
mod terms;
mod write_back;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use darner_proto::digest::Digest;
use darner_proto::geometry::Geometry;
use darner_proto::name::{Source, Tag};
use darner_proto::piece_map::PieceRun;
use darner_service::metrics::Metrics;
use tokio::sync::broadcast;

pub use catalog::RepositoryRecords;
pub use content::Content;
pub use error::StoreError;
use index::{Change, Table};
use inner::Inner;
pub use partial::Partial;
use publish::Durability;
pub use removal::Forgotten;
pub use scrub::Schedule;
pub use span::{MAX_SPAN, Span};
pub use terms::Term;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct Options {
    path: PathBuf,
    capacity: Option<u64>,
    reserve: Option<u64>,
    scrub: Option<Schedule>,
}

impl Options {
    /// A store in the directory `path`, which may take `capacity` bytes. By default that is half of
    /// what is free on its disk (what it takes itself counted as free), and at most 100 GiB.
    pub fn new(path: PathBuf, capacity: Option<u64>) -> Self {
        Self {
            path,
            capacity,
            reserve: None,
            scrub: None,
        }
    }

    /// Where the store is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads everything again on a schedule.
    pub fn scrubbed(mut self, schedule: Schedule) -> Self {
        self.scrub = Some(schedule);
        self
    }

    /// Leaves so many bytes of the disk free, however large it is: a test of what a store of
    /// hollow files does is not about the disk it runs on.
    #[cfg(test)]
    fn leaving(mut self, reserve: u64) -> Self {
        self.reserve = Some(reserve);
        self
    }
}

/// The content store. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// A change of what is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreEvent {
    /// Content is complete, verified and durable.
    Held(Digest),
    /// Content is about to go.
    Withdrawn(Digest),
    /// Content of so many bytes was no longer what it should be, and is withdrawn: it can be had
    /// again.
    Damaged(Digest, u64),
}

/// What upstream said a tag means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRecord {
    /// The manifest it names.
    pub digest: Digest,
    /// Unix milliseconds of when upstream said so.
    pub checked_ms: u64,
}

/// What content is within a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkRecord {
    /// A manifest, not a blob.
    pub manifest: bool,
    /// Its media type, where known.
    pub media_type: String,
    /// Its size in bytes.
    pub size: u64,
}

impl Store {
    /// Opens the store. Blocks; files that have to be hashed are hashed afterwards.
    ///
    /// # Errors
    /// A directory that is another's, another program's or of a newer format is left untouched.
    pub fn open(options: Options, metrics: &Metrics) -> Result<Self, StoreError> {
        let inner = Inner::open(&options, metrics)?;
        Ok(Self { inner })
    }

    /// The content, open for reading. Counts as a use.
    pub fn get(&self, digest: &Digest) -> Option<Content> {
        self.inner.open_content(digest)
    }

    /// The size of held content.
    pub fn size_of(&self, digest: &Digest) -> Option<u64> {
        lock(&self.inner.ledger).size_of(digest)
    }

    /// The digest of the bytes of what is held as `key`; for a file, where it is known.
    pub fn content_digest(&self, key: &Digest) -> Option<Digest> {
        self.inner.content_digest(key)
    }

    /// Everything held.
    pub fn keys(&self) -> Vec<Digest> {
        lock(&self.inner.ledger).keys()
    }

    /// Tells from now on what is held and what goes.
    pub fn events(&self) -> broadcast::Receiver<StoreEvent> {
        self.inner.events.subscribe()
    }

    /// Keeps content that is at hand.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`], [`StoreError::Full`], or what the disk says.
    pub async fn put(&self, digest: &Digest, bytes: Bytes) -> Result<(), StoreError> {
        let (inner, digest) = (self.inner.clone(), *digest);
        blocking(move || inner.put(&digest, &bytes)).await?
    }

    /// Begins the download of `size` bytes, joins the one under way, or goes on with one that a
    /// restart or a failure left.
    ///
    /// # Errors
    /// [`StoreError::Full`] when it cannot fit, [`StoreError::Held`] when it is there already.
    pub async fn begin(&self, digest: &Digest, size: u64) -> Result<Partial, StoreError> {
        let (inner, digest) = (self.inner.clone(), *digest);
        blocking(move || begin::begin(&inner, &digest, size)).await?
    }

    /// The signed statements about the pieces of held content.
    pub fn piece_map(&self, digest: &Digest) -> Option<Vec<PieceRun>> {
        let pieces = Geometry::of(self.size_of(digest)?).pieces();
        let value = self.inner.index.get(Table::PieceMaps, &digest.to_wire())?;
        encoding::decode_runs(&value, pieces)
    }

    /// Keeps the signed statements about the pieces of held content.
    ///
    /// # Errors
    /// [`StoreError::Gone`] when it is not held.
    pub fn set_piece_map(&self, digest: &Digest, runs: &[PieceRun]) -> Result<(), StoreError> {
        if self.size_of(digest).is_none() {
            return Err(StoreError::Gone(*digest));
        }
        let value = encoding::encode_runs(runs);
        let change = Change::set(Table::PieceMaps, digest.to_wire(), value);
        self.inner.submit(vec![change])
    }

    /// Reads and hashes content somebody doubts; sets it aside if it is wrong. Bounded: one content
    /// once in ten minutes, two at a time.
    pub async fn check(&self, digest: &Digest) {
        check::check(&self.inner, digest).await;
    }

    /// Makes everything durable that is not yet: last uses, records, downloads under way.
    pub async fn flush(&self) {
        let inner = self.inner.clone();
        if let Err(error) = blocking(move || inner.flush()).await {
            tracing::warn!(%error, "the store is not flushed");
        }
    }

    /// The repositories something is known of.
    pub fn sources(&self) -> Vec<Source> {
        lock(&self.inner.records).sources()
    }

    /// What upstream said of a tag.
    pub fn tag(&self, source: &Source, tag: &Tag) -> Option<TagRecord> {
        lock(&self.inner.records).tag(source, tag, now_ms())
    }

    /// Keeps what upstream said of a tag.
    ///
    /// # Errors
    /// [`StoreError::Index`]: it is known, but would not survive a restart. So for all records.
    pub fn set_tag(
        &self,
        source: &Source,
        tag: &Tag,
        record: &TagRecord,
    ) -> Result<(), StoreError> {
        self.inner
            .record(|records| records.set_tag(source, tag, record, now_ms()))
    }

    /// The repositories that content is known to be part of, and what it is there.
    pub fn links_to(&self, digest: &Digest) -> Vec<(Source, LinkRecord)> {
        lock(&self.inner.records).links_to(digest)
    }

    /// What content is within a repository; `None` when it is not known to be part of it.
    pub fn link(&self, source: &Source, digest: &Digest) -> Option<LinkRecord> {
        lock(&self.inner.records).link(source, digest, now_ms())
    }

    /// Keeps that contents are part of a repository.
    ///
    /// # Errors
    /// See [`Store::set_tag`].
    pub fn add_links(
        &self,
        source: &Source,
        links: &[(Digest, LinkRecord)],
    ) -> Result<(), StoreError> {
        self.inner
            .record(|records| records.add_links(source, links, now_ms()))
    }

    /// Unix milliseconds of when upstream last let anyone read the repository.
    pub fn public_since(&self, source: &Source) -> Option<u64> {
        lock(&self.inner.records).public_since(source)
    }

    /// Keeps that upstream lets anyone read the repository.
    ///
    /// # Errors
    /// See [`Store::set_tag`].
    pub fn set_public(&self, source: &Source, unix_ms: u64) -> Result<(), StoreError> {
        self.inner
            .record(|records| records.set_public(source, Some(unix_ms), now_ms()))
    }

    /// Forgets that upstream lets anyone read the repository.
    ///
    /// # Errors
    /// See [`Store::set_tag`].
    pub fn forget_public(&self, source: &Source) -> Result<(), StoreError> {
        self.inner
            .record(|records| records.set_public(source, None, now_ms()))
    }
}

/// Runs what blocks where blocking is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    done(tokio::task::spawn_blocking(work).await)
}

/// What it came to; a panic goes on in whoever waited.
fn done<T>(ended: Result<T, tokio::task::JoinError>) -> Result<T, StoreError> {
    match ended {
        Ok(done) => Ok(done),
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StoreError::Stopping),
        },
    }
}

/// What a panic left is still whole: no change is made in more than one step that can panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same unless another thread has it.
fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let ms = since.unwrap_or_default().as_millis();
    u64::try_from(ms).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
