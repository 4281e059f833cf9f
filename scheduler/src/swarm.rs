//! Everything a scheduler decides: pure. [`Swarm::apply`] takes in what happened and says what is to
//! be sent; the driver carries it out and waits.
//!
//! ```text
//! session: --(Hello)--> listing --(Inventory listed)--> listed
//!              \___________________\_____________________\--(Closed, silent, newer session)--> gone
//!
//! task:  unknown --(Join)--> sought --(nobody has it, all were asked)--> read under leases
//!           ^                  |                                            |
//!           |                  +--(somebody has it)--> exchanged <----------+
//!           |                                              |                |
//!           +--(no participant, no lease)------------------+            exhausted (NoSource)
//! ```
//! The parts: [`hosts`] who attends, [`inventory`] who holds what, [`tasks`] who takes part in what,
//! [`leases`] who reads upstream, [`parents`] who is told to fetch from whom (scored in
//! [`selection`], in the order of [`turns`]), [`search`] questions to nodes that have not told
//! everything yet, [`reputation`] who failed whom, [`numbers`] short names for hosts and tasks.
//!
//! No decision takes long, however many nodes there are: what concerns a crowd is done in portions.

mod hosts;
mod inventory;
mod leases;
mod numbers;
mod parents;
mod reputation;
mod search;
mod selection;
mod tasks;
mod turns;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use darner_proto::id::{HostId, Role, TaskId};
use darner_proto::scheduler::{NodeMessage, SchedulerMessage};

use hosts::{Attendant, Hosts};
use inventory::Inventory;
use numbers::Digests;
use reputation::Reputation;
use search::Searches;
use tasks::Task;
use turns::Turns;

/// The state is told this often that time has passed: the grain of its timers.
pub const TICK: Duration = Duration::from_millis(100);
/// And this often while all that can happen with time is that somebody falls silent.
pub const IDLE_TICK: Duration = Duration::from_millis(250);
/// And this long after it last decided anything while [`Swarm::is_behind`], that those who wait have
/// their turn.
pub const TURN: Duration = Duration::from_millis(1);
/// More nodes than this are refused: the bound of everything that is kept per node.
const MAX_HOSTS: usize = 20_000;
/// A node says it lives every second and a half; after this silence it is gone. With the grain of ticks and
/// the last message's way, a host that vanishes is out of every answer within five seconds.
const SILENCE: Duration = Duration::from_millis(4500);
/// When ticks were this far apart, this process was not running, and no node's silence counts.
const OWN_PAUSE: Duration = Duration::from_secs(2);
/// A scheduler that cannot keep up hears late that nodes live, and lets them be silent for as much
/// longer, up to this.
const MAX_LAG: Duration = Duration::from_secs(30);

/// One stream of one node. Numbers are never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A node said something. The first message of a session is its Hello.
    Message(SessionId, NodeMessage),
    /// The stream has ended.
    Closed(SessionId),
    /// What nodes say is heard this long after it came.
    Lagged(Duration),
    /// Nothing else happens, and there are nodes that wait for their turn.
    Turn,
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Send this.
    Send(SessionId, SchedulerMessage),
    /// End the session: the state has forgotten it.
    Close(SessionId, CloseReason),
    /// Something worth counting.
    Count(Counted),
}

/// Why a session is ended from this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// It did not begin with a Hello, or said it twice.
    Protocol,
    /// Only mirrors and seeds attend a scheduler.
    NotANode,
    /// There are as many nodes as are taken.
    Full,
    /// The same host has begun another session.
    Superseded,
    /// Nothing was heard from it.
    Silent,
    /// It sends more than any node has reason to.
    Flooding,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// A lease was granted, or adopted, to a host of this role.
    LeaseGranted(Role),
    /// A lease passed its time without progress.
    LeaseExpired,
    /// A lease was given back.
    LeaseReturned,
    /// A lease, or the claim to one, was taken away.
    LeaseRevoked,
    /// The holder has everything the lease was about.
    LeaseDone,
    /// This many parents were told to a child.
    ParentsAssigned(u32),
    /// A host was banned as a parent.
    Banned,
}

/// What a scheduler's state begins with.
#[derive(Debug, Clone)]
pub struct Options {
    /// This scheduler.
    pub scheduler: HostId,
    /// No lease is granted before this long after the start.
    pub settle: Duration,
    /// Numbers of leases begin here. They must be above those of the scheduler's earlier lives, of
    /// which nothing is kept: unix milliseconds will do, as no scheduler grants a thousand leases a
    /// second for long.
    pub first_lease: u64,
}

