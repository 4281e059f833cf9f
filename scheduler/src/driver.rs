//! Moves messages between the nodes' streams and the state. No decision is made here.
//!
//! One task owns the state. Every stream has a reader, which puts what it reads into the state's
//! queue and so is slowed down with it, and an outgoing queue, which is never waited for: a node
//! that does not take its messages is disconnected.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use darner_proto::id::TaskId;
use darner_proto::scheduler::NodeMessage;
use darner_proto::swarms::Swarms;
use darner_proto::wire;
use darner_proto::wire::scheduler_server::Scheduler as Service;
use darner_proto::wire::swarms_server::Swarms as Looking;
use darner_service::identity::{Caller, PeerRole};
use darner_service::shutdown::Shutdown;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::metrics::SchedulerMetrics;
use crate::swarm::{Action, CloseReason, Event, IDLE_TICK, SessionId, Swarm, TICK, TURN};

/// What nodes have said and the state has not heard yet; their streams wait when it is full.
const EVENTS: usize = 4096;
/// Messages that wait for one node. The most at once is what follows a reconnect: one for every
/// task of the node, and a few hundred questions.
const OUTGOING: usize = 2048;
/// The Hello comes with the connection.
const HELLO_TIME: Duration = Duration::from_secs(5);
/// A later version may say things that this one cannot read; nonsense without end is not that.
const MAX_UNREADABLE: u32 = 100;

type Outgoing = mpsc::Sender<Result<wire::SchedulerMessage, Status>>;

/// What reaches the state.
#[derive(Debug)]
enum Incoming {
    Opened(SessionId, Session),
    /// Something was said, and came then.
    Said(SessionId, NodeMessage, Instant),
    Closed(SessionId),
    /// Somebody wants to see a task, or all.
    Look(Option<TaskId>, oneshot::Sender<Swarms>),
}

/// The way to one node.
#[derive(Debug)]
struct Session {
    outgoing: Outgoing,
    stop: CancellationToken,
}

/// The gRPC service. Clones share the state.
#[derive(Debug, Clone)]
pub struct Attendance {
    incoming: mpsc::Sender<Incoming>,
    next_session: Arc<AtomicU64>,
    metrics: SchedulerMetrics,
    shutdown: Shutdown,
}

impl Attendance {
    /// Runs `swarm`, whose clock begins at zero now.
    pub(crate) fn start(swarm: Swarm, metrics: SchedulerMetrics, shutdown: &Shutdown) -> Self {
        let (incoming, received) = mpsc::channel(EVENTS);
        let driver = Driver {
            swarm,
            started: Instant::now(),
            sessions: HashMap::new(),
            metrics: metrics.clone(),
            lag: Duration::ZERO,
        };
        shutdown.spawn(driver.run(received, shutdown.clone()));
        Self {
            incoming,
            next_session: Arc::new(AtomicU64::new(1)),
            metrics,
            shutdown: shutdown.clone(),
        }
    }
}

#[tonic::async_trait]
impl Service for Attendance {
    type AttendStream = ReceiverStream<Result<wire::SchedulerMessage, Status>>;

    async fn attend(
        &self,
        request: Request<Streaming<wire::NodeMessage>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        if self.shutdown.is_draining() {
            return Err(Status::unavailable("the scheduler is stopping"));
        }
        let caller = Caller::of(&request);
        caller.require(PeerRole::NODES)?;
        let mut messages = request.into_inner();
        let hello = tokio::time::timeout(HELLO_TIME, messages.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no Hello came within 5 s"))??
            .ok_or_else(|| Status::invalid_argument("the stream ended before its Hello"))?;
        let hello = NodeMessage::try_from(hello)
            .map_err(|invalid| Status::failed_precondition(invalid.to_string()))?;
        let NodeMessage::Hello(host) = &hello else {
            return Err(Status::invalid_argument("the first message is not Hello"));
        };
        caller.require_host(host)?;
        let session = SessionId(self.next_session.fetch_add(1, Ordering::Relaxed));
        let (outgoing, queue) = mpsc::channel(OUTGOING);
        let stop = self.shutdown.cancellation().child_token();
        let opened = Session {
            outgoing,
            stop: stop.clone(),
        };
        let stopping = |_| Status::unavailable("the scheduler is stopping");
        self.incoming
            .send(Incoming::Opened(session, opened))
            .await
            .map_err(stopping)?;
        self.metrics.received();
        self.incoming
            .send(Incoming::Said(session, hello, Instant::now()))
            .await
            .map_err(stopping)?;
        let (incoming, metrics) = (self.incoming.clone(), self.metrics.clone());
        self.shutdown.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = read(session, messages, &incoming, &metrics) => {}
            }
            // The driver ends only with the process.
            let _ = incoming.send(Incoming::Closed(session)).await;
        });
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}

