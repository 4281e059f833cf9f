//! Jobs: images that are to be on nodes ahead of time.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json as Answer};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::body::{Json, Query};
use super::page::{List, Page};
use super::problem::{Document, Problem};
use crate::jobs::job::{Job, Phase, Summary};
use crate::jobs::{JobError, Wanted};
use crate::users::credentials::Caller;

/// A job to be begun.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewJob {
    /// Images by their full names: `registry/repository:tag` or `registry/repository@digest`.
    #[schema(min_items = 1, max_items = 32)]
    images: Vec<String>,
    /// Of an index, this platform, as `os/architecture[/variant]`; without it each node's own.
    platform: Option<String>,
    /// `seeds`; `nodes` for every seed and mirror; or a label as `KEY=VALUE` for every seed and the
    /// mirrors that have it.
    to: String,
}

/// A job and how far it is.
#[derive(Serialize, ToSchema)]
pub(super) struct ShownJob {
    /// How far it is.
    phase: Phase,
    #[serde(flatten)]
    job: Job,
}

/// Jobs, the latest first
#[utoipa::path(get, path = "/api/v1/jobs", tag = "jobs", params(Page),
    responses((status = 200, body = List<Summary>), (status = "4XX", body = Document)))]
pub(super) async fn list(
    State(api): State<Api>,
    Query(page): Query<Page>,
) -> Result<Answer<List<Summary>>, Problem> {
    let found = api.jobs.list(page.after.as_deref(), page.wanted()?).await?;
    let list = List::of(found, page.limit()?, |job| job.id.clone());
    Ok(Answer(list))
}

/// Have nodes hold images
#[utoipa::path(post, path = "/api/v1/jobs", tag = "jobs", request_body = NewJob,
    responses((status = 201, body = ShownJob), (status = "4XX", body = Document)))]
pub(super) async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(new): Json<NewJob>,
) -> Result<(StatusCode, Answer<ShownJob>), Problem> {
    if new.images.is_empty() {
        return Err(Problem::bad_request("images: there is none"));
    }
    let bad = |error: darner_proto::invalid::Invalid| Problem::bad_request(error.to_string());
    let images = new.images.iter().map(|image| {
        let parsed = image.parse();
        parsed.map_err(|error| Problem::bad_request(format!("images: {image:?}: {error}")))
    });
    let wanted = Wanted {
        images: images.collect::<Result<_, _>>()?,
        platform: new
            .platform
            .map(|text| text.parse())
            .transpose()
            .map_err(bad)?,
        to: new.to.parse().map_err(bad)?,
    };
    let job = api.jobs.create(wanted, &caller.actor()).await?;
    Ok((StatusCode::CREATED, Answer(job.into())))
}

/// A job, with every image on every node
#[utoipa::path(get, path = "/api/v1/jobs/{id}", tag = "jobs",
    params(("id" = String, Path, description = "The job's id")),
    responses((status = 200, body = ShownJob), (status = "4XX", body = Document)))]
pub(super) async fn show(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Answer<ShownJob>, Problem> {
    let job = api.jobs.get(&id).await?;
    let job = job.ok_or_else(|| Problem::not_found(&id))?;
    Ok(Answer(job.into()))
}

/// Call off what a job has not done; what nodes hold they keep
#[utoipa::path(post, path = "/api/v1/jobs/{id}/cancel", tag = "jobs",
    params(("id" = String, Path, description = "The job's id")),
    responses((status = 200, body = ShownJob), (status = "4XX", body = Document)))]
pub(super) async fn cancel(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Answer<ShownJob>, Problem> {
    let job = api.jobs.cancel(&id, &caller.actor()).await?;
    Ok(Answer(job.into()))
}

/// Begin again with what failed in a job or was called off
#[utoipa::path(post, path = "/api/v1/jobs/{id}/retry", tag = "jobs",
    params(("id" = String, Path, description = "The job's id")),
    responses((status = 200, body = ShownJob), (status = "4XX", body = Document)))]
pub(super) async fn retry(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Answer<ShownJob>, Problem> {
    let job = api.jobs.retry(&id, &caller.actor()).await?;
    Ok(Answer(job.into()))
}

impl From<Job> for ShownJob {
    fn from(job: Job) -> Self {
        Self {
            phase: job.phase(),
            job,
        }
    }
}

impl From<JobError> for Problem {
    fn from(error: JobError) -> Self {
        match error {
            JobError::Database(error) => error.into(),
            JobError::Absent => Self::new(StatusCode::NOT_FOUND, error.to_string()),
            JobError::TooMany { .. } | JobError::Nobody | JobError::Busy => {
                Self::conflict(error.to_string())
            }
        }
    }
}
