//! Schedules: jobs that begin by themselves.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::{Extension, Json as Answer};
use serde::Deserialize;
use utoipa::ToSchema;

use super::Api;
use super::body::{Json, Query, expected_version, given_version, versioned};
use super::named::{change, changed, name_in_path};
use super::page::{List, Page};
use super::problem::{Document, Problem};
use crate::jobs::plan::Plan;
use crate::jobs::schedules::{Schedule, Timed};
use crate::users::Name;
use crate::users::credentials::Caller;

/// A new schedule.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSchedule {
    /// What to call it.
    pub(crate) name: Name,
    /// When it fires: minute, hour, day of the month, month and day of the week, in UTC.
    #[schema(max_length = 256, examples("30 3 * * MON-FRI"))]
    pub(crate) cron: String,
    /// What job it begins then.
    pub(crate) job: Plan,
}

/// What a schedule is to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangedSchedule {
    /// When it fires: minute, hour, day of the month, month and day of the week, in UTC.
    #[schema(max_length = 256)]
    pub(crate) cron: String,
    /// What job it begins then.
    pub(crate) job: Plan,
}

/// Schedules
#[utoipa::path(get, path = "/api/v1/schedules", tag = "jobs", params(Page),
    responses((status = 200, body = List<Schedule>), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(api): State<Api>,
    Query(page): Query<Page>,
) -> Result<Answer<List<Schedule>>, Problem> {
    let found = api.schedules.list(page.after(), page.wanted()?).await?;
    let list = List::of(found, page.limit()?, |schedule| schedule.name.clone());
    Ok(Answer(list))
}

/// Have a job begin by itself at times of the day; what is missed while no manager runs begins once
#[utoipa::path(post, path = "/api/v1/schedules", tag = "jobs", request_body = NewSchedule,
    responses((status = 201, body = Schedule), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(new): Json<NewSchedule>,
) -> Result<Response, Problem> {
    let timed = timed(&new.cron, new.job)?;
    let actor = caller.actor();
    let made = api
        .schedules
        .create(change(&actor, &new.name, None), &timed);
    changed(made.await?, "schedule", &new.name)?;
    shown(&api, &new.name, StatusCode::CREATED).await
}

/// A schedule, and what came of it the last time
#[utoipa::path(get, path = "/api/v1/schedules/{name}", tag = "jobs",
    params(("name" = String, Path, description = "The schedule's name")),
    responses((status = 200, body = Schedule), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn show(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    shown(&api, &name_in_path(&name)?, StatusCode::OK).await
}

/// Change a schedule
#[utoipa::path(put, path = "/api/v1/schedules/{name}", tag = "jobs", request_body = ChangedSchedule,
    params(("name" = String, Path, description = "The schedule's name"),
        ("If-Match" = String, Header, description = "The schedule's ETag, or * for any")),
    responses((status = 200, body = Schedule), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn replace(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(wanted): Json<ChangedSchedule>,
) -> Result<Response, Problem> {
    let name = name_in_path(&name)?;
    let expected = expected_version(&headers)?;
    let timed = timed(&wanted.cron, wanted.job)?;
    let actor = caller.actor();
    let made = api
        .schedules
        .change(change(&actor, &name, expected), &timed);
    changed(made.await?, "schedule", &name)?;
    shown(&api, &name, StatusCode::OK).await
}

/// Remove a schedule; its jobs stay
#[utoipa::path(delete, path = "/api/v1/schedules/{name}", tag = "jobs",
    params(("name" = String, Path, description = "The schedule's name"),
        ("If-Match" = Option<String>, Header, description = "The schedule's ETag")),
    responses((status = 204), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn remove(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let name = name_in_path(&name)?;
    let expected = given_version(&headers);
    let actor = caller.actor();
    let removed = api.schedules.remove(change(&actor, &name, expected));
    changed(removed.await?, "schedule", &name)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn shown(api: &Api, name: &Name, status: StatusCode) -> Result<Response, Problem> {
    let found = api.schedules.get(name).await?;
    let found = found.ok_or_else(|| Problem::not_found(name.as_str()))?;
    let version = found.version;
    Ok(versioned(status, found, version))
}

fn timed(cron: &str, plan: Plan) -> Result<Timed, Problem> {
    let refused = |error: darner_proto::invalid::Invalid| Problem::bad_request(error.to_string());
    plan.wanted().map_err(refused)?;
    let cron = cron.parse().map_err(refused)?;
    Ok(Timed { cron, plan })
}
