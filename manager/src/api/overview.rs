//! The cluster at a glance, and registries: what nodes have counted.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use darner_proto::figures::{Figures, Served};
use darner_proto::id::{HostId, Role};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::live::Now;
use super::members::Member;
use super::problem::{Document, Problem};
use crate::figures::{Board, Point};
use crate::jobs::MAX_RUNNING;
use crate::membership::MemberKey;

/// Bytes sent to clients, by where the first of each answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ServedBytes {
    /// The node's store.
    pub(crate) store: u64,
    /// Other nodes.
    pub(crate) peer: u64,
    /// Seeds.
    pub(crate) seed: u64,
    /// The registry.
    pub(crate) upstream: u64,
}

/// The cluster at a glance. Sums are over the nodes that this manager hears, since it started.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Overview {
    /// Of the configuration told to members.
    pub(crate) version: u64,
    /// Whether processes talk in plain text (`[identity] insecure`).
    pub(crate) insecure: bool,
    /// Nodes that are no seeds.
    pub(crate) mirrors: usize,
    /// Mirrors that read upstream for the others.
    pub(crate) seeds: usize,
    /// Schedulers.
    pub(crate) schedulers: usize,
    /// Nodes whose counters are known here.
    pub(crate) reporting: usize,
    /// Bytes sent to clients.
    pub(crate) served_bytes: ServedBytes,
    /// Requests of clients.
    pub(crate) requests: u64,
    /// Those that went wrong.
    pub(crate) errors: u64,
    /// Bytes that nodes sent one another.
    pub(crate) uploaded_bytes: u64,
    /// Requests sent to registries.
    pub(crate) upstream_requests: u64,
    /// Bytes received from registries.
    pub(crate) upstream_bytes: u64,
    /// Bytes sent to clients for which no registry was asked.
    pub(crate) saved_bytes: u64,
    /// The part of what clients got for which no registry was asked, 0 to 1; null before anything was
    /// served.
    pub(crate) hit_ratio: Option<f64>,
    /// Downloads in progress.
    pub(crate) running: u64,
    /// Bytes in the nodes' stores.
    pub(crate) held_bytes: u64,
    /// Bytes they may hold.
    pub(crate) capacity_bytes: u64,
    /// Jobs that have not ended.
    pub(crate) jobs_running: usize,
    /// What is not as it should be.
    pub(crate) remarks: Vec<String>,
    /// Nodes that were members since this manager started and are none now, the last first.
    pub(crate) gone: Vec<Gone>,
}

/// A node that is no member any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Gone {
    /// Its name.
    pub(crate) id: String,
    /// Its role.
    pub(crate) role: String,
    /// Since when, unix time in ms.
    pub(crate) since_ms: u64,
}

/// How things stood at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct PastPoint {
    /// Unix time in ms.
    pub(crate) at_ms: i64,
    /// Bytes sent to clients by then.
    pub(crate) served_bytes: ServedBytes,
    /// Bytes received from registries by then.
    pub(crate) upstream_bytes: u64,
    /// Requests sent to registries by then.
    pub(crate) upstream_requests: u64,
}

/// Half an hour of the past, in steps of five seconds.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Past {
    /// The oldest first.
    pub(crate) items: Vec<PastPoint>,
}

/// A registry, as nodes see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct UpstreamInfo {
    /// Its name.
    pub(crate) registry: String,
    /// Nodes that have asked it for anything since they started.
    pub(crate) nodes: usize,
    /// Requests sent to it.
    pub(crate) requests: u64,
    /// Bytes received from it.
    pub(crate) bytes: u64,
    /// Reads that failed.
    pub(crate) errors: u64,
    /// The least that any node is allowed in the registry's window, where it says so.
    pub(crate) limit: Option<u64>,
    /// The least that any node has left of it.
    pub(crate) remaining: Option<u64>,
    /// Unix time in seconds until which nodes leave it alone, where it has asked for that.
    pub(crate) quiet_until: Option<u64>,
}

/// Registries that nodes have asked for anything.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Upstreams {
    /// By name.
    pub(crate) items: Vec<UpstreamInfo>,
}

