//! Buffers that pieces are received into. There are only so many, so that a node that gets much at
//! once takes bytes from the network no faster than it can hash and write them; and they are used
//! again, because memory that is touched for the first time costs more than what it is filled with.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use darner_proto::geometry::MIN_PIECE_LENGTH;
use darner_service::metrics::Metrics;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory of all buffers, used ones that wait to be used again included: that of 16 connections, each with a
/// piece coming in and one being hashed and written.
const MAX_MEMORY: u64 = 32 << 20;
/// Memory that stays with the pool when nothing is received.
const MAX_FREE: u64 = 8 << 20;
/// What is counted in, and the capacity of buffers that are used again.
const UNIT: u64 = MIN_PIECE_LENGTH;

/// The process's buffers. Clones share them.
#[derive(Debug, Clone)]
pub struct Buffers(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    units: Arc<Semaphore>,
    free: Mutex<Vec<Vec<u8>>>,
    in_use: Gauge,
}

impl Buffers {
    /// A pool, empty yet.
    pub fn new(metrics: &Metrics) -> Self {
        let in_use = Gauge::default();
        metrics.register(|registry| {
            registry.register(
                "piece_buffers_bytes",
                "Memory of buffers that hold pieces being received, hashed or written",
                in_use.clone(),
            );
        });
        Self(Arc::new(Pool {
            units: Arc::new(Semaphore::new((MAX_MEMORY / UNIT) as usize)),
            free: Mutex::default(),
            in_use,
        }))
    }

    /// An empty buffer for `length` bytes; waits until there is memory for it. Who waits must not
    /// hold another that is to be filled.
    pub(super) async fn take(&self, length: usize) -> Buffer {
        let units = (length as u64).div_ceil(UNIT).clamp(1, MAX_MEMORY / UNIT);
        let count = u32::try_from(units).unwrap_or(u32::MAX);
        let permit = self.0.units.clone().acquire_many_owned(count).await;
        let held = i64::try_from(units * UNIT).unwrap_or(i64::MAX);
        self.0.in_use.inc_by(held);
        let bytes = self.0.reuse(length);
        Buffer {
            bytes,
            held,
            pool: self.0.clone(),
            // The semaphore is never closed.
            _permit: permit.ok(),
        }
    }
}

impl Pool {
    fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// While pieces come in, as much may be free as is not in use: given back to the allocator and taken from
    /// it again it would cost more, and be there twice for a while.
    fn trim(&self, free: &mut Vec<Vec<u8>>) {
        let in_use = u64::try_from(self.in_use.get()).unwrap_or(0);
        let most = match in_use {
            0 => MAX_FREE,
            in_use => MAX_MEMORY.saturating_sub(in_use),
        };
        free.truncate((most / UNIT) as usize);
    }

    fn reuse(&self, length: usize) -> Vec<u8> {
        let mut free = self.free();
        let fits = length as u64 <= UNIT;
        let used = fits.then(|| free.pop()).flatten();
        self.trim(&mut free);
        drop(free);
        used.unwrap_or_else(|| Vec::with_capacity(length.max(UNIT as usize)))
    }
}

/// A piece being received.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    held: i64,
    pool: Arc<Pool>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Buffer {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The bytes, to be shared; the memory goes back to the pool with the last of them.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        let mut free = self.pool.free();
        self.pool.in_use.dec_by(self.held);
        if bytes.capacity() as u64 == UNIT {
            bytes.clear();
            free.push(bytes);
        }
        self.pool.trim(&mut free);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(buffers: &Buffers) -> usize {
        buffers.0.units.available_permits()
    }

    #[tokio::test]
    async fn memory_is_bounded_and_used_again() {
        let buffers = Buffers::new(&Metrics::default());
        let mut taken = Vec::new();
        for _ in 0..MAX_MEMORY / UNIT {
            taken.push(buffers.take(100).await.freeze());
        }
        let waiting = buffers.clone();
        let mut another = Box::pin(async move { waiting.take(1).await.len() });
        assert!(futures_util::FutureExt::now_or_never(&mut another).is_none());
        let shared = taken.pop().unwrap();
        let part = shared.slice(..0);
        drop(shared);
        drop(part);
        assert_eq!(another.await, 0);
        drop(taken);
        assert_eq!(buffers.0.in_use.get(), 0);
        assert_eq!(buffers.0.free().len() as u64, MAX_FREE / UNIT);
    }

    #[tokio::test]
    async fn a_used_buffer_is_empty_and_a_large_one_is_not_kept() {
        let buffers = Buffers::new(&Metrics::default());
        let before = units(&buffers);
        let mut large = buffers.take(3 << 20).await;
        large.extend(b"abc");
        assert_eq!((large.as_ref(), units(&buffers)), (&b"abc"[..], before - 3));
        drop(large);
        assert!(buffers.0.free().is_empty());
        let mut small = buffers.take(10).await;
        small.extend(b"abc");
        drop(small);
        assert_eq!(buffers.take(10).await.len(), 0);
        assert_eq!(units(&buffers), before);
    }
}
