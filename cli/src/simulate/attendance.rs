//! The scheduler of the model, and the sessions that hosts have with it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use darner_mirror::swarm::sessions::{Input, Output};
use darner_mirror::task::state::Event as TaskEvent;
use darner_proto::id::HostId;
use darner_proto::scheduler::{NodeMessage, SchedulerMessage};
use darner_scheduler::swarm::{self, Options, SessionId, Swarm};

use super::queue::{Time, nanos};
use super::world::{Event, Todo, World};

/// A node says it lives this often.
const HEARTBEAT: Time = 1_000_000_000;
/// Numbers of leases in one life of the scheduler.
const LEASES: u64 = 1_000_000;

/// The scheduler and its sessions.
#[derive(Debug)]
pub(super) struct Attendance {
    pub(super) id: HostId,
    /// `None` while it is down.
    pub(super) swarm: Option<Swarm>,
    lives: u64,
    /// The host of each live session.
    live: BTreeMap<SessionId, u32>,
    /// The host of each session there ever was.
    hosts: Vec<u32>,
    /// Messages to and from the scheduler, and wall time spent in it.
    pub(super) messages: u64,
    pub(super) events: u64,
    pub(super) spent: Duration,
}

impl Attendance {
    pub(super) fn new(id: HostId) -> Self {
        Self {
            id,
            swarm: None,
            lives: 0,
            live: BTreeMap::new(),
            hosts: Vec::new(),
            messages: 0,
            events: 0,
            spent: Duration::ZERO,
        }
    }

    /// A scheduler that knows nothing.
    pub(super) fn start(&mut self, now: Time, settle: Duration) {
        self.lives += 1;
        let options = Options {
            scheduler: self.id.clone(),
            settle,
            first_lease: self.lives * LEASES,
        };
        self.swarm = Some(Swarm::new(Duration::from_nanos(now), options));
    }
}

impl World {
    pub(super) fn scheduler_starts(&mut self) {
        let settle = self.plan.settle;
        self.attendance.start(self.queue.now, settle);
    }

    /// Every session is over.
    pub(super) fn scheduler_stops(&mut self) {
        self.attendance.swarm = None;
        let live = std::mem::take(&mut self.attendance.live);
        let scheduler = self.attendance.id.clone();
        for host in live.values() {
            self.nodes[*host as usize].session = None;
            let down = Input::Down(scheduler.clone());
            self.todo.push_back(Todo::Input(*host, down));
        }
    }

    /// The host's session opens: it says who it is and what it holds.
    pub(super) fn attend(&mut self, host: u32) {
        if self.is_gone(host) || self.attendance.swarm.is_none() {
            return;
        }
        let session = SessionId(self.attendance.hosts.len() as u64);
        self.attendance.hosts.push(host);
        self.attendance.live.insert(session, host);
        let node = &mut self.nodes[host as usize];
        node.session = Some(session);
        node.last_heartbeat = self.queue.now;
        let hello = NodeMessage::Hello(node.host.clone());
        let keys = node.stored.iter();
        let keys = keys.map(|content| self.contents[usize::from(*content)].task);
        let up = Input::Up {
            scheduler: self.attendance.id.clone(),
            keys: keys.collect(),
        };
        self.say(host, hello);
        self.todo.push_back(Todo::Input(host, up));
    }

    /// The host's session ends, and the scheduler notices.
    pub(super) fn hang_up(&mut self, host: u32) {
        if let Some(session) = self.nodes[host as usize].session.take() {
            self.attendance.live.remove(&session);
            self.scheduler_event(swarm::Event::Closed(session));
        }
    }

    pub(super) fn heartbeat(&mut self, host: u32) {
        let now = self.queue.now;
        let node = &mut self.nodes[host as usize];
        if now - node.last_heartbeat >= HEARTBEAT {
            node.last_heartbeat = now;
            self.say(host, NodeMessage::Heartbeat);
        }
    }

    fn say(&mut self, host: u32, message: NodeMessage) {
        if let Some(session) = self.nodes[host as usize].session {
            let event = Event::ToScheduler(session, Box::new(message));
            self.queue.after(self.plan.latency.1, event);
        }
    }

    pub(super) fn scheduler_hears(&mut self, session: SessionId, message: NodeMessage) {
        if self.attendance.live.contains_key(&session) {
            self.attendance.messages += 1;
            self.scheduler_event(swarm::Event::Message(session, message));
        }
    }

    pub(super) fn scheduler_tick(&mut self) {
        self.scheduler_event(swarm::Event::Tick);
        self.queue.after(nanos(swarm::TICK), Event::SchedulerTick);
    }

    fn scheduler_event(&mut self, event: swarm::Event) {
        let Some(swarm) = &mut self.attendance.swarm else {
            return;
        };
        let begun = Instant::now();
        let actions = swarm.apply(Duration::from_nanos(self.queue.now), event);
        self.attendance.spent += begun.elapsed();
        self.attendance.events += 1;
        for action in actions {
            match action {
                swarm::Action::Send(session, message) => {
                    self.attendance.messages += 1;
                    let event = Event::FromScheduler(session, Box::new(message));
                    self.queue.after(self.plan.latency.1, event);
                }
                swarm::Action::Close(session, _) => self.closed(session),
                swarm::Action::Count(_) => {}
            }
        }
    }

    /// The scheduler has ended the session; a host that lives dials again.
    fn closed(&mut self, session: SessionId) {
        let Some(host) = self.attendance.live.remove(&session) else {
            return;
        };
        if self.nodes[host as usize].session == Some(session) && !self.is_gone(host) {
            self.nodes[host as usize].session = None;
            self.counts.sessions_closed += 1;
            let down = Input::Down(self.attendance.id.clone());
            self.todo.push_back(Todo::Input(host, down));
            self.queue.after(50_000_000, Event::Attend(host));
        }
    }

    pub(super) fn node_hears(&mut self, session: SessionId, message: SchedulerMessage) {
        let place = usize::try_from(session.0).unwrap_or(usize::MAX);
        let Some(host) = self.attendance.hosts.get(place).copied() else {
            return;
        };
        if self.is_gone(host) || self.nodes[host as usize].session != Some(session) {
            return;
        }
        let received = Input::Received(self.attendance.id.clone(), message);
        self.todo.push_back(Todo::Input(host, received));
    }

    /// Carries out what a host's sessions decide.
    pub(super) fn do_session(&mut self, host: u32, output: Output) {
        match output {
            Output::Send(_, message) => self.say(host, message),
            Output::Notify(task, event) => {
                if let Some(content) = self.content_of(&task) {
                    self.note_signers(host, content, &event);
                    self.task_event(host, content, TaskEvent::Scheduler(event));
                }
            }
            Output::Begin(lease) => self.take_lease(host, lease),
            Output::Check(_, key) => {
                let held = self.content_of(&key);
                let stored = &self.nodes[host as usize].stored;
                let holds = held.is_some_and(|content| stored.contains(&content));
                let keys = holds.then_some(key).into_iter().collect();
                self.say(host, NodeMessage::Inventory { keys, listed: true });
            }
            // The model's hosts find each other and the scheduler by themselves.
            Output::Connect(..) | Output::Disconnect(_) | Output::Owners(_) | Output::Found(..) => {
            }
        }
    }
}
