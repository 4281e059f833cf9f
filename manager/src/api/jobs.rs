//! Jobs: images and files that are to be on nodes ahead of time.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json as Answer};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::body::{Json, Query};
use super::live::Now;
use super::page::{List, Page, text};
use super::problem::{Document, Problem};
use crate::jobs::job::{Job, Phase, Summary};
use crate::jobs::plan::Plan;
use crate::jobs::{Begun, By, Filter, JobError, RequestKey};
use crate::users::credentials::Caller;

/// What a caller calls its request.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Longer keys than any that is in use.
const MAX_KEY: usize = 255;

/// Which jobs, and which page of them.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Items at most.
    #[param(minimum = 1, maximum = 1000)]
    pub(crate) limit: Option<usize>,
    /// `next` of the page before.
    pub(crate) after: Option<String>,
    /// Only those that are so far.
    #[param(inline)]
    pub(crate) phase: Option<Phase>,
    /// Only those that this account asked for, itself or with a token, or another who is told as `by`.
    #[param(min_length = 1, max_length = 512)]
    pub(crate) by: Option<String>,
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
#[utoipa::path(get, path = "/api/v1/jobs", tag = "jobs", params(Which),
    responses((status = 200, body = List<Summary>), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(api): State<Api>,
    Query(which): Query<Which>,
) -> Result<Answer<List<Summary>>, Problem> {
    let filter = Filter {
        phase: which.phase,
        by: text("by", which.by.as_ref())?,
    };
    let page = Page {
        limit: which.limit,
        after: which.after.clone(),
    };
    let (after, wanted) = (page.after.as_deref(), page.wanted()?);
    let found = api.jobs.list(filter, after, wanted).await?;
    let list = List::of(found, page.limit()?, |job| job.id.clone());
    Ok(Answer(list))
}

/// Have nodes hold images and files
#[utoipa::path(post, path = "/api/v1/jobs", tag = "jobs", request_body = Plan,
    params(("Idempotency-Key" = Option<String>, Header,
        description = "what the caller calls this request: asked again, it is answered with the same job")),
    responses((status = 201, body = ShownJob),
        (status = 200, body = ShownJob, description = "the job that the same request has begun before"),
        (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Json(new): Json<Plan>,
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
    new: Plan,
) -> Result<Begun, Problem> {
    let wanted = new.wanted();
    let wanted = wanted.map_err(|error| Problem::bad_request(error.to_string()))?;
    let request = request_key(headers, caller)?;
    let by = By {
        actor: &caller.actor(),
        request: request.as_ref(),
    };
    Ok(api.jobs.create(wanted, by).await?)
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

/// A job, with every image and file on every node
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
            let mut now = Now::json("job", &summary);
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
            job: job.without_secrets(),
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
