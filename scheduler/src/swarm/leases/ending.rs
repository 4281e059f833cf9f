//! How leases end, and what is tried next.

use darner_proto::id::TaskId;
use darner_proto::scheduler::{ReturnReason, SchedulerMessage};

use super::super::{Counted, SessionId, Swarm};
use super::Lease;
use super::sourcing::MAX_TRIES_PER_HOST;

impl Swarm {
    /// The holder gave the lease back. One with another number is of the past.
    pub(in crate::swarm) fn lease_returned(
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
                sourcing.pause(now);
                sourcing.failed(&lease.host, 1, reason);
            }
        }
        self.look_after(id);
    }

    /// The holder's own download failed.
    pub(in crate::swarm) fn reader_failed(&mut self, id: &TaskId, session: SessionId) {
        if let Some(lease) = self.end_lease(id, session)
            && let Some(task) = self.tasks.get_mut(id)
        {
            let sourcing = &mut task.sourcing;
            sourcing.failed(&lease.host, MAX_TRIES_PER_HOST, ReturnReason::Reader);
            self.count(Counted::LeaseReturned);
        }
    }

    /// The holder has the whole content.
    pub(in crate::swarm) fn lease_needless(&mut self, id: &TaskId, session: SessionId) {
        if self.end_lease(id, session).is_some() {
            self.count(Counted::LeaseDone);
        }
    }

    pub(in crate::swarm) fn lease_done(&mut self, id: &TaskId, session: SessionId) {
        let done = self.tasks.get(id).is_some_and(|task| {
            let mut leases = task.leases.iter();
            leases.any(|lease| lease.holder == session && lease.missing.is_empty())
        });
        if done {
            self.lease_needless(id, session);
        }
    }

    /// The holder's session is over, or it left without a word on the lease.
    pub(in crate::swarm) fn orphan(&mut self, id: &TaskId, session: SessionId) {
        let now = self.now;
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        if let Some(lease) = task.leases.iter_mut().find(|one| one.holder == session) {
            lease.orphan(now);
        }
        if let Some(attendant) = self.hosts.get_mut(session) {
            attendant.leases.remove(id);
        }
        if task.participants.is_empty() {
            task.leases.retain(|lease| !lease.is_orphaned());
        }
    }

    /// Takes the lease away from its holder.
    pub(in crate::swarm) fn revoke(&mut self, id: &TaskId, session: SessionId) {
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

    pub(in crate::swarm) fn revoke_all(&mut self, id: &TaskId) {
        let leases = self.tasks.get(id).map(|task| task.leases.iter());
        let holders: Vec<_> = leases.into_iter().flatten().map(|one| one.holder).collect();
        for holder in holders {
            self.revoke(id, holder);
        }
    }

    pub(super) fn end_lease(&mut self, id: &TaskId, session: SessionId) -> Option<Lease> {
        let task = self.tasks.get_mut(id)?;
        let at = task.leases.iter().position(|one| one.holder == session)?;
        let lease = task.leases.remove(at);
        if let Some(attendant) = self.hosts.get_mut(session) {
            attendant.leases.remove(id);
        }
        self.mark_due(id);
        Some(lease)
    }

    /// Leases whose time is over.
    pub(in crate::swarm) fn tick_leases(&mut self) {
        let now = self.now;
        let mut expired = Vec::new();
        for (id, task) in &mut self.tasks {
            task.leases.retain(|lease| !lease.is_lost(now));
            let late = task.leases.iter().filter(|lease| lease.is_late(now));
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
}
