//! The connection to one scheduler: dials, attends, and dials again for as long as it is wanted.

use std::sync::Arc;
use std::time::Duration;

use darner_proto::id::{Host, HostId};
use darner_proto::scheduler::{Load, NodeMessage, SchedulerMessage};
use darner_proto::wire;
use darner_proto::wire::scheduler_client::SchedulerClient;
use darner_service::identity::Connector;
use darner_service::telemetry::with_causes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

/// Messages to a scheduler that wait to be sent. One that does not take this many is as good as
/// gone: the session is ended and a new one begun.
pub(super) const OUTGOING: usize = 1024;
/// The node says it lives this often while it sends pieces, and how busy it is.
const BUSY_HEARTBEAT: Duration = Duration::from_secs(1);
/// And this often while it sends none; a scheduler takes three times the silence for its end.
const HEARTBEAT: Duration = Duration::from_millis(1500);
/// A scheduler that says nothing for so long is asked whether it is there,
const PROBE_INTERVAL: Duration = Duration::from_millis(2500);
/// and is gone when it has not answered by then. A process on a machine that is very busy takes its time.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Between attempts: doubling from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// A scheduler's message names at most some dozens of hosts.
const MAX_MESSAGE: usize = 1 << 20;

/// What a link tells its owner.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// A session is open; what is put in here reaches the scheduler.
    Up(HostId, mpsc::Sender<NodeMessage>),
    /// A message came.
    Received(HostId, SchedulerMessage),
    /// The session has ended.
    Down(HostId),
}

/// This node, as it is presented to a scheduler.
pub(super) struct Node {
    pub(super) host: Host,
    /// Runs of pieces being sent now, and the bytes of pieces sent so far.
    pub(super) sending: Arc<dyn Fn() -> (u32, u64) + Send + Sync>,
    pub(super) connector: Connector,
    /// From when on heartbeats are counted: those to all schedulers are due at the same moments.
    pub(super) epoch: Instant,
}

/// A heartbeat says how busy a node is, once it sends anything.
struct Pulse<'a> {
    node: &'a Node,
    told: u64,
}

impl Pulse<'_> {
    /// What is said now, and when the next is due.
    fn beat(&mut self) -> (NodeMessage, Duration) {
        let (busy, sent) = (self.node.sending)();
        let sent_bytes = sent.saturating_sub(self.told);
        self.told = sent;
        let next = match (busy, sent_bytes) {
            (0, 0) => HEARTBEAT,
            _ => BUSY_HEARTBEAT,
        };
        if sent == 0 {
            return (NodeMessage::Heartbeat, next);
        }
        (NodeMessage::Load(Load { busy, sent_bytes }), next)
    }

    /// The next of the moments that are `period` apart. A node that wakes once says it to everybody.
    fn next(&self, period: Duration) -> Instant {
        let passed = self.node.epoch.elapsed().as_nanos();
        let into = passed % period.as_nanos();
        // Less than a period.
        Instant::now() + period - Duration::from_nanos(u64::try_from(into).unwrap_or(0))
    }
}

/// Keeps a session with `scheduler` at `url` until `stop`.
pub(super) async fn run(
    scheduler: HostId,
    url: String,
    me: Node,
    events: mpsc::Sender<LinkEvent>,
    stop: CancellationToken,
) {
    let mut pause = BACKOFF.0;
    loop {
        let session = attend(&scheduler, &url, &me, &events);
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = session => ended,
        };
        match ended {
            Ok(()) => {
                tracing::info!(%scheduler, "the scheduler ended the session");
                pause = BACKOFF.0;
            }
            Err(AttendError::Broken(status)) => {
                tracing::warn!(%scheduler, error = %status.message(), "the session with the scheduler broke");
                pause = BACKOFF.0;
            }
            Err(error) => {
                tracing::debug!(%scheduler, %url, error = %with_causes(&error), "the scheduler cannot be attended");
                pause = (pause * 2).min(BACKOFF.1);
            }
        }
        if events
            .send(LinkEvent::Down(scheduler.clone()))
            .await
            .is_err()
        {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum AttendError {
    #[error("its address is not a URL")]
    Address(#[source] tonic::transport::Error),
    #[error("it cannot be connected to")]
    Connect(#[source] tonic::transport::Error),
    #[error("it refuses the session")]
    Refused(#[source] tonic::Status),
    #[error("the session broke")]
    Broken(#[source] tonic::Status),
}

async fn attend(
    scheduler: &HostId,
    url: &str,
    me: &Node,
    events: &mpsc::Sender<LinkEvent>,
) -> Result<(), AttendError> {
    let channel = Endpoint::from_shared(url.to_owned())
        .map_err(AttendError::Address)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PROBE_INTERVAL)
        .keep_alive_timeout(PROBE_TIMEOUT)
        .tcp_nodelay(true)
        .connect_with_connector(me.connector.clone())
        .await
        .map_err(AttendError::Connect)?;
    let mut client = SchedulerClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let (outgoing, queue) = mpsc::channel(OUTGOING);
    // The queue is new and empty: the first message always fits.
    let _ = outgoing.try_send(NodeMessage::Hello(me.host.clone()));
    let messages =
        ReceiverStream::new(queue).map(|message: NodeMessage| wire::NodeMessage::from(&message));
    let reply = client
        .attend(messages)
        .await
        .map_err(AttendError::Refused)?;
    let mut incoming = reply.into_inner();
    let mut told = false;
    let mut pulse = Pulse {
        node: me,
        told: (me.sending)().1,
    };
    let mut heartbeat = std::pin::pin!(sleep_until(pulse.next(HEARTBEAT)));
    loop {
        let message = tokio::select! {
            message = incoming.message() => message.map_err(AttendError::Broken)?,
            () = &mut heartbeat => {
                let (beat, next) = pulse.beat();
                heartbeat.as_mut().reset(pulse.next(next));
                if outgoing.try_send(beat).is_err() {
                    return Err(AttendError::Broken(tonic::Status::resource_exhausted("it does not take messages")));
                }
                continue;
            }
        };
        let Some(message) = message else {
            return Ok(());
        };
        let message = match SchedulerMessage::try_from(message) {
            Ok(message) => message,
            Err(invalid) => {
                tracing::debug!(%scheduler, error = %invalid, "a message that this version cannot read");
                continue;
            }
        };
        // Welcome comes first: only a scheduler that has taken the Hello is up.
        if matches!(message, SchedulerMessage::Welcome { .. }) && !told {
            told = true;
            if events
                .send(LinkEvent::Up(scheduler.clone(), outgoing.clone()))
                .await
                .is_err()
            {
                return Ok(());
            }
        }
        if events
            .send(LinkEvent::Received(scheduler.clone(), message))
            .await
            .is_err()
        {
            return Ok(());
        }
    }
}
