//! The upstream reads of a lease: how the leased pieces are cut into requests.

mod streams;

use std::ops::Range;

use darner_proto::piece_set::PieceSet;
use darner_proto::scheduler::ReturnReason;

use super::{Action, Duration, Failure, Input, OWN_AUTHORITY, Task};
pub(super) use streams::Streams;

/// Pieces in one range request: upstream requests per blob stay few, and a broken one costs little.
const READ_PIECES: u32 = 16;
/// Pieces in the last requests: where there are several at once, a client that reads in order has at
/// the end this many times their number before it at most, not whole requests.
const LAST_PIECES: u32 = 2;
/// A read with so few pieces left is as good as over: the next one is asked for, so that nothing
/// waits for its answer.
const NEARLY_OVER: usize = 4;

/// Pieces that only the reader may have while children wait for them: what is lost with it, and must
/// be read again, is bounded. Enough that its uplink always finds something to send.
const MAX_LEAD: u32 = 64;
/// Whoever wants a file follows its reader within moments, and tells it where the file lies.
const SUPPLY_PATIENCE: Duration = Duration::from_secs(3);
/// The reader goes on all the same when no child has taken anything for this long.
const LEAD_PATIENCE: Duration = Duration::from_secs(1);

/// How far the reader is ahead of what has a second copy.
#[derive(Debug)]
pub(super) struct Lead {
    /// Read here, and not yet sent to any child.
    alone: PieceSet,
    children: u32,
    copied_at: Duration,
}

impl Lead {
    pub(super) fn new(pieces: u32) -> Self {
        Self {
            alone: PieceSet::empty(pieces),
            children: 0,
            copied_at: Duration::ZERO,
        }
    }

    pub(super) fn read(&mut self, index: u32) {
        self.alone.insert(index);
    }

    pub(super) fn copied(&mut self, now: Duration, pieces: Range<u32>) {
        for index in pieces {
            self.alone.remove(index);
        }
        self.copied_at = now;
    }

    pub(super) fn followed(&mut self, children: u32) {
        self.children = children;
    }

    /// Whether reading waits for children to take what is there.
    fn is_long(&self, now: Duration) -> bool {
        self.children > 0
            && self.alone.len() >= MAX_LEAD
            && now.saturating_sub(self.copied_at) < LEAD_PATIENCE
    }
}

/// A read in progress.
#[derive(Debug)]
pub(super) struct Read {
    pieces: Range<u32>,
}

impl Read {
    /// Whether the lease that now has `ranges` still covers the read.
    pub(super) fn is_within(&self, ranges: &[Range<u32>]) -> bool {
        ranges
            .iter()
            .any(|range| range.start <= self.pieces.start && self.pieces.end <= range.end)
    }
}

impl Task {
    /// Begins as many reads as the lease and what is known of upstream allow.
    pub(super) fn begin_reads(&mut self, now: Duration, out: &mut Vec<Action>) {
        let Some(lease) = &self.lease else { return };
        if self.lead.is_long(now) || self.sources.is_empty() {
            return;
        }
        let mut open = PieceSet::empty(self.geometry.pieces());
        for range in &lease.ranges {
            open.insert_range(range.clone());
        }
        open.subtract(&self.held);
        for read in self.reads.values() {
            for index in read.pieces.clone() {
                open.remove(index);
            }
        }
        let mut left = open.len();
        for run in open.runs() {
            let mut start = run.start;
            while start < run.end && self.may_read_more() {
                let end = self.end_of_read(start, run.end, left);
                left -= end - start;
                let read = self.number();
                self.reads.insert(read, Read { pieces: start..end });
                out.push(Action::Read {
                    read,
                    pieces: start..end,
                    sources: self.sources.clone(),
                });
                start = end;
            }
        }
    }

