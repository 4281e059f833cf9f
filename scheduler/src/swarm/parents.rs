//! Whom every participant is told to fetch from: the choice for one child, and the telling.
//!
//! When it is whose turn is decided in [`super::turns`]. Links are made both ways where they can be:
//! a node that becomes a child's parent is offered the child as a parent in turn, so that all have
//! as many children as parents and two half-complete nodes serve each other.

mod between;
mod signers;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use darner_proto::id::{Host, Role, TaskId};
use darner_proto::scheduler::{FailureKind, Parent, SchedulerMessage};

use super::hosts::Attendant;
use super::inventory::Holders;
use super::numbers::HostNumber;
use super::selection::{Candidate, MAX_PARENTS, choose};
use super::tasks::{Participant, Task};
use super::turns::{EARLY, ENOUGH_PARENTS, RETELL, YOUNG};
use super::{Counted, SessionId, Swarm, mix};
use signers::Signers;

/// Children of one host in one task: at least this many, at most [`MOST_CHILDREN`], else twice its
/// upload slots.
const FEWEST_CHILDREN: u32 = 16;
const MOST_CHILDREN: u32 = 128;
/// Children of a mirror that has not got everything itself: as many as it has parents. Where some
/// have more children than others, these get less of each parent and are done late.
const EVEN_CHILDREN: u32 = MAX_PARENTS as u32 + 1;
/// For a child that has found few parents so far there are some places more.
const PLACES_FOR_THE_POOR: u32 = 2;
/// Parents that are few, in a swarm where more could be had: whoever came last must not stay with the
/// few places that the others left.
const POOR: usize = MAX_PARENTS - 2;
/// Participants, and as many holders, that are weighed for one child: the work per decision does
/// not grow with the swarm.
const WINDOW: usize = 32;
/// In a crowd a node without anything yet chooses this many parents; the places left are for those
/// that choose it.
const CHOSEN_AT_FIRST: usize = MAX_PARENTS / 3;
/// A swarm with more nodes than this is a crowd.
const CROWD: usize = 2 * MAX_PARENTS;
/// How many children a host with so many upload slots has at most in one task.
pub(super) fn most_children(upload_slots: u32) -> u32 {
    upload_slots
        .saturating_mul(2)
        .clamp(FEWEST_CHILDREN, MOST_CHILDREN)
}

/// How many children it may have in one task, for a child that is poor or not to be one of them.
fn room_for(host: &Host, complete: bool, poor: bool) -> u32 {
    let most = most_children(host.upload_slots);
    match host.role {
        Role::Mirror if !complete && poor => most.min(EVEN_CHILDREN + PLACES_FOR_THE_POOR),
        Role::Mirror if !complete => most.min(EVEN_CHILDREN),
        _ => most,
    }
}

impl Swarm {
    /// Weighs the child's parents anew, and tells it if they have changed.
    pub(super) fn refresh(&mut self, id: &TaskId, child: SessionId) {
        let Some(parents) = self.best_parents(id, child) else {
            return;
        };
        if let Some(task) = self.tasks.get_mut(id)
            && let Some(me) = task.participants.get_mut(&child)
        {
            me.seen = task.news;
        }
        let new = self.assign(id, child, &parents);
        self.offer_back(id, child, &new);
        if self.lacks_places(id, child) {
            self.come_between(id, child);
        }
        self.tell(id, child);
    }

    /// Whether it has found fewer parents than it may choose, in a swarm in which all could have more.
    fn lacks_places(&self, id: &TaskId, child: SessionId) -> bool {
        let Some(task) = self.tasks.get(id) else {
            return false;
        };
        let Some(me) = task.participants.get(&child) else {
            return false;
        };
        let few = if me.evaluations == 0 {
            MAX_PARENTS
        } else {
            POOR
        };
        let shunned = task.shunned.contains(&child) || self.is_banned(child);
        !shunned
            && !me.held.is_full()
            && task.participants.len() > CROWD
            && self.mirrors_among(me.parents()) < few
    }

    /// Tells the child its parents, if it has not been told these.
    pub(super) fn tell(&mut self, id: &TaskId, child: SessionId) {
        let now = self.now;
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        let Some(me) = task.participants.get(&child) else {
            return;
        };
        let sessions: Vec<_> = self.parents_of(me).collect();
        let signers = self.signers(id, task, &sessions);
        let told = fingerprint(&sessions, &signers);
        let message = (told != me.told).then(|| {
            let holders = self.inventory.holders(id);
            let parents = me.parents().iter().filter_map(|parent| {
                let parent = self.hosts.numbered(*parent)?;
                Some(Parent {
                    host: parent.host.clone(),
                    complete: is_complete(task, holders, parent.session()),
                })
            });
            SchedulerMessage::Parents {
                task: *id,
                parents: parents.collect(),
                signers: signers
                    .into_iter()
                    .map(|(host, key)| (host.clone(), key))
                    .collect(),
            }
        });
        let me = self.tasks.get_mut(id);
        if let Some(me) = me.and_then(|task| task.participants.get_mut(&child)) {
            me.told = told;
            me.offered = false;
            me.evaluations = me.evaluations.saturating_add(1);
            let young = if me.held.is_empty() { 2 * YOUNG } else { YOUNG };
            let pause = if me.evaluations <= young {
                EARLY
            } else {
                RETELL
            };
            me.wait_until(now + pause);
        }
        if let Some(message) = message {
            self.send(child, message);
        }
    }