/// How much there is of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    /// Live mirrors.
    pub mirrors: usize,
    /// Live seeds.
    pub seeds: usize,
    /// Tasks known.
    pub tasks: usize,
    /// Nodes taking part, over all tasks.
    pub participants: usize,
    /// Pairs of a node and what it holds complete.
    pub holdings: usize,
    /// Leases running.
    pub leases: usize,
}

/// The scheduler's state.
#[derive(Debug)]
pub struct Swarm {
    options: Options,
    /// When the event in hand happened; `settled` is on the same clock.
    now: Duration,
    settled: Duration,
    last_tick: Duration,
    lag: Duration,
    hosts: Hosts,
    owners: Vec<SessionId>,
    inventory: Inventory,
    tasks: BTreeMap<TaskId, Task>,
    numbers: Digests,
    searches: Searches,
    reputation: Reputation,
    turns: Turns,
    next_lease: u64,
    out: Vec<Action>,
}

impl Swarm {
    /// An empty swarm, at `now` on the clock that [`Swarm::apply`] is given.
    pub fn new(now: Duration, options: Options) -> Self {
        Self {
            now,
            settled: now + options.settle,
            last_tick: now,
            lag: Duration::ZERO,
            hosts: Hosts::default(),
            owners: Vec::new(),
            inventory: Inventory::default(),
            tasks: BTreeMap::new(),
            numbers: Digests::default(),
            searches: Searches::default(),
            reputation: Reputation::default(),
            turns: Turns::default(),
            next_lease: options.first_lease,
            options,
            out: Vec::new(),
        }
    }

    /// Takes in what happened and says what is to be done about it.
    pub fn apply(&mut self, now: Duration, event: Event) -> Vec<Action> {
        self.now = self.now.max(now);
        let is_tick = event == Event::Tick;
        match event {
            Event::Message(session, NodeMessage::Hello(host)) => self.hello(session, host),
            Event::Message(session, message) => self.heard(session, message),
            Event::Closed(session) => self.gone(session),
            Event::Lagged(lag) => self.lag = self.lag.max(lag).min(MAX_LAG),
            Event::Turn => {}
            Event::Tick => self.tick(),
        }
        self.take_turns(is_tick);
        std::mem::take(&mut self.out)
    }

    /// Whether ticks are needed for nothing but to notice who falls silent.
    pub fn is_idle(&self) -> bool {
        self.tasks.is_empty() && self.searches.is_empty()
    }

    /// Whether there are nodes that need parents, or to be told of them, and are waiting for their turn.
    pub fn is_behind(&self) -> bool {
        self.turns.is_behind()
    }

    /// How much there is of everything.
    pub fn census(&self) -> Census {
        let seeds = self.hosts.seed_count();
        Census {
            seeds,
            mirrors: self.hosts.len() - seeds,
            tasks: self.tasks.len(),
            participants: self
                .tasks
                .values()
                .map(|task| task.participants.len())
                .sum(),
            holdings: self.inventory.len(),
            leases: self.tasks.values().map(|task| task.leases.len()).sum(),
        }
    }

    fn hello(&mut self, session: SessionId, host: darner_proto::id::Host) {
        if self.hosts.get(session).is_some() {
            return self.close(session, CloseReason::Protocol);
        }
        if host.role == Role::Scheduler {
            return self.close(session, CloseReason::NotANode);
        }
        if let Some(older) = self.hosts.session_of(&host.id) {
            self.close(older, CloseReason::Superseded);
        }
        if self.hosts.len() >= MAX_HOSTS {
            return self.close(session, CloseReason::Full);
        }
        if self.hosts.len() == 0 {
            // Whom nobody attended knows no more than one that has just begun.
            self.settled = self.settled.max(self.now + self.options.settle);
        }
        let reputation = &self.reputation;
        let number = self.hosts.number(&host.id, |one| reputation.knows(one));
        let attendant = Attendant::new(session, host, number, self.now);
        self.hosts.insert(attendant);
        let scheduler = self.options.scheduler.clone();
        self.send(session, SchedulerMessage::Welcome { scheduler });
        if !self.members_changed() {
            let owners = self.owner_hosts();
            self.send(session, SchedulerMessage::Members(owners));
        }
        self.ask_newcomer(session);
    }

