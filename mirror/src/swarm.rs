//! The way to the rest of the cluster: sessions with the schedulers, and requests to other peers.
//!
//! [`sessions`] decides what each scheduler is told and [`keepers`] who counts as one (both pure),
//! [`link`] keeps one connection, [`peers`] fetches from other nodes, [`apart`] stands in for the
//! schedulers where they are to hear of nothing. This file is the driver that joins them. What is
//! done with pieces, parents and leases is the task's business; the store is not known here.

mod apart;
pub mod keepers;
mod link;
pub mod peers;
pub mod sessions;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use darner_proto::digest::Digest;
use darner_proto::gossip::Member;
use darner_proto::id::{Host, HostId, TaskId};
use darner_proto::scheduler::{Join, Lease, NodeMessage};
use darner_service::directory::Membership;
use darner_service::identity::{Connector, Identity, PeerRole, Protocol};
use darner_service::shutdown::Shutdown;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use apart::Seeds;
use keepers::Table;
use link::LinkEvent;
pub use peers::{PeerError, Peers};
use sessions::{Input, Output, Sessions, TaskEvent};

/// Inputs that wait for the driver. It only routes, so a longer queue would only hide a stall.
const INPUTS: usize = 4096;
/// What a task has not yet taken of what its scheduler said. A task that lets this many wait is
/// stuck; its lease then lapses by itself.
const TASK_EVENTS: usize = 256;
/// Leases for tasks that this node does not have yet.
const BEGINNINGS: usize = 1024;
/// Parts of what the node holds go out at this pace.
const TURN: Duration = Duration::from_millis(100);
/// A search that has no answer by then has none.
const FIND_TIMEOUT: Duration = Duration::from_secs(2);

/// What the node holds, as the swarm needs to know it.
#[derive(Clone)]
pub struct Inventory {
    /// Every key held.
    pub keys: Arc<dyn Fn() -> Vec<Digest> + Send + Sync>,
    /// Whether this one is.
    pub holds: Arc<dyn Fn(&Digest) -> bool + Send + Sync>,
    /// Runs of pieces being sent now, and the bytes of pieces sent so far.
    pub sending: Arc<dyn Fn() -> (u32, u64) + Send + Sync>,
}

/// Who schedules.
#[derive(Debug)]
pub struct Schedulers {
    /// By a manager's word, or a list.
    pub named: watch::Receiver<Arc<Membership>>,
    /// The members that keep the table when none of those can be reached; `None` without gossip.
    pub keepers: Option<watch::Receiver<Vec<Arc<Member>>>>,
}

/// Handle to the node's part in the swarm. Clones share it.
#[derive(Debug, Clone)]
pub struct Swarm {
    me: Arc<Host>,
    inputs: mpsc::Sender<Input>,
    owners: watch::Receiver<Vec<Host>>,
    tasks: Arc<Mutex<HashMap<TaskId, mpsc::Sender<TaskEvent>>>>,
    finds: Arc<Mutex<HashMap<u64, oneshot::Sender<Vec<Host>>>>>,
    next_find: Arc<AtomicU64>,
    stopped: CancellationToken,
}

impl Swarm {
    /// Attends the schedulers as `me`. Leases for tasks that are not running come
    /// out of the receiver.
    pub fn start(
        me: Host,
        schedulers: Schedulers,
        inventory: Inventory,
        identity: &Identity,
        shutdown: &Shutdown,
    ) -> (Self, mpsc::Receiver<Lease>) {
        let (inputs, incoming) = mpsc::channel(INPUTS);
        let (begin, beginnings) = mpsc::channel(BEGINNINGS);
        let seeds = schedulers.named.borrow().seeds.clone();
        let (owners, owners_seen) = watch::channel(seeds);
        let swarm = Self {
            me: Arc::new(me),
            inputs,
            owners: owners_seen,
            tasks: Arc::default(),
            finds: Arc::default(),
            next_find: Arc::default(),
            stopped: CancellationToken::new(),
        };
        let driver = Driver {
            swarm: swarm.clone(),
            sessions: Sessions::of(&swarm.me.id),
            links: HashMap::new(),
            table: Table::new(identity.scheme()),
            owners,
            begin,
            inventory,
            identity: identity.clone(),
            shutdown: shutdown.clone(),
            epoch: Instant::now(),
        };
        shutdown.spawn(driver.run(schedulers, incoming));
        (swarm, beginnings)
    }