    fn best_parents(&self, id: &TaskId, child: SessionId) -> Option<Vec<HostNumber>> {
        let task = self.tasks.get(id)?;
        let me = task.participants.get(&child)?;
        let node = self.hosts.get(child)?;
        if me.held.is_full() {
            return Some(Vec::new());
        }
        let holders = self.inventory.holders(id);
        let candidates = self
            .pool(task, me, holders, child)
            .into_iter()
            .filter(|session| *session != child)
            .filter_map(|session| self.candidate(task, me, node, holders, session))
            .collect();
        let lacking = me.held.pieces() - me.held.len();
        let crowd = task.participants.len() > CROWD && me.held.is_empty();
        let most = if crowd { CHOSEN_AT_FIRST } else { MAX_PARENTS };
        let most = most.max(self.mirrors_among(me.parents()).min(MAX_PARENTS));
        let turn = mix(child.0, u64::from(me.evaluations / STEADY));
        let chosen = choose(&node.host, turn, lacking, most, candidates);
        let numbers = chosen.into_iter();
        let numbers = numbers.filter_map(|parent| Some(self.hosts.get(parent)?.number));
        Some(numbers.collect())
    }

    /// Whether it has few parents.
    pub(super) fn is_poor(&self, me: &Participant) -> bool {
        self.mirrors_among(me.parents()) < POOR
    }

    /// How many of these are not seeds.
    fn mirrors_among(&self, parents: &[HostNumber]) -> usize {
        let role = |parent: &HostNumber| self.hosts.numbered(*parent).map(|node| node.host.role);
        let mirrors = parents.iter().filter(|one| role(one) == Some(Role::Mirror));
        mirrors.count()
    }

    /// The sessions of its parents, best first.
    pub(super) fn parents_of(&self, me: &Participant) -> impl Iterator<Item = SessionId> {
        let parents = me.parents().iter();
        parents.filter_map(|parent| Some(self.hosts.numbered(*parent)?.session()))
    }

    /// Who is weighed: present parents, readers, and a window of holders and participants that is
    /// another one for every child and every time.
    fn pool(
        &self,
        task: &Task,
        me: &Participant,
        holders: Holders<'_>,
        child: SessionId,
    ) -> Vec<SessionId> {
        let chance = mix(child.0, u64::from(me.evaluations));
        let mut pool: Vec<_> = self.parents_of(me).collect();
        pool.extend(task.leases.iter().map(|lease| lease.holder));
        pool.extend(holders.window(start(chance, holders.len()), WINDOW));
        let first = start(chance, task.order.len());
        pool.extend(task.order.iter().skip(first).take(WINDOW));
        pool.sort_unstable();
        pool.dedup();
        pool
    }

