//! One node's part in a task.

use std::time::Duration;

use darner_proto::piece_set::PieceSet;
use darner_proto::scheduler::FailureKind;

use super::super::SessionId;
use super::super::numbers::HostNumber;

/// Hosts that a child was told to fetch from, the last ones, to know a report about them for real.
const MAX_GIVEN: usize = 64;

/// One node's part.
#[derive(Debug)]
pub(in crate::swarm) struct Participant {
    pub(in crate::swarm) held: PieceSet,
    pub(in crate::swarm) parents: Vec<SessionId>,
    given: Vec<HostNumber>,
    failed: Vec<(HostNumber, FailureKind)>,
    /// When its parents may be told again.
    pub(in crate::swarm) not_before: Duration,
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
            failed: Vec::new(),
            not_before: Duration::ZERO,
            told: 0,
            seen: 0,
            evaluations: 0,
            invited,
            offered: false,
            queued: false,
        }
    }

    pub(in crate::swarm) fn give(&mut self, parent: HostNumber) {
        if self.was_given(parent) {
            return;
        }
        if self.given.len() >= MAX_GIVEN {
            self.given.remove(0);
        }
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
                if self.failed.len() >= MAX_GIVEN {
                    self.failed.remove(0);
                }
                self.failed.push((parent, kind));
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
