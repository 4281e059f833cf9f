//! What this node has told which scheduler, and what follows from what it hears: pure.
//!
//! What belongs to whom follows from rendezvous order among the schedulers that are connected. The
//! first for a task keeps it. The first two for a key are told that the node holds it ([`holdings`]):
//! so the loss of one costs no announcement, and no scheduler needs memory for all.
//!
//! ```text
//! task:   alone --(a scheduler is up)--> attended --(it goes down, another is up)--> attended
//!           ^                               |
//!           +-------(none is up)------------+
//! ```
//! When a scheduler comes up that ranks before a task's present one, the task moves to it, and its
//! lease moves along as a claim. The download goes on meanwhile with the parents it knows.
//!
//! Nodes may see different schedulers for a while, and so two of them may keep the same task. Only
//! the word of the one that this node attends for the task counts: under the lease of another nobody
//! reads a second time, it is told of what comes anyway (*also*), which its nodes can fetch.

mod finds;
mod holdings;
mod leases;
mod rates;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use darner_proto::digest::Digest;
use darner_proto::id::{Host, HostId, SigningKey, TaskId};
use darner_proto::rendezvous;
use darner_proto::scheduler::{
    FailureKind, Join, Lease, LeaseClaim, NodeMessage, Outcome, Parent, Progress, ReturnReason,
    SchedulerMessage,
};

use finds::Finds;
use holdings::{Holdings, KEEPERS};
use rates::Rates;

/// Nodes tell a scheduler that comes back what they hold spread over so many turns, two seconds: as
/// long as it waits before it grants a lease. What it needs earlier it asks for.
const PATIENCE: u32 = 20;

/// What happens to the sessions.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// The set of schedulers is now this: id and URL.
    Schedulers(Vec<(HostId, String)>),
    /// A session is open. `keys` is everything the node holds.
    Up {
        /// The scheduler.
        scheduler: HostId,
        /// Content held complete, and repository records.
        keys: Vec<Digest>,
    },
    /// A session has ended.
    Down(HostId),
    /// A scheduler said something.
    Received(HostId, SchedulerMessage),
    /// A task of this node begins.
    Join(Join),
    /// It has gained pieces, or read bytes.
    Gained(Progress),
    /// A transfer from one of its parents has ended: told to the scheduler with what it gained.
    Fetched {
        /// The task.
        task: TaskId,
        /// Who sent.
        parent: HostId,
        /// How much came.
        bytes: u64,
        /// From the beginning of the answer to the last byte.
        took: Duration,
    },
    /// It is over.
    Leave(TaskId, Outcome),
    /// One of its parents failed.
    ParentFailed(TaskId, HostId, FailureKind),
    /// It cannot use its lease.
    LeaseReturn(TaskId, u64, ReturnReason),
    /// The node holds further content or records.
    Held(Vec<Digest>),
    /// The node no longer holds these.
    Withdrawn(Vec<Digest>),
    /// A tenth of a second has passed: the next part of what is still to be told may go out.
    Turn,
    /// Who holds this?
    Find {
        /// Chosen by the asker.
        request: u64,
        /// What is looked for.
        key: Digest,
    },
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Keep a session with this scheduler.
    Connect(HostId, String),
    /// End the session with this scheduler.
    Disconnect(HostId),
    /// Send this.
    Send(HostId, NodeMessage),
    /// Tell a task.
    Notify(TaskId, TaskEvent),
    /// A lease has come for a task that this node does not have: it is to begin one.
    Begin(Lease),
    /// The hosts that repositories find their owners among.
    Owners(Vec<Host>),
    /// A scheduler asks whether the node holds this.
    Check(HostId, Digest),
    /// The answer to [`Input::Find`]; empty when there is nobody to ask.
    Found(u64, Vec<Host>),
}

/// What a task hears from its scheduler.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskEvent {
    /// A scheduler has been told of the task.
    Attended,
    /// There is no scheduler.
    Alone {
        /// Hosts that may help, in the task's rendezvous order.
        owners: Vec<Host>,
        /// Whether a scheduler is configured, and so may be back soon.
        expected: bool,
    },
    /// Where to fetch from.
    Parents {
        /// Best first.
        parents: Vec<Parent>,
        /// Whose piece maps count.
        signers: Vec<(HostId, SigningKey)>,
    },
    /// Read from upstream.
    Lease(Lease),
    /// The lease with this number has passed to another.
    LeaseRevoked(u64),
    /// Nobody holds it and nobody can read it.
    NoSource(ReturnReason),
}

/// The sessions' state.
#[derive(Debug, Default)]
pub struct Sessions {
    schedulers: BTreeMap<HostId, String>,
    connected: BTreeSet<HostId>,
    tasks: BTreeMap<TaskId, Registration>,
    /// Whose lease begins a task, until that has joined.
    beginning: BTreeMap<TaskId, (HostId, LeaseClaim)>,
    holdings: Holdings,
    finds: Finds,
    owners: Vec<Host>,
}

