//! The schedulers of the model, and the sessions that hosts have with them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use darner_mirror::swarm::sessions::{Input, Output};
use darner_mirror::task::state::Event as TaskEvent;
use darner_proto::id::HostId;
use darner_proto::invalid::Invalid;
use darner_proto::scheduler::{NodeMessage, SchedulerMessage};
use darner_scheduler::swarm::{self, Options, SessionId, Swarm};

use super::queue::{Time, nanos};
use super::world::{Event, Todo, World};

/// A node says it lives this often.
const HEARTBEAT: Time = 1_000_000_000;
/// Leases are numbered from the milliseconds that have passed, as in the scheduler's process.
const MILLISECOND: Time = 1_000_000;
/// A host whose session was ended dials again after this.
const REDIAL: Time = 50_000_000;

/// Which scheduler, by its place among all.
pub(super) type SchedulerNumber = u16;

/// The schedulers and their sessions.
#[derive(Debug)]
pub(super) struct Attendance {
    schedulers: Vec<Scheduler>,
    /// Whose each live session is.
    live: BTreeMap<SessionId, (u32, SchedulerNumber)>,
    /// How many sessions there were.
    sessions: u64,
    /// Messages to and from the schedulers, and wall time spent in them.
    pub(super) messages: u64,
    pub(super) events: u64,
    pub(super) spent: Duration,
}

#[derive(Debug)]
struct Scheduler {
    id: HostId,
    /// `None` while it is down.
    swarm: Option<Swarm>,
    /// Its next turn is on its way.
    turn_due: bool,
}

impl Attendance {
    /// So many schedulers, none of them up.
    pub(super) fn new(count: SchedulerNumber) -> Result<Self, Invalid> {
        let schedulers = (0..count).map(|number| {
            Ok(Scheduler {
                id: format!("scheduler-{number}").parse()?,
                swarm: None,
                turn_due: false,
            })
        });
        Ok(Self {
            schedulers: schedulers.collect::<Result<_, Invalid>>()?,
            live: BTreeMap::new(),
            sessions: 0,
            messages: 0,
            events: 0,
            spent: Duration::ZERO,
        })
    }

    pub(super) fn numbers(&self) -> Range<SchedulerNumber> {
        0..SchedulerNumber::try_from(self.schedulers.len()).unwrap_or(SchedulerNumber::MAX)
    }

    /// As nodes are told of them.
    pub(super) fn view(&self) -> Vec<(HostId, String)> {
        let ids = self.schedulers.iter().map(|one| one.id.clone());
        ids.map(|id| (id, String::new())).collect()
    }

    fn id(&self, number: SchedulerNumber) -> HostId {
        self.schedulers[usize::from(number)].id.clone()
    }

    fn number_of(&self, id: &HostId) -> Option<SchedulerNumber> {
        let at = self.schedulers.iter().position(|one| one.id == *id)?;
        SchedulerNumber::try_from(at).ok()
    }

    fn is_up(&self, number: SchedulerNumber) -> bool {
        self.schedulers[usize::from(number)].swarm.is_some()
    }
}

impl World {
    /// A scheduler that knows nothing.
    pub(super) fn scheduler_starts(&mut self, number: SchedulerNumber) {
        let now = self.queue.now;
        let options = Options {
            scheduler: self.attendance.id(number),
            settle: self.plan.settle,
            first_lease: now / MILLISECOND + 1,
        };
        let swarm = Swarm::new(Duration::from_nanos(now), options);
        self.attendance.schedulers[usize::from(number)].swarm = Some(swarm);
    }

    /// Every session with it is over.
    pub(super) fn scheduler_stops(&mut self, number: SchedulerNumber) {
        self.attendance.schedulers[usize::from(number)].swarm = None;
        let scheduler = self.attendance.id(number);
        for host in 0..self.upstream() {
            let session = self.nodes[host as usize].sessions_with[usize::from(number)].take();
            if let Some(session) = session {
                self.attendance.live.remove(&session);
                let down = Input::Down(scheduler.clone());
                self.todo.push_back(Todo::Input(host, down));
            }
        }
    }

    /// The host's session opens: it says who it is and what it holds.
    pub(super) fn attend(&mut self, host: u32, number: SchedulerNumber) {
        if self.is_gone(host) || !self.attendance.is_up(number) {
            return;
        }
        let session = SessionId(self.attendance.sessions);
        self.attendance.sessions += 1;
        self.attendance.live.insert(session, (host, number));
        let node = &mut self.nodes[host as usize];
        node.sessions_with[usize::from(number)] = Some(session);
        node.last_heartbeat = self.queue.now;
        let hello = NodeMessage::Hello(node.host.clone());
        let keys = node.stored.iter();
        let keys = keys.map(|content| self.contents[usize::from(*content)].task);
        let up = Input::Up {
            scheduler: self.attendance.id(number),
            keys: keys.collect(),
        };
        self.say(host, number, hello);
        self.todo.push_back(Todo::Input(host, up));
    }

