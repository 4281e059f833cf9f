//! Doubt: a peer says that content was not what it should be. The content is read and hashed again;
//! if the peer is right it is set aside and withdrawn.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use darner_proto::digest::Digest;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Inner, blocking, disk, lock};

/// Contents that are being hashed at once: doubt must not keep the disk from its work.
const AT_ONCE: usize = 2;
/// Content found right is not checked again for this long, whoever doubts it.
const NOT_AGAIN_WITHIN: Duration = Duration::from_secs(10 * 60);
/// Contents remembered as just checked; beyond this doubts are not heard.
const REMEMBERED: usize = 1024;

/// Which checks run and ran.
#[derive(Debug)]
pub(super) struct Checks {
    recent: Mutex<HashMap<Digest, Instant>>,
    slots: Semaphore,
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            recent: Mutex::default(),
            slots: Semaphore::new(AT_ONCE),
        }
    }
}

impl Checks {
    /// Whether a check may run now; notes that it does.
    fn begin(&self, digest: &Digest) -> bool {
        let mut recent = lock(&self.recent);
        if recent.len() >= REMEMBERED {
            recent.retain(|_, begun| begun.elapsed() < NOT_AGAIN_WITHIN);
        }
        let is_due = recent
            .get(digest)
            .is_none_or(|begun| begun.elapsed() >= NOT_AGAIN_WITHIN);
        let runs = is_due && recent.len() < REMEMBERED;
        if runs {
            recent.insert(*digest, Instant::now());
        }
        runs
    }

    fn forget(&self, digest: &Digest) {
        lock(&self.recent).remove(digest);
    }
}

pub(super) async fn check(store: &Arc<Inner>, digest: &Digest) {
    if lock(&store.ledger).size_of(digest).is_none() || !store.checks.begin(digest) {
        return;
    }
    let Ok(_slot) = store.checks.slots.acquire().await else {
        return;
    };
    let (inner, digest) = (store.clone(), *digest);
    let stop = CancellationToken::new();
    // When nobody waits any more, the reading ends, too.
    let _guard = stop.clone().drop_guard();
    if let Err(error) = blocking(move || check_now(&inner, &digest, &stop)).await {
        tracing::debug!(%digest, %error, "a check did not end");
    }
}

fn check_now(store: &Arc<Inner>, digest: &Digest, stop: &CancellationToken) {
    let Some(content) = store.open_content(digest) else {
        return;
    };
    // Of a file whose digest is not known nothing can be said.
    let Some(expected) = store.content_digest(digest) else {
        return;
    };
    let found = disk::has_digest(content.file(), content.size(), &expected, || {
        stop.is_cancelled()
    });
    match found {
        Ok(Some(true)) => tracing::info!(%digest, "doubted content is what it should be"),
        Ok(None) => {}
        Ok(Some(false)) | Err(_) => {
            store.quarantine(digest);
            // What comes in its place is other bytes.
            store.checks.forget(digest);
        }
    }
}

#[cfg(test)]
impl Checks {
    pub(super) fn clone_recent(&self) -> HashMap<Digest, Instant> {
        lock(&self.recent).clone()
    }
}
