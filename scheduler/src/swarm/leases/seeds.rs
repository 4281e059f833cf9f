//! Several seeds for one content: shares of a large read, and further holders of what many want.

use darner_proto::id::TaskId;
use darner_proto::piece_set::PieceSet;
use darner_proto::scheduler::{self, SchedulerMessage};

use super::super::hosts::Attendant;
use super::super::{SessionId, Swarm};
use super::READ_AHEAD;

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

impl Swarm {
    /// How many of these readers, first ones first, may begin at once on so many pieces.
    pub(super) fn at_once(&self, readers: &[SessionId], needed: u32, ranged: bool) -> usize {
        let wanted = if ranged {
            (needed / READ_AHEAD).max(1) as usize
        } else {
            1
        };
        let seeds = readers.iter().take_while(|reader| self.is_seed(**reader));
        wanted.min(seeds.count().max(1)).min(MAX_READERS)
    }

    pub(super) fn weights(&self, readers: &[SessionId]) -> Vec<u32> {
        let readers = readers.iter();
        readers
            .map(|reader| self.hosts.get(*reader).map_or(1, |node| node.host.weight()))
            .collect()
    }

    /// Upstream takes ranges: the one reader of a large content gives the other seeds their part.
    pub(super) fn share_out(&mut self, id: &TaskId) {
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
            || lease.is_orphaned()
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
    pub(in crate::swarm) fn call_seeds(&mut self, id: &TaskId) {
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
            .map(Attendant::session)
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
}

/// Cuts `pieces` into runs, in order, of lengths in proportion to `weights`. A part that would be
/// empty is left out, and the last takes what is left over.
pub(super) fn divide(pieces: &PieceSet, weights: &[u32]) -> Vec<PieceSet> {
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
