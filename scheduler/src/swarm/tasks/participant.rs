//! One node's part in a task.

use std::time::Duration;

use darner_proto::piece_set::PieceSet;
use darner_proto::scheduler::FailureKind;

use super::super::SessionId;
use super::super::numbers::HostNumber;

/// Hosts that a child was told to fetch from, the last ones, to know a report about them for real.
const MAX_GIVEN: usize = 64;

/// One node's part. There are very many: fields are chosen so that all fit 128 bytes.
#[derive(Debug)]
pub(in crate::swarm) struct Participant {
    pub(in crate::swarm) held: PieceSet,
    pub(in crate::swarm) parents: Vec<SessionId>,
    given: Vec<HostNumber>,
    failed: Box<[(HostNumber, FailureKind)]>,
    /// When its parents may be told again.
    not_before_micros: u64,
    /// What it was last told, in short.
    pub(in crate::swarm) told: u64,
    /// The task's news when its parents were last weighed.
    pub(in crate::swarm) seen: u32,
    pub(in crate::swarm) evaluations: u32,
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
            parents: Vec::new(),
            given: Vec::new(),
            failed: Box::default(),
            not_before_micros: 0,
            told: 0,
            seen: 0,
            evaluations: 0,
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

    pub(in crate::swarm) fn give(&mut self, parent: HostNumber) {
        if self.was_given(parent) {
            return;
        }
        if self.given.len() >= MAX_GIVEN {
            self.given.remove(0);
        }
        // There are very many of these lists, and each grows seldom.
        self.given.reserve_exact(1);
        self.given.push(parent);
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
        assert!(size_of::<Participant>() <= 128);
    }
}
