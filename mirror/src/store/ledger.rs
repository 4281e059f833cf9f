//! What the store holds and how much room it takes: pure. Says what must go so that something else
//! can come; others carry it out.
//!
//! Room is counted as files take it, in whole blocks. Complete blobs, files that wait to be verified
//! and partials all count. What goes first: partials nobody works on, then files not verified yet,
//! then blobs, each the longest unused first; what is pinned stays.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::sync::Weak;

use darner_proto::digest::Digest;

use super::disk::Space;
use super::encoding::BlobRecord;
use super::partial;
use super::terms::Terms;

/// Files take whole blocks of this size on the file systems in use.
const BLOCK: u64 = 4096;
/// The most the store takes when nothing is configured: what an operator who did not think of it
/// will not be surprised by.
const DEFAULT_CAPACITY: u64 = 100 << 30;
/// What is left free on the disk where a twentieth of it would be less.
const LEAST_RESERVE: u64 = 2 << 30;
/// Victims named at once. The ledger is locked while they are moved out of the way.
const VICTIMS: usize = 256;

/// How much the store may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Bytes in all.
    pub(super) capacity: u64,
    /// Bytes of the disk that stay free.
    pub(super) reserve: u64,
}

impl Limits {
    /// Limits of a store that takes `used` bytes already. What it takes counts as free: a restart
    /// changes nothing.
    pub(super) fn new(configured: Option<u64>, space: Space, used: u64) -> Self {
        let available = space.free.saturating_add(used);
        Self {
            capacity: configured.unwrap_or((available / 2).min(DEFAULT_CAPACITY)),
            reserve: (space.total / 20).max(LEAST_RESERVE).min(available / 4),
        }
    }
}

/// Sums for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) bytes: u64,
    pub(super) blobs: u64,
}

#[derive(Debug)]
struct Blob {
    size: u64,
    last_use: u64,
    open: Weak<File>,
}

/// A download that is not complete.
#[derive(Debug)]
pub(super) struct Unfinished {
    /// Bytes it will have.
    pub(super) size: u64,
    /// When it was last worked on.
    pub(super) last_use: u64,
    /// Who works on it.
    pub(super) phase: Phase,
}

/// Who works on a partial.
#[derive(Debug)]
pub(super) enum Phase {
    /// Nobody: it waits on disk.
    Idle,
    /// It is being made or checked.
    Beginning,
    /// A download.
    Live(Weak<partial::Shared>),
}

/// Something that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Victim {
    /// A complete blob.
    Blob(Digest, u64),
    /// A file that waits to be verified.
    Unverified(Digest, u64),
    /// A partial nobody works on.
    Partial(Digest, u64),
}

impl Victim {
    /// Bytes that its file has.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Blob(_, size) | Self::Unverified(_, size) | Self::Partial(_, size) => *size,
        }
    }
}

/// The answer to a request for room.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// It is reserved.
    Granted,
    /// These go first; then ask again.
    After(Vec<Victim>),
    /// There is none.
    Full,
}

/// What is held. Blobs are in the order of their last use.
#[derive(Debug)]
pub(super) struct Ledger {
    limits: Limits,
    blobs: HashMap<Digest, Blob>,
    by_use: BTreeSet<(u64, Digest)>,
    unverified: HashMap<Digest, u64>,
    partials: HashMap<Digest, Unfinished>,
    terms: Terms,
    used: u64,
    /// Of `used`, what is reserved but not yet taken from the disk.
    unallocated: u64,
    last_stamp: u64,
}

