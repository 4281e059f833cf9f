//! How much is asked of one registry: exchanges at once, and none while it asks us to wait.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::error::Fault;
use super::metrics::{Counts, InUse};

/// One in so many exchanges is kept free of blob bodies, so that manifests do not queue behind them.
const RESERVE: usize = 4;
/// A registry that asks for more patience is asked again all the same.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// A 429 that does not say for how long.
const DEFAULT_WAIT: Duration = Duration::from_secs(5);
const MIN_WAIT: Duration = Duration::from_secs(1);

/// Exchanges at once with one registry. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    all: Arc<Semaphore>,
    bulk: Arc<Semaphore>,
    counts: Counts,
}

/// The right to one exchange, until the end of its body.
#[derive(Debug)]
pub(super) struct Permit {
    _bulk: Option<OwnedSemaphorePermit>,
    _slot: OwnedSemaphorePermit,
    _in_use: InUse,
}

impl Slots {
    pub(super) fn new(max_connections: usize, counts: Counts) -> Self {
        let all = max_connections.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            all: Arc::new(Semaphore::new(all)),
            bulk: Arc::new(Semaphore::new(all - all / RESERVE)),
            counts,
        }
    }

    /// Waits for a slot; `bulk` for the body of a blob.
    pub(super) async fn take(&self, bulk: bool) -> Result<Permit, Fault> {
        let bulk = match bulk {
            true => Some(acquired(&self.bulk).await?),
            false => None,
        };
        Ok(Permit {
            _bulk: bulk,
            _slot: acquired(&self.all).await?,
            _in_use: self.counts.in_use(),
        })
    }
}

async fn acquired(semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Fault> {
    let permit = semaphore.clone().acquire_owned().await;
    permit.map_err(|_| Fault::Full)
}

/// The time until which a registry wants to be left alone.
#[derive(Debug, Default)]
pub(super) struct Quiet(Mutex<Option<Instant>>);

impl Quiet {
    /// Fails while the registry wants to be left alone.
    pub(super) fn check(&self) -> Result<(), Fault> {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match until {
            Some(until) if until > now => Err(Fault::Limited(until - now)),
            _ => Ok(()),
        }
    }

    /// Takes a 429 to heart.
    pub(super) fn begin(&self, headers: &HeaderMap) -> Fault {
        let wait = wait(headers);
        self.keep(wait);
        Fault::Limited(wait)
    }

    /// Leaves the registry alone for this long at least, which is never longer than [`MAX_WAIT`].
    pub(super) fn keep(&self, wait: Duration) {
        let until = Instant::now() + wait.min(MAX_WAIT);
        let mut quiet = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *quiet = Some(quiet.map_or(until, |before| before.max(until)));
    }

    /// For how long it is still left alone.
    pub(super) fn left(&self) -> Duration {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until.map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(Instant::now())
        })
    }
}

/// `Retry-After` in seconds. A date is taken for the longest wait there is: our clock may differ
/// from theirs.
fn wait(headers: &HeaderMap) -> Duration {
    let Some(value) = headers.get(RETRY_AFTER) else {
        return DEFAULT_WAIT;
    };
    let seconds = value.to_str().ok().and_then(|text| text.parse().ok());
    seconds.map_or(MAX_WAIT, |seconds| {
        Duration::from_secs(seconds).clamp(MIN_WAIT, MAX_WAIT)
    })
}

#[cfg(test)]
mod tests {
    use darner_service::metrics::Metrics;
    use futures_util::FutureExt as _;

    use super::super::metrics::UpstreamMetrics;
    use super::*;

    fn slots(max: usize) -> Slots {
        let counts = UpstreamMetrics::new(&Metrics::default()).of(&"r.example".parse().unwrap());
        Slots::new(max, counts)
    }

    #[tokio::test]
    async fn blob_bodies_leave_room_for_manifests() {
        let slots = slots(4);
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(slots.take(true).await.unwrap());
        }
        assert!(slots.take(true).now_or_never().is_none());
        let manifest = slots.take(false).await.unwrap();
        assert!(slots.take(false).now_or_never().is_none());
        drop((held, manifest));
        assert!(slots.take(true).await.is_ok());
    }

    #[tokio::test]
    async fn one_connection_serves_both_kinds() {
        let slots = slots(1);
        drop(slots.take(true).await.unwrap());
        assert!(slots.take(false).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_limited_registry_is_left_alone_for_as_long_as_it_asks() {
        for (header, seconds) in [
            (None, 5),
            (Some("0"), 1),
            (Some("7"), 7),
            (Some("86400"), 60),
            (Some("Fri, 31 Dec 2100 23:59:59 GMT"), 60),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(text) = header {
                headers.insert(RETRY_AFTER, text.parse().unwrap());
            }
            let quiet = Quiet::default();
            quiet.begin(&headers);
            tokio::time::advance(Duration::from_millis(seconds * 1000 - 1)).await;
            assert!(quiet.check().is_err(), "{header:?}");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(quiet.check().is_ok(), "{header:?}");
        }
    }
}