    /// The host's sessions end, and the schedulers notice.
    pub(super) fn hang_up(&mut self, host: u32) {
        for number in self.attendance.numbers() {
            let session = self.nodes[host as usize].sessions_with[usize::from(number)].take();
            if let Some(session) = session {
                self.attendance.live.remove(&session);
                self.scheduler_event(number, swarm::Event::Closed(session));
            }
        }
    }

    pub(super) fn heartbeat(&mut self, host: u32) {
        let now = self.queue.now;
        let node = &mut self.nodes[host as usize];
        if now - node.last_heartbeat >= HEARTBEAT {
            node.last_heartbeat = now;
            for number in self.attendance.numbers() {
                self.say(host, number, NodeMessage::Heartbeat);
            }
        }
    }

    fn say(&mut self, host: u32, number: SchedulerNumber, message: NodeMessage) {
        if let Some(session) = self.nodes[host as usize].sessions_with[usize::from(number)] {
            let event = Event::ToScheduler(session, Box::new(message));
            self.queue.after(self.plan.latency.1, event);
        }
    }

    pub(super) fn scheduler_hears(&mut self, session: SessionId, message: NodeMessage) {
        if let Some((_, number)) = self.attendance.live.get(&session).copied() {
            self.attendance.messages += 1;
            self.scheduler_event(number, swarm::Event::Message(session, message));
        }
    }

    pub(super) fn scheduler_tick(&mut self, number: SchedulerNumber) {
        self.scheduler_event(number, swarm::Event::Tick);
        let tick = Event::SchedulerTick(number);
        self.queue.after(nanos(swarm::TICK), tick);
    }

    /// Nothing else may have happened meanwhile: those who wait have their turn.
    pub(super) fn scheduler_turn(&mut self, number: SchedulerNumber) {
        self.attendance.schedulers[usize::from(number)].turn_due = false;
        self.scheduler_event(number, swarm::Event::Turn);
    }

    fn scheduler_event(&mut self, number: SchedulerNumber, event: swarm::Event) {
        let scheduler = &mut self.attendance.schedulers[usize::from(number)];
        let Some(swarm) = &mut scheduler.swarm else {
            return;
        };
        let begun = Instant::now();
        let actions = swarm.apply(Duration::from_nanos(self.queue.now), event);
        self.attendance.spent += begun.elapsed();
        self.attendance.events += 1;
        if swarm.is_behind() && !std::mem::replace(&mut scheduler.turn_due, true) {
            let turn = Event::SchedulerTurn(number);
            self.queue.after(nanos(swarm::TURN), turn);
        }
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
        let Some((host, number)) = self.attendance.live.remove(&session) else {
            return;
        };
        let open = &mut self.nodes[host as usize].sessions_with[usize::from(number)];
        if *open == Some(session) && !self.is_gone(host) {
            self.nodes[host as usize].sessions_with[usize::from(number)] = None;
            self.counts.sessions_closed += 1;
            let down = Input::Down(self.attendance.id(number));
            self.todo.push_back(Todo::Input(host, down));
            self.queue.after(REDIAL, Event::Attend(host, number));
        }
    }

    pub(super) fn node_hears(&mut self, session: SessionId, message: SchedulerMessage) {
        let Some((host, number)) = self.attendance.live.get(&session).copied() else {
            return;
        };
        if !self.is_gone(host) {
            let received = Input::Received(self.attendance.id(number), message);
            self.todo.push_back(Todo::Input(host, received));
        }
    }

    /// Carries out what a host's sessions decide.
    pub(super) fn do_session(&mut self, host: u32, output: Output) {
        match output {
            Output::Send(scheduler, message) => {
                if let Some(number) = self.attendance.number_of(&scheduler) {
                    self.say(host, number, message);
                }
            }
            Output::Notify(task, event) => {
                if let Some(content) = self.content_of(&task) {
                    self.note_signers(host, content, &event);
                    self.task_event(host, content, TaskEvent::Scheduler(event));
                }
            }
            Output::Begin(lease) => self.take_lease(host, lease),
            Output::Check(scheduler, key) => {
                let Some(number) = self.attendance.number_of(&scheduler) else {
                    return;
                };
                let held = self.content_of(&key);
                let stored = &self.nodes[host as usize].stored;
                let holds = held.is_some_and(|content| stored.contains(&content));
                let keys = holds.then_some(key).into_iter().collect();
                let holds = NodeMessage::Inventory { keys, listed: true };
                self.say(host, number, holds);
            }
            // The model's hosts find each other and the schedulers by themselves.
            Output::Connect(..) | Output::Disconnect(_) | Output::Owners(_) | Output::Found(..) => {
            }
        }
    }
}