#[derive(Debug)]
struct Registration {
    join: Join,
    scheduler: Option<HostId>,
    /// Further schedulers that wait for this node's pieces, and the leases they gave.
    also: BTreeMap<HostId, LeaseClaim>,
    rates: Rates,
}

impl Sessions {
    /// Sessions of the node `me`. A scheduler that comes back is told what it holds after a number of
    /// turns that differs from node to node, so that not all tell at once.
    pub fn of(me: &HostId) -> Self {
        // Any fixed key will do.
        let rank = rendezvous::rank(&Digest::Sha256([0; 32]), me);
        let turns = u32::try_from(rank % u64::from(PATIENCE)).unwrap_or(0);
        Self {
            holdings: Holdings::with_patience(turns),
            ..Self::default()
        }
    }

    /// Takes in what happened and says what is to be done about it.
    pub fn apply(&mut self, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Schedulers(schedulers) => self.set_schedulers(schedulers, &mut out),
            Input::Up { scheduler, keys } => self.up(scheduler, keys, &mut out),
            Input::Down(scheduler) => self.down(&scheduler, &mut out),
            Input::Received(scheduler, message) => self.received(scheduler, message, &mut out),
            Input::Join(join) => self.join(join, &mut out),
            Input::Gained(progress) => self.gained(progress, &mut out),
            Input::Fetched {
                task,
                parent,
                bytes,
                took,
            } => {
                if let Some(registration) = self.tasks.get_mut(&task) {
                    registration.rates.received(parent, bytes, took);
                }
            }
            Input::Leave(task, outcome) => self.leave(task, outcome, &mut out),
            Input::ParentFailed(task, parent, kind) => {
                self.to_scheduler(
                    &task,
                    NodeMessage::ParentFailed { task, parent, kind },
                    &mut out,
                );
            }
            Input::LeaseReturn(task, lease, reason) => {
                self.lease_return(task, lease, reason, &mut out);
            }
            Input::Held(keys) => self.holdings.held(&self.connected, keys, &mut out),
            Input::Withdrawn(keys) => self.holdings.withdrawn(&self.connected, keys, &mut out),
            Input::Turn => {
                self.holdings.turn(&mut out);
                self.finds.turn(&self.connected, &mut out);
            }
            Input::Find { request, key } => {
                self.finds.begin(&self.connected, request, key, &mut out);
            }
        }
        out
    }

    /// Whether a turn would bring anything nearer. Where not, there is no need of one.
    pub fn waits(&self) -> bool {
        self.holdings.waits() || self.finds.waits()
    }

    fn set_schedulers(&mut self, schedulers: Vec<(HostId, String)>, out: &mut Vec<Output>) {
        let new: BTreeMap<_, _> = schedulers.into_iter().collect();
        let gone: Vec<_> = self
            .schedulers
            .iter()
            .filter(|(id, url)| new.get(id) != Some(url))
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            out.push(Output::Disconnect(id.clone()));
            self.schedulers.remove(&id);
            self.down(&id, out);
        }
        for (id, url) in new {
            if let Entry::Vacant(place) = self.schedulers.entry(id) {
                out.push(Output::Connect(place.key().clone(), url.clone()));
                place.insert(url);
            }
        }
    }

    fn up(&mut self, scheduler: HostId, keys: Vec<Digest>, out: &mut Vec<Output>) {
        if !self.schedulers.contains_key(&scheduler) {
            return;
        }
        self.holdings.up(&self.connected, &scheduler, keys, out);
        self.connected.insert(scheduler);
        self.place_tasks(out);
    }

    fn down(&mut self, scheduler: &HostId, out: &mut Vec<Output>) {
        if !self.connected.remove(scheduler) {
            return;
        }
        self.finds.down(&self.connected, scheduler, out);
        self.holdings.down(&self.connected, scheduler);
        self.beginning.retain(|_, (from, _)| from != scheduler);
        for registration in self.tasks.values_mut() {
            registration.also.remove(scheduler);
            if registration.scheduler.as_ref() == Some(scheduler) {
                registration.scheduler = None;
            }
        }
        self.place_tasks(out);
    }

    /// Moves every task to the scheduler it belongs to now.
    fn place_tasks(&mut self, out: &mut Vec<Output>) {
        let connected: Vec<_> = self.connected.iter().cloned().collect();
        let expected = !self.schedulers.is_empty();
        for (task, registration) in &mut self.tasks {
            let first = rendezvous::order(task, &connected, |id| id)
                .first()
                .map(|id| (*id).clone());
            match first {
                Some(first) if registration.scheduler.as_ref() != Some(&first) => {
                    registration.also.remove(&first);
                    if let Some(old) = registration.scheduler.replace(first.clone()) {
                        let leave = NodeMessage::Leave {
                            task: *task,
                            outcome: Outcome::Abandoned,
                        };
                        out.push(Output::Send(old, leave));
                    }
                    out.push(Output::Send(
                        first,
                        NodeMessage::Join(registration.join.clone()),
                    ));
                    out.push(Output::Notify(*task, TaskEvent::Attended));
                }
                None => out.push(Output::Notify(*task, alone(task, &self.owners, expected))),
                Some(_) => {}
            }
        }
    }

    fn received(&mut self, scheduler: HostId, message: SchedulerMessage, out: &mut Vec<Output>) {
        match message {
            SchedulerMessage::Welcome { .. } => {}
            SchedulerMessage::Members(owners) => {
                self.owners.clone_from(&owners);
                out.push(Output::Owners(owners));
            }
            SchedulerMessage::Parents {
                task,
                parents,
                signers,
            } => {
                if self.keeps(&scheduler, &task) {
                    let event = TaskEvent::Parents { parents, signers };
                    out.push(Output::Notify(task, event));
                }
            }
            SchedulerMessage::Lease(lease) => self.lease(scheduler, lease, out),
            SchedulerMessage::LeaseRevoked { task, lease } => {
                self.revoked(&scheduler, task, lease, out);
            }
            SchedulerMessage::Ask(key) => match self.tasks.get(&key) {
                Some(registration) => {
                    let mut join = registration.join.clone();
                    if registration.scheduler.as_ref() != Some(&scheduler) {
                        join.lease = registration.also.get(&scheduler).cloned();
                    }
                    out.push(Output::Send(scheduler, NodeMessage::Join(join)));
                }
                None => out.push(Output::Check(scheduler, key)),
            },
            SchedulerMessage::Found { request, holders } => {
                let connected = &self.connected;
                self.finds
                    .answered(connected, &scheduler, request, holders, out);
            }
            SchedulerMessage::NoSource { task, reason } => {
                if self.keeps(&scheduler, &task) {
                    out.push(Output::Notify(task, TaskEvent::NoSource(reason)));
                }
            }
        }
    }

    /// Whether this scheduler's word on the task counts here.
    fn keeps(&self, scheduler: &HostId, task: &TaskId) -> bool {
        let registration = self.tasks.get(task);
        registration.is_some_and(|one| one.scheduler.as_ref() == Some(scheduler))
    }

    fn join(&mut self, join: Join, out: &mut Vec<Output>) {
        let task = join.task;
        let first = rendezvous::order(&task, &self.connected, |id| id)
            .first()
            .map(|id| (*id).clone());
        match &first {
            Some(first) => {
                out.push(Output::Send(first.clone(), NodeMessage::Join(join.clone())));
                out.push(Output::Notify(task, TaskEvent::Attended));
            }
            None => {
                let expected = !self.schedulers.is_empty();
                out.push(Output::Notify(task, alone(&task, &self.owners, expected)));
            }
        }
        let mut registration = Registration {
            join,
            scheduler: first,
            also: BTreeMap::new(),
            rates: Rates::default(),
        };
        if let Some((from, claim)) = self.beginning.remove(&task)
            && registration.scheduler.as_ref() != Some(&from)
        {
            registration.attend_also(from, claim, out);
        }
        self.tasks.insert(task, registration);
    }

    fn gained(&mut self, mut progress: Progress, out: &mut Vec<Output>) {
        let Some(registration) = self.tasks.get_mut(&progress.task) else {
            return;
        };
        for range in &progress.gained {
            registration.join.held.insert_range(range.clone());
        }
        for scheduler in registration.also.keys() {
            let message = NodeMessage::Progress(progress.clone());
            out.push(Output::Send(scheduler.clone(), message));
        }
        if let Some(scheduler) = registration.scheduler.clone() {
            progress.rates = registration.rates.take();
            out.push(Output::Send(scheduler, NodeMessage::Progress(progress)));
        }
    }

    fn leave(&mut self, task: TaskId, outcome: Outcome, out: &mut Vec<Output>) {
        self.beginning.remove(&task);
        let Some(registration) = self.tasks.remove(&task) else {
            return;
        };
        let also = registration.also.into_keys();
        for scheduler in registration.scheduler.into_iter().chain(also) {
            let message = NodeMessage::Leave { task, outcome };
            out.push(Output::Send(scheduler, message));
        }
    }

    fn to_scheduler(&self, task: &TaskId, message: NodeMessage, out: &mut Vec<Output>) {
        if let Some(scheduler) = self.tasks.get(task).and_then(|task| task.scheduler.clone()) {
            out.push(Output::Send(scheduler, message));
        }
    }
}

impl Registration {
    /// Tells one more scheduler of this node's part, so that its nodes find the pieces here.
    fn attend_also(&mut self, scheduler: HostId, claim: LeaseClaim, out: &mut Vec<Output>) {
        let join = Join {
            lease: Some(claim.clone()),
            ..self.join.clone()
        };
        out.push(Output::Send(scheduler.clone(), NodeMessage::Join(join)));
        self.also.insert(scheduler, claim);
    }
}

fn alone(task: &TaskId, owners: &[Host], expected: bool) -> TaskEvent {
    let owners = rendezvous::order_by_weight(task, owners, |host| host);
    TaskEvent::Alone {
        owners: owners.into_iter().cloned().collect(),
        expected,
    }
}

#[cfg(test)]
mod tests;
