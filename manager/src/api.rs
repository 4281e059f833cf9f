//! The HTTP API for people and their programs: JSON under `/api/v1`, described by itself at
//! `/api/openapi.json`. Errors are problem documents (RFC 9457). The pages for people (`console`)
//! are served beside it, and made of its answers.
//!
//! Nothing is answered before [`access`] has found out who asks and that it may; a route that is not
//! in its table answers nobody. Lists come in pages: `limit` items at most, and `next` is what to
//! pass as `after` for the following page, or null on the last.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use axum::response::Response;
use axum::routing::get;
use axum::{Router, middleware};
use darner_service::shutdown::Shutdown;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::authority::Authority;
use crate::clusters::Clusters;
use crate::console;
use crate::database::Database;
use crate::figures::Tallies;
use crate::hooks::Hooks;
use crate::images::Images;
use crate::jobs::Jobs;
use crate::jobs::schedules::Schedules;
use crate::members::Members;
use crate::oidc::Oidc;
use crate::removals::Removals;
use crate::swarms::Swarms;
use crate::users::password::Passwords;
use crate::users::throttle::Throttle;

pub mod access;
pub(crate) mod body;
pub(crate) mod clusters;
mod etag;
pub(crate) mod images;
pub(crate) mod jobs;
pub(crate) mod join;
pub(crate) mod live;
pub(crate) mod log;
pub(crate) mod members;
pub(crate) mod named;
pub(crate) mod overview;
pub(crate) mod page;
pub(crate) mod people;
pub(crate) mod problem;
pub(crate) mod removals;
pub(crate) mod schedules;
pub(crate) mod session;
pub(crate) mod tasks;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod tls;
pub(crate) mod tokens;
pub(crate) mod webhooks;

use access::Security;
use live::Streams;
use problem::Problem;

/// Operators and their tools, not the cluster: a few connections each.
pub(crate) const MAX_CONNECTIONS: usize = 256;
/// Nothing large is uploaded.
pub(crate) const MAX_BODY: usize = 64 << 10;
/// Connections that are open at the process's end have this long to finish.
const DRAIN: Duration = Duration::from_secs(5);

/// What requests are answered from.
#[derive(Debug, Clone)]
pub struct Api {
    /// Who belongs to the cluster.
    pub members: Members,
    /// Which of them hear of each other.
    pub clusters: Clusters,
    /// What they are to hold ahead of time.
    pub jobs: Jobs,
    /// And when, by themselves.
    pub schedules: Schedules,
    /// And at whose word.
    pub hooks: Hooks,
    /// What they have counted.
    pub tallies: Tallies,
    /// Which images they hold.
    pub images: Images,
    /// What they are to remove.
    pub removals: Removals,
    /// What is on its way between them.
    pub swarms: Swarms,
    /// Who may become one; nobody has to ask in plain text.
    pub authority: Option<Authority>,
    /// Everything else that is remembered.
    pub database: Database,
    /// How passwords are compared.
    pub passwords: Passwords,
    /// How people log in with accounts of elsewhere.
    pub oidc: Option<Oidc>,
    throttle: Arc<Mutex<Throttle>>,
    began: Instant,
    pub(crate) streams: Streams,
    shutdown: Shutdown,
}

/// What an [`Api`] is over.
#[derive(Debug)]
pub struct Parts {
    /// Who belongs to the cluster.
    pub members: Members,
    /// Which of them hear of each other.
    pub clusters: Clusters,
    /// What they are to hold ahead of time.
    pub jobs: Jobs,
    /// And at whose word.
    pub hooks: Hooks,
    /// What they have counted.
    pub tallies: Tallies,
    /// Which images they hold.
    pub images: Images,
    /// What they are to remove.
    pub removals: Removals,
    /// What is on its way between them.
    pub swarms: Swarms,
    /// Who may become one; none in plain text.
    pub authority: Option<Authority>,
    /// Everything else that is remembered.
    pub database: Database,
    /// How passwords are compared.
    pub passwords: Passwords,
    /// How people log in with accounts of elsewhere.
    pub oidc: Option<Oidc>,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Darner manager",
        description = "Who belongs to a cluster of mirrors, what it is doing, and who may say so. Every answer to a GET but a stream has an ETag, and If-None-Match is heeded.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    modifiers(&Security),
    tags(
        (name = "cluster", description = "Members and what they are told"),
        (name = "images", description = "Images that nodes hold"),
        (name = "tasks", description = "What is on its way between nodes"),
        (name = "jobs", description = "Images that are to be on nodes ahead of time"),
        (name = "people", description = "Accounts, sessions, tokens, audit")
    )
)]
struct Document;

