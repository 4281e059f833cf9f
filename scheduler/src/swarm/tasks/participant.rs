//! One node's part in a task.

use std::time::Duration;

use darner_proto::piece_set::PieceSet;
use darner_proto::scheduler::FailureKind;

use super::super::numbers::HostNumber;

/// Hosts that a child was told to fetch from, the last ones, to know a report about them for real.
const MAX_GIVEN: usize = 64;

/// One node's part. There are very many: fields are chosen so that all fit 96 bytes.
#[derive(Debug)]
pub(in crate::swarm) struct Participant {
    pub(in crate::swarm) held: PieceSet,
    /// Whom it was told to fetch from: first its parents, best first, then those that were, the last
    /// one last.
    given: Box<[HostNumber]>,
    failed: Box<[(HostNumber, FailureKind)]>,
    /// When its parents may be told again.
    not_before_micros: u64,
    /// What it was last told, in short.
    pub(in crate::swarm) told: u64,
    /// The task's news when its parents were last weighed.
    pub(in crate::swarm) seen: u32,
    pub(in crate::swarm) evaluations: u32,
    /// How many of `given` are its parents.
    parents: u8,
    /// It came because it was leased the task, and knows the size from here.
    pub(super) invited: bool,
    /// It has become the parent of one that was made its own in turn, and has not been told yet.
    pub(in crate::swarm) offered: bool,
    /// It stands in the queue of those that need parents now.
    pub(in crate::swarm) queued: bool,
}

impl Participant {
    pub(super) fn new(held: PieceSet, invited: bool) -> Self {
        Self {
            held,
            given: Box::default(),
            failed: Box::default(),
            not_before_micros: 0,
            told: 0,
            seen: 0,
            evaluations: 0,
            parents: 0,
            invited,
            offered: false,
            queued: false,
        }
    }

    /// Its parents may be told again from `time` on.
    pub(in crate::swarm) fn wait_until(&mut self, time: Duration) {
        self.not_before_micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    }

    /// When its parents may be told again.
    pub(in crate::swarm) fn not_before(&self) -> Duration {
        Duration::from_micros(self.not_before_micros)
    }

    /// Its parents, best first.
    pub(in crate::swarm) fn parents(&self) -> &[HostNumber] {
        &self.given[..usize::from(self.parents)]
    }

    /// These are its parents now, [`MAX_GIVEN`] at most.
    pub(in crate::swarm) fn set_parents(&mut self, parents: &[HostNumber]) {
        let parents = &parents[..parents.len().min(MAX_GIVEN)];
        let (were, past) = self.given.split_at(usize::from(self.parents));
        let past = past.iter().chain(were).filter(|one| !parents.contains(one));
        let too_many = (past.clone().count() + parents.len()).saturating_sub(MAX_GIVEN);
        self.given = parents.iter().chain(past.skip(too_many)).copied().collect();
        self.parents = u8::try_from(parents.len()).unwrap_or(u8::MAX);
    }

    pub(in crate::swarm) fn was_given(&self, parent: HostNumber) -> bool {
        self.given.contains(&parent)
    }

    pub(in crate::swarm) fn failed_by(&mut self, parent: HostNumber, kind: FailureKind) {
        let known = self.failed.iter_mut().find(|(one, _)| *one == parent);
        match known {
            Some((_, worst)) if *worst == FailureKind::Slow => *worst = kind,
            Some(_) => {}
            None => {
                let mut failed = std::mem::take(&mut self.failed).into_vec();
                if failed.len() >= MAX_GIVEN {
                    failed.remove(0);
                }
                failed.push((parent, kind));
                self.failed = failed.into_boxed_slice();
            }
        }
    }

    /// How `parent` failed this child.
    pub(in crate::swarm) fn failure_of(&self, parent: HostNumber) -> Option<FailureKind> {
        let mut failed = self.failed.iter();
        failed
            .find(|(one, _)| *one == parent)
            .map(|(_, kind)| *kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_participant_stays_small() {
        assert!(size_of::<Participant>() <= 96);
    }

    #[test]
    fn who_was_given_is_remembered_up_to_a_bound() {
        let numbers = |range: std::ops::Range<u32>| range.map(HostNumber).collect::<Vec<_>>();
        let mut one = Participant::new(PieceSet::empty(8), false);
        one.set_parents(&numbers(0..14));
        one.set_parents(&numbers(7..21));
        assert_eq!(one.parents(), numbers(7..21));
        assert!((0..21).all(|number| one.was_given(HostNumber(number))));
        one.set_parents(&[]);
        assert!(one.parents().is_empty() && one.was_given(HostNumber(20)));
        for first in 3..10 {
            one.set_parents(&numbers(first * 10..first * 10 + 10));
        }
        assert_eq!(one.parents(), numbers(90..100));
        // The last 64, whatever came before.
        assert!((40..100).all(|number| one.was_given(HostNumber(number))));
        assert!(!(0..36).any(|number| one.was_given(HostNumber(number))));
    }
}
