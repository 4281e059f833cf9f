//! Whom every participant is told to fetch from, and when it is told.
//!
//! A child is told at once when it joins and when it loses a parent; otherwise at most twice a
//! second, and only when what it is told has changed. Two nodes that are both incomplete may be each
//! other's parents.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use darner_proto::id::{HostId, SigningKey, TaskId};
use darner_proto::scheduler::{FailureKind, Parent, SchedulerMessage};

use super::selection::{Candidate, choose};
use super::tasks::{Participant, Task};
use super::{Counted, SessionId, Swarm, mix};

/// A child whose picture has changed is told no sooner than this after the last time.
const RETELL: Duration = Duration::from_millis(500);
/// A child with fewer parents is offered more as they come.
const ENOUGH_PARENTS: usize = 4;
/// Children of one host in one task: at least this many, at most [`MOST_CHILDREN`], else twice its
/// upload slots.
const FEWEST_CHILDREN: u32 = 16;
const MOST_CHILDREN: u32 = 128;
/// Participants, and as many holders, that are weighed for one child: the work per decision does
/// not grow with the swarm.
const WINDOW: usize = 48;
/// Children weighed in one tick beside the urgent ones; the others have their turn in the next.
const MAX_EVALUATIONS: usize = 1000;
/// Keys named to one child.
const MAX_SIGNERS: usize = 64;
/// Of these, hosts that hold the content and may have signed what others pass on.
const MAX_HOLDER_SIGNERS: usize = 16;

type Signers = Vec<(HostId, SigningKey)>;

/// How many children a host with so many upload slots has at most in one task.
pub(super) fn most_children(upload_slots: u32) -> u32 {
    upload_slots
        .saturating_mul(2)
        .clamp(FEWEST_CHILDREN, MOST_CHILDREN)
}

impl Swarm {
    /// Weighs the child's parents anew, and tells it if they have changed.
    pub(super) fn refresh(&mut self, id: &TaskId, child: SessionId) {
        let Some(parents) = self.best_parents(id, child) else {
            return;
        };
        let signers = self.signers(id, &parents);
        let told = self.tell(id, child, &parents, &signers);
        self.assign(id, child, parents);
        if let Some(message) = told {
            self.send(child, message);
        }
    }

    /// The message that the child is due, if it is news to it.
    fn tell(
        &mut self,
        id: &TaskId,
        child: SessionId,
        parents: &[SessionId],
        signers: &Signers,
    ) -> Option<SchedulerMessage> {
        let now = self.now;
        let task = self.tasks.get_mut(id)?;
        let me = task.participants.get_mut(&child)?;
        me.due = false;
        me.not_before = now + RETELL;
        let first = me.evaluations == 0;
        me.evaluations += 1;
        let old: BTreeSet<_> = me.parents.iter().collect();
        let new: BTreeSet<_> = parents.iter().collect();
        if !first && old == new && me.told_signers == *signers {
            return None;
        }
        me.told_signers.clone_from(signers);
        let task = self.tasks.get(id)?;
        let parents = parents.iter().filter_map(|parent| {
            Some(Parent {
                host: self.hosts.get(*parent)?.host.clone(),
                complete: self.is_complete(task, id, *parent),
            })
        });
        Some(SchedulerMessage::Parents {
            task: *id,
            parents: parents.collect(),
            signers: signers.clone(),
        })
    }

    fn best_parents(&self, id: &TaskId, child: SessionId) -> Option<Vec<SessionId>> {
        let task = self.tasks.get(id)?;
        let me = task.participants.get(&child)?;
        let host = &self.hosts.get(child)?.host;
        if me.held.is_full() {
            return Some(Vec::new());
        }
        let pool = self.pool(task, id, child);
        let candidates = pool
            .into_iter()
            .filter(|session| *session != child)
            .filter_map(|session| self.candidate(task, id, me, session))
            .collect();
        let lacking = me.held.pieces() - me.held.len();
        Some(choose(host, child, lacking, candidates))
    }

