//! Bodies that have to pass through this process, because what is sent is encrypted first: read from
//! the file a little at a time into buffers that are used again, so that the bytes are still in the
//! processor's cache when they are encrypted.

use std::io::{self, IoSliceMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _, stream};
use rustix::io::{Errno, ReadWriteFlags};

use crate::store::Span;

/// Read at once.
const PART: usize = 128 << 10;
/// Buffers that are kept while nothing is sent.
const MAX_FREE: usize = 16;

/// Buffers of [`PART`] bytes. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

/// One of them, while it holds bytes.
#[derive(Debug)]
struct Lent {
    bytes: Vec<u8>,
    pool: Pool,
}

impl Pool {
    fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lend(&self) -> Lent {
        let free = self.free().pop();
        Lent {
            bytes: free.unwrap_or_else(|| vec![0; PART]),
            pool: self.clone(),
        }
    }

    /// The bytes of the spans, in parts.
    pub(super) fn bytes(
        self,
        spans: impl Stream<Item = io::Result<Span>> + Send + 'static,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        spans
            .map_ok(move |span| {
                stream::try_unfold((self.clone(), span), |(pool, mut span)| async move {
                    if span.is_empty() {
                        return Ok(None);
                    }
                    let part = span.split_to(PART as u64);
                    let bytes = pool.read(part).await?;
                    Ok(Some((bytes, (pool, span))))
                })
            })
            .try_flatten()
    }

    /// A part's bytes: at once where they are in memory, as spans are when they are given out.
    async fn read(&self, part: Span) -> io::Result<Bytes> {
        let mut lent = self.lend();
        // At most PART, which fits.
        let length = usize::try_from(part.len()).unwrap_or(PART).min(PART);
        if read_resident(&part, &mut lent.bytes[..length])? {
            return Ok(Bytes::from_owner(lent).slice(..length));
        }
        part.read().await.map_err(io::Error::other)
    }
}

/// Fills `bytes` from memory. `false` when some of them would have to be waited for.
fn read_resident(part: &Span, bytes: &mut [u8]) -> io::Result<bool> {
    let mut got = 0;
    while got < bytes.len() {
        let at = part.start() + got as u64;
        let slices = &mut [IoSliceMut::new(&mut bytes[got..])];
        match rustix::io::preadv2(part.file(), slices, at, ReadWriteFlags::NOWAIT) {
            Ok(0) => {
                let early = "the file ends before the content does";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, early));
            }
            Ok(read) => got += read,
            Err(Errno::INTR) => {}
            // Not in memory, a disk error, or a file system that cannot tell: the way that waits
            // finds out which, and withdraws what cannot be read.
            Err(_) => return Ok(false),
        }
    }
    Ok(true)
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut free = self.pool.free();
        if free.len() < MAX_FREE {
            free.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Options, Store};
    use darner_proto::digest::Digest;
    use darner_service::metrics::Metrics;
    use futures_util::StreamExt as _;

    #[tokio::test]
    async fn bytes_come_whole_and_in_order_through_few_buffers() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options::new(directory.path().join("store"), Some(1 << 30));
        let store = Store::open(options, &Metrics::default()).unwrap();
        let length = 3 * (1 << 20) + 77;
        let whole: Bytes = (0..length).map(|at| (at % 251) as u8).collect();
        let digest = Digest::sha256(&whole);
        store.put(&digest, whole.clone()).await.unwrap();
        let pool = Pool::default();
        for range in [0..length, 5..6, (PART - 1)..(2 * PART + 1), 9..9] {
            let spans = store.get(&digest).unwrap();
            let spans = spans.spans(range.start as u64..range.end as u64);
            let mut parts = std::pin::pin!(pool.clone().bytes(spans));
            let mut got = Vec::new();
            while let Some(part) = parts.next().await {
                let part = part.unwrap();
                assert!(!part.is_empty() && part.len() <= PART);
                got.extend_from_slice(&part);
            }
            assert!(got == whole[range.clone()], "{range:?}");
        }
        // One at a time was out.
        assert_eq!(pool.free().len(), 1);
    }

    #[tokio::test]
    async fn buffers_are_kept_up_to_a_bound() {
        let pool = Pool::default();
        let lent: Vec<_> = (0..MAX_FREE + 3).map(|_| pool.lend()).collect();
        drop(lent);
        assert_eq!(pool.free().len(), MAX_FREE);
    }
}
