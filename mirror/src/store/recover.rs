//! Opening: makes the index and the files agree.
//!
//! A file counts when the index knows it. That it still has its size is made sure of when it is
//! opened, and of all files beside normal work, soon after the start. A file the index does not know
//! was complete when it got its name, but the disk may have lost some of it since: it counts after it
//! has been hashed, beside normal work too; a file (see [`darner_proto::file`]) cannot be, and is
//! removed. What the index knows and is not there is forgotten.

use darner_proto::digest::Digest;

use super::encoding::BlobRecord;
use super::error::StoreError;
use super::index::{Change, Loaded, Table};
use super::layout::{self, Layout};
use super::ledger::{Ledger, Limits, Victim};
use super::terms::Terms;
use super::{Options, disk, now_ms};

/// Partials that wait to be gone on with.
const MAX_IDLE_PARTIALS: usize = 128;
/// Who has not gone on with a download for this long will not.
const MAX_IDLE_AGE_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// What a store holds that was just opened, and what its index must be told.
pub(super) struct Recovered {
    pub(super) ledger: Ledger,
    pub(super) changes: Vec<Change>,
}

/// Compares the files that were `found` with the index.
pub(super) fn recover(
    layout: &Layout,
    loaded: &Loaded,
    mut found: Vec<Digest>,
    options: &Options,
) -> Result<Recovered, StoreError> {
    let mut changes = Vec::new();
    let known = known(loaded, &mut changes);
    let mut ledger = Ledger::new();
    found.sort_unstable();
    let mut held = Vec::with_capacity(known.len());
    let mut known = known.into_iter().peekable();
    let mut gone = |digest: Digest| {
        tracing::warn!(%digest, "a blob is gone from the disk");
        forget(&digest, &mut changes);
    };
    for digest in found {
        while let Some((before, _)) = known.next_if(|(known, _)| *known < digest) {
            gone(before);
        }
        match known.next_if(|(known, _)| *known == digest) {
            Some(blob) => held.push(blob),
            // Nothing says whether it is what it should be.
            None if !digest.is_of_content() => layout::remove(&layout.blob(&digest)),
            None => {
                if let Some(size) = layout.size_of_blob(&digest)? {
                    ledger.suspect(digest, size);
                }
            }
        }
    }
    known.for_each(|(digest, _)| gone(digest));
    ledger.load(held);
    *ledger.terms() = Terms::load(loaded);
    for (digest, size, last_use) in layout.scan_partials()? {
        if ledger.size_of(&digest).is_some() {
            discard(layout, &digest);
        } else {
            ledger.found(digest, size, last_use);
        }
    }
    for victim in drop_stale(&mut ledger) {
        if let Victim::Partial(digest, _) = victim {
            discard(layout, &digest);
        }
    }
    let space = disk::space(layout.root());
    let space =
        space.map_err(|error| StoreError::io("measure the disk of", layout.root(), error))?;
    let used = ledger.totals().bytes;
    let mut limits = Limits::new(options.capacity, space, used);
    limits.reserve = options.reserve.unwrap_or(limits.reserve);
    ledger.limit(limits);
    Ok(Recovered { ledger, changes })
}

/// What the index says of blobs, by digest.
fn known(loaded: &Loaded, changes: &mut Vec<Change>) -> Vec<(Digest, BlobRecord)> {
    let mut known = Vec::with_capacity(loaded.blobs.len());
    for (key, value) in &loaded.blobs {
        match (Digest::from_wire(key), BlobRecord::decode(value)) {
            (Ok(digest), Some(record)) => known.push((digest, record)),
            _ => changes.push(Change::remove(Table::Blobs, key.clone())),
        }
    }
    // The index has them in this order already.
    known.sort_by_key(|(digest, _)| *digest);
    known
}

/// Drops the partials that are too many or too old.
pub(super) fn drop_stale(ledger: &mut Ledger) -> Vec<Victim> {
    let oldest = now_ms().saturating_sub(MAX_IDLE_AGE_MS);
    ledger.drop_stale(oldest, MAX_IDLE_PARTIALS)
}

/// What the index is told of a blob that is gone.
pub(super) fn forget(digest: &Digest, changes: &mut Vec<Change>) {
    changes.push(Change::remove(Table::Blobs, digest.to_wire()));
    changes.push(Change::remove(Table::PieceMaps, digest.to_wire()));
    if !digest.is_of_content() {
        changes.push(Change::remove(Table::Contents, digest.to_wire()));
    }
}

fn discard(layout: &Layout, digest: &Digest) {
    layout::remove(&layout.partial(digest));
    layout::remove(&layout.journal(digest));
}
