//! Jobs: images that are to be on nodes ahead of time.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json as Answer};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::body::{Json, Query};
use super::live::Now;
use super::page::{List, Page};
use super::problem::{Document, Problem};
use crate::jobs::job::{Job, Limits, Phase, Summary};
use crate::jobs::{Begun, By, JobError, RequestKey, Wanted};
use crate::users::credentials::Caller;

/// What a caller calls its request.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Longer keys than any that is in use.
const MAX_KEY: usize = 255;

/// A job to be begun.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewJob {
    /// Images by their full names: `registry/repository:tag` or `registry/repository@digest`.
    #[schema(min_items = 1, max_items = 32)]
    pub(crate) images: Vec<String>,
    /// Of an index, this platform, as `os/architecture[/variant]`; without it each node's own.
    pub(crate) platform: Option<String>,
    /// `seeds`; `nodes` for every seed and mirror; or a label as `label=KEY=VALUE` or `KEY=VALUE` for
    /// every seed and the mirrors that have it.
    pub(crate) to: String,
    /// Mirrors that are at it at once; without it 64.
    #[schema(minimum = 1, maximum = 1000)]
    pub(crate) at_once: Option<u32>,
    /// Bytes a second that each node takes in for it; without it as many as there are.
    #[schema(minimum = 1048576)]
    pub(crate) bytes_per_second: Option<u64>,
}

/// A job and how far it is.
#[derive(Serialize, ToSchema)]
pub(crate) struct ShownJob {
    /// How far it is.
    pub(crate) phase: Phase,
    #[serde(flatten)]
    pub(crate) job: Job,
}

/// Jobs, the latest first
#[utoipa::path(get, path = "/api/v1/jobs", tag = "jobs", params(Page),
    responses((status = 200, body = List<Summary>), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(api): State<Api>,
    Query(page): Query<Page>,
) -> Result<Answer<List<Summary>>, Problem> {
    let found = api.jobs.list(page.after.as_deref(), page.wanted()?).await?;
    let list = List::of(found, page.limit()?, |job| job.id.clone());
    Ok(Answer(list))
}

/// Have nodes hold images
#[utoipa::path(post, path = "/api/v1/jobs", tag = "jobs", request_body = NewJob,
    params(("Idempotency-Key" = Option<String>, Header,
        description = "what the caller calls this request: asked again, it is answered with the same job")),
    responses((status = 201, body = ShownJob),
        (status = 200, body = ShownJob, description = "the job that the same request has begun before"),
        (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Json(new): Json<NewJob>,
) -> Result<Response, Problem> {
    let (status, job) = match begin(&api, &caller, &headers, new).await? {
        Begun::New(job) => (StatusCode::CREATED, job),
        Begun::Before(job) => (StatusCode::OK, job),
    };
    let place = [(header::LOCATION, format!("/api/v1/jobs/{}", job.id))];
    Ok((status, place, Answer(ShownJob::from(job))).into_response())
}

/// Begins a job, or finds the one that the same request has begun.
pub(crate) async fn begin(
    api: &Api,
    caller: &Caller,
    headers: &HeaderMap,
    new: NewJob,
) -> Result<Begun, Problem> {
    let wanted = new.wanted()?;
    let request = request_key(headers, caller)?;
    let by = By {
        actor: &caller.actor(),
        request: request.as_ref(),
    };
    Ok(api.jobs.create(wanted, by).await?)
}

impl NewJob {
    /// What it asks for.
    pub(crate) fn wanted(&self) -> Result<Wanted, Problem> {
        if self.images.is_empty() {
            return Err(Problem::bad_request("images: there is none"));
        }
        let bad = |error: darner_proto::invalid::Invalid| Problem::bad_request(error.to_string());
        let images = self.images.iter().map(|image| {
            let parsed = image.parse();
            parsed.map_err(|error| Problem::bad_request(format!("images: {image:?}: {error}")))
        });
        let wanted = Wanted {
            images: images.collect::<Result<_, _>>()?,
            platform: self
                .platform
                .as_ref()
                .map(|text| text.parse())
                .transpose()
                .map_err(bad)?,
            to: self.to.parse().map_err(bad)?,
            limits: Limits {
                at_once: self.at_once,
                bytes_per_second: self.bytes_per_second,
            },
        };
        wanted.limits.check()?;
        Ok(wanted)
    }
}

/// What the caller calls its request, if anything.
fn request_key(headers: &HeaderMap, caller: &Caller) -> Result<Option<RequestKey>, Problem> {
    let Some(given) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let key = given.to_str().ok();
    let key = key.filter(|key| (1..=MAX_KEY).contains(&key.len()));
    let key = key.ok_or_else(|| {
        let why = format!("Idempotency-Key: is not 1 to {MAX_KEY} visible letters");
        Problem::bad_request(why)
    })?;
    Ok(Some(RequestKey::new(&caller.account, key)))
}

/// A job, with every image on every node
#[utoipa::path(get, path = "/api/v1/jobs/{id}", tag = "jobs",
    params(("id" = String, Path, description = "The job's id")),
    responses((status = 200, body = ShownJob), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn show(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Answer<ShownJob>, Problem> {
    let job = api.jobs.get(&id).await?;
    let job = job.ok_or_else(|| Problem::not_found(&id))?;
    Ok(Answer(job.into()))
}

/// A job at a glance, whenever it has changed, until it has ended
#[utoipa::path(get, path = "/api/v1/jobs/{id}/events", tag = "jobs",
    params(("id" = String, Path, description = "The job's id")),
    responses((status = 200, content_type = "text/event-stream", body = String,
            description = "events `job`, each with a Summary, and `end` when it has ended; come again when it breaks off"),
        (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn events(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let streams = api.streams.clone();
    let follow = move || {
        let (api, id) = (api.clone(), id.clone());
        async move {
            let job = api.jobs.get(&id).await?;
            let summary = job.ok_or_else(|| Problem::not_found(&id))?.summary();
            let mut now = Now::of("job", serde_json::to_string(&summary).unwrap_or_default());
            now.ended = summary.phase != Phase::Running;
            Ok(now)
        }
    };
    streams.follow(follow).await
}

/// Call off what a job has not done; what nodes hold they keep
#[utoipa::path(post, path = "/api/v1/jobs/{id}/cancel", tag = "jobs",
    params(("id" = String, Path, description = "The job's id")),
    responses((status = 200, body = ShownJob), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn cancel(
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
    responses((status = 200, body = ShownJob), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn retry(
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
            JobError::OtherRequest => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
            }
            JobError::Limit(_) => Self::bad_request(error.to_string()),
            JobError::TooMany { .. } | JobError::Nobody | JobError::Busy => {
                Self::conflict(error.to_string())
            }
        }
    }
}
