//! Who takes part in what ([`participant`]), how many copies of each piece there are
//! ([`availability`]), and how large content is where nodes disagree ([`size`]).

mod availability;
mod participant;
mod size;

use std::collections::{BTreeMap, BTreeSet};

use darner_proto::geometry::Geometry;
use darner_proto::id::{HostId, Role, SigningKey, TaskId};
use darner_proto::name::Source;
use darner_proto::piece_set::PieceSet;
use darner_proto::scheduler::{
    FailureKind, Join, MAX_SOURCES, Outcome, Progress, ReturnReason, SchedulerMessage,
};

use super::leases::{Lease, Sourcing};
use super::numbers::{HostNumber, TaskNumber};
use super::{SessionId, Swarm};
use availability::Availability;
pub(super) use participant::Participant;
use size::Dissent;

/// Tasks known at once; a task's piece counts take 16 KiB at most.
const MAX_TASKS: usize = 50_000;
/// Tasks one node may take part in at once.
const MAX_TASKS_PER_HOST: usize = 4096;
/// One content on its way to several nodes.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) number: TaskNumber,
    pub(super) size: u64,
    pub(super) sources: Vec<Source>,
    /// Boxed, so that the tree's spare places are small.
    pub(super) participants: BTreeMap<SessionId, Box<Participant>>,
    /// The participants in the order they joined.
    pub(super) order: Vec<SessionId>,
    pub(super) leases: Vec<Lease>,
    pub(super) sourcing: Sourcing,
    /// Whether upstream takes ranges, once a reader has said so.
    pub(super) ranged: Option<bool>,
    /// Who has read under a lease: their signed piece maps count, also after they are gone.
    pub(super) readers: Vec<(HostId, SigningKey)>,
    /// Sessions whose pieces do not count, because no other participant can get them.
    pub(super) shunned: BTreeSet<SessionId>,
    /// Grows when there is something new for every child.
    pub(super) news: u32,
    /// How many seeds demand has called for so far.
    pub(super) seeds_called: usize,
    availability: Availability,
    dissent: Dissent,
}

impl Task {
    fn new(number: TaskNumber, size: u64) -> Self {
        let pieces = Geometry::of(size).pieces();
        Self {
            number,
            size,
            sources: Vec::new(),
            participants: BTreeMap::new(),
            order: Vec::new(),
            leases: Vec::new(),
            sourcing: Sourcing::default(),
            ranged: None,
            readers: Vec::new(),
            shunned: BTreeSet::new(),
            news: 0,
            seeds_called: 0,
            availability: Availability::new(pieces),
            dissent: Dissent::new(),
        }
    }

    pub(super) fn pieces(&self) -> u32 {
        self.availability.unheld.pieces()
    }

    /// Whether every piece is held by a participant that counts.
    pub(super) fn is_all_held(&self) -> bool {
        self.availability.unheld.is_empty()
    }

    /// Pieces that no participant holds and no lease is about.
    pub(super) fn unread(&self) -> PieceSet {
        let mut unread = self.availability.unheld.clone();
        for lease in &self.leases {
            unread.subtract(&lease.missing);
        }
        unread
    }

    /// Adds sources not known yet. Says whether there were any.
    fn learn_sources(&mut self, sources: Vec<Source>) -> bool {
        let before = self.sources.len();
        for source in sources {
            if self.sources.len() < MAX_SOURCES && !self.sources.contains(&source) {
                self.sources.push(source);
            }
        }
        self.sources.len() > before
    }

    /// The copies that `session` holds no longer count.
    pub(super) fn discount(&mut self, session: SessionId) {
        if self.shunned.insert(session)
            && let Some(participant) = self.participants.get(&session)
        {
            self.availability.remove(&participant.held);
        }
    }

    /// What a participant holds is now `held`.
    fn set_held(&mut self, session: SessionId, held: PieceSet) {
        let counts = !self.shunned.contains(&session);
        let Some(participant) = self.participants.get_mut(&session) else {
            return;
        };
        if counts {
            self.availability.remove(&participant.held);
            for index in held.iter() {
                self.availability.add(index);
            }
        }
        participant.held = held;
    }
}

impl Swarm {
    pub(super) fn takes_part(&self, session: SessionId, id: &TaskId) -> bool {
        self.tasks
            .get(id)
            .is_some_and(|task| task.participants.contains_key(&session))
    }

    pub(super) fn join(&mut self, session: SessionId, join: Join) {
        let id = join.task;
        if !self.has_room(session, &id) {
            return self.no_source(session, &id, ReturnReason::Unavailable);
        }
        if !self.agrees_on_size(session, &join) {
            return self.no_source(session, &id, ReturnReason::Refused);
        }
        let shunned = self.is_useless(&id, session);
        let moved = !self.tasks.contains_key(&id) && !join.held.is_empty();
        // Who still misses pieces does not hold it, whatever was announced before.
        if !join.held.is_full() {
            self.inventory.remove(session, &id);
        }
        let numbers = &mut self.numbers;
        let task = self
            .tasks
            .entry(id)
            .or_insert_with(|| Task::new(numbers.take(id), join.size));
        let new_sources = task.learn_sources(join.sources);
        if shunned {
            task.discount(session);
        }
        let known = task.participants.contains_key(&session);
        if !known {
            let invited = task.leases.iter().any(|lease| lease.holder == session);
            let nothing = PieceSet::empty(task.pieces());
            task.participants
                .insert(session, Box::new(Participant::new(nothing, invited)));
            task.order.push(session);
        }
        task.set_held(session, join.held);
        if let Some(attendant) = self.hosts.get_mut(session) {
            attendant.joined(task.number);
        }
        if moved {
            // It was another scheduler's, and the others who take part are on their way here too.
            self.wait_for_return(&id);
        }
        self.claim(&id, session, join.lease);
        self.searches.answered(session, &id);
        if let Some(reason) = self.revive(&id, new_sources) {
            return self.no_source(session, &id, reason);
        }
        self.look_after(&id);
        if !known {
            self.refresh(&id, session);
        }
        self.source_appeared(&id, session);
        self.call_seeds(&id);
    }

