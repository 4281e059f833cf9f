//! The model's time: takes what happens next, lets the part it is about take it in, and carries out
//! what the production cores decide. No decision about the swarm is made here.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use darner_mirror::swarm::sessions::{Input, Output};
use darner_mirror::task::state::{Action, Event as TaskEvent, RequestEnd};
use darner_proto::scheduler::{FailureKind, NodeMessage, SchedulerMessage};
use darner_scheduler::swarm::SessionId;

use super::attendance::{Attendance, SchedulerNumber};
use super::count::Counts;
use super::exchange::{ExchangeId, Exchanges};
use super::fault::Failing;
use super::network::{LinkEvent, Moved, Network};
use super::node::{Content, ContentId, Gone, Node};
use super::offer::News;
use super::plan::Plan;
use super::queue::{Queue, Time, nanos};

/// Something happens.
#[derive(Debug)]
pub(super) enum Event {
    Link(LinkEvent),
    /// A host's clients ask for their images.
    Begin(u32),
    /// Time passes for a host.
    Tick(u32),
    /// A download has asked to be woken.
    Wake(u32, ContentId),
    SchedulerTick(SchedulerNumber),
    /// A scheduler that is behind goes on.
    SchedulerTurn(SchedulerNumber),
    /// A host's session with a scheduler opens.
    Attend(u32, SchedulerNumber),
    ToScheduler(SessionId, Box<NodeMessage>),
    FromScheduler(SessionId, Box<SchedulerMessage>),
    /// A child's request for an availability stream arrives.
    Subscribe {
        child: u32,
        parent: u32,
        content: ContentId,
    },
    /// A frame is due for a host's children.
    Frame(u32, ContentId),
    /// A frame arrives that had a longer way.
    Told(u32, ContentId, Rc<News>),
    /// An availability stream ends at the child.
    Ended(u32, u32, ContentId, Option<FailureKind>),
    /// A request arrives at the parent.
    Asked(ExchangeId),
    /// Its answer begins to arrive at the child.
    Answered(ExchangeId),
    /// The parent's refusal arrives.
    Refused(ExchangeId, RequestEnd),
    /// Whoever waits for a slot at this host may have waited long enough.
    Patience(u32),
    /// The next piece of an exchange is verified and written.
    Written(ExchangeId, u32),
    /// Upstream answers, or does not.
    ReadAnswered(ExchangeId),
    Fault(Failing),
}

impl From<LinkEvent> for Event {
    fn from(event: LinkEvent) -> Self {
        Self::Link(event)
    }
}

/// What is still to be carried out.
#[derive(Debug)]
pub(super) enum Todo {
    Task(u32, ContentId, Action),
    Session(u32, Output),
    Input(u32, Input),
}

/// Everything.
#[derive(Debug)]
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) queue: Queue<Event>,
    pub(super) network: Network,
    pub(super) nodes: Vec<Node>,
    pub(super) contents: Vec<Content>,
    pub(super) exchanges: Exchanges,
    pub(super) attendance: Attendance,
    pub(super) counts: Counts,
    pub(super) upstream_off: bool,
    pub(super) todo: VecDeque<Todo>,
}

