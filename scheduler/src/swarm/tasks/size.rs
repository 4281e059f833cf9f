//! How large content is: its digest does not tell, and nodes may lie.

use std::collections::{BTreeMap, BTreeSet};

use darner_proto::scheduler::{Join, ReturnReason};

use super::super::numbers::HostNumber;
use super::super::{SessionId, Swarm};
use super::Task;

/// Sizes that were claimed against a task's own and are kept to see who is right.
const MAX_DISSENT: usize = 4;
/// What nodes said of a size other than the task's own, by size.
pub(super) type Dissent = BTreeMap<u64, BTreeSet<HostNumber>>;

impl Task {
    /// How many uninvited participants stand behind the task's size.
    fn backing(&self) -> usize {
        let participants = self.participants.values();
        participants.filter(|one| !one.invited).count()
    }
}

impl Swarm {
    /// The first to join says how large the content is. Whoever says otherwise is refused, until
    /// more hosts say the same other size than have said the first: then those were wrong.
    pub(super) fn agrees_on_size(&mut self, session: SessionId, join: &Join) -> bool {
        let Some(host) = self.hosts.get(session).map(|node| node.number) else {
            return false;
        };
        let Some(task) = self.tasks.get_mut(&join.task) else {
            return true;
        };
        if task.size == join.size {
            return true;
        }
        if task.dissent.len() < MAX_DISSENT || task.dissent.contains_key(&join.size) {
            task.dissent.entry(join.size).or_default().insert(host);
        }
        let against = task.dissent.get(&join.size).map_or(0, BTreeSet::len);
        tracing::warn!(task = %join.task, size = task.size, claimed = join.size, "nodes disagree on the size of content");
        if against <= task.backing() {
            return false;
        }
        self.exhaust(&join.task, ReturnReason::Refused);
        let participants = self.tasks[&join.task].order.clone();
        for participant in participants {
            self.drop_participant(&join.task, participant);
        }
        self.revoke_all(&join.task);
        self.forget_task(&join.task);
        true
    }
}
