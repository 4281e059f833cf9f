//! What is on its way between nodes, now: as the schedulers tell when somebody looks.
//!
//! Schedulers hear of nothing that not everybody may read, so neither does who looks here.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use darner_proto::geometry::Geometry;
use darner_proto::id::{Role, TaskId};
use darner_proto::invalid::Invalid;
use darner_proto::name::{RegistryName, RepositoryName};
use darner_proto::piece_set::PieceSet;
use darner_proto::swarms::{PartView, TaskView};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::body::Query;
use super::live::Now;
use super::page::Page;
use super::problem::{Document, Problem};
use crate::swarms::seen::{OnItsWay, Seen, TaskSeen};

/// What a task brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TaskKind {
    /// A layer of an image.
    Layer,
    /// A file.
    File,
}

/// Which tasks, and which page of them.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Items at most.
    #[param(minimum = 1, maximum = 1000)]
    pub(crate) limit: Option<usize>,
    /// `next` of the page before.
    pub(crate) after: Option<String>,
    /// Only such content.
    #[param(inline)]
    pub(crate) kind: Option<TaskKind>,
    /// Only what is of this registry, as clients call it.
    #[param(min_length = 1, max_length = 253)]
    pub(crate) registry: Option<String>,
    /// Only what is of this repository, whole and without its registry.
    #[param(min_length = 1, max_length = 255)]
    pub(crate) repository: Option<String>,
}

/// [`Which`], as it is meant.
#[derive(Debug, Default)]
pub(super) struct Filter {
    kind: Option<TaskKind>,
    registry: Option<RegistryName>,
    repository: Option<RepositoryName>,
}

/// A content on its way to nodes.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct TaskSummary {
    /// The digest of a layer, or the key of a file.
    pub(crate) id: String,
    /// Its size.
    pub(crate) size_bytes: u64,
    /// Pieces it is cut into.
    pub(crate) pieces: u32,
    /// Repositories that it is of, as `registry/repository`.
    pub(crate) sources: Vec<String>,
    /// Nodes that take part.
    pub(crate) nodes: u32,
    /// Those of them that have every piece.
    pub(crate) complete_nodes: u32,
    /// Nodes that hold all of it, whether they take part or not.
    pub(crate) holders: u32,
    /// Leases by which upstream is read.
    pub(crate) leases: u32,
    /// What nodes that take part have of what they are to have, 0 to 1.
    pub(crate) progress: f64,
    /// What they gain together; null at the first look.
    pub(crate) bytes_per_second: Option<u64>,
}

/// What is on its way.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct TaskList {
    /// Those with the most nodes first.
    pub(crate) items: Vec<TaskSummary>,
    /// What to pass as `after` for the following page; null on the last.
    pub(crate) next: Option<String>,
    /// Tasks that schedulers know; of very many only the largest are listed.
    pub(crate) tasks: u64,
    /// Schedulers in the cluster.
    pub(crate) schedulers: usize,
    /// Those that have answered.
    pub(crate) answering: usize,
}

/// A run of pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Run {
    /// The first, from 0.
    pub(crate) first: u32,
    /// How many.
    pub(crate) count: u32,
}

/// A node's part in a task.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct TaskNode {
    /// The node.
    pub(crate) node: String,
    /// Whether it is a seed.
    pub(crate) seed: bool,
    /// What it has, 0 to 1.
    pub(crate) progress: f64,
    /// What it gains; null at the first look.
    pub(crate) bytes_per_second: Option<u64>,
    /// Pieces it has.
    pub(crate) held: Vec<Run>,
    /// Pieces it reads from upstream.
    pub(crate) reading: Vec<Run>,
    /// Nodes that it is told to fetch from.
    pub(crate) parents: Vec<String>,
}

/// A content on its way, with the nodes that take part.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct ShownTask {
    #[serde(flatten)]
    pub(crate) task: TaskSummary,
    /// Copies of the piece that is rarest among the nodes named here and those that hold all of it.
    pub(crate) least_copies: u32,
    /// Copies of a piece on average.
    pub(crate) mean_copies: f64,
    /// Some hundreds of the nodes that take part, seeds first.
    pub(crate) participants: Vec<TaskNode>,
}

