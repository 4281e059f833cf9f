//! The store's parts and how they work together: what is held, what makes room, what is set aside.
//!
//! A name under `blobs` changes its meaning only while the ledger is locked; what takes long (writing,
//! hashing, syncing, removing) happens outside the lock.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use darner_proto::digest::Digest;
use darner_service::metrics::Metrics;
use rustix::io::Errno;
use tokio::sync::broadcast;

use super::check::Checks;
use super::encoding::BlobRecord;
use super::hot::HotRoom;
use super::index::{Change, Index, Table, damaged_name};
use super::layout::{self, Layout};
use super::ledger::{Ledger, Room, Victim};
use super::metrics::StoreMetrics;
use super::records::Records;
use super::{Content, Options, StoreError, StoreEvent, disk, keeper, lock, now_ms, recover, scrub};

/// Events a slow listener may be behind; beyond this it has to look at everything anew.
const EVENTS: usize = 4096;
/// Rounds of eviction for one content. When that does not free the disk, files that are gone are
/// still open somewhere, and evicting more would empty the store for nothing.
const MAX_ROUNDS: u32 = 8;
/// Files set aside for their digest are kept for whoever looks into it: so many, and
const MAX_QUARANTINED: usize = 8;
/// this part of the capacity.
const QUARANTINE_SHARE: u64 = 20;
/// A disk that fails this many writes
const MAX_FAULTS: usize = 3;
/// within this time is left alone until the time has passed.
const FAULT_WINDOW: Duration = Duration::from_secs(60);

/// What all handles share.
pub(super) struct Inner {
    // Closed in this order: the index writes what is left, then the lock goes.
    pub(super) index: Index,
    pub(super) ledger: Mutex<Ledger>,
    /// A partial has got another phase.
    pub(super) partials_changed: Condvar,
    pub(super) records: Mutex<Records>,
    pub(super) events: broadcast::Sender<StoreEvent>,
    pub(super) checks: Checks,
    pub(super) metrics: StoreMetrics,
    pub(super) hot: HotRoom,
    faults: Mutex<VecDeque<Instant>>,
    _keeper: SyncSender<()>,
    _scrub: SyncSender<()>,
    pub(super) layout: Layout,
}

/// Files that have been moved out of the way.
#[derive(Debug, Default)]
#[must_use]
pub(super) struct Aside {
    paths: Vec<PathBuf>,
    changes: Vec<Change>,
}

impl Inner {
    pub(super) fn open(options: &Options, metrics: &Metrics) -> Result<Arc<Self>, StoreError> {
        let begun = Instant::now();
        let layout = Layout::open(&options.path)?;
        let damaged = damaged_name(&layout.quarantine());
        // Both take long where there is much.
        let (found, opened) = std::thread::scope(|scope| {
            let scan = scope.spawn(|| layout.scan_blobs());
            let opened = Index::open(&layout.index(), &damaged);
            (scan.join(), opened)
        });
        let found = found.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let (index, loaded) = opened?;
        let recovered = recover::recover(&layout, &loaded, found, options)?;
        let metrics = StoreMetrics::new(metrics);
        let limits = recovered.ledger.limits();
        metrics.capacity(limits.capacity);
        metrics.totals(recovered.ledger.totals());
        let (keeper, stop) = sync_channel(1);
        let (scrub, scrub_stop) = sync_channel(1);
        let inner = Arc::new(Self {
            index,
            ledger: Mutex::new(recovered.ledger),
            partials_changed: Condvar::new(),
            records: Mutex::new(Records::load(&loaded)),
            events: broadcast::Sender::new(EVENTS),
            checks: Checks::default(),
            metrics,
            hot: HotRoom::default(),
            faults: Mutex::default(),
            _keeper: keeper,
            _scrub: scrub,
            layout,
        });
        inner.submit(recovered.changes)?;
        let totals = lock(&inner.ledger).totals();
        tracing::info!(
            path = %options.path.display(),
            blobs = totals.blobs,
            bytes = totals.bytes,
            capacity = limits.capacity,
            took_ms = begun.elapsed().as_millis(),
            "the store is open"
        );
        keeper::start(&inner, stop)?;
        if let Some(schedule) = options.scrub {
            scrub::start(&inner, schedule, scrub_stop)?;
        }
        Ok(inner)
    }