    /// Whether another read may begin beside those under way.
    fn may_read_more(&self) -> bool {
        if self.ranged != Some(true) || self.gives_way {
            return self.reads.is_empty();
        }
        let full = self.full_reads();
        full < self.streams.allowed() && self.reads.len() < streams::MOST
    }

    /// Reads that are not nearly over.
    fn full_reads(&self) -> usize {
        let missing = |read: &Read| {
            let pieces = read.pieces.clone();
            pieces.filter(|index| !self.held.contains(*index)).count()
        };
        let reads = self.reads.values();
        reads.filter(|read| missing(read) > NEARLY_OVER).count()
    }

    /// Bytes have come from upstream.
    pub(super) fn read_bytes(&mut self, now: Duration, bytes: u64) {
        self.read_bytes += bytes;
        self.last_progress = now;
        let all = self.reads.len() >= self.streams.allowed();
        self.streams.received(now, bytes, all);
    }

    /// Where a file lies, its readers' nodes tell this one, not the scheduler. When none does, another
    /// may be luckier.
    pub(super) fn return_unsupplied(&mut self, now: Duration, out: &mut Vec<Action>) {
        let waited = now.saturating_sub(self.leased_at);
        let Some(lease) = &self.lease else { return };
        if !self.sources.is_empty() || waited < SUPPLY_PATIENCE {
            return;
        }
        let (number, reason) = (lease.number, ReturnReason::Unavailable);
        self.drop_lease(out);
        if number != OWN_AUTHORITY {
            out.push(Action::Tell(Input::LeaseReturn(self.id, number, reason)));
        }
    }

    /// `left` is how many pieces no read has been begun for.
    fn end_of_read(&self, start: u32, run_end: u32, left: u32) -> u32 {
        if self.ranged == Some(false) {
            return run_end;
        }
        let shares = match self.streams.allowed() {
            1 => 1,
            several => 2 * several,
        };
        let share = left as usize / shares;
        let share = share.clamp(LAST_PIECES as usize, READ_PIECES as usize);
        run_end.min(start + share as u32)
    }

    pub(super) fn read_begun(
        &mut self,
        now: Duration,
        read: u64,
        ranged: bool,
        out: &mut Vec<Action>,
    ) {
        self.last_progress = now;
        let all = 0..self.geometry.pieces();
        let Some(begun) = self.reads.get_mut(&read) else {
            return;
        };
        let whole = begun.pieces == all;
        if ranged {
            self.ranged = Some(true);
        } else if !whole {
            // The whole content comes instead: this one read does for everything.
            begun.pieces = all;
            self.ranged = Some(false);
            let others: Vec<_> = self
                .reads
                .keys()
                .copied()
                .filter(|number| *number != read)
                .collect();
            for number in others {
                self.reads.remove(&number);
                out.push(Action::CancelRead(number));
            }
        }
    }

    pub(super) fn read_ended(
        &mut self,
        read: u64,
        result: Result<(), ReturnReason>,
        out: &mut Vec<Action>,
    ) {
        let Some(ended) = self.reads.remove(&read) else {
            return;
        };
        let missing = ended.pieces.clone().any(|index| !self.held.contains(index));
        let Some(lease) = &self.lease else { return };
        let number = lease.number;
        match result {
            Err(reason) if number == OWN_AUTHORITY => {
                self.drop_lease(out);
                self.fail(Failure::NoSource(reason), out);
            }
            Err(reason) => {
                self.drop_lease(out);
                out.push(Action::Tell(Input::LeaseReturn(self.id, number, reason)));
            }
            // A read that ended well without its pieces would be begun again for ever.
            Ok(()) if missing => {
                self.drop_lease(out);
                out.push(Action::Tell(Input::LeaseReturn(
                    self.id,
                    number,
                    ReturnReason::Reader,
                )));
            }
            Ok(()) => {
                let done = lease
                    .ranges
                    .iter()
                    .all(|range| range.clone().all(|index| self.held.contains(index)));
                if done {
                    self.lease = None;
                }
            }
        }
    }
}