#[tonic::async_trait]
impl Looking for Attendance {
    async fn look(
        &self,
        request: Request<wire::SwarmsRequest>,
    ) -> Result<Response<wire::SwarmsReply>, Status> {
        Caller::of(&request).require(PeerRole::MANAGER)?;
        let wanted = request.into_inner().task;
        let wanted = match wanted.is_empty() {
            true => None,
            false => Some(TaskId::from_wire(&wanted)?),
        };
        let stopping = || Status::unavailable("the scheduler is stopping");
        let (answer, seen) = oneshot::channel();
        let asked = self.incoming.send(Incoming::Look(wanted, answer)).await;
        asked.map_err(|_| stopping())?;
        let seen = seen.await.map_err(|_| stopping())?;
        Ok(Response::new((&seen).into()))
    }
}

/// Passes on what the node says, until it has nothing more to say.
async fn read(
    session: SessionId,
    mut messages: Streaming<wire::NodeMessage>,
    incoming: &mpsc::Sender<Incoming>,
    metrics: &SchedulerMetrics,
) {
    let mut unreadable = 0;
    loop {
        let message = match messages.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return,
            Err(status) => {
                tracing::debug!(session = session.0, error = %status.message(), "a session broke");
                return;
            }
        };
        metrics.received();
        let message = match NodeMessage::try_from(message) {
            Ok(message) => message,
            Err(invalid) => {
                tracing::debug!(session = session.0, error = %invalid, "a message that this version cannot read");
                unreadable += 1;
                if unreadable >= MAX_UNREADABLE {
                    return;
                }
                continue;
            }
        };
        let said = Incoming::Said(session, message, Instant::now());
        if incoming.send(said).await.is_err() {
            return;
        }
    }
}

struct Driver {
    swarm: Swarm,
    started: Instant,
    sessions: HashMap<SessionId, Session>,
    metrics: SchedulerMetrics,
    /// The longest that a message has waited since the last tick.
    lag: Duration,
}

