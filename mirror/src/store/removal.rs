//! Content and records that go because somebody says so, and not to make room.

use std::time::SystemTime;

use darner_proto::digest::Digest;
use darner_proto::name::{Source, Tag};

use super::index::Change;
use super::index::Table;
use super::records::{Records, link_key, tag_key};
use super::{Store, StoreError, StoreEvent, disk, lock, recover};

/// Records that go with content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// What tags mean.
    pub tags: Vec<(Source, Tag)>,
    /// What is part of which repository.
    pub links: Vec<(Source, Digest)>,
}

impl Store {
    /// When held content was written. Blocks.
    pub fn written_at(&self, digest: &Digest) -> Option<SystemTime> {
        self.size_of(digest)?;
        let file = disk::open(&self.inner.layout.blob(digest)).ok()?;
        file.metadata().ok()?.modified().ok()
    }

    /// Removes content; whoever reads it reads on to its end. Says how many bytes went. Blocks.
    pub fn remove(&self, contents: &[Digest]) -> u64 {
        let inner = &self.inner;
        let (mut changes, mut paths, mut removed) = (Vec::new(), Vec::new(), 0);
        for digest in contents {
            let mut ledger = lock(&inner.ledger);
            let Some(size) = ledger.remove(digest) else {
                continue;
            };
            // Nobody listens only while nobody has to know.
            let _ = inner.events.send(StoreEvent::Withdrawn(*digest));
            paths.extend(inner.layout.set_aside(&inner.layout.blob(digest)));
            inner.metrics.totals(ledger.totals());
            drop(ledger);
            recover::forget(digest, &mut changes);
            removed += size;
        }
        inner.remove_files(changes, paths);
        removed
    }

    /// Forgets records.
    ///
    /// # Errors
    /// See [`Store::set_tag`].
    pub fn forget(&self, forgotten: &Forgotten) -> Result<(), StoreError> {
        self.inner.record(|records| records.drop_records(forgotten))
    }
}

impl Records {
    fn drop_records(&mut self, forgotten: &Forgotten) -> Vec<Change> {
        let mut changes = Vec::new();
        for (source, tag) in &forgotten.tags {
            let repository = self.repositories.get_mut(source);
            if repository.is_some_and(|known| known.tags.remove(tag).is_some()) {
                self.count -= 1;
                changes.push(Change::remove(Table::Tags, tag_key(source, tag)));
            }
        }
        for (source, digest) in &forgotten.links {
            let repository = self.repositories.get_mut(source);
            if repository.is_some_and(|known| known.links.remove(digest).is_some()) {
                self.count -= 1;
                changes.push(Change::remove(Table::Links, link_key(source, digest)));
            }
        }
        changes
    }
}
