//! A rate that several senders share.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What was not sent in this time may be made up for: timers are not exact.
const SLACK: Duration = Duration::from_millis(20);

/// One rate for everybody who waits for it.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes a second; 0 is without limit.
    rate: u64,
    /// When what has been let go is through.
    free: Mutex<Instant>,
}

impl Pace {
    /// `rate` bytes a second; 0 is without limit.
    pub(super) fn new(rate: u64) -> Self {
        Self {
            rate,
            free: Mutex::new(Instant::now()),
        }
    }

    /// Returns when `bytes` may go.
    pub(super) async fn wait(&self, bytes: usize) {
        if self.rate > 0 {
            tokio::time::sleep_until(self.admit(bytes, Instant::now())).await;
        }
    }

    fn admit(&self, bytes: usize, now: Instant) -> Instant {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(SLACK).unwrap_or(now);
        let takes = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        *free = (*free).max(earliest) + takes;
        *free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn senders_share_one_rate() {
        let pace = Pace::new(1000);
        let start = Instant::now() + SLACK;
        *pace.free.lock().unwrap() = start;
        let ends: Vec<_> = (0..4).map(|_| pace.admit(500, start)).collect();
        assert_eq!(ends[3], start + Duration::from_secs(2));
        // What was not used long ago is gone.
        let later = start + Duration::from_secs(10);
        let end = later + Duration::from_secs(1) - SLACK;
        assert_eq!(pace.admit(1000, later), end);
    }
}