impl Api {
    /// An API over what the manager keeps.
    pub fn new(parts: Parts, shutdown: Shutdown) -> Self {
        let Parts {
            members,
            clusters,
            jobs,
            hooks,
            tallies,
            images,
            removals,
            swarms,
            authority,
            database,
            passwords,
            oidc,
        } = parts;
        Self {
            members,
            clusters,
            schedules: Schedules::new(database.clone(), jobs.clone()),
            jobs,
            hooks,
            tallies,
            images,
            removals,
            swarms,
            authority,
            database,
            passwords,
            oidc,
            throttle: Arc::default(),
            began: Instant::now(),
            streams: Streams::new(shutdown.clone()),
            shutdown,
        }
    }
}

/// Serves the API until the process drains and running requests are done.
pub(crate) async fn serve<L>(listener: L, api: Api)
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    let shutdown = api.shutdown.clone();
    let draining = shutdown.clone();
    let serving = axum::serve(listener, routes(api))
        .with_graceful_shutdown(async move { draining.draining().await });
    let late = async {
        shutdown.draining().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        ended = serving.into_future() => {
            if let Err(error) = ended {
                tracing::error!(%error, "the API's listener ended");
            }
        }
        () = late => tracing::debug!("idle connections to the API cut"),
    }
}

/// The description of the API, as served at `/api/openapi.json`.
pub fn document() -> utoipa::openapi::OpenApi {
    described().into_openapi()
}

fn described() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(members::nodes))
        .routes(routes!(overview::node))
        .routes(routes!(join::revoke_node))
        .routes(routes!(join::list, join::create))
        .routes(routes!(join::revoke))
        .routes(routes!(overview::overview))
        .routes(routes!(overview::events))
        .routes(routes!(overview::past))
        .routes(routes!(overview::upstreams))
        .routes(routes!(images::list))
        .routes(routes!(images::show, removals::remove))
        .routes(routes!(removals::list))
        .routes(routes!(removals::show))
        .routes(routes!(removals::events))
        .routes(routes!(tasks::list))
        .routes(routes!(tasks::all_events))
        .routes(routes!(tasks::show, removals::remove_content))
        .routes(routes!(tasks::events))
        .routes(routes!(tasks::swarm))
        .routes(routes!(images::nodes))
        .routes(routes!(members::seeds))
        .routes(routes!(members::schedulers))
        .routes(routes!(members::configuration))
        .routes(routes!(clusters::list, clusters::create))
        .routes(routes!(clusters::show, clusters::replace, clusters::remove))
        .routes(routes!(jobs::list, jobs::create))
        .routes(routes!(jobs::show))
        .routes(routes!(jobs::events))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::retry))
        .routes(routes!(schedules::list, schedules::create))
        .routes(routes!(
            schedules::show,
            schedules::replace,
            schedules::remove
        ))
        .routes(routes!(webhooks::list, webhooks::create))
        .routes(routes!(
            webhooks::show,
            webhooks::replace,
            webhooks::remove,
            webhooks::receive
        ))
        .routes(routes!(session::setup))
        .routes(routes!(session::log_in, session::log_out))
        .routes(routes!(session::me))
        .routes(routes!(people::list, people::create))
        .routes(routes!(people::show, people::change, people::remove))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(log::list))
}

fn routes(api: Api) -> Router {
    let (router, document) = described().split_for_parts();
    let document = Arc::new(document);
    let described = move || {
        let document = document.clone();
        async move { axum::Json(serde_json::json!(*document)) }
    };
    router
        .route("/api/openapi.json", get(described))
        .route_layer(middleware::from_fn(etag::conditional))
        .route_layer(middleware::from_fn_with_state(
            api.clone(),
            access::authorize,
        ))
        .merge(console::routes(&api))
        .fallback(nothing_here)
        .method_not_allowed_fallback(not_that_way)
        .layer(middleware::map_response(guarded))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}

/// Nothing here is a page, and nothing is to be kept.
async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
        (HeaderName::from_static("referrer-policy"), "no-referrer"),
    ] {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    response
}

async fn nothing_here(uri: Uri) -> Problem {
    Problem::not_found(uri.path())
}

async fn not_that_way(method: Method) -> Problem {
    Problem::method_not_allowed(&method)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
