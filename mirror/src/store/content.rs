//! Complete content, open for reading. What has been opened can be read to its end, whatever the
//! store does with it meanwhile.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use darner_proto::digest::Digest;
use futures_util::Stream;
use tokio::task::JoinHandle;

use super::disk::{self, CHUNK};
use super::error::StoreError;
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
        if range.start > range.end || range.end > self.size {
            return Err(StoreError::Missing {
                digest: self.digest,
                start: range.start,
                end: range.end,
            });
        }
        disk::read(&self.file, range)
            .map(Bytes::from)
            .map_err(|source| self.unreadable(source))
    }

    fn unreadable(&self, source: io::Error) -> StoreError {
        let Some(store) = self.store.upgrade() else {
            return StoreError::Stopping;
        };
        let error = StoreError::io("read", &store.layout.blob(&self.digest), source);
        tracing::error!(digest = %self.digest, error = %error, "content cannot be read and is withdrawn");
        store.metrics.failed(&error);
        store.quarantine(&self.digest);
        error
    }

    /// The bytes of `range` in chunks of at most a mebibyte; the next one is read while the last is
    /// being sent.
    pub fn stream(
        self,
        range: Range<u64>,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let ahead = self.read_ahead(range);
        futures_util::stream::try_unfold((self, ahead), |(content, ahead)| async move {
            let Some(Ahead { rest, reading }) = ahead else {
                return Ok(None);
            };
            let chunk = match reading.await {
                Ok(read) => read.map_err(io::Error::other)?,
                Err(_) => return Err(io::Error::other(StoreError::Stopping)),
            };
            let ahead = content.read_ahead(rest);
            Ok(Some((chunk, (content, ahead))))
        })
    }

    fn read_ahead(&self, range: Range<u64>) -> Option<Ahead> {
        if range.is_empty() {
            return None;
        }
        let end = range.end.min(range.start + CHUNK);
        let (content, now) = (self.clone(), range.start..end);
        let reading = tokio::task::spawn_blocking(move || content.read_now(now));
        Some(Ahead {
            rest: end..range.end,
            reading,
        })
    }
}

/// A chunk being read, and what follows it.
struct Ahead {
    rest: Range<u64>,
    reading: JoinHandle<Result<Bytes, StoreError>>,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Content({}, {} bytes)", self.digest, self.size)
    }
}
