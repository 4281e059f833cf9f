//! Places for whoever finds none: a link between two others is split, and the newcomer stands between
//! them.
//!
//! ```text
//! one <---> other      becomes      one <---> newcomer <---> other
//! ```
//! In a crowd all have as many links as they may when the last come, and these would wait for somebody
//! to make room while everybody else fills the others' links. Split, nobody has fewer than before, the
//! newcomer has as many as they, and who is linked to whom stays a matter of chance.

use darner_proto::id::{Role, TaskId};

use super::super::selection::{MAX_PARENTS, nearness};
use super::super::tasks::{Participant, Task};
use super::super::{SessionId, Swarm, mix};
use super::{HostNumber, WINDOW};

/// A link that can be split: both ends are each other's parents.
type Link = (SessionId, SessionId);

impl Swarm {
    /// Puts the child between others until it has as many parents as there may be, as far as links are
    /// found that can be split. The others are told at their turn: until then they serve each other.
    pub(super) fn come_between(&mut self, id: &TaskId, child: SessionId) {
        let me = self.tasks.get(id);
        let me = me.and_then(|task| task.participants.get(&child));
        let has = me.map_or(MAX_PARENTS, |me| self.mirrors_among(me.parents()));
        let pairs = MAX_PARENTS.saturating_sub(has) / 2;
        let mut taken = Vec::with_capacity(2 * pairs);
        for (one, other) in self.links_to_split(id, child) {
            if taken.len() >= 2 * pairs {
                return;
            }
            // Each host gives a place once: what it loses is told at one time.
            if !taken.contains(&one) && !taken.contains(&other) {
                self.split(id, (one, other), child);
                taken.extend([one, other]);
            }
        }
    }

    /// Links between others, those near the child first.
    fn links_to_split(&self, id: &TaskId, child: SessionId) -> Vec<Link> {
        let (Some(task), Some(node)) = (self.tasks.get(id), self.hosts.get(child)) else {
            return Vec::new();
        };
        let Some(me) = task.participants.get(&child) else {
            return Vec::new();
        };
        let places = task.order.len() as u64;
        let mut links = Vec::with_capacity(WINDOW);
        for draw in 0..WINDOW as u64 {
            let chance = mix(mix(child.0, u64::from(me.evaluations)), draw);
            let at = usize::try_from(chance % places).unwrap_or(0);
            let one = task.order[at];
            links.extend(self.link_of(task, me, child, one, chance));
        }
        links.sort_by_cached_key(|(one, other)| {
            let near = |session: &SessionId| {
                let host = self.hosts.get(*session).map(|them| &them.host);
                host.map_or(0, |host| nearness(&node.host, host))
            };
            std::cmp::Reverse(near(one) + near(other))
        });
        links
    }

    /// One of the links of `one` that can be split for the child.
    fn link_of(
        &self,
        task: &Task,
        me: &Participant,
        child: SessionId,
        one: SessionId,
        chance: u64,
    ) -> Option<Link> {
        let theirs = self.stands_open(task, me, child, one)?.parents();
        let number = self.hosts.get(one)?.number;
        let first = usize::try_from(mix(chance, 0) % theirs.len().max(1) as u64).unwrap_or(0);
        let mut others = theirs[first..].iter().chain(&theirs[..first]);
        others.find_map(|other| {
            let other = self.hosts.numbered(*other)?.session();
            let them = self.stands_open(task, me, child, other)?;
            them.parents().contains(&number).then_some((one, other))
        })
    }

    /// A mirror that takes part, is in good repute, misses pieces, and is not linked to the child.
    fn stands_open<'a>(
        &self,
        task: &'a Task,
        me: &Participant,
        child: SessionId,
        session: SessionId,
    ) -> Option<&'a Participant> {
        let node = self.hosts.get(session)?;
        let them = task.participants.get(&session)?;
        let number = self.hosts.get(child)?.number;
        let open = session != child
            && node.host.role == Role::Mirror
            && !them.held.is_full()
            && !me.parents().contains(&node.number)
            && !them.parents().contains(&number)
            && me.failure_of(node.number).is_none()
            && them.failure_of(number).is_none()
            && !task.shunned.contains(&session)
            && self.reputation.failures(node.number, self.now) == 0
            && !self.reputation.is_banned(node.number, self.now);
        open.then_some(them)
    }

    fn split(&mut self, id: &TaskId, (one, other): Link, child: SessionId) {
        let number = |session| self.hosts.get(session).map(|node| node.number);
        let numbers = (number(one), number(other), number(child));
        let (Some(one_number), Some(other_number), Some(new)) = numbers else {
            return;
        };
        self.replace(id, one, other_number, new);
        self.replace(id, other, one_number, new);
        let me = self.tasks.get(id);
        if let Some(me) = me.and_then(|task| task.participants.get(&child)) {
            let mut mine = me.parents().to_vec();
            mine.extend([one_number, other_number]);
            self.assign(id, child, &mine);
        }
    }

    /// One of the parents of `session` is another one from now on.
    fn replace(&mut self, id: &TaskId, session: SessionId, old: HostNumber, new: HostNumber) {
        let them = self.tasks.get_mut(id);
        let Some(them) = them.and_then(|task| task.participants.get_mut(&session)) else {
            return;
        };
        them.offered = true;
        let theirs = them.parents().iter();
        let theirs: Vec<_> = theirs
            .map(|one| if *one == old { new } else { *one })
            .collect();
        self.assign(id, session, &theirs);
    }
}
