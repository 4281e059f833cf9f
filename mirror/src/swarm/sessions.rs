//! What this node has told which scheduler, and what follows from what it hears: pure.
//!
//! Every scheduler is told what the node holds, so that the loss of one costs no announcement. A
//! task is registered with one scheduler only: the first in rendezvous order among those connected.
//!
//! ```text
//! task:   alone --(a scheduler is up)--> attended --(it goes down, another is up)--> attended
//!           ^                               |
//!           +-------(none is up)------------+
//! ```
//! When a scheduler comes up that ranks before a task's present one, the task moves to it, and its
//! lease moves along as a claim.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use darner_proto::digest::Digest;
use darner_proto::id::{Host, HostId, SigningKey, TaskId};
use darner_proto::rendezvous;
use darner_proto::scheduler::{
    FailureKind, Join, Lease, LeaseClaim, MAX_KEYS_PER_MESSAGE, NodeMessage, Outcome, Parent,
    Progress, ReturnReason, SchedulerMessage,
};

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
    /// The answer to [`Input::Find`]; `None` when there is nobody to ask.
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
    finds: BTreeMap<u64, HostId>,
    owners: Vec<Host>,
}

#[derive(Debug)]
struct Registration {
    join: Join,
    scheduler: Option<HostId>,
}

impl Sessions {
    /// Takes in what happened and says what is to be done about it.
    pub fn apply(&mut self, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Schedulers(schedulers) => self.set_schedulers(schedulers, &mut out),
            Input::Up { scheduler, keys } => self.up(scheduler, &keys, &mut out),
            Input::Down(scheduler) => self.down(&scheduler, &mut out),
            Input::Received(scheduler, message) => self.received(scheduler, message, &mut out),
            Input::Join(join) => self.join(join, &mut out),
            Input::Gained(progress) => self.gained(progress, &mut out),
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
            Input::Held(keys) => self.announce(
                &keys,
                |keys| NodeMessage::Inventory { keys, listed: true },
                &mut out,
            ),
            Input::Withdrawn(keys) => self.announce(&keys, NodeMessage::Withdraw, &mut out),
            Input::Find { request, key } => self.find(request, key, &mut out),
        }
        out
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

    fn up(&mut self, scheduler: HostId, keys: &[Digest], out: &mut Vec<Output>) {
        if !self.schedulers.contains_key(&scheduler) {
            return;
        }
        let mut parts = keys.chunks(MAX_KEYS_PER_MESSAGE).peekable();
        if parts.peek().is_none() {
            let nothing = NodeMessage::Inventory {
                keys: Vec::new(),
                listed: true,
            };
            out.push(Output::Send(scheduler.clone(), nothing));
        }
        while let Some(part) = parts.next() {
            let listed = parts.peek().is_none();
            let inventory = NodeMessage::Inventory {
                keys: part.to_vec(),
                listed,
            };
            out.push(Output::Send(scheduler.clone(), inventory));
        }
        self.connected.insert(scheduler);
        self.place_tasks(out);
    }

