//! Waiting for something to become true.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Long enough for any single step on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// Polls `condition` until it gives a value; fails after [`PATIENCE`], naming `what`.
pub async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return Ok(value);
        }
        if started.elapsed() > PATIENCE {
            bail!("waited {PATIENCE:?} for: {what}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Polls `condition` until it is true; fails after [`PATIENCE`], naming `what`.
pub async fn until_true(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    until(what, async || condition().then_some(())).await
}