    /// Ends the sessions: this node is gone for its schedulers. What is told afterwards is lost.
    pub fn stop(&self) {
        self.stopped.cancel();
    }

    /// This node.
    pub fn me(&self) -> &Host {
        &self.me
    }

    /// Among whom repositories find their owner: the seeds, or without seeds some mirrors. May
    /// include this node; empty while no scheduler or manager has ever said.
    pub fn owners(&self) -> Vec<Host> {
        self.owners.borrow().clone()
    }

    /// Who holds `key`, as its schedulers know within two seconds; empty when nobody answers.
    pub async fn find(&self, key: &Digest) -> Vec<Host> {
        let request = self.next_find.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        lock(&self.finds).insert(request, answer);
        self.tell(Input::Find { request, key: *key }).await;
        let found = tokio::time::timeout(FIND_TIMEOUT, answered).await;
        lock(&self.finds).remove(&request);
        found.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Tells the schedulers of further keys this node holds.
    pub fn announce(&self, keys: Vec<Digest>) {
        // Losing one announcement under overload is repaired by the next session's full listing.
        if self.inputs.try_send(Input::Held(keys)).is_err() {
            tracing::warn!("an announcement was dropped: the swarm driver is overloaded");
        }
    }

    /// Registers a task; what its scheduler says comes out of the receiver.
    pub async fn join(&self, join: Join) -> mpsc::Receiver<TaskEvent> {
        let (events, received) = mpsc::channel(TASK_EVENTS);
        lock(&self.tasks).insert(join.task, events);
        self.tell(Input::Join(join)).await;
        received
    }

    /// Passes on what happened to a task.
    pub async fn tell(&self, input: Input) {
        if let Input::Leave(task, _) = &input {
            lock(&self.tasks).remove(task);
        }
        // The driver ends only with the process.
        let _ = self.inputs.send(input).await;
    }
}

struct Driver {
    swarm: Swarm,
    sessions: Sessions,
    links: HashMap<HostId, Connection>,
    table: Table,
    owners: watch::Sender<Vec<Host>>,
    begin: mpsc::Sender<Lease>,
    inventory: Inventory,
    identity: Identity,
    shutdown: Shutdown,
    /// When it began.
    epoch: Instant,
}

struct Connection {
    stop: CancellationToken,
    outgoing: Option<mpsc::Sender<NodeMessage>>,
}

impl Driver {
    async fn run(mut self, schedulers: Schedulers, mut inputs: mpsc::Receiver<Input>) {
        let (events, mut heard) = mpsc::channel(INPUTS);
        let Schedulers { mut named, keepers } = schedulers;
        named.mark_changed();
        // Without gossip nobody is there to say anything.
        let mut keepers = keepers.unwrap_or_else(|| watch::channel(Vec::new()).1);
        keepers.mark_changed();
        let mut turns = tokio::time::interval(TURN);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // A fixed list has nobody behind it who could change it: what it said holds.
        let (mut may_change, mut may_pass) = (true, true);
        let mut waited = false;
        loop {
            // Most of the time nothing is to be told little by little, and a node that has nothing to do
            // sleeps.
            let waits = self.table.waits() || self.sessions.waits();
            if waits && !waited {
                turns.reset();
            }
            waited = waits;
            let input = tokio::select! {
                () = self.shutdown.cancelled() => break,
                () = self.swarm.stopped.cancelled() => break,
                changed = named.changed(), if may_change => {
                    may_change = changed.is_ok();
                    let now = named.borrow_and_update().clone();
                    self.members_changed(&now);
                    continue;
                }
                changed = keepers.changed(), if may_pass => {
                    may_pass = changed.is_ok();
                    self.table.keep(&keepers.borrow_and_update());
                    continue;
                }
                Some(event) = heard.recv() => self.link_event(event),
                Some(input) = inputs.recv() => input,
                _ = turns.tick(), if waits => Input::Turn,
            };
            for input in self.table.apply(input) {
                let input = self.with_keys(input);
                for output in self.sessions.apply(input) {
                    self.carry_out(output, &events);
                }
            }
        }
        for link in self.links.values() {
            link.stop.cancel();
        }
    }

