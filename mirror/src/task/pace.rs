//! How fast a download may come that nobody waits for: as fast as who ordered it says, and as fast as
//! it can from the moment on when a client wants the same content.

use std::sync::{Mutex, PoisonError};

use crate::bandwidth::Limit;

/// The pace of one download.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<Wanted>);

#[derive(Debug, Default)]
enum Wanted {
    /// Nobody has said anything.
    #[default]
    Open,
    /// Only those want it who can wait.
    Limited(Limit),
    /// Somebody waits for it.
    Awaited,
}

impl Pace {
    /// Somebody waits for the content.
    pub(super) fn hurry(&self) {
        *self.lock() = Wanted::Awaited;
    }

    /// The content is wanted no faster than `limit`, unless somebody waits for it.
    pub(super) fn slow_down(&self, limit: Limit) {
        let mut wanted = self.lock();
        if !matches!(*wanted, Wanted::Awaited) {
            *wanted = Wanted::Limited(limit);
        }
    }

    /// Waits until `bytes` more may come.
    pub(super) async fn take(&self, bytes: u64) {
        let limit = match &*self.lock() {
            Wanted::Limited(limit) => limit.clone(),
            Wanted::Open | Wanted::Awaited => return,
        };
        limit.take(bytes).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Wanted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    async fn time_of(pace: &Pace, bytes: u64) -> Duration {
        let begun = Instant::now();
        // What is taken is waited for by whoever comes next.
        for _ in 0..2 {
            pace.take(bytes).await;
        }
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_client_waits_for_is_not_held_back() {
        let pace = Pace::default();
        assert_eq!(time_of(&pace, 1 << 20).await, Duration::ZERO);
        pace.slow_down(Limit::of(1 << 20));
        assert!(time_of(&pace, 1 << 20).await > Duration::from_millis(900));
        pace.hurry();
        assert_eq!(time_of(&pace, 1 << 20).await, Duration::ZERO);
        pace.slow_down(Limit::of(1 << 20));
        assert_eq!(time_of(&pace, 1 << 20).await, Duration::ZERO);
    }
}
