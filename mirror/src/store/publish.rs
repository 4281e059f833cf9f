//! The last steps of content on its way into the store. All of it blocks.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use darner_proto::digest::Digest;

use super::encoding::BlobRecord;
use super::inner::{Inner, blob_change};
use super::{StoreError, StoreEvent, disk, layout, lock, now_ms};

/// When the index must know of content before it is visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// After a crash it is known.
    Awaited,
    /// After a crash within seconds it is hashed again: for small content, where that costs less
    /// than the wait.
    Eventual,
}

impl Inner {
    /// Keeps content that is at hand.
    pub(super) fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        if !digest.matches(bytes) {
            return Err(self.counted(StoreError::Mismatch(*digest)));
        }
        if lock(&self.ledger).size_of(digest).is_some() {
            return Ok(());
        }
        let size = bytes.len() as u64;
        self.make_room(size)?;
        let path = self.layout.new_file();
        let written = disk::create(&path).and_then(|file| {
            file.write_all_at(bytes, 0)?;
            Ok(Arc::new(file))
        });
        lock(&self.ledger).allocated(size);
        let published = written
            .map_err(|error| self.write_failed(StoreError::io("write", &path, error), size))
            .and_then(|file| self.publish(digest, (&file, &path), size, Durability::Eventual));
        if published.is_err() {
            layout::remove(&path);
            let mut ledger = lock(&self.ledger);
            ledger.release(size);
            self.metrics.totals(ledger.totals());
        }
        published
    }

    /// Makes verified content, whose room is reserved, durable and visible: syncs `file`, gives it its
    /// name in place of `from`, syncs the directory, tells the index, tells everybody. The order is
    /// what a crash at any point relies on.
    pub(super) fn publish(
        &self,
        digest: &Digest,
        (file, from): (&Arc<File>, &Path),
        size: u64,
        durability: Durability,
    ) -> Result<(), StoreError> {
        let failed =
            |doing, path: &Path, error| self.write_failed(StoreError::io(doing, path, error), size);
        disk::seal(file).map_err(|error| failed("sync", from, error))?;
        let path = self.layout.blob(digest);
        let last_use = {
            let mut ledger = lock(&self.ledger);
            std::fs::rename(from, &path)
                .map_err(|error| failed_io("name", &path, error))
                .map(|()| ledger.stamp(now_ms()))
        };
        let last_use = last_use.map_err(|error| self.write_failed(error, size))?;
        let directory = self.layout.blobs(digest);
        if let Err(error) = disk::sync_directory(&directory) {
            self.unname(digest);
            return Err(failed("sync", &directory, error));
        }
        let record = BlobRecord { size, last_use };
        self.tell_index(digest, record, durability);
        let mut ledger = lock(&self.ledger);
        ledger.hold(*digest, record, Arc::downgrade(file));
        let stale = ledger.drop_idle(digest);
        let aside = self.set_aside(&ledger, stale);
        let _ = self.events.send(StoreEvent::Held(*digest));
        drop(ledger);
        self.remove_all(aside);
        Ok(())
    }

    /// Content is good whether the index can be written or not: without, it is hashed after a
    /// restart.
    fn tell_index(&self, digest: &Digest, record: BlobRecord, durability: Durability) {
        let changes = vec![blob_change(digest, record)];
        let told = match durability {
            Durability::Awaited => self.index.commit(changes),
            Durability::Eventual => self.index.submit(changes),
        };
        if let Err(error) = told {
            let error = self.counted(error);
            tracing::warn!(%digest, %error, "the index does not know of content");
        }
    }

    /// Takes back a name, unless others know the content by it already.
    fn unname(&self, digest: &Digest) {
        let ledger = lock(&self.ledger);
        if ledger.size_of(digest).is_none() {
            layout::remove(&self.layout.blob(digest));
        }
    }
}

fn failed_io(doing: &'static str, path: &Path, error: std::io::Error) -> StoreError {
    StoreError::io(doing, path, error)
}
