//! Who reads upstream: exactly one reader for every piece that nobody has.
//!
//! ```text
//! piece: held by nobody --(grant)--> leased --(the reader has it)--> held
//!             ^                        |
//!             +--(returned, expired, revoked; the reader gone and not back in time)
//! ```
//! When nobody is left to try, the task is *exhausted*: everybody is told, and for a moment newcomers
//! too, so that a thousand asking for what does not exist cost upstream one request and not a
//! thousand.

mod claims;
mod ending;

use std::collections::BTreeMap;
use std::time::Duration;

use darner_proto::id::{HostId, TaskId};
use darner_proto::piece_set::PieceSet;
use darner_proto::scheduler::{self, Progress, ReturnReason, SchedulerMessage};

use super::{Counted, SessionId, Swarm};

/// A lease lapses after this long without progress: sooner than the nodes that wait for it would
/// help themselves (five seconds), and longer than a registry takes to begin an answer.
const EXPIRY: Duration = Duration::from_secs(4);
/// A node whose session broke has this long to come back, with what it holds and with its lease,
/// before that is read again. By then its children have told what they had from it: nodes report
/// twice a second.
const ORPHAN_GRACE: Duration = Duration::from_millis(700);
/// Readers tried in a row without one piece gained.
const MAX_TRIES: u32 = 4;
/// Tries of one host.
const MAX_TRIES_PER_HOST: u32 = 2;
/// The pause before the next reader when upstream failed one: doubling from the first to the last.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));
/// "There is no source" is remembered this long.
const EXHAUSTED_MEMORY: Duration = Duration::from_secs(1);
/// Pieces that a reader may have under way at once. Those are never taken from it when a lease is
/// divided, since bytes on their way would be read twice.
const READ_AHEAD: u32 = 64;
/// A share smaller than this is not worth a reader of its own: nodes read 16 pieces per request.
const MIN_SHARE: u32 = 16;
/// Readers of one task at once: one upstream connection more each, or several.
const MAX_READERS: usize = 8;
/// Participants for which one seed is enough. A seed has some dozens of children at a time, and they
/// have theirs; where there are more, a further seed is to hold the content too, for those who come
/// when the first crowd is gone.
const CHILDREN_PER_SEED: usize = 64;
/// Seeds called for one task.
const MAX_CALLED: usize = 64;
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
    deadline: Duration,
    /// The holder's session has ended; the lease waits for it until then.
    orphaned_until: Option<Duration>,
}

/// How the search for a reader stands.
#[derive(Debug, Default)]
pub(super) struct Sourcing {
    not_before: Duration,
    tries: u32,
    tried: BTreeMap<HostId, u32>,
    last_reason: Option<ReturnReason>,
    exhausted: Option<(Duration, ReturnReason)>,
}

impl Sourcing {
    /// Whether it is still remembered that there is no source.
    pub(super) fn remembers(&self, now: Duration) -> bool {
        self.exhausted
            .is_some_and(|(since, _)| now < since + EXHAUSTED_MEMORY)
    }

    fn failed(&mut self, host: &HostId, tries: u32, reason: ReturnReason) {
        *self.tried.entry(host.clone()).or_default() += tries;
        self.tries += 1;
        self.last_reason = Some(reason);
    }
}

