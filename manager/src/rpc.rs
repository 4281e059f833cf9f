//! The manager as its members see it: `manager.proto`, checked and bounded.
//!
//! A member is who its certificate says; in plain text, who it says itself.

use std::sync::Arc;
use std::time::Duration;

use darner_proto::PROTOCOL;
use darner_proto::figures::Figures;
use darner_proto::id::{Host, HostId, Role};
use darner_proto::manager::{Configuration, MAX_SCHEDULERS, MAX_SEEDS};
use darner_proto::preheat::{MAX_ORDERS, Report};
use darner_proto::wire;
use darner_proto::wire::authority_server::AuthorityServer;
use darner_proto::wire::manager_server::{Manager, ManagerServer};
use darner_service::identity::{Caller, Callers, Identity, PeerRole};
use darner_service::listener::{Door, Listener};
use darner_service::shutdown::Shutdown;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::authority::{self, Authority};
use crate::figures::Tallies;
use crate::images::Images;
use crate::jobs::Jobs;
use crate::members::{Members, Watching};
use crate::membership::{MAX_MIRRORS, MemberKey, Refusal};
use crate::metrics::ManagerMetrics;
use crate::removals::Removals;

mod catalog;

/// A host of the largest size, with 32 labels, and a keep-alive with all there may be in it: and small
/// enough that the longest configuration (every scheduler and seed of this size, and the rules) stays below
/// the 6 MiB that members read.
const MAX_MESSAGE: usize = (5 << 20) / (MAX_SCHEDULERS + MAX_SEEDS);
/// Every member has one stream open; a few more for those whose old one has not been missed yet.
const MAX_WATCHERS: usize = MAX_MIRRORS + 2 * (MAX_SCHEDULERS + MAX_SEEDS);
/// Every member has one connection; as many again as watchers for those that are just leaving.
pub(crate) const MAX_CONNECTIONS: usize = MAX_WATCHERS + 1024;
/// A member has a Watch and a request or two under way; a process with several roles some more.
const STREAMS_PER_CONNECTION: u32 = 32;
/// A request is a look into memory: one that takes longer was lost.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// A silent connection is probed this often, and given up when a probe stays unanswered as long.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Who has business here. Strangers are let in to join, and refused everything else call by call.
const MEMBERS: &[PeerRole] = &[
    PeerRole::Member(Role::Mirror),
    PeerRole::Member(Role::Seed),
    PeerRole::Member(Role::Scheduler),
];

/// The service.
#[derive(Debug)]
struct Rpc {
    members: Members,
    jobs: Jobs,
    tallies: Tallies,
    images: Images,
    removals: Removals,
    watchers: Arc<Semaphore>,
    metrics: ManagerMetrics,
    shutdown: Shutdown,
}

/// Serves members until the process drains and running requests are done.
pub(crate) async fn serve(
    listener: Listener,
    (identity, authority): (Identity, Option<Authority>),
    (members, (jobs, removals), tallies, images): (Members, (Jobs, Removals), Tallies, Images),
    metrics: ManagerMetrics,
    shutdown: Shutdown,
) {
    let rpc_members = members.clone();
    let rpc = Rpc {
        members,
        jobs,
        tallies,
        images: images.clone(),
        removals,
        watchers: Arc::new(Semaphore::new(MAX_WATCHERS)),
        metrics,
        shutdown: shutdown.clone(),
    };
    let service = ManagerServer::new(rpc).max_decoding_message_size(MAX_MESSAGE);
    let catalog = catalog::Rpc {
        images,
        members: rpc_members.clone(),
    };
    let authority = AuthorityServer::new(authority::rpc::Rpc {
        authority,
        members: rpc_members,
    });
    let authority = authority.max_decoding_message_size(MAX_MESSAGE);
    let door = Door {
        identity,
        callers: Callers::Joining,
        roles: MEMBERS,
    };
    let serving = Server::builder()
        .timeout(REQUEST_TIMEOUT)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_keepalive_interval(Some(PROBE_INTERVAL))
        .http2_keepalive_timeout(Some(PROBE_INTERVAL))
        .add_service(service)
        .add_service(authority)
        .add_service(catalog.into_server())
        .serve_with_incoming_shutdown(listener.into_stream(door, &shutdown), async {
            shutdown.draining().await;
        });
    let ended = shutdown.cancellation().run_until_cancelled_owned(serving);
    if let Some(Err(error)) = ended.await {
        tracing::error!(%error, "the manager's listener ended");
    }
}

impl Rpc {
    /// Numbers that make no sense are no reason to drop a member.
    fn count(&self, key: MemberKey, told: wire::Figures) {
        match Figures::try_from(told) {
            Ok(figures) => self.tallies.heard(key, figures),
            Err(error) => tracing::debug!(host = %key.id, %error, "its figures are not understood"),
        }
    }
}

#[tonic::async_trait]
impl Manager for Rpc {
    type WatchStream = BoxStream<'static, Result<wire::Configuration, Status>>;

    async fn register(
        &self,
        request: Request<wire::RegisterRequest>,
    ) -> Result<Response<wire::RegisterReply>, Status> {
        let caller = Caller::of(&request);
        // Before anything it says is looked at.
        caller.require(MEMBERS)?;
        let request = request.into_inner();
        check_protocol(request.protocol)?;
        let host = request
            .host
            .ok_or_else(|| Status::invalid_argument("host: is missing"))?;
        let host = Host::try_from(host)?;
        caller.require_host(&host)?;
        tracing::info!(host = %host.id, role = %host.role, address = host.address, "registered");
        let interval = self.members.register(host).map_err(refused)?;
        Ok(Response::new(wire::RegisterReply {
            protocol: PROTOCOL,
            keep_alive_ms: ms(interval),
        }))
    }