/// A node among those that exchange something now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct SwarmNode {
    /// The node.
    pub(crate) node: String,
    /// Whether it is a seed.
    pub(crate) seed: bool,
    /// Its label `zone`, where it has one.
    pub(crate) zone: Option<String>,
}

/// A node that is told to fetch from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct SwarmLink {
    /// The one that sends.
    pub(crate) from: String,
    /// The one that fetches.
    pub(crate) to: String,
    /// In so many tasks.
    pub(crate) tasks: u32,
}

/// Who feeds whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Topology {
    /// Nodes with a link.
    pub(crate) nodes: Vec<SwarmNode>,
    /// Some thousands of the links.
    pub(crate) links: Vec<SwarmLink>,
}

/// What is on its way
#[utoipa::path(get, path = "/api/v1/tasks", tag = "tasks", params(Which),
    responses((status = 200, body = TaskList), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(api): State<Api>,
    Query(which): Query<Which>,
) -> Result<Json<TaskList>, Problem> {
    let filter = which.filter()?;
    let page = Page {
        limit: which.limit,
        after: which.after,
    };
    let limit = page.limit()?;
    let from = page.after.as_deref().map(str::parse::<usize>).transpose();
    let from = from.map_err(|_| Problem::bad_request("after: is no `next` of this list"))?;
    let seen = api.swarms.all().await;
    Ok(Json(listed(&seen, &filter, from.unwrap_or(0), limit)))
}

