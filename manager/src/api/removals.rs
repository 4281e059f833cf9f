//! Images, and single contents, that every node is to remove, and how far they are.

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use darner_proto::digest::Digest;
use darner_proto::id::TaskId;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::body::Query;
use super::images::sees;
use super::live::Now;
use super::page::{List, Page};
use super::problem::{Document, Problem};
use crate::images::ImageSeen;
use crate::removals::{Asked, Progress, RemovalError, Wanted};
use crate::users::credentials::Caller;

/// What a content is called that is removed by its key.
const LAYER_OR_FILE: &str = "a layer or a file";
/// Nodes that are named as not having done it yet.
const MAX_WAITING: usize = 100;

/// What every node is to remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ShownRemoval {
    /// Grows from one to the next.
    pub(crate) number: u64,
    /// Of the image's manifest, or of the content.
    pub(crate) digest: String,
    /// What it was called.
    pub(crate) name: String,
    /// Who asked.
    pub(crate) by: String,
    /// Unix time in ms.
    pub(crate) asked_ms: i64,
    /// Nodes in the cluster now that this manager hears.
    pub(crate) nodes: usize,
    /// Those that have removed what they held when it was asked for.
    pub(crate) done: usize,
    /// Some of those that have not, by name.
    pub(crate) waiting: Vec<String>,
}

/// Remove an image from every node
///
/// Each removes the manifest and the blobs that no other image there needs, and forgets which tags led
/// to it, so that the registry is asked anew. A node that is away does so when it is back within a
/// week. What is pulled after this was asked for stays.
#[utoipa::path(delete, path = "/api/v1/images/{digest}", tag = "images",
    params(("digest" = String, Path, description = "Of the image's manifest")),
    responses((status = 202, body = ShownRemoval),
        (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn remove(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(digest): Path<String>,
) -> Result<Response, Problem> {
    let shown = begin(&api, &caller, &digest).await?;
    Ok(accepted(shown))
}

/// Remove a task's content, a layer or a file, from every node
///
/// What holds it or not, and whether any image needs it, is not looked at: it is had again when somebody
/// wants it. What is being downloaded, and what comes after this was asked for, stays.
#[utoipa::path(delete, path = "/api/v1/tasks/{id}", tag = "tasks",
    params(("id" = String, Path, description = "The task's id: the digest of a layer, or the key of a file")),
    responses((status = 202, body = ShownRemoval),
        (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn remove_content(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let key: TaskId = id.parse().map_err(|_| Problem::not_found(&id))?;
    // Nobody knows of all contents; of one that no node has, every node says that it is gone.
    let name = LAYER_OR_FILE.to_owned();
    let shown = ask(&api, &caller, &Wanted { key, name }).await?;
    Ok(accepted(shown))
}

fn accepted(shown: ShownRemoval) -> Response {
    let place = format!("/api/v1/removals/{}", shown.number);
    let place = [(header::LOCATION, place)];
    (StatusCode::ACCEPTED, place, Json(shown)).into_response()
}

/// Has every node remove the image.
pub(crate) async fn begin(
    api: &Api,
    caller: &Caller,
    digest: &str,
) -> Result<ShownRemoval, Problem> {
    let absent = || Problem::not_found(digest);
    let key: Digest = digest.parse().map_err(|_| absent())?;
    let sees = sees(caller);
    let image = api.images.look(|catalog| catalog.image(sees, &key));
    let wanted = wanted(&image.ok_or_else(absent)?);
    ask(api, caller, &wanted).await
}

async fn ask(api: &Api, caller: &Caller, wanted: &Wanted) -> Result<ShownRemoval, Problem> {
    let asked = api.removals.ask(wanted, &caller.actor()).await?;
    let found = api.removals.get(asked.number);
    let (asked, progress) = found.unwrap_or((asked, Progress::default()));
    Ok(shown(&asked, &progress))
}

fn wanted(image: &ImageSeen) -> Wanted {
    let name = image.names.first().map(|name| match name.tags.first() {
        Some(tag) => format!("{}:{tag}", name.source),
        None => name.source.to_string(),
    });
    Wanted {
        key: image.digest,
        name: name.unwrap_or_default(),
    }
}

/// Removals of the last week, the latest first
#[utoipa::path(get, path = "/api/v1/removals", tag = "images", params(Page),
    responses((status = 200, body = List<ShownRemoval>), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(api): State<Api>,
    Query(page): Query<Page>,
) -> Result<Json<List<ShownRemoval>>, Problem> {
    let limit = page.limit()?;
    let before = page.after.as_deref().map(str::parse::<u64>).transpose();
    let before = before.map_err(|_| Problem::bad_request("after: is no `next` of this list"))?;
    let standing = api.removals.standing().into_iter();
    let found = standing.filter(|(asked, _)| before.is_none_or(|before| asked.number < before));
    let found = found.map(|(asked, progress)| shown(&asked, &progress));
    let found = found.take(limit + 1).collect();
    Ok(Json(List::of(found, limit, |one| one.number.to_string())))
}

/// A removal, and how far nodes are
#[utoipa::path(get, path = "/api/v1/removals/{number}", tag = "images",
    params(("number" = String, Path, description = "The removal's number")),
    responses((status = 200, body = ShownRemoval), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn show(
    State(api): State<Api>,
    Path(number): Path<String>,
) -> Result<Json<ShownRemoval>, Problem> {
    look(&api, &number).map(Json)
}

/// A removal, whenever it has changed, until every node has done it
#[utoipa::path(get, path = "/api/v1/removals/{number}/events", tag = "images",
    params(("number" = String, Path, description = "The removal's number")),
    responses((status = 200, content_type = "text/event-stream", body = String,
            description = "events `removal`, each with a ShownRemoval, and `end` when all have done it; come again when it breaks off"),
        (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn events(
    State(api): State<Api>,
    Path(number): Path<String>,
) -> Result<Response, Problem> {
    let streams = api.streams.clone();
    let follow = move || {
        let looked = look(&api, &number).map(|shown| {
            let mut now = Now::json("removal", &shown);
            now.ended = shown.done == shown.nodes;
            now
        });
        std::future::ready(looked)
    };
    streams.follow(follow).await
}

fn look(api: &Api, number: &str) -> Result<ShownRemoval, Problem> {
    let absent = || Problem::not_found(number);
    let wanted: u64 = number.parse().map_err(|_| absent())?;
    let (asked, progress) = api.removals.get(wanted).ok_or_else(absent)?;
    Ok(shown(&asked, &progress))
}

fn shown(asked: &Asked, progress: &Progress) -> ShownRemoval {
    ShownRemoval {
        number: asked.number,
        digest: asked.key.to_string(),
        name: asked.name.clone(),
        by: asked.actor.clone(),
        asked_ms: asked.asked_ms,
        nodes: progress.nodes,
        done: progress.done,
        waiting: progress.waiting.iter().take(MAX_WAITING).cloned().collect(),
    }
}

impl From<RemovalError> for Problem {
    fn from(error: RemovalError) -> Self {
        match error {
            RemovalError::Database(error) => error.into(),
            RemovalError::Full | RemovalError::Busy => Self::conflict(error.to_string()),
        }
    }
}