impl World {
    /// Runs until every host that is still there has what it wants, or has failed, or `limit` is
    /// over.
    pub(super) fn run(&mut self, limit: Time) {
        while self.counts.unfinished > 0
            && let Some(event) = self.queue.take()
        {
            if self.queue.now > limit {
                break;
            }
            self.take_in(event);
            while let Some(todo) = self.todo.pop_front() {
                self.carry_out(todo);
            }
        }
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::Link(event) => match self.network.apply(&mut self.queue, event) {
                Some(Moved::Brought(transfer, bytes)) => self.brought(transfer, bytes),
                Some(Moved::Sent(transfer)) => self.sent(transfer),
                None => {}
            },
            Event::Begin(host) => self.begin(host),
            Event::Tick(host) => self.tick(host),
            Event::Wake(host, content) => self.wake(host, content),
            Event::SchedulerTick(number) => self.scheduler_tick(number),
            Event::SchedulerTurn(number) => self.scheduler_turn(number),
            Event::Attend(host, number) => self.attend(host, number),
            Event::ToScheduler(session, message) => self.scheduler_hears(session, *message),
            Event::FromScheduler(session, message) => self.node_hears(session, *message),
            Event::Subscribe {
                child,
                parent,
                content,
            } => self.subscribed(child, parent, content),
            Event::Frame(host, content) => self.frame(host, content, false),
            Event::Told(child, content, news) => self.told(child, content, &news),
            Event::Ended(child, parent, content, failure) => {
                self.stream_ended(child, parent, content, failure);
            }
            Event::Asked(id) => self.asked(id),
            Event::Answered(id) => self.answered(id),
            Event::Refused(id, end) => self.end_exchange(id, end),
            Event::Patience(host) => self.patience(host),
            Event::Written(id, piece) => self.written(id, piece),
            Event::ReadAnswered(id) => self.read_answered(id),
            Event::Fault(failing) => self.fail(failing),
        }
    }

    fn carry_out(&mut self, todo: Todo) {
        match todo {
            Todo::Task(host, content, action) => self.do_task(host, content, action),
            Todo::Session(host, output) => self.do_session(host, output),
            Todo::Input(host, input) => {
                let outputs = self.nodes[host as usize].sessions.apply(input);
                let todo = outputs
                    .into_iter()
                    .map(|output| Todo::Session(host, output));
                self.todo.extend(todo);
            }
        }
    }

    /// Lets a host's task take in what happened.
    pub(super) fn task_event(&mut self, host: u32, content: ContentId, event: TaskEvent) {
        let now = self.queue.now;
        let Some(download) = self.nodes[host as usize].downloads.get_mut(&content) else {
            return;
        };
        let clock = download.clock(now);
        let actions = download.task.apply(clock, event);
        if let Some(wake) = download.task.wake_at() {
            let wake = (download.began + nanos(wake)).max(now + 1);
            if wake < download.wake {
                download.wake = wake;
                self.queue.at(wake, Event::Wake(host, content));
            }
        }
        let todo = actions.into_iter();
        self.todo
            .extend(todo.map(|action| Todo::Task(host, content, action)));
    }

    /// The timer that was set last goes off; those set for later before it are passed over.
    fn wake(&mut self, host: u32, content: ContentId) {
        let now = self.queue.now;
        if let Some(download) = self.nodes[host as usize].downloads.get_mut(&content)
            && download.wake <= now
        {
            download.wake = Time::MAX;
            self.task_event(host, content, TaskEvent::Tick);
        }
    }

    pub(super) fn latency(&self, one: u32, other: u32) -> Time {
        if self.plan.latency.0 == self.plan.latency.1 {
            return self.plan.latency.0;
        }
        let zone = |host: u32| self.nodes[host as usize].zone;
        if zone(one) == zone(other) {
            self.plan.latency.0
        } else {
            self.plan.latency.1
        }
    }

    pub(super) fn is_gone(&self, host: u32) -> bool {
        self.nodes[host as usize].gone.is_some()
    }

    pub(super) fn how_gone(&self, host: u32) -> Option<Gone> {
        self.nodes[host as usize].gone
    }

    /// The number of the host with this name; hosts are named by their number.
    pub(super) fn number_of(&self, id: &darner_proto::id::HostId) -> Option<u32> {
        let (_, number) = id.as_str().rsplit_once('-')?;
        number.parse().ok()
    }

    pub(super) fn content_of(&self, task: &darner_proto::id::TaskId) -> Option<ContentId> {
        let at = self.contents.iter().position(|one| one.task == *task)?;
        ContentId::try_from(at).ok()
    }

    /// The driver's grain of time, as the mirror's.
    pub(super) const TICK: Time = Duration::from_millis(100).as_nanos() as Time;
}