    /// A scheduler that counts from now on is told what is held now.
    fn with_keys(&self, input: Input) -> Input {
        match input {
            Input::Up { scheduler, .. } => Input::Up {
                keys: (self.inventory.keys)(),
                scheduler,
            },
            input => input,
        }
    }

    /// The manager's word on seeds counts until a scheduler, which knows who lives, has spoken.
    fn members_changed(&mut self, membership: &Membership) {
        if self.owners.borrow().is_empty() && !membership.seeds.is_empty() {
            self.owners.send_replace(membership.seeds.clone());
        }
        let schedulers = membership.schedulers.iter();
        let schedulers = schedulers.map(|entry| (entry.id.clone(), entry.url.clone()));
        self.table.name(schedulers.collect());
    }

    fn link_event(&mut self, event: LinkEvent) -> Input {
        match event {
            LinkEvent::Up(scheduler, outgoing) => {
                if let Some(link) = self.links.get_mut(&scheduler) {
                    link.outgoing = Some(outgoing);
                }
                Input::Up {
                    // Filled in when it counts.
                    keys: Vec::new(),
                    scheduler,
                }
            }
            LinkEvent::Received(scheduler, message) => Input::Received(scheduler, message),
            LinkEvent::Down(scheduler) => {
                if let Some(link) = self.links.get_mut(&scheduler) {
                    link.outgoing = None;
                }
                Input::Down(scheduler)
            }
        }
    }

    fn carry_out(&mut self, output: Output, events: &mpsc::Sender<LinkEvent>) {
        match output {
            Output::Connect(scheduler, url) => {
                let stop = self.shutdown.cancellation().child_token();
                let me = link::Node {
                    host: self.swarm.me.as_ref().clone(),
                    sending: self.inventory.sending.clone(),
                    connector: self.connector(&scheduler),
                    epoch: self.epoch,
                };
                self.shutdown.spawn(link::run(
                    scheduler.clone(),
                    url,
                    me,
                    events.clone(),
                    stop.clone(),
                ));
                self.links.insert(
                    scheduler,
                    Connection {
                        stop,
                        outgoing: None,
                    },
                );
            }
            Output::Disconnect(scheduler) => {
                if let Some(link) = self.links.remove(&scheduler) {
                    link.stop.cancel();
                }
            }
            Output::Send(scheduler, message) => self.send(&scheduler, message),
            Output::Notify(task, event) => self.notify(&task, event),
            Output::Begin(lease) => {
                if self.begin.try_send(lease).is_err() {
                    tracing::warn!("a lease was left to lapse: too many tasks begin at once");
                }
            }
            Output::Owners(owners) => {
                self.owners.send_replace(owners);
            }
            Output::Check(scheduler, key) => {
                let answer = if (self.inventory.holds)(&key) {
                    NodeMessage::Inventory {
                        keys: vec![key],
                        listed: false,
                    }
                } else {
                    NodeMessage::Withdraw(vec![key])
                };
                self.send(&scheduler, answer);
            }
            Output::Found(request, holders) => {
                if let Some(answer) = lock(&self.swarm.finds).remove(&request) {
                    let _ = answer.send(holders);
                }
            }
        }
    }

    /// To a scheduler; where the table is kept among members, to that very member.
    fn connector(&self, scheduler: &HostId) -> Connector {
        match self.table.member(scheduler) {
            Some(member) => {
                let any = self.identity.connector(Protocol::Grpc, PeerRole::NODES);
                any.only(member.clone())
            }
            None => self.identity.connector(Protocol::Grpc, PeerRole::SCHEDULER),
        }
    }

    fn send(&mut self, scheduler: &HostId, message: NodeMessage) {
        let Some(link) = self.links.get_mut(scheduler) else {
            return;
        };
        let Some(outgoing) = &link.outgoing else {
            return;
        };
        if outgoing.try_send(message).is_err() {
            // Dropping the sender does not end the session; its next heartbeat finds the queue full.
            tracing::warn!(%scheduler, "a message was dropped: the scheduler does not keep up");
        }
    }

    fn notify(&self, task: &TaskId, event: TaskEvent) {
        let tasks = lock(&self.swarm.tasks);
        // One that has just ended hears nothing, and need not.
        if let Some(events) = tasks.get(task)
            && let Err(TrySendError::Full(_)) = events.try_send(event)
        {
            tracing::warn!(%task, "a task does not take what its scheduler says");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Inventory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inventory")
    }
}
