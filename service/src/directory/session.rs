//! The connection to the manager: presence (register, keep alive, deregister) and watching go on
//! beside each other, so that a manager which cannot register a host still tells it the schedulers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use darner_proto::PROTOCOL;
use darner_proto::id::Host;
use darner_proto::manager::Configuration;
use darner_proto::wire;
use darner_proto::wire::manager_client::ManagerClient;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::holdings::Holdings;
use super::last_good::LastGood;
use super::orders::Orders;
use super::{Membership, membership, successor};
use crate::identity::{Identity, PeerRole, Protocol};
use crate::shutdown::Shutdown;

/// The first wait after a failure. Together with [`LONGEST_WAIT`] and a jitter of up to as much
/// again, waits are 100 ms to 5 s: a restarted manager meets its members spread over seconds.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Waits double up to this, before jitter.
const LONGEST_WAIT: Duration = Duration::from_millis(2500);
/// A manager that takes longer to accept a connection counts as away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A manager that takes longer to answer a request counts as away.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Shutdown waits no longer than this for the manager to take note.
const DEREGISTER_TIMEOUT: Duration = Duration::from_secs(1);
/// A silent connection is probed this often, and given up when a probe stays unanswered as long.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// The longest configuration: twice what the most schedulers and seeds with labels, the most
/// revocations and the most rules can fill.
const MAX_MESSAGE: usize = 6 << 20;
/// The manager asks for keep-alives at its own pace, within reason.
const KEEP_ALIVE_RANGE: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_secs(60));

/// A host that has orders tells this often how far it is: people look on.
const BUSY_INTERVAL: Duration = Duration::from_millis(500);

/// What is known, and who is told.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) configuration: Configuration,
    /// It was read from disk, where passwords are not.
    pub(super) read: bool,
    pub(super) published: Arc<watch::Sender<Arc<Membership>>>,
    pub(super) last_good: Arc<LastGood>,
    pub(super) identity: Identity,
}

/// One process's dealings with its manager.
#[derive(Debug)]
pub(super) struct Session {
    client: ManagerClient<Channel>,
    host: Host,
    channel: Channel,
    known: Known,
    links: Links,
}

/// What passes between the manager and the parts of this process.
#[derive(Debug, Clone, Default)]
pub(super) struct Links {
    pub(super) orders: Orders,
    pub(super) holdings: Holdings,
}

/// Logs a state once, not at every try.
#[derive(Default)]
struct Trouble(Option<String>);

impl Session {
    pub(super) fn new(endpoint: &Endpoint, host: Host, known: Known, links: Links) -> Self {
        let channel = endpoint
            .clone()
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(PROBE_INTERVAL)
            .keep_alive_timeout(PROBE_INTERVAL)
            .tcp_nodelay(true)
            .connect_with_connector_lazy(
                known.identity.connector(Protocol::Grpc, PeerRole::MANAGER),
            );
        Self {
            client: ManagerClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            host,
            channel,
            known,
            links,
        }
    }

    /// Until the process drains.
    pub(super) async fn run(self, shutdown: Shutdown) {
        let Self {
            client,
            host,
            channel,
            mut known,
            links,
        } = self;
        let going_on = async {
            tokio::join!(
                be_present(client.clone(), &host, &links),
                known.follow(client.clone(), &host),
                links.holdings.tell(channel, &host),
            )
        };
        tokio::select! {
            () = shutdown.draining() => {}
            _ = going_on => {}
        }
        deregister(client, &host).await;
    }
}

/// Registers, keeps alive, and registers again when either fails.
async fn be_present(mut client: ManagerClient<Channel>, host: &Host, links: &Links) {
    let mut trouble = Trouble::default();
    let mut waits = waits();
    loop {
        match register(&mut client, host).await {
            Ok(interval) => {
                tracing::info!(host = %host.id, role = %host.role, "registered with the manager");
                trouble.over();
                if keep_alive(&mut client, host, interval, links).await {
                    waits = self::waits();
                }
            }
            Err(status) => trouble.is("registering with the manager fails", &status),
        }
        sleep(next(&mut waits)).await;
    }
}

async fn register(client: &mut ManagerClient<Channel>, host: &Host) -> Result<Duration, Status> {
    let request = wire::RegisterRequest {
        protocol: PROTOCOL,
        host: Some(host.into()),
    };
    let reply = answered(client.register(request)).await?.into_inner();
    Ok(within_reason(reply.keep_alive_ms))
}

fn within_reason(keep_alive_ms: u32) -> Duration {
    let (shortest, longest) = KEEP_ALIVE_RANGE;
    Duration::from_millis(keep_alive_ms.into()).clamp(shortest, longest)
}

