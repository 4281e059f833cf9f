//! Webhooks: what they are, and the notifications that registries send to them.

use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::{Extension, Json as Answer};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::body::{Json, Query, expected_version, given_version, versioned};
use super::named::{change, changed, name_in_path};
use super::page::{List, Page};
use super::problem::{Document, Problem};
use crate::hooks::push::Kind;
use crate::hooks::{Hook, HookError, MAX_BODY, Received, Wiring};
use crate::users::Name;
use crate::users::credentials::Caller;

/// A new webhook.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewHook {
    /// What to call it: the last part of the path that the registry is to call.
    pub(crate) name: Name,
    /// What it does.
    pub(crate) hook: Wiring,
}

/// A webhook that was made.
#[derive(Serialize, ToSchema)]
pub(crate) struct MadeHook {
    #[serde(flatten)]
    pub(crate) hook: Hook,
    /// Where the registry is to send to, on this manager.
    pub(crate) path: String,
    /// What it shows: this once.
    pub(crate) secret: String,
}

/// Webhooks
#[utoipa::path(get, path = "/api/v1/webhooks", tag = "jobs", params(Page),
    responses((status = 200, body = List<Hook>), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(api): State<Api>,
    Query(page): Query<Page>,
) -> Result<Answer<List<Hook>>, Problem> {
    let found = api.hooks.list(page.after(), page.wanted()?).await?;
    let list = List::of(found, page.limit()?, |hook| hook.name.clone());
    Ok(Answer(list))
}

/// Have pushes to a registry begin jobs
#[utoipa::path(post, path = "/api/v1/webhooks", tag = "jobs", request_body = NewHook,
    responses((status = 201, body = MadeHook), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(new): Json<NewHook>,
) -> Result<Response, Problem> {
    let made = make(&api, &caller, new).await?;
    let version = made.hook.version;
    Ok(versioned(StatusCode::CREATED, made, version))
}

/// Makes a webhook.
pub(crate) async fn make(api: &Api, caller: &Caller, new: NewHook) -> Result<MadeHook, Problem> {
    new.hook.check().map_err(refused)?;
    let actor = caller.actor();
    let made = api.hooks.create(change(&actor, &new.name, None), &new.hook);
    let (made, secret) = made.await?;
    changed(made, "webhook", &new.name)?;
    let hook = found(api, &new.name).await?;
    let path = format!("/api/v1/webhooks/{}", hook.name);
    Ok(MadeHook { hook, path, secret })
}

/// A webhook
#[utoipa::path(get, path = "/api/v1/webhooks/{name}", tag = "jobs",
    params(("name" = String, Path, description = "The webhook's name")),
    responses((status = 200, body = Hook), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn show(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let hook = found(&api, &name_in_path(&name)?).await?;
    let version = hook.version;
    Ok(versioned(StatusCode::OK, hook, version))
}

/// Change what a webhook does; its kind and its secret stay
#[utoipa::path(put, path = "/api/v1/webhooks/{name}", tag = "jobs", request_body = Wiring,
    params(("name" = String, Path, description = "The webhook's name"),
        ("If-Match" = String, Header, description = "The webhook's ETag, or * for any")),
    responses((status = 200, body = Hook), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn replace(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(wiring): Json<Wiring>,
) -> Result<Response, Problem> {
    let name = name_in_path(&name)?;
    let expected = expected_version(&headers)?;
    wiring.check().map_err(refused)?;
    let kind: Kind = found(&api, &name).await?.wiring.kind;
    if kind != wiring.kind {
        let why = "kind: stays as it is; make another webhook";
        return Err(Problem::bad_request(why));
    }
    let actor = caller.actor();
    let made = api.hooks.change(change(&actor, &name, expected), &wiring);
    changed(made.await?, "webhook", &name)?;
    let hook = found(&api, &name).await?;
    let version = hook.version;
    Ok(versioned(StatusCode::OK, hook, version))
}

/// Remove a webhook; its jobs stay
#[utoipa::path(delete, path = "/api/v1/webhooks/{name}", tag = "jobs",
    params(("name" = String, Path, description = "The webhook's name"),
        ("If-Match" = Option<String>, Header, description = "The webhook's ETag")),
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
    let removed = api.hooks.remove(change(&actor, &name, expected));
    changed(removed.await?, "webhook", &name)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Take a registry's notification in: Harbor's, distribution's or GitHub's, by the webhook's kind
#[utoipa::path(post, path = "/api/v1/webhooks/{name}", tag = "jobs",
    params(("name" = String, Path, description = "The webhook's name")),
    request_body(content = inline(serde_json::Value), content_type = "application/json", description = "as the registry sends it"),
    security(("webhook" = [])),
    responses((status = 200, body = Received), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn receive(
    State(api): State<Api>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Answer<Received>, Problem> {
    let (head, body) = request.into_parts();
    let body = whole(body).await?;
    Ok(Answer(
        api.hooks.receive(&name, &head.headers, &body).await?,
    ))
}

async fn whole(body: Body) -> Result<axum::body::Bytes, Problem> {
    to_bytes(body, MAX_BODY).await.map_err(|_| {
        let why = format!("the body did not come whole, or is longer than {MAX_BODY} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, why)
    })
}

async fn found(api: &Api, name: &Name) -> Result<Hook, Problem> {
    let found = api.hooks.get(name).await?;
    found.ok_or_else(|| Problem::not_found(name.as_str()))
}

fn refused(error: darner_proto::invalid::Invalid) -> Problem {
    Problem::bad_request(error.to_string())
}

impl From<HookError> for Problem {
    fn from(error: HookError) -> Self {
        match error {
            HookError::Stranger => Self::new(StatusCode::UNAUTHORIZED, error.to_string()),
            HookError::Invalid(error) => refused(error),
            HookError::Job(error) => error.into(),
            HookError::Database(error) => error.into(),
            HookError::Seal(_) => {
                tracing::error!(%error, "a notification is not taken in");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
            }
        }
    }
}
