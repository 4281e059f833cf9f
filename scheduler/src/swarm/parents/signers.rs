//! Whose statements about pieces count.

use std::collections::BTreeMap;

use darner_proto::id::{HostId, SigningKey, TaskId};

use super::super::tasks::Task;
use super::super::{SessionId, Swarm};

/// Keys named to one child.
const MAX_SIGNERS: usize = 64;
/// Of these, hosts that hold the content and may have signed what others pass on.
const MAX_HOLDER_SIGNERS: usize = 16;

pub(super) type Signers<'a> = BTreeMap<&'a HostId, SigningKey>;

impl Swarm {
    /// Whose statements about pieces count: the seeds, and whoever has read it upstream under a
    /// lease; without seeds, the members it deals with. To say that one holds the whole is not
    /// enough: a liar says so too, and its statements would let wrong bytes reach a client before
    /// the whole digest decides.
    pub(super) fn signers<'a>(
        &'a self,
        id: &TaskId,
        task: &'a Task,
        parents: &'a [SessionId],
    ) -> Signers<'a> {
        let no_seed = self.hosts.seed_count() == 0;
        let members = parents
            .iter()
            .copied()
            .chain(task.order.iter().take(MAX_HOLDER_SIGNERS).copied())
            .chain(self.inventory.holders(id).window(0, MAX_HOLDER_SIGNERS))
            .filter(|_| no_seed);
        let live = self.hosts.seeds().chain(members);
        let live = live.filter_map(|session| {
            let node = self.hosts.get(session)?;
            let banned = self.reputation.is_banned(node.number, self.now);
            Some((&node.host.id, node.host.signing_key?)).filter(|_| !banned)
        });
        let past = task.readers.iter().filter(|(host, _)| {
            let number = self.hosts.number_of(host);
            number.is_none_or(|number| !self.reputation.is_banned(number, self.now))
        });
        let mut signers = Signers::new();
        for (host, key) in past.map(|(host, key)| (host, *key)).chain(live) {
            if signers.len() < MAX_SIGNERS {
                signers.insert(host, key);
            }
        }
        signers
    }
}
