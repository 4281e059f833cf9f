//! Looking at the database again and again, for what other managers have changed and for what is due.

use std::time::Duration;

use darner_service::shutdown::Shutdown;
use darner_service::telemetry::with_causes;
use tokio::time::{MissedTickBehavior, interval};

/// Looks every `step` until the process drains. `trouble` is logged when that begins to fail, not each time
/// that it does.
pub(crate) async fn look_every<Looked, Failed>(
    step: Duration,
    shutdown: &Shutdown,
    trouble: &str,
    look: impl Fn() -> Looked,
) where
    Looked: Future<Output = Result<(), Failed>>,
    Failed: std::error::Error + 'static,
{
    let mut ticks = interval(step);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.draining() => return,
        }
        let looked = look().await;
        if let (Err(error), false) = (&looked, failing) {
            let error = with_causes(error);
            tracing::error!(error, "{trouble}");
        }
        failing = looked.is_err();
    }
}