/// Bytes that a file of `size` bytes takes.
pub(super) fn footprint(size: u64) -> u64 {
    size.div_ceil(BLOCK).max(1).saturating_mul(BLOCK)
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self {
            limits: Limits {
                capacity: 0,
                reserve: 0,
            },
            blobs: HashMap::new(),
            by_use: BTreeSet::new(),
            unverified: HashMap::new(),
            partials: HashMap::new(),
            terms: Terms::default(),
            used: 0,
            unallocated: 0,
            last_stamp: 0,
        }
    }

    pub(super) fn limit(&mut self, limits: Limits) {
        self.limits = limits;
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    pub(super) fn totals(&self) -> Totals {
        Totals {
            bytes: self.used,
            blobs: self.blobs.len() as u64,
        }
    }

    /// A time of use later than every one before. `now_ms` alone would tie.
    pub(super) fn stamp(&mut self, now_ms: u64) -> u64 {
        self.last_stamp = now_ms.max(self.last_stamp + 1);
        self.last_stamp
    }

    // Blobs.

    pub(super) fn size_of(&self, digest: &Digest) -> Option<u64> {
        Some(self.blobs.get(digest)?.size)
    }

    pub(super) fn keys(&self) -> Vec<Digest> {
        self.blobs.keys().copied().collect()
    }

    /// The first `count` blobs whose digests come after `after`, in order.
    pub(super) fn following(&self, after: Option<&Digest>, count: usize) -> Vec<Digest> {
        let mut first = BTreeSet::new();
        for digest in self.blobs.keys() {
            if after.is_some_and(|after| digest <= after) {
                continue;
            }
            first.insert(*digest);
            if first.len() > count {
                first.pop_last();
            }
        }
        first.into_iter().collect()
    }

    /// Takes up the blobs that the index knows from before, each of them once.
    pub(super) fn load(&mut self, blobs: Vec<(Digest, BlobRecord)>) {
        self.blobs.reserve(blobs.len());
        let mut by_use = Vec::with_capacity(blobs.len());
        for (digest, record) in blobs {
            let BlobRecord { size, last_use } = record;
            self.used += footprint(size);
            self.last_stamp = self.last_stamp.max(last_use);
            by_use.push((last_use, digest));
            let open = Weak::new();
            let blob = Blob {
                size,
                last_use,
                open,
            };
            self.blobs.insert(digest, blob);
        }
        // At once: one by one takes several times as long.
        self.by_use.append(&mut by_use.into_iter().collect());
    }

    /// A blob whose room was granted is in its place. Gives back the room when it was there already.
    pub(super) fn hold(&mut self, digest: Digest, record: BlobRecord, open: Weak<File>) {
        if let Some(size) = self.unverified.remove(&digest) {
            self.used -= footprint(size);
        }
        if self.blobs.contains_key(&digest) {
            self.used -= footprint(record.size);
            return;
        }
        self.enter(digest, record, open);
    }

    fn enter(&mut self, digest: Digest, record: BlobRecord, open: Weak<File>) {
        self.by_use.insert((record.last_use, digest));
        let blob = Blob {
            size: record.size,
            last_use: record.last_use,
            open,
        };
        self.blobs.insert(digest, blob);
    }

    /// Notes a use; gives the new record and the file, if somebody has it open.
    pub(super) fn touch(
        &mut self,
        digest: &Digest,
        now_ms: u64,
    ) -> Option<(BlobRecord, Weak<File>)> {
        let last_use = self.stamp(now_ms);
        let blob = self.blobs.get_mut(digest)?;
        self.by_use.remove(&(blob.last_use, *digest));
        self.by_use.insert((last_use, *digest));
        blob.last_use = last_use;
        let size = blob.size;
        Some((BlobRecord { size, last_use }, blob.open.clone()))
    }

    /// Lets others share a file that was opened.
    pub(super) fn share(&mut self, digest: &Digest, open: Weak<File>) {
        if let Some(blob) = self.blobs.get_mut(digest) {
            blob.open = open;
        }
    }

    pub(super) fn remove(&mut self, digest: &Digest) -> Option<u64> {
        let blob = self.blobs.remove(digest)?;
        self.by_use.remove(&(blob.last_use, *digest));
        self.used -= footprint(blob.size);
        Some(blob.size)
    }

    // Files that wait to be verified.

    pub(super) fn suspect(&mut self, digest: Digest, size: u64) {
        self.used += footprint(size);
        self.unverified.insert(digest, size);
    }

    pub(super) fn unverified(&self, digest: &Digest) -> Option<u64> {
        self.unverified.get(digest).copied()
    }

    pub(super) fn next_unverified(&self) -> Option<(Digest, u64)> {
        self.unverified
            .iter()
            .next()
            .map(|(digest, size)| (*digest, *size))
    }

    /// It has been verified, or is gone. Its room stays taken when it is `good`.
    pub(super) fn settle(&mut self, digest: &Digest, good: bool) -> Option<u64> {
        let size = self.unverified.remove(digest)?;
        if !good {
            self.used -= footprint(size);
        }
        Some(size)
    }

    // Partials.

    pub(super) fn partial(&mut self, digest: &Digest) -> Option<&mut Unfinished> {
        self.partials.get_mut(digest)
    }

    /// Whether somebody works on a download.
    pub(super) fn is_busy(&self) -> bool {
        let busy = |unfinished: &Unfinished| match &unfinished.phase {
            Phase::Idle => false,
            Phase::Beginning => true,
            Phase::Live(shared) => shared.strong_count() > 0,
        };
        self.partials.values().any(busy)
    }

    /// Every download that somebody works on.
    pub(super) fn live(&self) -> Vec<Weak<partial::Shared>> {
        let live = |unfinished: &Unfinished| match &unfinished.phase {
            Phase::Live(shared) => Some(shared.clone()),
            _ => None,
        };
        self.partials.values().filter_map(live).collect()
    }

    /// Takes up a partial that was found on disk.
    pub(super) fn found(&mut self, digest: Digest, size: u64, last_use: u64) {
        self.used += footprint(size);
        self.last_stamp = self.last_stamp.max(last_use);
        let phase = Phase::Idle;
        let partial = Unfinished {
            size,
            last_use,
            phase,
        };
        self.partials.insert(digest, partial);
    }

    /// A partial whose room was granted begins.
    pub(super) fn begin(&mut self, digest: Digest, size: u64, now_ms: u64) {
        let partial = Unfinished {
            size,
            last_use: self.stamp(now_ms),
            phase: Phase::Beginning,
        };
        self.partials.insert(digest, partial);
    }

    /// Nobody works on it any more.
    pub(super) fn rest(&mut self, digest: &Digest, now_ms: u64) {
        let stamp = self.stamp(now_ms);
        if let Some(partial) = self.partials.get_mut(digest) {
            partial.phase = Phase::Idle;
            partial.last_use = stamp;
        }
    }

    /// It is no partial any more. Its room stays taken when it is now `held`.
    pub(super) fn end(&mut self, digest: &Digest, held: bool) -> Option<u64> {
        let partial = self.partials.remove(digest)?;
        if !held {
            self.used -= footprint(partial.size);
        }
        Some(partial.size)
    }

    /// Drops it if nobody works on it.
    pub(super) fn drop_idle(&mut self, digest: &Digest) -> Option<Victim> {
        let partial = self.partials.get(digest)?;
        if !matches!(partial.phase, Phase::Idle) {
            return None;
        }
        let size = self.end(digest, false)?;
        Some(Victim::Partial(*digest, size))
    }

    /// Drops partials nobody works on: those last used before `oldest`, and the longest unused ones
    /// beyond `count`.
    pub(super) fn drop_stale(&mut self, oldest: u64, count: usize) -> Vec<Victim> {
        let idle = self.idle();
        let beyond = idle.len().saturating_sub(count);
        let stale = idle
            .into_iter()
            .enumerate()
            .filter(|(rank, (last_use, _))| *rank < beyond || *last_use < oldest);
        stale
            .filter_map(|(_, (_, digest))| self.drop_idle(&digest))
            .collect()
    }

    /// Partials nobody works on, the longest unused first.
    fn idle(&self) -> Vec<(u64, Digest)> {
        let mut idle: Vec<_> = self
            .partials
            .iter()
            .filter(|(_, partial)| matches!(partial.phase, Phase::Idle))
            .map(|(digest, partial)| (partial.last_use, *digest))
            .collect();
        idle.sort_unstable();
        idle
    }

    // Room.

    /// Asks for the room of a file of `size` bytes on a disk with `free` bytes. `relieved`: the disk
    /// has been relieved for this once already; when that did not help, more of the same will not.
    pub(super) fn reserve(&mut self, size: u64, free: u64, relieved: bool) -> Room {
        let needed = footprint(size);
        let after = self.used.saturating_add(needed);
        let over = after.saturating_sub(self.limits.capacity);
        let short = self
            .limits
            .reserve
            .saturating_add(self.unallocated)
            .saturating_add(needed)
            .saturating_sub(free);
        if over == 0 && short == 0 {
            self.used = after;
            self.unallocated += needed;
            return Room::Granted;
        }
        if over.max(short) > self.evictable() || (short > 0 && relieved) {
            return Room::Full;
        }
        let goal = if over > 0 {
            after.saturating_sub(self.low_mark())
        } else {
            0
        };
        let victims = self.victims(goal.max(short));
        if victims.is_empty() {
            Room::Full
        } else {
            Room::After(victims)
        }
    }

    /// Eviction goes down to this, so that it need not run for every blob.
    fn low_mark(&self) -> u64 {
        self.limits.capacity - self.limits.capacity / 10
    }

    /// What must go so that the reserve of a disk with `free` bytes is restored.
    pub(super) fn relieve(&mut self, free: u64) -> Vec<Victim> {
        let short = self.limits.reserve.saturating_sub(free);
        let over = self.used.saturating_sub(self.limits.capacity);
        self.victims(short.max(over))
    }

    /// The file has taken its room from the disk.
    pub(super) fn allocated(&mut self, size: u64) {
        self.unallocated = self.unallocated.saturating_sub(footprint(size));
    }

    /// Gives back granted room that was not used.
    pub(super) fn release(&mut self, size: u64) {
        self.used = self.used.saturating_sub(footprint(size));
    }

    fn evictable(&self) -> u64 {
        let busy = self
            .partials
            .values()
            .filter(|partial| !matches!(partial.phase, Phase::Idle));
        let busy: u64 = busy.map(|partial| footprint(partial.size)).sum();
        self.used.saturating_sub(busy + self.pinned_bytes())
    }

    /// Removes what takes at least `bytes`, or the most that may go at once.
    fn victims(&mut self, bytes: u64) -> Vec<Victim> {
        let mut victims = Vec::new();
        let mut freed = 0;
        while freed < bytes && victims.len() < VICTIMS {
            let Some(victim) = self.next_victim() else {
                break;
            };
            freed += footprint(victim.size());
            victims.push(victim);
        }
        victims
    }

    fn next_victim(&mut self) -> Option<Victim> {
        if let Some((_, digest)) = self.idle().first() {
            return self.drop_idle(&digest.clone());
        }
        if let Some((digest, size)) = self.next_unverified() {
            self.settle(&digest, false);
            return Some(Victim::Unverified(digest, size));
        }
        let digest = self.longest_unused()?;
        let size = self.remove(&digest)?;
        Some(Victim::Blob(digest, size))
    }
}

mod pins;
#[cfg(test)]
mod tests;
