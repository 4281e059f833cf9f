//! Ordered shutdown: one level that everybody can see, and a count of what still runs.
//!
//! A process stops in this order: not ready any more; no new connections; what it holds withdrawn;
//! running streams finished up to the grace period; everything else cancelled. [`Shutdown`] carries
//! the two levels (`draining`, `cancelled`) and owns every task, so none outlives its process part.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Handle to the process's end. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    cancelled: CancellationToken,
    tracker: TaskTracker,
}

impl Shutdown {
    /// Runs `task` as part of the process. The task should end soon after [`Shutdown::draining`],
    /// or after it finished what it serves.
    #[allow(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(self.tracker.track_future(task))
    }

    /// Completes once the process should take nothing new. A level: it stays complete.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Whether the process takes nothing new.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Completes once even running work must stop.
    pub async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }

    /// A token that is cancelled when even running work must stop.
    pub fn cancellation(&self) -> CancellationToken {
        self.cancelled.clone()
    }

    /// Begins draining.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Drains, waits for every task up to `grace`, then cancels what is left and waits briefly for
    /// it. Says whether everything ended by itself.
    pub async fn finish(&self, grace: Duration) -> bool {
        self.drain();
        self.tracker.close();
        let in_time = tokio::time::timeout(grace, self.tracker.wait())
            .await
            .is_ok();
        self.cancelled.cancel();
        if !in_time {
            let _ = tokio::time::timeout(Duration::from_secs(2), self.tracker.wait()).await;
        }
        in_time
    }
}