    pub(super) fn submit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.index.submit(changes)
    }

    /// Changes records and has that written.
    pub(super) fn record(
        &self,
        change: impl FnOnce(&mut Records) -> Vec<Change>,
    ) -> Result<(), StoreError> {
        // Under the lock, so that the index sees changes of one record in their order.
        let mut records = lock(&self.records);
        let changes = change(&mut records);
        self.submit(changes)
    }

    /// The index is behind; what it does not know is verified after a restart.
    pub(super) fn submit_or_lag(&self, changes: Vec<Change>) {
        if let Err(error) = self.submit(changes) {
            tracing::debug!(%error, "the index is behind");
        }
    }

    // Reading.

    pub(super) fn open_content(self: &Arc<Self>, digest: &Digest) -> Option<Content> {
        let (record, open) = lock(&self.ledger).touch(digest, now_ms())?;
        let file = match open.upgrade() {
            Some(file) => file,
            None => self.open_blob(digest, record.size)?,
        };
        self.submit_or_lag(vec![blob_change(digest, record)]);
        let store = Arc::downgrade(self);
        Some(Content::new(*digest, record.size, file, store))
    }

    fn open_blob(&self, digest: &Digest, size: u64) -> Option<Arc<File>> {
        let opened = disk::open(&self.layout.blob(digest))
            .and_then(|file| Ok((file.metadata()?.len(), file)));
        match opened {
            Ok((length, file)) if length == size => {
                let file = Arc::new(file);
                lock(&self.ledger).share(digest, Arc::downgrade(&file));
                Some(file)
            }
            // Nothing is wrong with the content.
            Err(error) if is_shortage(&error) => {
                tracing::error!(%digest, %error, "content cannot be opened");
                None
            }
            Ok(_) | Err(_) => {
                tracing::error!(%digest, "content is not what it was and is withdrawn");
                self.quarantine(digest);
                None
            }
        }
    }

    /// The digest of the bytes of what is known by `digest`: the same, or what was found when a file
    /// was complete.
    pub(super) fn content_digest(&self, digest: &Digest) -> Option<Digest> {
        if digest.is_of_content() {
            return Some(*digest);
        }
        let known = self.index.get(Table::Contents, &digest.to_wire())?;
        Digest::from_wire(&known).ok()
    }

    /// Withdraws content whose file has lost its size. One that is gone is found out when it is
    /// asked for.
    pub(super) fn check_size(self: &Arc<Self>, digest: &Digest) {
        let Ok(Some(found)) = self.layout.size_of_blob(digest) else {
            return;
        };
        let known = lock(&self.ledger).size_of(digest);
        if known.is_some_and(|size| size != found) {
            tracing::error!(%digest, found, "content has lost its size and is withdrawn");
            self.quarantine(digest);
        }
    }

    /// Withdraws content and sets its file aside.
    pub(super) fn quarantine(&self, digest: &Digest) {
        let mut ledger = lock(&self.ledger);
        let Some(size) = ledger.remove(digest) else {
            return;
        };
        // Nobody listens only while nobody has to know.
        let _ = self.events.send(StoreEvent::Withdrawn(*digest));
        self.move_to_quarantine(digest);
        let _ = self.events.send(StoreEvent::Damaged(*digest, size));
        self.metrics.totals(ledger.totals());
        let most = ledger.limits().capacity / QUARANTINE_SHARE;
        drop(ledger);
        let mut changes = Vec::new();
        recover::forget(digest, &mut changes);
        self.submit_or_lag(changes);
        self.prune_quarantine(most);
    }

    fn move_to_quarantine(&self, digest: &Digest) {
        self.metrics.quarantined();
        tracing::error!(%digest, "content no longer has its digest and is set aside");
        let moved = std::fs::rename(self.layout.blob(digest), self.layout.quarantined(digest));
        if let Err(error) = moved
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%digest, %error, "wrong content cannot be set aside");
        }
    }

    fn prune_quarantine(&self, most: u64) {
        if let Err(error) = self.layout.prune_quarantine(MAX_QUARANTINED, most) {
            tracing::warn!(%error, "the quarantine cannot be kept small");
        }
    }

    // Room.

    /// Reserves the room of `size` bytes, evicting what must go.
    pub(super) fn make_room(&self, size: u64) -> Result<(), StoreError> {
        if self.is_failing() {
            return Err(self.counted(StoreError::Failing));
        }
        for round in 0..=MAX_ROUNDS {
            let free = self.free()?;
            let mut ledger = lock(&self.ledger);
            match ledger.reserve(size, free, round == MAX_ROUNDS) {
                Room::Granted => {
                    self.metrics.totals(ledger.totals());
                    return Ok(());
                }
                Room::After(victims) => {
                    let aside = self.set_aside(&ledger, victims);
                    drop(ledger);
                    self.remove_all(aside);
                }
                Room::Full => break,
            }
        }
        Err(self.full(size))
    }

    fn free(&self) -> Result<u64, StoreError> {
        let root = self.layout.root();
        let space = disk::space(root);
        let space = space.map_err(|error| StoreError::io("measure the disk of", root, error))?;
        Ok(space.free)
    }

    pub(super) fn full(&self, needed: u64) -> StoreError {
        let capacity = lock(&self.ledger).limits().capacity;
        self.counted(StoreError::Full { needed, capacity })
    }

    /// Moves the files of what the ledger has just dropped out of the way, telling first. The ledger
    /// is given as proof that it is locked: the names are free for others afterwards.
    pub(super) fn set_aside(
        &self,
        ledger: &Ledger,
        victims: impl IntoIterator<Item = Victim>,
    ) -> Aside {
        let mut aside = Aside::default();
        for victim in victims {
            self.metrics.evicted(victim.size());
            match victim {
                Victim::Blob(digest, size) => {
                    tracing::debug!(%digest, size, "evicting");
                    let _ = self.events.send(StoreEvent::Withdrawn(digest));
                    recover::forget(&digest, &mut aside.changes);
                    aside
                        .paths
                        .extend(self.layout.set_aside(&self.layout.blob(&digest)));
                }
                Victim::Unverified(digest, _) => {
                    aside
                        .paths
                        .extend(self.layout.set_aside(&self.layout.blob(&digest)));
                }
                Victim::Partial(digest, _) => self.set_partial_aside(&digest, &mut aside),
            }
        }
        self.metrics.totals(ledger.totals());
        aside
    }

    fn set_partial_aside(&self, digest: &Digest, aside: &mut Aside) {
        for path in [self.layout.partial(digest), self.layout.journal(digest)] {
            aside.paths.extend(self.layout.set_aside(&path));
        }
    }

    /// Removes what was set aside.
    pub(super) fn remove_all(&self, aside: Aside) {
        self.remove_files(aside.changes, aside.paths);
    }

    /// Removes files that are out of the way, and what the index says of them.
    pub(super) fn remove_files(&self, changes: Vec<Change>, paths: Vec<PathBuf>) {
        if !changes.is_empty() {
            self.submit_or_lag(changes);
        }
        for path in paths {
            layout::remove(&path);
        }
    }

    /// Keeps the disk's reserve and removes downloads nobody goes on with.
    pub(super) fn tidy(&self) {
        let Ok(free) = self.free() else { return };
        let ended = self.ended_terms();
        let mut ledger = lock(&self.ledger);
        let mut victims = recover::drop_stale(&mut ledger);
        victims.extend(ended.iter().filter_map(|digest| {
            let size = ledger.remove(digest)?;
            Some(Victim::Blob(*digest, size))
        }));
        victims.extend(ledger.relieve(free));
        if victims.is_empty() {
            return;
        }
        let aside = self.set_aside(&ledger, victims);
        drop(ledger);
        self.remove_all(aside);
    }

    // Files that the index does not know.

    /// Opens such a file. One that cannot be opened counts no longer.
    pub(super) fn open_unverified(&self, digest: &Digest) -> Option<File> {
        match disk::open(&self.layout.blob(digest)) {
            Ok(file) => Some(file),
            Err(error) => {
                self.settle_file(digest, Err(error));
                None
            }
        }
    }

    /// Hashes such a file and settles it.
    pub(super) fn verify_file(&self, digest: &Digest, size: u64, stop: impl Fn() -> bool) {
        let Some(file) = self.open_unverified(digest) else {
            return;
        };
        if let Some(found) = disk::has_digest(&file, size, digest, stop).transpose() {
            self.settle_file(digest, found);
        }
    }

    /// Takes up such a file, or sets it aside, by what hashing it has `found`.
    pub(super) fn settle_file(&self, digest: &Digest, found: io::Result<bool>) {
        let good = matches!(found, Ok(true));
        let mut ledger = lock(&self.ledger);
        // Somebody else may have been faster.
        let Some(size) = ledger.settle(digest, good) else {
            return;
        };
        if good {
            let last_use = ledger.stamp(now_ms());
            let record = BlobRecord { size, last_use };
            ledger.hold(*digest, record, std::sync::Weak::new());
            self.metrics.totals(ledger.totals());
            let _ = self.events.send(StoreEvent::Held(*digest));
            drop(ledger);
            tracing::info!(%digest, size, "a file that was not in the index is what it should be");
            self.submit_or_lag(vec![blob_change(digest, record)]);
        } else {
            self.move_to_quarantine(digest);
            self.metrics.totals(ledger.totals());
            let most = ledger.limits().capacity / QUARANTINE_SHARE;
            drop(ledger);
            self.prune_quarantine(most);
        }
    }

    /// Removes such a file without looking at it.
    pub(super) fn drop_unverified(&self, digest: &Digest) {
        let mut ledger = lock(&self.ledger);
        if let Some(size) = ledger.settle(digest, false) {
            let aside = self.set_aside(&ledger, [Victim::Unverified(*digest, size)]);
            drop(ledger);
            self.remove_all(aside);
        }
    }

    // Partials.

    /// A partial is one no more: it has become a blob, or goes.
    pub(super) fn finish_partial(&self, digest: &Digest, held: bool) {
        let mut aside = Aside::default();
        let mut ledger = lock(&self.ledger);
        ledger.end(digest, held);
        self.set_partial_aside(digest, &mut aside);
        self.metrics.totals(ledger.totals());
        drop(ledger);
        self.partials_changed.notify_all();
        self.remove_all(aside);
    }

    /// Nobody works on a partial any more; it stays for later.
    pub(super) fn rest_partial(&self, digest: &Digest) {
        lock(&self.ledger).rest(digest, now_ms());
        self.partials_changed.notify_all();
    }

    pub(super) fn flush(&self) {
        let changes = lock(&self.records).unsaved_uses();
        let live = lock(&self.ledger).live();
        for partial in live {
            if let Some(partial) = partial.upgrade() {
                partial.sync();
            }
        }
        if let Err(error) = self.index.commit(changes) {
            self.counted(error);
        }
    }

    // Failures.

    /// Counts a failure.
    pub(super) fn counted(&self, error: StoreError) -> StoreError {
        self.metrics.failed(&error);
        error
    }

    /// Counts a failure to write content of `size` bytes, and says what it means.
    pub(super) fn write_failed(&self, error: StoreError, size: u64) -> StoreError {
        if error.is_out_of_space() {
            return self.full(size);
        }
        if matches!(error, StoreError::Io { .. }) {
            let mut faults = lock(&self.faults);
            faults.push_back(Instant::now());
            if faults.len() > MAX_FAULTS {
                faults.pop_front();
            }
        }
        self.counted(error)
    }

    fn is_failing(&self) -> bool {
        let faults = lock(&self.faults);
        faults.len() == MAX_FAULTS
            && faults
                .front()
                .is_some_and(|first| first.elapsed() < FAULT_WINDOW)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let changes = lock(&self.records).unsaved_uses();
        self.submit_or_lag(changes);
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.layout.root().display())
    }
}

/// What the index is told of a blob.
pub(super) fn blob_change(digest: &Digest, record: BlobRecord) -> Change {
    Change::set(Table::Blobs, digest.to_wire(), record.encode())
}

/// The process has too much open, or the machine too little memory.
fn is_shortage(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}