    fn candidate<'a>(
        &'a self,
        task: &Task,
        me: &Participant,
        child: &Attendant,
        holders: Holders<'_>,
        session: SessionId,
    ) -> Option<Candidate<'a>> {
        let attendant = self.hosts.get(session)?;
        let (host, number) = (&attendant.host, attendant.number);
        let complete = holders.contains(session);
        let participant = task.participants.get(&session);
        if !(complete || participant.is_some())
            || task.shunned.contains(&session)
            || self.reputation.is_banned(number, self.now)
        {
            return None;
        }
        let failure = me.failure_of(number);
        let slow = failure == Some(FailureKind::Slow);
        let current = me.parents().contains(&number);
        let poor = me.evaluations >= YOUNG && self.is_poor(me);
        let most = room_for(host, complete, poor);
        let full = attendant.children_in(task.number) >= most;
        if (failure.is_some() && !slow) || (full && !current) {
            return None;
        }
        let lacking = me.held.pieces() - me.held.len();
        let useful = match participant {
            _ if complete => lacking,
            Some(participant) => participant.held.len_beyond(&me.held),
            None => 0,
        };
        let mutual = participant.is_some_and(|one| one.parents().contains(&child.number));
        let busy = attendant.rates.busy;
        Some(Candidate {
            session,
            host,
            useful,
            reading: task.leases.iter().any(|lease| lease.holder == session),
            children: (attendant.children - u32::from(current)).max(busy),
            failures: self.reputation.failures(number, self.now),
            slow,
            slow_link: self.hosts.is_slow(attendant),
            pace: self.hosts.pace(attendant, self.now),
            current,
            mutual,
        })
    }

    /// These are the child's parents now: the load of everyone concerned follows. Returns those that
    /// were not before.
    fn assign(&mut self, id: &TaskId, child: SessionId, parents: &[HostNumber]) -> Vec<HostNumber> {
        let Some(task) = self.tasks.get_mut(id) else {
            return Vec::new();
        };
        let number = task.number;
        let Some(me) = task.participants.get_mut(&child) else {
            return Vec::new();
        };
        for parent in me.parents().iter().filter(|one| !parents.contains(one)) {
            if let Some(attendant) = self.hosts.numbered_mut(*parent) {
                attendant.child_lost(number);
            }
        }
        let before = me.parents();
        let new: Vec<_> = parents
            .iter()
            .copied()
            .filter(|one| !before.contains(one))
            .collect();
        for parent in &new {
            if let Some(attendant) = self.hosts.numbered_mut(*parent) {
                attendant.child_gained(number);
            }
        }
        if me.parents() != parents {
            me.set_parents(parents);
        }
        if !new.is_empty() {
            let count = u32::try_from(new.len()).unwrap_or(u32::MAX);
            self.count(Counted::ParentsAssigned(count));
        }
        new
    }

    pub(super) fn unassign(&mut self, id: &TaskId, child: SessionId) {
        self.assign(id, child, &[]);
    }

    /// Takes one parent from the child.
    pub(super) fn part(&mut self, id: &TaskId, child: SessionId, parent: HostNumber) {
        let me = self.tasks.get(id);
        if let Some(me) = me.and_then(|task| task.participants.get(&child)) {
            let left = me.parents().iter().copied().filter(|one| *one != parent);
            let left: Vec<_> = left.collect();
            self.assign(id, child, &left);
        }
    }

    /// The child becomes a parent of those that have become its own, where they have room. They are
    /// told at their turn.
    fn offer_back(&mut self, id: &TaskId, child: SessionId, parents: &[HostNumber]) {
        let (Some(task), Some(node)) = (self.tasks.get(id), self.hosts.get(child)) else {
            return;
        };
        let children = node.children_in(task.number);
        let room = room_for(&node.host, false, false).saturating_sub(children);
        if task.shunned.contains(&child) || self.reputation.is_banned(node.number, self.now) {
            return;
        }
        let number = node.number;
        let sessions = parents
            .iter()
            .filter_map(|one| Some(self.hosts.numbered(*one)?.session()));
        let taking: Vec<_> = sessions
            .filter(|parent| {
                task.participants.get(parent).is_some_and(|them| {
                    !them.held.is_full()
                        && self.mirrors_among(them.parents()) < MAX_PARENTS
                        && !them.parents().contains(&number)
                        && them.failure_of(number).is_none()
                })
            })
            .take(room as usize)
            .collect();
        for parent in taking {
            let them = self.tasks.get_mut(id);
            let Some(them) = them.and_then(|task| task.participants.get_mut(&parent)) else {
                continue;
            };
            them.offered = true;
            let mut theirs = them.parents().to_vec();
            theirs.push(number);
            self.assign(id, parent, &theirs);
            if theirs.len() <= ENOUGH_PARENTS {
                // The first of a crowd come to an empty place: they are not left waiting for their turn.
                self.hurry(id, parent);
            }
        }
    }
}

/// The part of chance in a choice is the same for this many evaluations, so that a child does not
/// change parents for nothing; then it is another, so that no bad luck lasts.
const STEADY: u32 = 8;

fn is_complete(task: &Task, holders: Holders<'_>, session: SessionId) -> bool {
    let part = task.participants.get(&session);
    holders.contains(session) || part.is_some_and(|one| one.held.is_full())
}

/// What a child is told, in short: the order of its parents does not matter.
fn fingerprint(parents: &[SessionId], signers: &Signers<'_>) -> u64 {
    let mut sorted = parents.to_vec();
    sorted.sort_unstable();
    let mut hasher = DefaultHasher::new();
    sorted.hash(&mut hasher);
    for (host, key) in signers {
        host.hash(&mut hasher);
        key.0.hash(&mut hasher);
    }
    // Zero is who has been told nothing.
    hasher.finish() | 1
}

/// Where a window begins, so that it is full if there is enough.
fn start(chance: u64, count: usize) -> usize {
    let places = count.saturating_sub(WINDOW) as u64 + 1;
    usize::try_from(chance % places).unwrap_or(0)
}