impl Driver {
    async fn run(mut self, mut incoming: mpsc::Receiver<Incoming>, shutdown: Shutdown) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut slow = false;
        loop {
            let is_idle = self.swarm.is_idle();
            if slow && !is_idle {
                slow = false;
                tick.reset();
            }
            let event = tokio::select! {
                () = shutdown.draining() => break,
                _ = tick.tick() => {
                    self.metrics.census(self.swarm.census());
                    let lag = std::mem::take(&mut self.lag);
                    self.take_in(Event::Lagged(lag));
                    if is_idle {
                        slow = true;
                        tick.reset_after(IDLE_TICK);
                    }
                    Event::Tick
                }
                () = tokio::time::sleep(TURN), if self.swarm.is_behind() => Event::Turn,
                received = incoming.recv() => match received {
                    Some(Incoming::Opened(session, opened)) => {
                        self.sessions.insert(session, opened);
                        continue;
                    }
                    Some(Incoming::Said(session, message, came)) => {
                        self.lag = self.lag.max(came.elapsed());
                        Event::Message(session, message)
                    }
                    Some(Incoming::Closed(session)) => Event::Closed(session),
                    Some(Incoming::Look(wanted, answer)) => {
                        let seen = match wanted {
                            Some(task) => self.swarm.view_of(&task),
                            None => self.swarm.view(),
                        };
                        // Who asked may have gone.
                        let _ = answer.send(seen);
                        continue;
                    }
                    None => break,
                },
            };
            self.take_in(event);
        }
        let sessions: Vec<_> = self.sessions.keys().copied().collect();
        for session in sessions {
            self.hang_up(session, Status::unavailable("the scheduler is stopping"));
        }
    }

    /// Lets the state take in an event, and what follows from carrying out its answer.
    fn take_in(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            match &event {
                // What a session said before it was ended from this side, and has been forgotten.
                Event::Message(session, _) if !self.sessions.contains_key(session) => continue,
                Event::Closed(session) => drop(self.sessions.remove(session)),
                Event::Message(..) | Event::Lagged(_) | Event::Turn | Event::Tick => {}
            }
            let begun = Instant::now();
            let actions = self.swarm.apply(self.started.elapsed(), event);
            self.metrics.decided(begun.elapsed());
            for action in actions {
                events.extend(self.carry_out(action));
            }
        }
    }

    /// Does what was decided. A node that cannot be told is gone.
    fn carry_out(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Send(session, message) => {
                let way = self.sessions.get(&session)?;
                let sent = way
                    .outgoing
                    .try_send(Ok(wire::SchedulerMessage::from(&message)));
                if sent.is_ok() {
                    self.metrics.sent();
                    return None;
                }
                self.metrics.closed("stuck");
                let status = Status::resource_exhausted("the node does not take its messages");
                self.hang_up(session, status);
                return Some(Event::Closed(session));
            }
            Action::Close(session, reason) => {
                let (label, status) = explain(reason);
                self.metrics.closed(label);
                tracing::info!(
                    session = session.0,
                    reason = label,
                    "a session is ended from this side"
                );
                self.hang_up(session, status);
            }
            Action::Count(counted) => self.metrics.counted(counted),
        }
        None
    }

    fn hang_up(&mut self, session: SessionId, status: Status) {
        if let Some(way) = self.sessions.remove(&session) {
            // A full queue leaves no room for the reason; the end of the stream says enough.
            let _ = way.outgoing.try_send(Err(status));
            way.stop.cancel();
        }
    }
}

/// A reason as a metric's label, and for the node.
fn explain(reason: CloseReason) -> (&'static str, Status) {
    match reason {
        CloseReason::Protocol => (
            "protocol",
            Status::invalid_argument("a session begins with Hello, once"),
        ),
        CloseReason::NotANode => (
            "not_a_node",
            Status::permission_denied("only mirrors and seeds attend a scheduler"),
        ),
        CloseReason::Full => (
            "full",
            Status::resource_exhausted("this scheduler attends as many nodes as it can"),
        ),
        CloseReason::Superseded => (
            "superseded",
            Status::aborted(
                "another session of the same node id has begun: [node] id must be unique",
            ),
        ),
        CloseReason::Silent => (
            "silent",
            Status::deadline_exceeded("nothing was heard from the node for 5 s"),
        ),
        CloseReason::Flooding => (
            "flooding",
            Status::resource_exhausted(
                "the node sends more messages than its tasks give reason to",
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::Options;
    use darner_proto::id::{Host, Role};
    use darner_service::metrics::Metrics;

    #[test]
    fn a_node_that_does_not_take_its_messages_is_disconnected_and_forgotten() {
        let options = Options {
            scheduler: "scheduler".parse().unwrap(),
            settle: Duration::ZERO,
            first_lease: 1,
        };
        let mut driver = Driver {
            swarm: Swarm::new(Duration::ZERO, options),
            started: Instant::now(),
            sessions: HashMap::new(),
            metrics: SchedulerMetrics::new(&Metrics::default()),
            lag: Duration::ZERO,
        };
        let session = SessionId(1);
        // Room for the Welcome, and not for the Members that follow.
        let (outgoing, mut queue) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let way = Session {
            outgoing,
            stop: stop.clone(),
        };
        driver.sessions.insert(session, way);
        let hello = NodeMessage::Hello(Host {
            id: "m-1".parse().unwrap(),
            address: "m-1:7421".to_owned(),
            role: Role::Mirror,
            labels: std::collections::BTreeMap::new(),
            signing_key: None,
            upload_slots: 8,
        });
        driver.take_in(Event::Message(session, hello));
        assert!(stop.is_cancelled());
        assert_eq!(driver.swarm.census().mirrors, 0);
        assert!(matches!(queue.try_recv(), Ok(Ok(_))));
        assert!(matches!(
            queue.try_recv(),
            Err(mpsc::error::TryRecvError::Disconnected)
        ));
    }
}
