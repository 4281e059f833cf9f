//! Complete content, open for reading. What has been opened can be read to its end, whatever the
//! store does with it meanwhile.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use darner_proto::digest::Digest;
use futures_util::Stream;

use super::disk;
use super::error::StoreError;
use super::span::{self, Span};
use super::{Inner, blocking};

/// Content in the store. Clones share one open file.
#[derive(Clone)]
pub struct Content {
    digest: Digest,
    size: u64,
    file: Arc<File>,
    store: Weak<Inner>,
}

impl Content {
    pub(super) fn new(digest: Digest, size: u64, file: Arc<File>, store: Weak<Inner>) -> Self {
        Self {
            digest,
            size,
            file,
            store,
        }
    }

    /// Its digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Bytes it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The bytes of `range`, all of them.
    ///
    /// # Errors
    /// [`StoreError::Missing`] past the end. When the disk cannot read it the content is withdrawn,
    /// so that it is had again.
    pub async fn read(&self, range: Range<u64>) -> Result<Bytes, StoreError> {
        let content = self.clone();
        blocking(move || content.read_now(range)).await?
    }

    fn read_now(&self, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.check(&range)?;
        disk::read(&self.file, range)
            .map(Bytes::from)
            .map_err(|source| self.unreadable(source))
    }

    fn check(&self, range: &Range<u64>) -> Result<(), StoreError> {
        if range.start <= range.end && range.end <= self.size {
            return Ok(());
        }
        Err(StoreError::Missing {
            digest: self.digest,
            start: range.start,
            end: range.end,
        })
    }

    pub(super) fn unreadable(&self, source: io::Error) -> StoreError {
        let Some(store) = self.store.upgrade() else {
            return StoreError::Stopping;
        };
        let error = StoreError::io("read", &store.layout.blob(&self.digest), source);
        tracing::error!(digest = %self.digest, error = %error, "content cannot be read and is withdrawn");
        store.metrics.failed(&error);
        store.quarantine(&self.digest);
        error
    }

    /// The bytes of `range` in spans of at most [`super::MAX_SPAN`], each in memory when it is given
    /// out.
    pub fn spans(self, range: Range<u64>) -> impl Stream<Item = io::Result<Span>> + Send + 'static {
        span::in_order(range, move |range| self.span(range))
    }

    /// The bytes of `range` as a part of the open file.
    ///
    /// # Errors
    /// [`StoreError::Missing`] past the end.
    pub fn span(&self, range: Range<u64>) -> Result<Span, StoreError> {
        self.check(&range)?;
        Ok(Span::of_content(self.clone(), range))
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Content({}, {} bytes)", self.digest, self.size)
    }
}