/// The largest tasks, whenever they have changed
#[utoipa::path(get, path = "/api/v1/tasks/events", tag = "tasks",
    responses((status = 200, content_type = "text/event-stream", body = String,
            description = "events `tasks`, each with a TaskList; come again when it ends"),
        (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn all_events(State(api): State<Api>) -> Result<Response, Problem> {
    let streams = api.streams.clone();
    let follow = move || {
        let api = api.clone();
        async move {
            let seen = api.swarms.all().await;
            let list = listed(&seen, &Filter::default(), 0, FOLLOWED);
            Ok(Now::json("tasks", &list))
        }
    };
    streams.follow(follow).await
}

/// Tasks that are followed.
const FOLLOWED: usize = 100;

/// A task: which node has which pieces, and who feeds whom
#[utoipa::path(get, path = "/api/v1/tasks/{id}", tag = "tasks",
    params(("id" = String, Path, description = "The task's id")),
    responses((status = 200, body = ShownTask), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn show(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<ShownTask>, Problem> {
    look(&api, &id).await.map(Json)
}

/// A task, whenever it has changed, until nobody takes part any more
#[utoipa::path(get, path = "/api/v1/tasks/{id}/events", tag = "tasks",
    params(("id" = String, Path, description = "The task's id")),
    responses((status = 200, content_type = "text/event-stream", body = String,
            description = "events `task`, each with a ShownTask; come again when it ends"),
        (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn events(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let streams = api.streams.clone();
    let follow = move || {
        let (api, id) = (api.clone(), id.clone());
        async move {
            let shown = look(&api, &id).await?;
            Ok(Now::json("task", &shown))
        }
    };
    streams.follow(follow).await
}

/// Who feeds whom, over all tasks
#[utoipa::path(get, path = "/api/v1/swarm", tag = "tasks",
    responses((status = 200, body = Topology), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn swarm(State(api): State<Api>) -> Json<Topology> {
    let seen = api.swarms.all().await;
    Json(topology(&api, &seen))
}

async fn look(api: &Api, id: &str) -> Result<ShownTask, Problem> {
    let absent = || Problem::not_found(id);
    let task = TaskId::parse_key(id).map_err(|_| absent())?;
    let seen = api.swarms.task(&task).await.ok_or_else(absent)?;
    Ok(ShownTask::from(&*seen))
}

pub(super) fn listed(seen: &Seen, filter: &Filter, from: usize, limit: usize) -> TaskList {
    let meant = seen.views.iter().filter(|one| filter.fits(&one.view));
    let mut rest = meant.skip(from);
    TaskList {
        items: rest.by_ref().take(limit).map(TaskSummary::from).collect(),
        next: rest.next().map(|_| (from + limit).to_string()),
        tasks: seen.tasks,
        schedulers: seen.schedulers,
        answering: seen.answering,
    }
}

fn topology(api: &Api, seen: &Seen) -> Topology {
    let ends = seen
        .links
        .iter()
        .flat_map(|link| [&link.parent, &link.child]);
    let ends: std::collections::BTreeSet<_> = ends.collect();
    let nodes = api.members.look(|members| {
        let of = |role, id: &darner_proto::id::HostId| {
            members.get(&crate::membership::MemberKey {
                role,
                id: id.clone(),
            })
        };
        let nodes = ends.into_iter().map(|id| {
            let seed = of(Role::Seed, id);
            let record = seed.or_else(|| of(Role::Mirror, id));
            SwarmNode {
                node: id.to_string(),
                seed: seed.is_some(),
                zone: record.and_then(|record| record.host.labels.get("zone").cloned()),
            }
        });
        nodes.collect()
    });
    let links = seen.links.iter().map(|link| SwarmLink {
        from: link.parent.to_string(),
        to: link.child.to_string(),
        tasks: link.tasks,
    });
    Topology {
        nodes,
        links: links.collect(),
    }
}

impl Which {
    pub(super) fn filter(&self) -> Result<Filter, Problem> {
        let bad = |name: &str, error: Invalid| Problem::bad_request(format!("{name}: {error}"));
        let registry = self.registry.as_deref().map(str::parse).transpose();
        let repository = self.repository.as_deref().map(str::parse).transpose();
        Ok(Filter {
            kind: self.kind,
            registry: registry.map_err(|error| bad("registry", error))?,
            repository: repository.map_err(|error| bad("repository", error))?,
        })
    }
}

impl Filter {
    fn fits(&self, view: &TaskView) -> bool {
        let is_layer = view.task.is_of_content();
        let fits = |kind| (kind == TaskKind::Layer) == is_layer;
        self.kind.is_none_or(fits) && self.is_of(view)
    }

    /// Whether one of the places that it is read from is meant.
    fn is_of(&self, view: &TaskView) -> bool {
        if self.registry.is_none() && self.repository.is_none() {
            return true;
        }
        view.sources.iter().any(|source| {
            let registry = self.registry.as_ref();
            let repository = self.repository.as_ref();
            registry.is_none_or(|name| *name == source.registry)
                && repository.is_none_or(|name| *name == source.repository)
        })
    }
}

impl From<&OnItsWay> for TaskSummary {
    fn from(seen: &OnItsWay) -> Self {
        summary(&seen.view, seen.bytes_per_second)
    }
}

fn summary(view: &TaskView, bytes_per_second: Option<u64>) -> TaskSummary {
    let pieces = Geometry::of(view.size).pieces();
    let wanted = u64::from(pieces) * u64::from(view.participants);
    TaskSummary {
        id: view.task.to_string(),
        size_bytes: view.size,
        pieces,
        sources: view.sources.iter().map(ToString::to_string).collect(),
        nodes: view.participants,
        complete_nodes: view.complete,
        holders: view.holders,
        leases: view.leases,
        progress: ratio(view.held_pieces, wanted),
        bytes_per_second,
    }
}

impl From<&TaskSeen> for ShownTask {
    fn from(seen: &TaskSeen) -> Self {
        let copies = seen.copies();
        let sum = seen.rates.values().copied().reduce(u64::saturating_add);
        let parts = seen.parts().into_iter();
        Self {
            task: summary(&seen.view, sum),
            least_copies: copies.least,
            mean_copies: copies.mean,
            participants: parts
                .map(|part| node(part, seen.rates.get(&part.host).copied()))
                .collect(),
        }
    }
}

fn node(part: &PartView, bytes_per_second: Option<u64>) -> TaskNode {
    TaskNode {
        node: part.host.to_string(),
        seed: part.role == Role::Seed,
        progress: ratio(part.held.len().into(), part.held.pieces().into()),
        bytes_per_second,
        held: runs(&part.held),
        reading: runs(&part.reading),
        parents: part.parents.iter().map(ToString::to_string).collect(),
    }
}

fn runs(set: &PieceSet) -> Vec<Run> {
    let runs = set.runs().into_iter().map(|run| Run {
        first: run.start,
        count: run.end - run.start,
    });
    runs.collect()
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a ratio for people, of numbers far below 2^53"
)]
fn ratio(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 1.0,
        whole => part as f64 / whole as f64,
    }
}
