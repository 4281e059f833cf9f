//! Bodies on their way out of the upstream: counted, slowed down, broken.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::time::Instant;

use super::fault::Fault;

/// A throttled body moves in steps of this many bytes, so that it moves evenly.
const STEP: usize = 64 << 10;

/// What all bodies together go out on.
#[derive(Debug, Default)]
pub(super) struct Link {
    state: Mutex<Pace>,
}

#[derive(Debug, Default)]
struct Pace {
    bytes_per_second: Option<u64>,
    free_at: Option<Instant>,
}

impl Link {
    pub(super) fn throttle(&self, bytes_per_second: Option<u64>) {
        let mut pace = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        pace.bytes_per_second = bytes_per_second;
    }

    /// When `bytes` more may go out.
    fn take(&self, bytes: usize) -> Option<Instant> {
        let mut pace = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = pace.bytes_per_second?;
        let now = Instant::now();
        let start = pace.free_at.map_or(now, |free| free.max(now));
        let lasts = Duration::from_secs_f64(bytes as f64 / rate as f64);
        pace.free_at = Some(start + lasts);
        Some(start + lasts)
    }
}

struct Outgoing {
    answer: reqwest::Response,
    fault: Option<Fault>,
    link: Arc<Link>,
    counter: Arc<AtomicU64>,
    rest: Bytes,
    sent: u64,
}

/// The registry's body, as the fault and the link let it through.
pub(super) fn send(
    answer: reqwest::Response,
    fault: Option<Fault>,
    link: Arc<Link>,
    counter: Arc<AtomicU64>,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let outgoing = Outgoing {
        answer,
        fault,
        link,
        counter,
        rest: Bytes::new(),
        sent: 0,
    };
    stream::try_unfold(outgoing, |mut outgoing| async move {
        let step = outgoing.step().await?;
        Ok(step.map(|step| (step, outgoing)))
    })
}

impl Outgoing {
    async fn step(&mut self) -> io::Result<Option<Bytes>> {
        while self.rest.is_empty() {
            match self.answer.chunk().await.map_err(io::Error::other)? {
                Some(chunk) => self.rest = chunk,
                None => return Ok(None),
            }
        }
        let mut length = self.rest.len().min(STEP);
        if let Some(Fault::Cut(at) | Fault::Stall(at)) = self.fault {
            let left = at.saturating_sub(self.sent);
            if left == 0 {
                return self.give_up().await;
            }
            length = length.min(usize::try_from(left).unwrap_or(length));
        }
        let mut step = self.rest.split_to(length);
        if let Some(at) = self.link.take(step.len()) {
            tokio::time::sleep_until(at).await;
        }
        if self.fault == Some(Fault::Corrupt) && self.sent == 0 {
            step = corrupted(&step);
        }
        self.sent += step.len() as u64;
        self.counter.fetch_add(step.len() as u64, Ordering::Relaxed);
        Ok(Some(step))
    }

    async fn give_up(&self) -> io::Result<Option<Bytes>> {
        if matches!(self.fault, Some(Fault::Stall(_))) {
            std::future::pending::<()>().await;
        }
        // Lets the bytes before the cut reach the socket first: hyper drops what it still buffers.
        tokio::time::sleep(Duration::from_millis(50)).await;
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

fn corrupted(bytes: &[u8]) -> Bytes {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    bytes.into()
}
