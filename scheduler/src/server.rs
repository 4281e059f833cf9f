//! Puts the scheduler together: binds the listener, registers with the manager, and stops in order.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use darner_proto::id::{Host, Role, parse_address};
use darner_proto::invalid::Invalid;
use darner_proto::wire::scheduler_server::SchedulerServer;
use darner_proto::wire::swarms_server::SwarmsServer;
use darner_service::directory::{Directory, DirectoryError};
use darner_service::health::{Health, Part};
use darner_service::identity::{Callers, Identity, PeerRole};
use darner_service::listener::{Door, Listener, WhenFull};
use darner_service::metrics::Metrics;
use darner_service::settings::Settings;
use darner_service::shutdown::Shutdown;
use tonic::transport::Server;

use crate::driver::Attendance;
use crate::metrics::SchedulerMetrics;
use crate::swarm::{Options, Swarm};

/// Every node has one, and a second while it replaces the first.
const MAX_CONNECTIONS: usize = 40_000;
/// An inventory part of 4096 keys takes 300 KiB; a task's sources and pieces take less.
const MAX_MESSAGE: usize = 1 << 20;
/// Sessions on one connection: a node has one, and another while it replaces that.
const MAX_STREAMS: u32 = 4;
/// A silent connection is probed this often, and given up when a probe stays unanswered as long.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Headers of a request; ours take some hundred bytes.
const MAX_HEADER_LIST: u32 = 16 << 10;

/// Nodes attend; the manager looks on.
const CALLERS: &[PeerRole] = &[
    PeerRole::Member(Role::Mirror),
    PeerRole::Member(Role::Seed),
    PeerRole::Manager,
];

/// A scheduler that listens.
#[derive(Debug)]
pub struct Scheduler {
    listener: Listener,
    identity: Identity,
    attendance: Attendance,
    directory: Option<Directory>,
    part: Part,
    shutdown: Shutdown,
}

/// The scheduler cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The listener cannot be bound.
    #[error("the scheduler cannot be bound to {listen}; set [scheduler] listen to a free address")]
    Listen {
        /// What was asked for.
        listen: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The listener's address is a wildcard and nothing says how nodes reach it.
    #[error("[scheduler] advertise is needed where [scheduler] listen is {0}")]
    Advertise(SocketAddr),
    /// What is to be advertised is not host:port.
    #[error("[scheduler] advertise cannot be used")]
    BadAdvertise(#[source] Invalid),
    /// The manager's address cannot be used.
    #[error("the scheduler cannot be registered with the manager")]
    Directory(#[source] DirectoryError),
}

impl Scheduler {
    /// Binds the listener, and begins to register with the manager if there is one.
    ///
    /// # Errors
    /// An address that is taken, nothing to tell nodes to dial, or a manager's address that cannot
    /// work.
    pub async fn bind(
        settings: &Settings,
        metrics: &Metrics,
        health: &Health,
        identity: Identity,
        shutdown: &Shutdown,
    ) -> Result<Self, StartError> {
        let mut scheduler = Self::beside(settings, metrics, health, identity, shutdown).await?;
        let bound = scheduler.listener.address();
        scheduler.directory = directory(settings, bound, &scheduler.identity, shutdown)?;
        Ok(scheduler)
    }

    /// Binds the listener of a scheduler that nobody is told of but by membership: one beside a
    /// mirror, whose identity it has. It tells no manager.
    ///
    /// # Errors
    /// An address that is taken.
    pub async fn beside(
        settings: &Settings,
        metrics: &Metrics,
        health: &Health,
        identity: Identity,
        shutdown: &Shutdown,
    ) -> Result<Self, StartError> {
        let part = health.part("scheduler");
        let listen = settings.scheduler.listen;
        // A node that waits would not look for another scheduler.
        let listener = Listener::bind(listen, MAX_CONNECTIONS, WhenFull::Refuse).await;
        let listener = listener.map_err(|source| StartError::Listen { listen, source })?;
        let options = Options {
            scheduler: settings.node.id.clone(),
            settle: settings.scheduler.settle,
            first_lease: unix_ms(),
        };
        let metrics = SchedulerMetrics::new(metrics);
        let attendance = Attendance::start(Swarm::new(Duration::ZERO, options), metrics, shutdown);
        Ok(Self {
            listener,
            identity,
            attendance,
            directory: None,
            part,
            shutdown: shutdown.clone(),
        })
    }

    /// What it listens on, by name.
    pub fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        vec![("scheduler", self.listener.address())]
    }

    /// Serves until the process ends.
    pub fn serve(self) {
        let Self {
            listener,
            identity,
            attendance,
            directory,
            part,
            shutdown,
        } = self;
        let looking = SwarmsServer::new(attendance.clone());
        let service = SchedulerServer::new(attendance).max_decoding_message_size(MAX_MESSAGE);
        let server = Server::builder()
            .http2_keepalive_interval(Some(PROBE_INTERVAL))
            .http2_keepalive_timeout(Some(PROBE_INTERVAL))
            .http2_max_header_list_size(MAX_HEADER_LIST)
            .max_concurrent_streams(MAX_STREAMS)
            .add_service(service)
            .add_service(looking);
        let address = listener.address();
        let door = Door {
            identity,
            callers: Callers::Known,
            roles: CALLERS,
        };
        let connections = listener.into_stream(door, &shutdown);
        let ending = shutdown.clone();
        shutdown.spawn(async move {
            part.ready();
            let end = ending.draining();
            if let Err(error) = server.serve_with_incoming_shutdown(connections, end).await {
                tracing::error!(%address, %error, "the scheduler's listener has ended");
            }
            part.not_ready("stopping");
            // Held until here: the registration lasts as long as the service.
            drop(directory);
        });
    }
}

/// The scheduler's place among the cluster's members; `None` without a manager.
fn directory(
    settings: &Settings,
    bound: SocketAddr,
    identity: &Identity,
    shutdown: &Shutdown,
) -> Result<Option<Directory>, StartError> {
    let Some(manager) = &settings.manager.address else {
        return Ok(None);
    };
    let address = match &settings.scheduler.advertise {
        Some(advertise) => advertise.clone(),
        None if bound.ip().is_unspecified() => return Err(StartError::Advertise(bound)),
        None => bound.to_string(),
    };
    let host = Host {
        id: settings.node.id.clone(),
        address: parse_address(address).map_err(StartError::BadAdvertise)?,
        role: Role::Scheduler,
        labels: settings.node.labels.clone(),
        signing_key: None,
        upload_slots: 0,
    };
    Directory::managed(manager, host, &settings.data_dir, identity, shutdown)
        .map(Some)
        .map_err(StartError::Directory)
}

/// Above all lease numbers of an earlier life of this scheduler, unless the clock was set back; then
/// nodes that still hold such a lease are given a new number when they claim it.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX / 2)
    })
}

#[cfg(test)]
mod tests;
