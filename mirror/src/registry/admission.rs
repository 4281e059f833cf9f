//! How many requests are served at once, and how many may wait their turn.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// Requests that wait; with more waiting, a client is sooner served by the registry itself.
const QUEUE: usize = 4096;
/// Nobody waits longer than this for a turn.
const PATIENCE: Duration = Duration::from_secs(8);

/// Lets a bounded number of requests in, first come, first served.
#[derive(Debug)]
pub(super) struct Admission {
    running: Arc<Semaphore>,
    waiting: Semaphore,
}

impl Admission {
    pub(super) fn new(at_once: usize) -> Self {
        Self {
            running: Arc::new(Semaphore::new(at_once)),
            waiting: Semaphore::new(QUEUE),
        }
    }

    /// A place, to be held until the answer has been sent, or is there to be sent from a file. `None` when too many wait, or it takes
    /// too long or beyond `deadline`.
    pub(super) async fn enter(&self, deadline: Instant) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = self.running.clone().try_acquire_owned() {
            return Some(place);
        }
        let _turn = self.waiting.try_acquire().ok()?;
        let deadline = deadline.min(Instant::now() + PATIENCE);
        let place = timeout_at(deadline, self.running.clone().acquire_owned()).await;
        place.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_too_late_is_turned_away_in_time() {
        let admission = Admission::new(1);
        let first = admission.enter(later()).await;
        assert!(first.is_some());
        let started = Instant::now();
        assert!(admission.enter(later()).await.is_none());
        assert_eq!(started.elapsed().as_secs(), PATIENCE.as_secs());
        let soon = Instant::now() + Duration::from_secs(1);
        assert!(admission.enter(soon).await.is_none());
        assert_eq!(Instant::now(), soon);
        let (second, ()) = tokio::join!(admission.enter(later()), async { drop(first) });
        assert!(second.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_turns_away_at_once() {
        let admission = Admission::new(1);
        let _first = admission.enter(later()).await;
        let waiting = futures_util::future::join_all((0..QUEUE).map(|_| admission.enter(later())));
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        let started = Instant::now();
        assert!(admission.enter(later()).await.is_none());
        assert_eq!(Instant::now(), started);
    }
}
