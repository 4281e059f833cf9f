//! Nodes that come with a lease: from an earlier scheduler, or from before their session broke.

use darner_proto::id::TaskId;
use darner_proto::piece_set::PieceSet;
use darner_proto::scheduler::{LeaseClaim, SchedulerMessage};

use super::super::{Counted, SessionId, Swarm};

impl Swarm {
    /// A participant has come with a lease of its own, or without the one it had.
    pub(in crate::swarm) fn claim(
        &mut self,
        id: &TaskId,
        session: SessionId,
        claim: Option<LeaseClaim>,
    ) {
        let Some(host) = self.hosts.get(session).map(|node| node.host.id.clone()) else {
            return;
        };
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let own = task.leases.iter().position(|lease| lease.host == host);
        match (claim, own) {
            (None, None) => {}
            // Granted, and not heard of before the node joined by itself.
            (None, Some(own)) if !task.leases[own].is_orphaned() => {}
            (None, Some(own)) => {
                // A node that has come back without it has forgotten it.
                task.leases.remove(own);
            }
            (Some(claim), Some(own)) => self.take_up(id, session, own, claim.lease),
            (Some(claim), None) => self.adopt(id, session, &claim),
        }
        self.lease_done(id, session);
    }

    /// The holder is back, or says again that it holds its lease. What others read by now is theirs.
    fn take_up(&mut self, id: &TaskId, session: SessionId, own: usize, claimed: u64) {
        let now = self.now;
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let others = task.leases.iter().enumerate();
        let others: Vec<_> = others
            .filter(|(at, _)| *at != own)
            .map(|(_, lease)| lease.missing.clone())
            .collect();
        let lease = &mut task.leases[own];
        let before = lease.granted.len();
        for other in others {
            lease.granted.subtract(&other);
        }
        let mut changed = lease.granted.len() < before || claimed != lease.number;
        lease.missing = lease.granted.clone();
        if let Some(participant) = task.participants.get(&session) {
            lease.missing.subtract(&participant.held);
        }
        let empty = lease.missing.is_empty();
        if lease.take_up(now, session) {
            changed = true;
            self.note_lease(id, session);
        }
        if changed && empty {
            self.revoke(id, session);
        } else if changed {
            self.tell_lease(id, session);
        }
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

    fn note_lease(&mut self, id: &TaskId, session: SessionId) {
        if let Some(attendant) = self.hosts.get_mut(session) {
            attendant.leases.insert(*id);
        }
    }
}