    fn has_room(&self, session: SessionId, id: &TaskId) -> bool {
        let tasks = self.hosts.get(session).map_or(0, |node| node.tasks.len());
        (self.tasks.contains_key(id) || self.tasks.len() < MAX_TASKS)
            && (tasks < MAX_TASKS_PER_HOST || self.takes_part(session, id))
    }

    fn forget_task(&mut self, id: &TaskId) {
        if let Some(task) = self.tasks.remove(id) {
            self.numbers.give_back(task.number);
        }
    }

    pub(super) fn progress(&mut self, session: SessionId, progress: &Progress) {
        let id = &progress.task;
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let counts = !task.shunned.contains(&session);
        let Some(participant) = task.participants.get_mut(&session) else {
            return;
        };
        let mut gained = false;
        for index in progress.gained.iter().cloned().flatten() {
            if participant.held.insert(index) {
                gained = true;
                if counts {
                    task.availability.add(index);
                }
            }
        }
        if participant.held.is_full() {
            self.unassign(id, session);
        }
        self.parents_seen(session, progress);
        self.reader_moved(id, session, progress, gained);
        self.look_after(id);
    }

    pub(super) fn leave(&mut self, session: SessionId, id: &TaskId, outcome: Outcome) {
        if outcome == Outcome::Complete {
            self.holder_found(session, id);
        }
        self.drop_participant(id, session);
        match outcome {
            Outcome::Complete => self.lease_needless(id, session),
            Outcome::Failed => self.reader_failed(id, session),
            // The node may be moving to another scheduler with the lease, and others with it.
            Outcome::Abandoned => {
                self.orphan(id, session);
                self.wait_for_return(id);
            }
        }
        self.look_after(id);
    }

    /// A participant takes no further part.
    pub(super) fn drop_participant(&mut self, id: &TaskId, session: SessionId) {
        self.unassign(id, session);
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let Some(participant) = task.participants.remove(&session) else {
            return;
        };
        task.order.retain(|other| *other != session);
        if !task.shunned.contains(&session) {
            task.availability.remove(&participant.held);
        }
        // Of one that is gone, the children have been told already.
        let Some(attendant) = self.hosts.get_mut(session) else {
            return;
        };
        attendant.left(task.number);
        let number = attendant.number;
        if !self.inventory.holds(session, id) {
            self.parent_lost(id, number);
        }
    }

    /// Every other participant that waits for pieces has reported this parent.
    pub(super) fn fails_everybody(
        &self,
        id: &TaskId,
        session: SessionId,
        parent: HostNumber,
    ) -> bool {
        let Some(task) = self.tasks.get(id) else {
            return false;
        };
        let reads = |other| task.leases.iter().any(|lease| lease.holder == other);
        let mut others = task
            .participants
            .iter()
            .filter(|(other, one)| **other != session && !one.held.is_full() && !reads(**other))
            .map(|(_, one)| one.failure_of(parent))
            .peekable();
        others.peek().is_some()
            && others.all(|failure| failure.is_some_and(|kind| kind != FailureKind::Slow))
    }

    /// What this host has of the task counts no longer, and it does not read for others.
    pub(super) fn shun(&mut self, id: &TaskId, session: SessionId) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        task.discount(session);
        self.revoke(id, session);
        if let Some(number) = self.hosts.get(session).map(|node| node.number) {
            self.parent_lost(id, number);
        }
    }

    /// Sees to it that what nobody has is read, and that a task nobody needs is forgotten.
    pub(super) fn look_after(&mut self, id: &TaskId) {
        self.source(id);
        let now = self.now;
        if self.tasks.get(id).is_some_and(|task| {
            task.participants.is_empty() && task.leases.is_empty() && !task.sourcing.remembers(now)
        }) {
            self.forget_task(id);
        }
    }

    /// Every task in which time alone may change something.
    pub(super) fn look_after_all(&mut self) {
        let quiet = |task: &Task| {
            task.is_all_held() && task.leases.is_empty() && !task.participants.is_empty()
        };
        let tasks = self.tasks.iter();
        let waiting: Vec<_> = tasks
            .filter(|(_, task)| !quiet(task))
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            self.look_after(&id);
        }
    }

    pub(super) fn no_source(&mut self, session: SessionId, id: &TaskId, reason: ReturnReason) {
        self.send(session, SchedulerMessage::NoSource { task: *id, reason });
    }

    /// Whether some live host that counts holds the whole content.
    pub(super) fn has_holder(&self, id: &TaskId) -> bool {
        let Some(task) = self.tasks.get(id) else {
            return false;
        };
        self.inventory
            .holders(id)
            .iter()
            .any(|holder| !task.shunned.contains(&holder) && !self.is_useless(id, holder))
    }

    /// Whether nobody can, or may, fetch the task from this host; a new session does not mend that.
    pub(super) fn is_useless(&self, id: &TaskId, session: SessionId) -> bool {
        let host = self.hosts.get(session).map(|node| node.number);
        self.is_banned(session) || host.is_none_or(|host| self.fails_everybody(id, session, host))
    }

    pub(super) fn is_seed(&self, session: SessionId) -> bool {
        self.hosts
            .get(session)
            .is_some_and(|attendant| attendant.host.role == Role::Seed)
    }
}
