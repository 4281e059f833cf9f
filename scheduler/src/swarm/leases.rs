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

use std::collections::BTreeMap;
use std::time::Duration;

use darner_proto::id::{HostId, TaskId};
use darner_proto::piece_set::PieceSet;
use darner_proto::rendezvous;
use darner_proto::scheduler::{self, LeaseClaim, Progress, ReturnReason, SchedulerMessage};

use super::{Counted, SessionId, Swarm};

/// A lease lapses after this long without progress: sooner than the nodes that wait for it would
/// help themselves (five seconds), and longer than a registry takes to begin an answer.
const EXPIRY: Duration = Duration::from_secs(4);
/// A reader whose session broke has this long to come back and claim its lease. By then its children
/// have told what they had from it: nodes report twice a second.
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
        if task.participants.is_empty() || task.sourcing.exhausted.is_some() || self.has_holder(id)
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
        for (reader, share) in readers.iter().zip(divide(&needed, readers.len())) {
            self.grant(id, *reader, share);
        }
    }

    /// Who may read now, the first to be asked first: seeds in the task's rendezvous order, then
    /// participants in the order they came; those already tried behind those not.
    fn candidates(&self, id: &TaskId) -> Vec<SessionId> {
        let Some(task) = self.tasks.get(id) else {
            return Vec::new();
        };
        let seeds: Vec<_> = self
            .hosts
            .seeds()
            .filter_map(|session| Some((session, &self.hosts.get(session)?.host.id)))
            .collect();
        let seeds = rendezvous::order(id, &seeds, |(_, host)| host);
        let seeds = seeds.into_iter().map(|(session, _)| *session);
        let mirrors = task.order.iter().copied();
        let mut ranked: Vec<_> = seeds
            .chain(mirrors.filter(|session| !self.is_seed(*session)))
            .filter(|session| !task.shunned.contains(session) && !self.is_banned(*session))
            .filter(|session| task.leases.iter().all(|lease| lease.holder != *session))
            .filter_map(|session| {
                let host = &self.hosts.get(session)?.host.id;
                Some((task.sourcing.tried.get(host).copied().unwrap_or(0), session))
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

    /// A participant has come with a lease of its own, or without the one it had.
    pub(super) fn claim(&mut self, id: &TaskId, session: SessionId, claim: Option<LeaseClaim>) {
        let Some(host) = self.hosts.get(session).map(|node| node.host.id.clone()) else {
            return;
        };
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let held = task.participants.get(&session).map(|one| one.held.clone());
        let held = held.unwrap_or_else(|| PieceSet::empty(task.pieces()));
        let own = task.leases.iter().position(|lease| lease.host == host);
        match (claim, own) {
            (None, None) => {}
            // Granted, and not heard of before the node joined by itself.
            (None, Some(own)) if task.leases[own].orphaned_until.is_none() => {}
            (None, Some(own)) => {
                // A node that has come back without it has forgotten it.
                task.leases.remove(own);
            }
            (Some(claim), Some(own)) => {
                let lease = &mut task.leases[own];
                let back = lease.orphaned_until.take().is_some();
                lease.holder = session;
                lease.missing = lease.granted.clone();
                lease.missing.subtract(&held);
                if back {
                    lease.deadline = self.now + EXPIRY;
                    self.note_lease(id, session);
                }
                // It may have missed that the lease was changed.
                if back || claim.lease < self.lease_number(id, session) {
                    self.tell_lease(id, session);
                }
            }
            (Some(claim), None) => self.adopt(id, session, &claim),
        }
        self.lease_done(id, session);
    }

    /// A lease from an earlier scheduler goes on under a new number, as far as nobody else reads the
    /// same: so numbers grow whatever a node claims.
    fn adopt(&mut self, id: &TaskId, session: SessionId, claim: &LeaseClaim) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        let mut claimed = PieceSet::empty(task.pieces());
        for range in &claim.ranges {
            claimed.insert_range(range.clone());
        }
        for lease in &task.leases {
            claimed.subtract(&lease.missing);
        }
        let mut missing = claimed.clone();
        if let Some(participant) = task.participants.get(&session) {
            missing.subtract(&participant.held);
        }
        if missing.is_empty() || task.shunned.contains(&session) {
            self.count(Counted::LeaseRevoked);
            let revoked = SchedulerMessage::LeaseRevoked {
                task: *id,
                lease: claim.lease,
            };
            return self.send(session, revoked);
        }
        self.grant(id, session, claimed);
    }

    fn lease_number(&self, id: &TaskId, session: SessionId) -> u64 {
        let leases = self.tasks.get(id).map(|task| task.leases.iter());
        leases
            .into_iter()
            .flatten()
            .find(|lease| lease.holder == session)
            .map_or(0, |lease| lease.number)
    }

    fn note_lease(&mut self, id: &TaskId, session: SessionId) {
        if let Some(attendant) = self.hosts.get_mut(session) {
            attendant.leases.insert(*id);
        }
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
        let readers = u32::try_from(others.len() + 1).unwrap_or(u32::MAX);
        let kept = (lease.missing.len() / readers).max(READ_AHEAD);
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
        for (other, share) in others.iter().zip(divide(&given, others.len())) {
            self.grant(id, *other, share);
        }
    }

    /// The holder gave the lease back. One with another number is of the past.
    pub(super) fn lease_returned(
        &mut self,
        session: SessionId,
        id: &TaskId,
        number: u64,
        reason: ReturnReason,
    ) {
        if self.lease_number(id, session) != number {
            return;
        }
        let Some(lease) = self.end_lease(id, session) else {
            return;
        };
        self.count(Counted::LeaseReturned);
        let now = self.now;
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let news = task.sources.len() > lease.sources;
        let sourcing = &mut task.sourcing;
        match reason {
            // Upstream may have it in a repository that this reader had not heard of.
            ReturnReason::Refused if !news && task.leases.is_empty() => {
                return self.exhaust(id, reason);
            }
            ReturnReason::Refused if news => sourcing.failed(&lease.host, 1, reason),
            ReturnReason::Refused | ReturnReason::Reader => {
                sourcing.failed(&lease.host, MAX_TRIES_PER_HOST, reason);
            }
            ReturnReason::Unavailable => {
                let doublings = sourcing.tries.min(MAX_TRIES);
                sourcing.not_before = now + (PAUSE.0 * 2u32.pow(doublings)).min(PAUSE.1);
                sourcing.failed(&lease.host, 1, reason);
            }
        }
        self.look_after(id);
    }

    /// The holder's own download failed.
    pub(super) fn reader_failed(&mut self, id: &TaskId, session: SessionId) {
        if let Some(lease) = self.end_lease(id, session)
            && let Some(task) = self.tasks.get_mut(id)
        {
            let sourcing = &mut task.sourcing;
            sourcing.failed(&lease.host, MAX_TRIES_PER_HOST, ReturnReason::Reader);
            self.count(Counted::LeaseReturned);
        }
    }

    /// The holder has the whole content.
    pub(super) fn lease_needless(&mut self, id: &TaskId, session: SessionId) {
        if self.end_lease(id, session).is_some() {
            self.count(Counted::LeaseDone);
        }
    }

    fn lease_done(&mut self, id: &TaskId, session: SessionId) {
        let done = self.tasks.get(id).is_some_and(|task| {
            let mut leases = task.leases.iter();
            leases.any(|lease| lease.holder == session && lease.missing.is_empty())
        });
        if done {
            self.lease_needless(id, session);
        }
    }

    /// The holder's session is over, or it left without a word on the lease.
    pub(super) fn orphan(&mut self, id: &TaskId, session: SessionId) {
        let until = self.now + ORPHAN_GRACE;
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        if let Some(lease) = task.leases.iter_mut().find(|one| one.holder == session) {
            lease.orphaned_until = Some(until);
        }
        if let Some(attendant) = self.hosts.get_mut(session) {
            attendant.leases.remove(id);
        }
        if task.participants.is_empty() {
            task.leases.retain(|lease| lease.orphaned_until.is_none());
        }
    }

    /// Takes the lease away from its holder.
    pub(super) fn revoke(&mut self, id: &TaskId, session: SessionId) {
        let Some(lease) = self.end_lease(id, session) else {
            return;
        };
        self.count(Counted::LeaseRevoked);
        let revoked = SchedulerMessage::LeaseRevoked {
            task: *id,
            lease: lease.number,
        };
        self.send(session, revoked);
    }

    pub(super) fn revoke_all(&mut self, id: &TaskId) {
        let leases = self.tasks.get(id).map(|task| task.leases.iter());
        let holders: Vec<_> = leases.into_iter().flatten().map(|one| one.holder).collect();
        for holder in holders {
            self.revoke(id, holder);
        }
    }

    fn end_lease(&mut self, id: &TaskId, session: SessionId) -> Option<Lease> {
        let task = self.tasks.get_mut(id)?;
        let at = task.leases.iter().position(|one| one.holder == session)?;
        let lease = task.leases.remove(at);
        if let Some(attendant) = self.hosts.get_mut(session) {
            attendant.leases.remove(id);
        }
        self.mark_due(id);
        Some(lease)
    }

    /// Nobody is left to try: everybody is told.
    pub(super) fn exhaust(&mut self, id: &TaskId, reason: ReturnReason) {
        let now = self.now;
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        task.sourcing.exhausted = Some((now, reason));
        let participants = task.order.clone();
        for participant in participants {
            self.no_source(participant, id, reason);
        }
    }

    /// A node has joined. An exhausted task is tried anew when it brings a source not tried, or when
    /// some time has passed; otherwise the reason there is none.
    pub(super) fn revive(&mut self, id: &TaskId, new_sources: bool) -> Option<ReturnReason> {
        let now = self.now;
        let sourcing = &mut self.tasks.get_mut(id)?.sourcing;
        let (_, reason) = sourcing.exhausted?;
        if sourcing.remembers(now) && !new_sources {
            return Some(reason);
        }
        *sourcing = Sourcing::default();
        None
    }

    /// Leases whose time is over.
    pub(super) fn tick_leases(&mut self) {
        let now = self.now;
        let mut expired = Vec::new();
        for (id, task) in &mut self.tasks {
            task.leases
                .retain(|lease| lease.orphaned_until.is_none_or(|until| now < until));
            let late = task.leases.iter().filter(|lease| now >= lease.deadline);
            expired.extend(late.map(|lease| (*id, lease.holder, lease.host.clone())));
        }
        for (id, holder, host) in expired {
            self.count(Counted::LeaseExpired);
            self.revoke(&id, holder);
            if let Some(task) = self.tasks.get_mut(&id) {
                task.sourcing.failed(&host, 1, ReturnReason::Unavailable);
            }
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

/// Cuts `pieces` into `parts` runs of nearly equal length, in order.
fn divide(pieces: &PieceSet, parts: usize) -> Vec<PieceSet> {
    let each = (pieces.len() as usize).div_ceil(parts.max(1)).max(1);
    let indexes: Vec<_> = pieces.iter().collect();
    indexes
        .chunks(each)
        .map(|chunk| {
            let mut part = PieceSet::empty(pieces.pieces());
            for index in chunk {
                part.insert(*index);
            }
            part
        })
        .collect()
}