/// Until the manager is away or does not know the host any more. Says whether any was answered.
async fn keep_alive(
    client: &mut ManagerClient<Channel>,
    host: &Host,
    mut interval: Duration,
    Links { orders, holdings }: &Links,
) -> bool {
    let mut any = false;
    loop {
        sleep(match orders.any() {
            true => interval.min(BUSY_INTERVAL),
            false => interval,
        })
        .await;
        let request = wire::KeepAliveRequest {
            id: host.id.to_string(),
            role: wire::Role::from(host.role).into(),
            reports: orders.reports(),
            figures: orders.figures(),
            removed: orders.last_removed(),
        };
        let sent = holdings.sent();
        match answered(client.keep_alive(request)).await {
            Ok(reply) if reply.get_ref().known => {
                any = true;
                holdings.heard(reply.get_ref().holdings, sent);
                let reply = reply.into_inner();
                // A manager of an earlier version says it once.
                if reply.keep_alive_ms > 0 {
                    interval = within_reason(reply.keep_alive_ms);
                }
                orders.give(reply.orders);
                orders.remove(reply.removals);
            }
            Ok(_) => {
                tracing::info!(host = %host.id, "the manager does not know this host any more");
                return any;
            }
            Err(status) => {
                tracing::debug!(status = %Brief(&status), "keep-alive failed");
                return any;
            }
        }
    }
}

async fn deregister(mut client: ManagerClient<Channel>, host: &Host) {
    let request = wire::DeregisterRequest {
        id: host.id.to_string(),
        role: wire::Role::from(host.role).into(),
    };
    match timeout(DEREGISTER_TIMEOUT, client.deregister(request)).await {
        Ok(Ok(_)) => tracing::debug!(host = %host.id, "deregistered"),
        _ => tracing::debug!(host = %host.id, "not deregistered: the manager will miss it"),
    }
}

impl Known {
    /// Watches the configuration, again and again.
    async fn follow(&mut self, mut client: ManagerClient<Channel>, host: &Host) {
        let mut trouble = Trouble::default();
        let mut waits = waits();
        loop {
            let request = wire::WatchRequest {
                protocol: PROTOCOL,
                id: host.id.to_string(),
                known_version: self.configuration.version,
                host: Some(host.into()),
            };
            let end = match answered(client.watch(request)).await {
                Ok(stream) => {
                    let mut stream = stream.into_inner();
                    self.read(&mut stream, || {
                        trouble.over();
                        waits = self::waits();
                    })
                    .await
                }
                Err(status) => status,
            };
            trouble.is("the manager is away; going on with the last answer", &end);
            sleep(next(&mut waits)).await;
        }
    }

    /// Until the stream ends, and why it did.
    async fn read(
        &mut self,
        stream: &mut tonic::Streaming<wire::Configuration>,
        mut heard: impl FnMut(),
    ) -> Status {
        loop {
            match stream.message().await {
                Ok(Some(message)) => match Configuration::try_from(message) {
                    Ok(configuration) => {
                        heard();
                        self.offer(configuration).await;
                    }
                    Err(invalid) => return invalid.into(),
                },
                Ok(None) => return Status::unavailable("the manager ended the stream"),
                Err(status) => return status,
            }
        }
    }

    async fn offer(&mut self, new: Configuration) {
        let (held, offered) = (self.configuration.version, new.version);
        let Some(configuration) = successor(&self.configuration, new, self.read) else {
            if offered < held {
                tracing::warn!(held, offered, "older configuration ignored");
            }
            return;
        };
        let (schedulers, seeds) = (configuration.schedulers.len(), configuration.seeds.len());
        tracing::info!(version = offered, schedulers, seeds, "configuration");
        self.identity.learn(&configuration.trust);
        let published = Arc::new(membership(&configuration, self.identity.scheme()));
        self.configuration = configuration.clone();
        self.read = false;
        self.published.send_replace(published);
        self.save(configuration).await;
    }

    /// After it was published: a disk that is full or slow holds nobody up, and costs only a start
    /// without the manager.
    async fn save(&self, configuration: Configuration) {
        let last_good = self.last_good.clone();
        let written = tokio::task::spawn_blocking(move || last_good.write(&configuration)).await;
        if let Ok(Err(error)) = written {
            let path = self.last_good.path().display();
            tracing::warn!(%path, %error, "configuration not kept");
        }
    }
}

impl Trouble {
    fn is(&mut self, what: &str, status: &Status) {
        let now = format!("{:?}: {}", status.code(), status.message());
        if self.0.as_ref() != Some(&now) {
            tracing::warn!(status = now, "{what}");
            self.0 = Some(now);
        }
    }

    fn over(&mut self) {
        self.0 = None;
    }
}

/// A status without its metadata.
struct Brief<'a>(&'a Status);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.code(), self.0.message())
    }
}

pub(super) async fn answered<T>(
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    timeout(REQUEST_TIMEOUT, call).await.unwrap_or_else(|_| {
        Err(Status::deadline_exceeded(
            "the manager did not answer in time",
        ))
    })
}

fn waits() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_WAIT)
        .with_max_delay(LONGEST_WAIT)
        .without_max_times()
        .with_jitter()
        .build()
}

fn next(waits: &mut ExponentialBackoff) -> Duration {
    // Without a number of times the sequence does not end.
    waits.next().unwrap_or(LONGEST_WAIT)
}