    /// Who is weighed: present parents, readers, and a window of holders and participants that is
    /// another one for every child and every time.
    fn pool(&self, task: &Task, id: &TaskId, child: SessionId) -> BTreeSet<SessionId> {
        let mut pool = BTreeSet::new();
        let mut turn = 0;
        if let Some(me) = task.participants.get(&child) {
            pool.extend(me.parents.iter().copied());
            turn = me.evaluations;
        }
        pool.extend(task.leases.iter().map(|lease| lease.holder));
        let holders = self.inventory.count(id);
        let chance = mix(child.0, turn);
        pool.extend(
            self.inventory
                .holders(id)
                .skip(start(chance, holders))
                .take(WINDOW),
        );
        let first = start(chance, task.order.len());
        pool.extend(task.order.iter().skip(first).take(WINDOW));
        pool
    }

    fn candidate<'a>(
        &'a self,
        task: &Task,
        id: &TaskId,
        me: &Participant,
        session: SessionId,
    ) -> Option<Candidate<'a>> {
        let attendant = self.hosts.get(session)?;
        let host = &attendant.host;
        let complete = self.inventory.holds(session, id);
        let participant = task.participants.get(&session);
        if !(complete || participant.is_some())
            || task.shunned.contains(&session)
            || self.is_banned(session)
        {
            return None;
        }
        let failure = me.failure_of(&host.id);
        let slow = failure == Some(FailureKind::Slow);
        let current = me.parents.contains(&session);
        let full = attendant.children_in(id) >= most_children(host.upload_slots);
        if (failure.is_some() && !slow) || (full && !current) {
            return None;
        }
        let lacking = me.held.pieces() - me.held.len();
        let useful = match participant {
            _ if complete => lacking,
            Some(participant) => has_for(participant, me),
            None => 0,
        };
        Some(Candidate {
            session,
            host,
            useful,
            reading: self.is_reading(id, session),
            children: attendant.children - u32::from(current),
            failures: self.reputation.failures(&host.id, self.now),
            slow,
            current,
        })
    }

    fn is_complete(&self, task: &Task, id: &TaskId, session: SessionId) -> bool {
        self.inventory.holds(session, id)
            || task
                .participants
                .get(&session)
                .is_some_and(|one| one.held.is_full())
    }

    /// Whose statements about pieces count: the seeds, and whoever has read it upstream under a
    /// lease; without seeds, the members it deals with. To say that one holds the whole is not
    /// enough: a liar says so too, and its statements would let wrong bytes reach a client before
    /// the whole digest decides.
    fn signers(&self, id: &TaskId, parents: &[SessionId]) -> Signers {
        let mut signers = BTreeMap::new();
        let key_of = |session: SessionId| {
            let host = &self.hosts.get(session)?.host;
            Some((host.id.clone(), host.signing_key?))
        };
        let Some(task) = self.tasks.get(id) else {
            return Vec::new();
        };
        let no_seed = self.hosts.seeds().next().is_none();
        let members = parents
            .iter()
            .copied()
            .chain(task.order.iter().take(MAX_HOLDER_SIGNERS).copied())
            .chain(self.inventory.holders(id).take(MAX_HOLDER_SIGNERS))
            .filter(|_| no_seed);
        let live = self.hosts.seeds().chain(members);
        let live = live.filter(|session| !self.is_banned(*session));
        let past = task
            .readers
            .iter()
            .filter(|(host, _)| !self.reputation.is_banned(host, self.now));
        for (host, key) in past.cloned().chain(live.filter_map(key_of)) {
            if signers.len() < MAX_SIGNERS {
                signers.insert(host, key);
            }
        }
        signers.into_iter().collect()
    }

    /// These are the child's parents now: the load of everyone concerned follows.
    fn assign(&mut self, id: &TaskId, child: SessionId, parents: Vec<SessionId>) {
        let Some(me) = self
            .tasks
            .get_mut(id)
            .and_then(|task| task.participants.get_mut(&child))
        else {
            return;
        };
        let old = std::mem::replace(&mut me.parents, parents.clone());
        for parent in old.iter().filter(|parent| !parents.contains(parent)) {
            if let Some(attendant) = self.hosts.get_mut(*parent)
                && let Some(children) = attendant.serves.get_mut(id)
            {
                attendant.children -= 1;
                *children -= 1;
                if *children == 0 {
                    attendant.serves.remove(id);
                }
            }
        }
        let mut new = 0;
        for parent in parents.iter().filter(|parent| !old.contains(parent)) {
            if let Some(attendant) = self.hosts.get_mut(*parent) {
                attendant.children += 1;
                *attendant.serves.entry(*id).or_default() += 1;
                me.give(&attendant.host.id);
                new += 1;
            }
        }
        if new > 0 {
            self.count(Counted::ParentsAssigned(new));
        }
    }

    pub(super) fn unassign(&mut self, id: &TaskId, child: SessionId) {
        self.assign(id, child, Vec::new());
    }

    /// Somebody can no longer be a parent: its children are told at once.
    pub(super) fn parent_lost(&mut self, id: &TaskId, parent: SessionId) {
        for child in self.children(id, |me| me.parents.contains(&parent)) {
            self.refresh(id, child);
        }
    }

    /// Somebody has something of the task: those who have nobody useful are told at once, and if it
    /// is the whole, the others when it is their turn.
    pub(super) fn source_appeared(&mut self, id: &TaskId, session: SessionId) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        let complete = self.inventory.holds(session, id);
        let reading = self.is_reading(id, session);
        let part = task.participants.get(&session);
        if !complete && !reading && part.is_none_or(|one| one.held.is_empty()) {
            return;
        }
        // In a large swarm a further holder is no event; whoever starves is seen by the next tick.
        let few = reading || (complete && self.inventory.count(id) <= ENOUGH_PARENTS);
        let starving = self.children(id, |me| {
            me.parents.is_empty() || (few && self.starves(id, me))
        });
        for child in starving {
            if child != session {
                self.refresh(id, child);
            }
        }
        if complete {
            self.mark_due(id);
        }
    }

    /// Every child's parents are weighed anew when it is their turn.
    pub(super) fn mark_due(&mut self, id: &TaskId) {
        let task = self.tasks.get_mut(id);
        for me in task
            .into_iter()
            .flat_map(|task| task.participants.values_mut())
        {
            me.due = true;
        }
    }

    fn children(&self, id: &TaskId, which: impl Fn(&Participant) -> bool) -> Vec<SessionId> {
        let participants = self.tasks.get(id).map(|task| task.participants.iter());
        participants
            .into_iter()
            .flatten()
            .filter(|(_, me)| !me.held.is_full() && which(me))
            .map(|(child, _)| *child)
            .collect()
    }

    /// Whether none of its parents has anything for it.
    fn starves(&self, id: &TaskId, me: &Participant) -> bool {
        let Some(task) = self.tasks.get(id) else {
            return false;
        };
        me.parents.iter().all(|parent| {
            !self.inventory.holds(*parent, id)
                && task
                    .participants
                    .get(parent)
                    .is_none_or(|one| has_for(one, me) == 0)
        })
    }

    /// Those whose turn it is, beginning after the task that was last in the tick before.
    pub(super) fn tick_parents(&mut self) {
        let now = self.now;
        let start = self.parents_cursor;
        let mut tasks: Vec<_> = self.tasks.keys().copied().collect();
        if let Some(start) = start {
            let at = tasks.partition_point(|id| *id <= start);
            tasks.rotate_left(at);
        }
        let mut left = MAX_EVALUATIONS;
        for id in tasks {
            let due = self.children(&id, |me| {
                now >= me.not_before
                    && (me.due || me.parents.len() < ENOUGH_PARENTS || self.starves(&id, me))
            });
            for child in due.iter().take(left) {
                self.refresh(&id, *child);
            }
            self.parents_cursor = Some(id);
            if due.len() >= left {
                return;
            }
            left -= due.len();
        }
    }
}

/// How many pieces `one` has that `me` lacks.
fn has_for(one: &Participant, me: &Participant) -> u32 {
    if one.held.is_empty() {
        return 0;
    }
    let mut useful = one.held.clone();
    useful.subtract(&me.held);
    useful.len()
}

/// Where a window begins, so that it is full if there is enough.
fn start(chance: u64, count: usize) -> usize {
    let places = count.saturating_sub(WINDOW) as u64 + 1;
    usize::try_from(chance % places).unwrap_or(0)
}
