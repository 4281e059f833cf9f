//! What is written goes to the disk while more comes, so that the sync before content becomes
//! visible has little left to wait for.
//!
//! The kernel tells of a write that failed once, to whoever syncs first. So an error that a sync in
//! between has met is kept here, and the content is never made visible.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::lock;

/// Written between two syncs: a tenth of a second of a fast disk. Smaller content is synced once.
const EVERY: u64 = 32 << 20;

/// The syncs of one file.
#[derive(Debug, Default)]
pub(super) struct WriteBack {
    unsynced: AtomicU64,
    running: AtomicBool,
    failed: Mutex<Option<io::Error>>,
}

impl WriteBack {
    /// So many bytes more have been written to `file`: perhaps begins a sync beside what runs. Only
    /// where tokio runs.
    pub(super) fn wrote(self: &Arc<Self>, file: &Arc<File>, bytes: u64) {
        let unsynced = self.unsynced.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if unsynced < EVERY || self.running.swap(true, Ordering::AcqRel) {
            return;
        }
        self.unsynced.store(0, Ordering::Relaxed);
        let (write_back, file) = (self.clone(), file.clone());
        tokio::task::spawn_blocking(move || {
            write_back.sync(|| file.sync_data());
            write_back.running.store(false, Ordering::Release);
        });
    }

    fn sync(&self, sync: impl FnOnce() -> io::Result<()>) {
        let mut failed = lock(&self.failed);
        if let Err(error) = sync() {
            failed.get_or_insert(error);
        }
    }

    /// Waits for the sync that runs.
    ///
    /// # Errors
    /// What any sync so far has met: what was written before it may be lost. Only the first call
    /// is told.
    pub(super) fn settled(&self) -> io::Result<()> {
        match lock(&self.failed).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_between_is_found_at_the_end() {
        let write_back = WriteBack::default();
        write_back.sync(|| Err(io::ErrorKind::StorageFull.into()));
        write_back.sync(|| Ok(()));
        let error = write_back.settled().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[tokio::test]
    async fn a_sync_runs_now_and_then_and_one_at_a_time() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let write_back = Arc::new(WriteBack::default());
        write_back.wrote(&file, EVERY - 1);
        assert!(!write_back.running.load(Ordering::Acquire));
        let syncing = lock(&write_back.failed);
        write_back.wrote(&file, 1);
        assert!(write_back.running.load(Ordering::Acquire));
        write_back.wrote(&file, 2 * EVERY);
        assert_eq!(Arc::strong_count(&write_back), 2);
        drop(syncing);
        while write_back.running.load(Ordering::Acquire) {
            tokio::task::yield_now().await;
        }
        assert!(write_back.settled().is_ok());
    }
}