/// A node, with what it has counted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Node {
    #[serde(flatten)]
    pub(crate) member: Member,
    /// Null until it has told, and at managers that do not hear it.
    pub(crate) counted: Option<Counted>,
}

/// What a node has counted since its process began.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Counted {
    /// Bytes sent to clients.
    pub(crate) served_bytes: ServedBytes,
    /// Requests of clients.
    pub(crate) requests: u64,
    /// Those that went wrong.
    pub(crate) errors: u64,
    /// Bytes sent to other nodes.
    pub(crate) uploaded_bytes: u64,
    /// Downloads in progress.
    pub(crate) running: u64,
    /// Bytes in its store.
    pub(crate) held_bytes: u64,
    /// Bytes it may hold.
    pub(crate) capacity_bytes: u64,
    /// Requests sent to registries.
    pub(crate) upstream_requests: u64,
    /// Bytes received from them.
    pub(crate) upstream_bytes: u64,
    /// Of the program.
    pub(crate) version: String,
}

/// The cluster at a glance
#[utoipa::path(get, path = "/api/v1/overview", tag = "cluster",
    responses((status = 200, body = Overview), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn overview(State(api): State<Api>) -> Json<Overview> {
    Json(look(&api))
}

/// The cluster at a glance, whenever it has changed
#[utoipa::path(get, path = "/api/v1/overview/events", tag = "cluster",
    responses((status = 200, content_type = "text/event-stream", body = String,
            description = "events `overview`, each with an Overview; come again when it ends"),
        (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn events(State(api): State<Api>) -> Result<Response, Problem> {
    let streams = api.streams.clone();
    let follow = move || std::future::ready(Ok(Now::json("overview", &look(&api))));
    streams.follow(follow).await
}

/// What was served and read in the last half hour
#[utoipa::path(get, path = "/api/v1/overview/past", tag = "cluster",
    responses((status = 200, body = Past), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn past(State(api): State<Api>) -> Json<Past> {
    let items = api
        .tallies
        .look(|board| board.past().map(PastPoint::from).collect());
    Json(Past { items })
}

/// Registries, as nodes see them
#[utoipa::path(get, path = "/api/v1/upstreams", tag = "cluster",
    responses((status = 200, body = Upstreams), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn upstreams(State(api): State<Api>) -> Json<Upstreams> {
    Json(Upstreams {
        items: api.tallies.look(upstreams_of),
    })
}

/// A node, with what it has counted
#[utoipa::path(get, path = "/api/v1/nodes/{id}", tag = "cluster",
    params(("id" = String, Path, description = "The node's id")),
    responses((status = 200, body = Node), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn node(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<Node>, Problem> {
    let absent = || Problem::not_found(&id);
    let host: HostId = id.parse().map_err(|_| absent())?;
    let of = |role| MemberKey {
        role,
        id: host.clone(),
    };
    // The same name in two roles is one node, and a seed.
    let found = api.members.look(|membership| {
        let roles = [Role::Seed, Role::Mirror];
        roles.into_iter().find_map(|role| {
            let record = membership.get(&of(role))?;
            Some((of(role), Member::new(record, membership.clusters())))
        })
    });
    let (key, member) = found.ok_or_else(absent)?;
    let counted = api
        .tallies
        .look(|board| board.node(&key).map(Counted::from));
    Ok(Json(Node { member, counted }))
}

fn look(api: &Api) -> Overview {
    let (version, [mirrors, seeds, schedulers]) = api.members.look(|membership| {
        let roles = [Role::Mirror, Role::Seed, Role::Scheduler];
        let counts = roles.map(|role| membership.count(role));
        (membership.told().version, counts)
    });
    let jobs_running = api.jobs.running();
    api.tallies.look(|board| {
        let (totals, present) = (board.totals(), board.present());
        let (served, upstream_bytes) = (totals.served.total(), totals.upstream_bytes());
        let saved_bytes = served.saturating_sub(upstream_bytes);
        let gone = board.gone().map(|gone| Gone {
            id: gone.key.id.to_string(),
            role: gone.key.role.to_string(),
            since_ms: gone.since_ms.unsigned_abs(),
        });
        Overview {
            version,
            insecure: api.authority.is_none(),
            mirrors,
            seeds,
            schedulers,
            reporting: present.nodes,
            served_bytes: totals.served.into(),
            requests: totals.requests,
            errors: totals.errors,
            uploaded_bytes: totals.uploaded_bytes,
            upstream_requests: totals.upstream_requests(),
            upstream_bytes,
            saved_bytes,
            hit_ratio: (served > 0).then(|| ratio(saved_bytes, served)),
            running: present.running,
            held_bytes: present.held_bytes,
            capacity_bytes: present.capacity_bytes,
            jobs_running,
            remarks: remarks(api, board, (seeds, schedulers), jobs_running),
            gone: gone.collect(),
        }
    })
}

fn remarks(
    api: &Api,
    board: &Board,
    (seeds, schedulers): (usize, usize),
    jobs: usize,
) -> Vec<String> {
    let mut remarks = Vec::new();
    if api.authority.is_none() {
        remarks.push("INSECURE: processes talk in plain text and believe what others say of themselves ([identity] insecure = true)".to_owned());
    }
    if schedulers == 0 {
        remarks.push("no scheduler: nodes read upstream by themselves".to_owned());
    }
    if seeds == 0 {
        remarks.push("no seed: ordinary mirrors read upstream for one another".to_owned());
    }
    if jobs >= MAX_RUNNING {
        remarks.push(format!("{jobs} jobs are under way: no other can begin"));
    }
    let now = crate::users::now().unsigned_abs() / 1000;
    for (registry, standing) in board.standings() {
        if standing.quiet_until > now {
            remarks.push(format!(
                "{registry} has asked to be left alone for {} s",
                standing.quiet_until - now
            ));
        } else if standing.remaining == Some(0) {
            remarks.push(format!("{registry} allows no more requests in its window"));
        }
    }
    remarks
}

fn upstreams_of(board: &Board) -> Vec<UpstreamInfo> {
    let standings = board.standings();
    let totals = board.totals().upstreams.iter();
    let infos = totals.map(|(registry, total)| {
        let standing = standings.get(registry).copied().unwrap_or_default();
        UpstreamInfo {
            registry: registry.to_string(),
            nodes: standing.nodes,
            requests: total.requests,
            bytes: total.bytes,
            errors: total.errors,
            limit: standing.limit,
            remaining: standing.remaining,
            quiet_until: Some(standing.quiet_until).filter(|until| *until > 0),
        }
    });
    infos.collect()
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a ratio for people, of numbers far below 2^53"
)]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

impl ServedBytes {
    /// All of it.
    pub(crate) fn total(self) -> u64 {
        let parts = [self.store, self.peer, self.seed, self.upstream];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}

impl From<Served> for ServedBytes {
    fn from(served: Served) -> Self {
        Self {
            store: served.store,
            peer: served.peer,
            seed: served.seed,
            upstream: served.upstream,
        }
    }
}

impl From<&Point> for PastPoint {
    fn from(point: &Point) -> Self {
        Self {
            at_ms: point.at_ms,
            served_bytes: point.served.into(),
            upstream_bytes: point.upstream_bytes,
            upstream_requests: point.upstream_requests,
        }
    }
}

impl From<&Figures> for Counted {
    fn from(figures: &Figures) -> Self {
        let upstreams = &figures.upstreams;
        let sum = |of: fn(&darner_proto::figures::UpstreamFigures) -> u64| {
            upstreams.iter().map(of).fold(0, u64::saturating_add)
        };
        Self {
            served_bytes: figures.served.into(),
            requests: figures.requests,
            errors: figures.errors,
            uploaded_bytes: figures.uploaded_bytes,
            running: figures.running,
            held_bytes: figures.held_bytes,
            capacity_bytes: figures.capacity_bytes,
            upstream_requests: sum(|one| one.requests),
            upstream_bytes: sum(|one| one.bytes),
            version: figures.version.clone(),
        }
    }
}