    fn down(&mut self, scheduler: &HostId, out: &mut Vec<Output>) {
        if !self.connected.remove(scheduler) {
            return;
        }
        self.finds.retain(|request, asked| {
            if asked == scheduler {
                out.push(Output::Found(*request, Vec::new()));
            }
            asked != scheduler
        });
        for registration in self.tasks.values_mut() {
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
                out.push(Output::Notify(
                    task,
                    TaskEvent::Parents { parents, signers },
                ));
            }
            SchedulerMessage::Lease(lease) => self.lease(scheduler, lease, out),
            SchedulerMessage::LeaseRevoked { task, lease } => {
                if let Some(registration) = self.tasks.get_mut(&task)
                    && registration
                        .join
                        .lease
                        .as_ref()
                        .is_some_and(|claim| claim.lease == lease)
                {
                    registration.join.lease = None;
                }
                out.push(Output::Notify(task, TaskEvent::LeaseRevoked(lease)));
            }
            SchedulerMessage::Ask(key) => match self.tasks.get(&key) {
                Some(registration) => {
                    out.push(Output::Send(
                        scheduler,
                        NodeMessage::Join(registration.join.clone()),
                    ));
                }
                None => out.push(Output::Check(scheduler, key)),
            },
            SchedulerMessage::Found { request, holders } => {
                if self.finds.remove(&request).is_some() {
                    out.push(Output::Found(request, holders));
                }
            }
            SchedulerMessage::NoSource { task, reason } => {
                out.push(Output::Notify(task, TaskEvent::NoSource(reason)));
            }
        }
    }

    fn lease(&mut self, scheduler: HostId, lease: Lease, out: &mut Vec<Output>) {
        let Some(registration) = self.tasks.get_mut(&lease.task) else {
            out.push(Output::Begin(lease));
            return;
        };
        registration.join.lease = Some(LeaseClaim {
            lease: lease.lease,
            ranges: lease.ranges.clone(),
        });
        registration.scheduler = Some(scheduler);
        out.push(Output::Notify(lease.task, TaskEvent::Lease(lease)));
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
        self.tasks.insert(
            task,
            Registration {
                join,
                scheduler: first,
            },
        );
    }

    fn gained(&mut self, progress: Progress, out: &mut Vec<Output>) {
        if let Some(registration) = self.tasks.get_mut(&progress.task) {
            for range in &progress.gained {
                registration.join.held.insert_range(range.clone());
            }
        }
        self.to_scheduler(&progress.task.clone(), NodeMessage::Progress(progress), out);
    }

    fn leave(&mut self, task: TaskId, outcome: Outcome, out: &mut Vec<Output>) {
        self.to_scheduler(&task, NodeMessage::Leave { task, outcome }, out);
        self.tasks.remove(&task);
    }

    /// A lease can come back for a task that could not even begin: then its owner is told.
    fn lease_return(
        &mut self,
        task: TaskId,
        lease: u64,
        reason: ReturnReason,
        out: &mut Vec<Output>,
    ) {
        let returned = NodeMessage::LeaseReturn {
            task,
            lease,
            reason,
        };
        let scheduler = match self.tasks.get_mut(&task) {
            Some(registration) => {
                registration.join.lease = None;
                registration.scheduler.clone()
            }
            None => rendezvous::order(&task, &self.connected, |id| id)
                .first()
                .map(|id| (*id).clone()),
        };
        out.extend(scheduler.map(|scheduler| Output::Send(scheduler, returned)));
    }

    fn find(&mut self, request: u64, key: Digest, out: &mut Vec<Output>) {
        match rendezvous::order(&key, &self.connected, |id| id).first() {
            Some(first) => {
                let first = (*first).clone();
                self.finds.insert(request, first.clone());
                out.push(Output::Send(first, NodeMessage::Find { request, key }));
            }
            None => out.push(Output::Found(request, Vec::new())),
        }
    }

    fn to_scheduler(&self, task: &TaskId, message: NodeMessage, out: &mut Vec<Output>) {
        if let Some(scheduler) = self.tasks.get(task).and_then(|task| task.scheduler.clone()) {
            out.push(Output::Send(scheduler, message));
        }
    }

    fn announce(
        &self,
        keys: &[Digest],
        message: impl Fn(Vec<Digest>) -> NodeMessage,
        out: &mut Vec<Output>,
    ) {
        for scheduler in &self.connected {
            for part in keys.chunks(MAX_KEYS_PER_MESSAGE) {
                out.push(Output::Send(scheduler.clone(), message(part.to_vec())));
            }
        }
    }
}

fn alone(task: &TaskId, owners: &[Host], expected: bool) -> TaskEvent {
    let owners = rendezvous::order(task, owners, |host| &host.id);
    TaskEvent::Alone {
        owners: owners.into_iter().cloned().collect(),
        expected,
    }
}

#[cfg(test)]
mod tests;
