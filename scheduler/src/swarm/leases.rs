//! Who reads upstream: exactly one reader for every piece that nobody has.
//!
//! ```text
//! piece: held by nobody --(grant)--> leased --(the reader has it)--> held
//!             ^                        |
//!             +--(returned, expired, revoked; the reader gone and not back in time)
//! ```
//! The parts: [`sourcing`] finds the next reader, [`seeds`] spreads over several of them, [`claims`]
//! takes in those who come with a lease, [`ending`] is how leases end.

mod claims;
mod ending;
mod seeds;
mod sourcing;

use std::time::Duration;

use darner_proto::id::{HostId, TaskId};
use darner_proto::piece_set::PieceSet;
use darner_proto::scheduler::{self, Progress, SchedulerMessage};

use super::{Counted, SessionId, Swarm};
pub(super) use sourcing::Sourcing;

/// A lease lapses after this long without progress: sooner than the nodes that wait for it would
/// help themselves (five seconds), and longer than a registry takes to begin an answer.
const EXPIRY: Duration = Duration::from_secs(4);
/// A node whose session broke has this long to come back, with what it holds and with its lease,
/// before that is read again. By then its children have told what they had from it: nodes report
/// twice a second.
const ORPHAN_GRACE: Duration = Duration::from_millis(700);
/// Pieces that a reader may have under way at once. Those are never taken from it when a lease is
/// divided, since bytes on their way would be read twice.
const READ_AHEAD: u32 = 64;
/// Past readers of a task whose keys are kept.
const MAX_PAST_READERS: usize = 16;

/// The right of one session to read some pieces.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) number: u64,
    pub(super) holder: SessionId,
    host: HostId,
    granted: PieceSet,
    /// What of `granted` the holder does not have yet.
    pub(super) missing: PieceSet,
    /// How many sources the holder was told.
    sources: usize,
    standing: Standing,
}

/// How a lease stands. It ends from either state when the holder has everything, hands it back or
/// has it taken away.
///
/// ```text
/// granted --> reading --(no progress until the deadline)--> expired
///              |    ^
///   (its session ends)  (it is back, and claims it)
///              v    |
///            orphaned --(not back in time)--> gone
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The holder reads. Every sign of progress moves the deadline.
    Reading {
        /// When it is taken away.
        deadline: Duration,
    },
    /// The holder's session has ended.
    Orphaned {
        /// How long the lease waits for it.
        until: Duration,
    },
}

impl Lease {
    fn is_orphaned(&self) -> bool {
        matches!(self.standing, Standing::Orphaned { .. })
    }

    /// The holder shows that it reads.
    fn moved(&mut self, now: Duration) {
        if let Standing::Reading { deadline } = &mut self.standing {
            *deadline = now + EXPIRY;
        }
    }

    /// The holder's session has ended.
    fn orphan(&mut self, now: Duration) {
        let until = now + ORPHAN_GRACE;
        self.standing = Standing::Orphaned { until };
    }

    /// `session` holds it. Says whether it had been waited for.
    fn take_up(&mut self, now: Duration, session: SessionId) -> bool {
        self.holder = session;
        let waited = self.is_orphaned();
        if waited {
            let deadline = now + EXPIRY;
            self.standing = Standing::Reading { deadline };
        }
        waited
    }

    fn is_late(&self, now: Duration) -> bool {
        matches!(self.standing, Standing::Reading { deadline } if now >= deadline)
    }

    fn is_lost(&self, now: Duration) -> bool {
        matches!(self.standing, Standing::Orphaned { until } if now >= until)
    }
}

impl Swarm {
    fn grant(&mut self, id: &TaskId, reader: SessionId, granted: PieceSet) {
        let number = self.next_lease;
        let deadline = self.now + EXPIRY;
        let (Some(task), Some(attendant)) = (self.tasks.get_mut(id), self.hosts.get_mut(reader))
        else {
            return;
        };
        self.next_lease += 1;
        let mut missing = granted.clone();
        if let Some(participant) = task.participants.get(&reader) {
            missing.subtract(&participant.held);
        }
        let signer = attendant.host.signing_key;
        let host = attendant.host.id.clone();
        if let Some(key) = signer
            && !task.readers.iter().any(|(reader, _)| *reader == host)
        {
            if task.readers.len() >= MAX_PAST_READERS {
                task.readers.remove(0);
            }
            task.readers.push((host.clone(), key));
        }
        attendant.leases.insert(*id);
        let role = attendant.host.role;
        task.leases.push(Lease {
            number,
            holder: reader,
            host,
            granted,
            missing,
            sources: task.sources.len(),
            standing: Standing::Reading { deadline },
        });
        self.searches.close(id);
        self.mark_due(id);
        self.count(Counted::LeaseGranted(role));
        self.tell_lease(id, reader);
    }

    fn tell_lease(&mut self, id: &TaskId, reader: SessionId) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        let Some(lease) = task.leases.iter().find(|lease| lease.holder == reader) else {
            return;
        };
        let message = SchedulerMessage::Lease(scheduler::Lease {
            task: *id,
            size: task.size,
            lease: lease.number,
            ranges: lease.granted.runs(),
            expires_ms: u32::try_from(EXPIRY.as_millis()).unwrap_or(u32::MAX),
            sources: task.sources.clone(),
        });
        self.send(reader, message);
    }

    fn lease_number(&self, id: &TaskId, session: SessionId) -> u64 {
        let leases = self.tasks.get(id).map(|task| task.leases.iter());
        leases
            .into_iter()
            .flatten()
            .find(|lease| lease.holder == session)
            .map_or(0, |lease| lease.number)
    }

    /// A participant has gained pieces or read bytes: its lease, if it has one, lives on.
    pub(super) fn reader_moved(
        &mut self,
        id: &TaskId,
        session: SessionId,
        progress: &Progress,
        gained: bool,
    ) {
        let now = self.now;
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let Some(lease) = task.leases.iter_mut().find(|one| one.holder == session) else {
            return;
        };
        if gained {
            task.sourcing.gained(&lease.host);
            for index in progress.gained.iter().cloned().flatten() {
                lease.missing.remove(index);
            }
        }
        if gained || progress.upstream_bytes > 0 || progress.upstream_ranges.is_some() {
            lease.moved(now);
        }
        let learnt = progress.upstream_ranges.is_some() && task.ranged != progress.upstream_ranges;
        if learnt {
            task.ranged = progress.upstream_ranges;
        }
        self.lease_done(id, session);
        if learnt {
            self.share_out(id);
        }
    }

    /// Sessions that read the task now.
    pub(super) fn is_reading(&self, id: &TaskId, session: SessionId) -> bool {
        self.lease_number(id, session) != 0
    }

    /// Who reads what, for tests of what must always hold.
    #[cfg(test)]
    pub(super) fn leased(&self, id: &TaskId) -> Vec<(SessionId, PieceSet)> {
        let leases = self.tasks.get(id).map(|task| task.leases.iter());
        leases
            .into_iter()
            .flatten()
            .map(|lease| (lease.holder, lease.missing.clone()))
            .collect()
    }
}