    async fn keep_alive(
        &self,
        request: Request<wire::KeepAliveRequest>,
    ) -> Result<Response<wire::KeepAliveReply>, Status> {
        let caller = Caller::of(&request);
        caller.require(MEMBERS)?;
        let request = request.into_inner();
        let key = key(&request.id, request.role())?;
        caller.require_member(key.role, &key.id)?;
        let reports = request.reports.into_iter().take(MAX_ORDERS);
        let reports: Result<Vec<_>, _> = reports.map(Report::try_from).collect();
        let reports = reports?;
        let interval = self.members.keep_alive(key.clone());
        let known = interval.is_some();
        if let (true, Some(told)) = (known, request.figures) {
            self.count(key.clone(), told);
        }
        let removals = match known {
            true => self.removals.heard(&key, request.removed),
            false => Vec::new(),
        };
        let orders = match known {
            true => self.jobs.heard(&key, reports).await,
            false => Vec::new(),
        };
        Ok(Response::new(wire::KeepAliveReply {
            known,
            orders: orders.iter().map(Into::into).collect(),
            holdings: self.images.sequence(&key),
            removals: removals.iter().map(Into::into).collect(),
            keep_alive_ms: interval.map_or(0, ms),
        }))
    }

    async fn deregister(
        &self,
        request: Request<wire::DeregisterRequest>,
    ) -> Result<Response<wire::DeregisterReply>, Status> {
        let caller = Caller::of(&request);
        caller.require(MEMBERS)?;
        let request = request.into_inner();
        let key = key(&request.id, request.role())?;
        caller.require_member(key.role, &key.id)?;
        tracing::info!(host = %key.id, role = %key.role, "deregistered");
        self.members.deregister(key);
        Ok(Response::new(wire::DeregisterReply {}))
    }

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        // Proved: in plain text nobody is told a password.
        let peer = Caller::of(&request).require(MEMBERS)?.cloned();
        let reads = peer.is_some_and(|peer| peer.role == PeerRole::Member(Role::Seed));
        let request = request.into_inner();
        check_protocol(request.protocol)?;
        let id: HostId = request.id.parse()?;
        let host = request.host.map(Host::try_from).transpose()?;
        let place = self.watchers.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{MAX_WATCHERS} follow the configuration already"))
        })?;
        let watching = self.members.watch(request.known_version).map_err(refused)?;
        let (known, waits) = (request.known_version, watching.waits);
        tracing::debug!(host = %id, known, waits, "watching");
        let watcher = Watcher {
            watching,
            members: self.members.clone(),
            host,
            reads,
            first: true,
            shutdown: self.shutdown.clone(),
            _counted: Counted::new(self.metrics.watchers.clone(), place),
        };
        Ok(Response::new(watcher.into_stream()))
    }
}

/// One who follows. It is told the latest, so one that reads slowly misses what no longer counts,
/// and nothing piles up.
struct Watcher {
    watching: Watching,
    members: Members,
    /// Which decides what part it is told; a program of an earlier version does not say it.
    host: Option<Host>,
    /// It reads upstream for others, by its certificate.
    reads: bool,
    first: bool,
    shutdown: Shutdown,
    _counted: Counted,
}

impl Watcher {
    fn into_stream(self) -> BoxStream<'static, Result<wire::Configuration, Status>> {
        let told = stream::unfold(self, |mut watcher| async move {
            let configuration = watcher.next().await?;
            let message = wire::Configuration::from(&*configuration);
            Some((Ok(message), watcher))
        });
        told.boxed()
    }

    /// `None` at the process's end: the member comes again, to whoever answers then.
    async fn next(&mut self) -> Option<Arc<Configuration>> {
        let Watching {
            settled,
            waits,
            told,
        } = &mut self.watching;
        let heard = async {
            if *waits {
                settled.wait_for(|settled| *settled).await.ok()?;
            } else if !self.first {
                told.changed().await.ok()?;
            }
            Some(told.borrow_and_update().clone())
        };
        let configuration = tokio::select! {
            heard = heard => heard,
            () = self.shutdown.draining() => None,
        };
        *waits = false;
        self.first = false;
        // Never older than the configuration: a change of clusters makes a new one.
        let clusters = self.members.look(|members| members.clusters().clone());
        Some(clusters.narrow(&configuration?, self.host.as_ref(), self.reads))
    }
}

struct Counted {
    gauge: Gauge,
    _place: OwnedSemaphorePermit,
}

impl Counted {
    fn new(gauge: Gauge, place: OwnedSemaphorePermit) -> Self {
        gauge.inc();
        Self {
            gauge,
            _place: place,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

fn ms(interval: Duration) -> u32 {
    u32::try_from(interval.as_millis()).unwrap_or(u32::MAX)
}

fn check_protocol(theirs: u32) -> Result<(), Status> {
    if theirs == PROTOCOL {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "protocol {theirs} is not spoken here, only {PROTOCOL}: run the same release of darner on both sides"
    )))
}

fn key(id: &str, role: wire::Role) -> Result<MemberKey, Status> {
    Ok(MemberKey {
        role: role.try_into()?,
        id: id.parse()?,
    })
}

fn refused(refusal: Refusal) -> Status {
    match &refusal {
        Refusal::Full { .. } => Status::resource_exhausted(refusal.to_string()),
        Refusal::Version(_) => Status::invalid_argument(refusal.to_string()),
    }
}