    fn heard(&mut self, session: SessionId, message: NodeMessage) {
        let now = self.now;
        match self.hosts.get_mut(session).map(|node| node.heard(now)) {
            None => return self.close(session, CloseReason::Protocol),
            Some(false) => return self.close(session, CloseReason::Flooding),
            Some(true) => {}
        }
        match message {
            // Taken by `apply`.
            NodeMessage::Hello(_) | NodeMessage::Heartbeat => {}
            NodeMessage::Load(load) => self.hosts.loaded(session, now, load),
            NodeMessage::Inventory { keys, listed } => self.holds(session, &keys, listed),
            NodeMessage::Withdraw(keys) => self.withdrawn(session, &keys),
            NodeMessage::Join(join) => self.join(session, join),
            NodeMessage::Progress(progress) => self.progress(session, &progress),
            NodeMessage::Leave { task, outcome } => self.leave(session, &task, outcome),
            NodeMessage::ParentFailed { task, parent, kind } => {
                self.parent_failed(session, &task, parent, kind);
            }
            NodeMessage::LeaseReturn {
                task,
                lease,
                reason,
            } => self.lease_returned(session, &task, lease, reason),
            NodeMessage::Find { request, key } => self.find(session, request, key),
        }
    }

    fn gone(&mut self, session: SessionId) {
        let Some(attendant) = self.hosts.remove(session) else {
            return;
        };
        self.searches.forget(session);
        self.searches.drop_finds(session);
        let tasks = &self.tasks;
        let held = self
            .inventory
            .forget(session, |key| tasks.contains_key(key));
        let part = self.numbers.of(attendant.tasks.iter().copied());
        let serves = attendant.serves().iter().map(|(task, _)| *task);
        let serves = self.numbers.of(serves);
        for task in &serves {
            self.parent_lost(task, attendant.number);
        }
        for task in &part {
            self.drop_participant(task, session);
        }
        for task in &attendant.leases {
            self.orphan(task, session);
        }
        let mut touched: BTreeSet<_> = part.into_iter().chain(serves).chain(held).collect();
        touched.extend(attendant.leases);
        for task in &touched {
            self.wait_for_return(task);
        }
        for task in touched {
            self.look_after(&task);
        }
        self.members_changed();
    }

    /// Ends a session from this side.
    fn close(&mut self, session: SessionId, reason: CloseReason) {
        self.out.push(Action::Close(session, reason));
        self.gone(session);
    }

    fn tick(&mut self) {
        if self.now.saturating_sub(self.last_tick) > OWN_PAUSE {
            self.hosts.forgive_silence(self.now);
        }
        let passed = self
            .now
            .saturating_sub(std::mem::replace(&mut self.last_tick, self.now));
        let silence = SILENCE + self.lag;
        for session in self.hosts.silent_since(self.now.saturating_sub(silence)) {
            self.close(session, CloseReason::Silent);
        }
        self.lag = self.lag.saturating_sub(passed);
        self.reputation.prune(self.now);
        self.tick_searches();
        self.tick_leases();
        self.look_after_all();
    }

    /// Tells everybody of the hosts that own repositories, if they are not those told before.
    fn members_changed(&mut self) -> bool {
        let owners = self.hosts.owners();
        if owners == self.owners {
            return false;
        }
        self.owners = owners;
        let message = SchedulerMessage::Members(self.owner_hosts());
        let everybody: Vec<_> = self.hosts.sessions().collect();
        for session in everybody {
            self.send(session, message.clone());
        }
        true
    }

    fn owner_hosts(&self) -> Vec<darner_proto::id::Host> {
        let owners = self.owners.iter();
        owners
            .filter_map(|session| Some(self.hosts.get(*session)?.host.clone()))
            .collect()
    }

    fn send(&mut self, session: SessionId, message: SchedulerMessage) {
        if self.hosts.get(session).is_some() {
            self.out.push(Action::Send(session, message));
        }
    }

    fn count(&mut self, counted: Counted) {
        self.out.push(Action::Count(counted));
    }
}

/// Spreads choices that are equally good, the same way every time (the finaliser of splitmix64).
fn mix(left: u64, right: u64) -> u64 {
    let mut bits = left
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(right)
        .wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests;