impl Swarm {
    /// Leases what nobody has and nobody reads, if somebody needs it and it may be read now.
    pub(super) fn source(&mut self, id: &TaskId) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        if task.participants.is_empty()
            || task.is_all_held()
            || task.sourcing.exhausted.is_some()
            || self.has_holder(id)
        {
            return;
        }
        let needed = task.unread();
        if needed.is_empty() || self.now < task.sourcing.not_before {
            return;
        }
        if !self.all_asked(id) {
            return;
        }
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        let reading = !task.leases.is_empty();
        let ranged = task.ranged == Some(true);
        let readers = self.candidates(id);
        if task.sourcing.tries >= MAX_TRIES || readers.is_empty() {
            let reason = task.sourcing.last_reason;
            // While somebody still reads another part, it may take this one over in the end.
            if !reading {
                self.exhaust(id, reason.unwrap_or(ReturnReason::Unavailable));
            }
            return;
        }
        let wanted = if ranged {
            (needed.len() / READ_AHEAD).max(1) as usize
        } else {
            1
        };
        let parallel = readers
            .iter()
            .take_while(|reader| self.is_seed(**reader))
            .count()
            .max(1);
        let readers = &readers[..wanted.min(parallel).min(MAX_READERS)];
        let shares = divide(&needed, &self.weights(readers));
        for (reader, share) in readers.iter().zip(shares) {
            self.grant(id, *reader, share);
        }
    }

    fn weights(&self, readers: &[SessionId]) -> Vec<u32> {
        let readers = readers.iter();
        readers
            .map(|reader| self.hosts.get(*reader).map_or(1, |node| node.host.weight()))
            .collect()
    }

    /// Who may read now, the first to be asked first: seeds in the task's weighted rendezvous order,
    /// then participants in the order they came; those already tried behind those not.
    fn candidates(&self, id: &TaskId) -> Vec<SessionId> {
        let Some(task) = self.tasks.get(id) else {
            return Vec::new();
        };
        let seeds = self.hosts.seeds_for(id);
        let seeds = seeds.into_iter().map(super::hosts::Attendant::session);
        let mirrors = task.order.iter().copied();
        let mut ranked: Vec<_> = seeds
            .chain(mirrors.filter(|session| !self.is_seed(*session)))
            .filter(|session| !task.shunned.contains(session) && !self.is_useless(id, *session))
            .filter_map(|session| Some((&self.hosts.get(session)?.host.id, session)))
            // Also not one whose lease waits for it to come and claim it.
            .filter(|(host, _)| task.leases.iter().all(|lease| lease.host != **host))
            .map(|(host, session)| {
                let tries = task.sourcing.tried.get(host);
                (tries.copied().unwrap_or(0), session)
            })
            .filter(|(tries, _)| *tries < MAX_TRIES_PER_HOST)
            .collect();
        ranked.sort_by_key(|(tries, _)| *tries);
        ranked.into_iter().map(|(_, session)| session).collect()
    }

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
            deadline,
            orphaned_until: None,
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
            task.sourcing.tries = 0;
            task.sourcing.tried.remove(&lease.host);
            for index in progress.gained.iter().cloned().flatten() {
                lease.missing.remove(index);
            }
        }
        if gained || progress.upstream_bytes > 0 || progress.upstream_ranges.is_some() {
            lease.deadline = now + EXPIRY;
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

    /// Upstream takes ranges: the one reader of a large content gives the other seeds their part.
    fn share_out(&mut self, id: &TaskId) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        let [lease] = task.leases.as_slice() else {
            return;
        };
        let rest = lease.missing.len().saturating_sub(READ_AHEAD);
        if task.ranged != Some(true)
            || rest < MIN_SHARE
            || !self.is_seed(lease.holder)
            || lease.orphaned_until.is_some()
        {
            return;
        }
        let others: Vec<_> = self
            .candidates(id)
            .into_iter()
            .take_while(|session| self.is_seed(*session))
            .take((MAX_READERS - 1).min((rest / MIN_SHARE) as usize))
            .collect();
        if others.is_empty() {
            return;
        }
        let weights = self.weights(&others);
        let mine = self.weights(&[lease.holder]).iter().sum::<u32>();
        let all = mine + weights.iter().sum::<u32>();
        let share = u64::from(lease.missing.len()) * u64::from(mine) / u64::from(all);
        let kept = u32::try_from(share).unwrap_or(u32::MAX).max(READ_AHEAD);
        let mut given = PieceSet::empty(task.pieces());
        for index in lease.missing.iter().skip(kept as usize) {
            given.insert(index);
        }
        let holder = lease.holder;
        if let Some(task) = self.tasks.get_mut(id) {
            task.leases[0].granted.subtract(&given);
            task.leases[0].missing.subtract(&given);
        }
        self.tell_lease(id, holder);
        for (other, share) in others.iter().zip(divide(&given, &weights)) {
            self.grant(id, *other, share);
            // It may take part already, invited as a holder: nothing else makes it known as a source.
            self.source_appeared(id, *other);
        }
    }

    /// Many want it: further seeds are invited to hold it, in its weighted rendezvous order.
    pub(super) fn call_seeds(&mut self, id: &TaskId) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let wanted = (task.participants.len() / CHILDREN_PER_SEED).min(MAX_CALLED);
        let before = task.seeds_called;
        if wanted <= before {
            return;
        }
        task.seeds_called = wanted;
        let called: Vec<_> = self
            .hosts
            .seeds_for(id)
            .into_iter()
            .take(wanted)
            .skip(before)
            .map(super::hosts::Attendant::session)
            .filter(|seed| !self.takes_part(*seed, id) && !self.inventory.holds(*seed, id))
            .filter(|seed| !self.is_reading(id, *seed) && !self.is_useless(id, *seed))
            .collect();
        for seed in called {
            self.invite(id, seed);
        }
    }

    fn invite(&mut self, id: &TaskId, seed: SessionId) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        let invitation = SchedulerMessage::Lease(scheduler::Lease {
            task: *id,
            size: task.size,
            lease: 0,
            ranges: Vec::new(),
            expires_ms: 0,
            sources: task.sources.clone(),
        });
        self.send(seed, invitation);
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

/// Cuts `pieces` into runs, in order, of lengths in proportion to `weights`. A part that would be
/// empty is left out, and the last takes what is left over.
fn divide(pieces: &PieceSet, weights: &[u32]) -> Vec<PieceSet> {
    let all: u64 = weights.iter().copied().map(u64::from).sum();
    let total = u64::from(pieces.len());
    let mut indexes = pieces.iter();
    let (mut weighed, mut taken) = (0, 0);
    let parts = weights.iter().map(|weight| {
        weighed += u64::from(*weight);
        let end = (total * weighed).div_ceil(all.max(1));
        let mut part = PieceSet::empty(pieces.pieces());
        for index in indexes
            .by_ref()
            .take(usize::try_from(end - taken).unwrap_or(0))
        {
            part.insert(index);
        }
        taken = end;
        part
    });
    parts.filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_the_weights_and_lose_nothing() {
        let pieces = PieceSet::full(100);
        let lengths = |weights: &[u32]| -> Vec<_> {
            divide(&pieces, weights).iter().map(PieceSet::len).collect()
        };
        assert_eq!(lengths(&[1, 1]), [50, 50]);
        assert_eq!(lengths(&[100, 300]), [25, 75]);
        assert_eq!(lengths(&[1, 1, 1]), [34, 33, 33]);
        assert_eq!(lengths(&[10_000, 1]), [100]);
    }
}
