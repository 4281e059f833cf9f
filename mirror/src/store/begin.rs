//! How a download begins: takes up what is under way, what a restart left, or makes room for a new
//! one. Everything here blocks.

use std::fs::File;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use darner_proto::digest::Digest;
use darner_proto::geometry::{Geometry, MAX_SIZE};
use darner_proto::piece_map;

use super::disk;
use super::error::StoreError;
use super::journal::{Journal, Noted};
use super::ledger::Phase;
use super::partial::{Partial, Shared};
use super::{Inner, lock, now_ms};

/// Pieces from before a restart are hashed for so long; the rest are had again. A client waits.
const RESTORE_FOR: Duration = Duration::from_secs(3);
/// A file that is not in the index is verified while a client waits when it has at most this many
/// bytes: a second or two even from a slow disk. A larger one is had again.
const VERIFY_AT_ONCE: u64 = 256 << 20;

/// What there is of a content when a download of it is asked for.
enum Standing {
    Live(Arc<Shared>),
    /// A file from before a restart, to be looked at by whoever got this.
    Left,
    Nothing,
}

/// The download of `digest`. There is one at a time.
pub(super) fn begin(store: &Arc<Inner>, digest: &Digest, size: u64) -> Result<Partial, StoreError> {
    if size > MAX_SIZE {
        return Err(store.full(size));
    }
    settle_unverified(store, digest, size)?;
    let left = match stand(store, digest, size)? {
        Standing::Live(shared) => return Ok(Partial { shared }),
        Standing::Left => true,
        Standing::Nothing => {
            if let Some(present) = reserve(store, digest, size)? {
                return Ok(present);
            }
            false
        }
    };
    // From here on the entry in the ledger is this call's own, and must not stay behind.
    match open(store, digest, size, left) {
        Ok(shared) => {
            let shared = Arc::new(shared);
            let mut ledger = lock(&store.ledger);
            if let Some(entry) = ledger.partial(digest) {
                entry.phase = Phase::Live(Arc::downgrade(&shared));
            }
            if !left {
                ledger.allocated(size);
            }
            drop(ledger);
            store.partials_changed.notify_all();
            Ok(Partial { shared })
        }
        Err(error) => {
            if !left {
                lock(&store.ledger).allocated(size);
            }
            store.finish_partial(digest, false);
            Err(store.write_failed(error, size))
        }
    }
}

/// A file that is here but not in the index may be all that is wanted.
fn settle_unverified(store: &Arc<Inner>, digest: &Digest, size: u64) -> Result<(), StoreError> {
    let found = lock(&store.ledger).unverified(digest);
    match found {
        Some(found) if found == size && size <= VERIFY_AT_ONCE => {
            store.verify_file(digest, size, || false);
        }
        Some(_) => store.drop_unverified(digest),
        None => {}
    }
    if lock(&store.ledger).size_of(digest).is_some() {
        return Err(StoreError::Held(*digest));
    }
    Ok(())
}

fn stand(store: &Arc<Inner>, digest: &Digest, size: u64) -> Result<Standing, StoreError> {
    let mut ledger = lock(&store.ledger);
    loop {
        let Some(partial) = ledger.partial(digest) else {
            return Ok(Standing::Nothing);
        };
        let present = partial.size;
        match &partial.phase {
            Phase::Idle if present == size => {
                partial.phase = Phase::Beginning;
                return Ok(Standing::Left);
            }
            Phase::Idle => {
                let victim = ledger.drop_idle(digest);
                let aside = store.set_aside(&ledger, victim);
                drop(ledger);
                store.remove_all(aside);
                return Ok(Standing::Nothing);
            }
            Phase::Live(shared) => {
                if let Some(shared) = shared.upgrade() {
                    drop(ledger);
                    return if present == size {
                        Ok(Standing::Live(shared))
                    } else {
                        Err(StoreError::Size {
                            digest: *digest,
                            present,
                            asked: size,
                        })
                    };
                }
                // Its last user is just leaving.
            }
            Phase::Beginning => {}
        }
        ledger = store
            .partials_changed
            .wait(ledger)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

/// Makes room and enters the download in the ledger. `Some` when another call was faster.
fn reserve(store: &Arc<Inner>, digest: &Digest, size: u64) -> Result<Option<Partial>, StoreError> {
    store.make_room(size)?;
    let mut ledger = lock(&store.ledger);
    let taken = ledger.partial(digest).is_some() || ledger.size_of(digest).is_some();
    if taken {
        ledger.allocated(size);
        ledger.release(size);
        drop(ledger);
        return begin(store, digest, size).map(Some);
    }
    ledger.begin(*digest, size, now_ms());
    store.metrics.totals(ledger.totals());
    Ok(None)
}

fn open(store: &Arc<Inner>, digest: &Digest, size: u64, left: bool) -> Result<Shared, StoreError> {
    if left {
        match take_up(store, digest, size) {
            Ok(Some((files, noted))) => {
                tracing::info!(%digest, pieces = noted.held.len(), "a download goes on with what was on disk");
                return Ok(Shared::new(store.clone(), *digest, size, files, noted));
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%digest, %error, "what was left of a download cannot be read; it begins anew");
            }
        }
    }
    let (path, journal_path) = (store.layout.partial(digest), store.layout.journal(digest));
    let file = disk::create(&path).map_err(|error| StoreError::io("make", &path, error))?;
    disk::allocate(&file, size).map_err(|error| StoreError::io("allocate", &path, error))?;
    let journal = disk::create(&journal_path).and_then(|file| Journal::begin(file, digest, size));
    let journal = journal.map_err(|error| StoreError::io("begin", &journal_path, error))?;
    let files = (file, journal);
    Ok(Shared::new(
        store.clone(),
        *digest,
        size,
        files,
        Noted::default(),
    ))
}

type Files = (File, Journal);

/// Opens what is left of a download and hashes the pieces it claims to have.
fn take_up(store: &Inner, digest: &Digest, size: u64) -> std::io::Result<Option<(Files, Noted)>> {
    let file = disk::open_writable(&store.layout.partial(digest))?;
    if file.metadata()?.len() != size {
        return Ok(None);
    }
    let journal = disk::open_writable(&store.layout.journal(digest))?;
    let Some((journal, mut noted)) = Journal::resume(journal, digest, size)? else {
        return Ok(None);
    };
    let begun = Instant::now();
    let geometry = Geometry::of(size);
    let runs = &noted.runs;
    let is_good = |index: u32, number: u32| {
        if begun.elapsed() > RESTORE_FOR {
            return false;
        }
        let run = usize::try_from(number)
            .ok()
            .and_then(|number| runs.get(number));
        let expected = run.and_then(|run| {
            let place = usize::try_from(index.checked_sub(run.first)?).ok()?;
            run.hashes.get(place)
        });
        // One that cannot be read is one that is not there.
        let piece = disk::read(&file, geometry.bytes_of(index));
        matches!((expected, piece), (Some(hash), Ok(piece)) if piece_map::hash(&piece) == *hash)
    };
    noted.held.sort_unstable();
    let mut good: Vec<(u32, u32)> = Vec::new();
    for (index, number) in &noted.held {
        let known = good.last().is_some_and(|(last, _)| last == index);
        if !known && is_good(*index, *number) {
            good.push((*index, *number));
        }
    }
    noted.held = good;
    Ok(Some(((file, journal), noted)))
}
