//! Who may do what: one table of all routes, and the gate that goes by it.
//!
//! A route that is not in [`ROUTES`] is answered to nobody. Callers show a token
//! (`Authorization: Bearer`) or a session's cookie; a change made in a session also needs the
//! session's `X-CSRF-Token`, which a page of another site cannot know. A credential in a URL counts
//! for nothing.

use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tokio::time::timeout;
use utoipa::Modify;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};

use super::Api;
use super::problem::Problem;
use crate::users::Role;
use crate::users::credentials::{self, By, Caller};

/// `__Host-`: browsers take it over TLS (or from this host) only, for this host and every path, and
/// nobody else can set it.
pub(crate) const COOKIE: &str = "__Host-darner";
const CSRF: &str = "x-csrf-token";
/// From request to the head of the answer. The database gives up sooner.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// What a route needs of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Anybody may.
    Nothing,
    /// This role or a higher one.
    Role(Role),
    /// A secret of the route's own, which it checks itself.
    Secret,
}

/// Every route, and what it needs. `HEAD` is as `GET`.
#[rustfmt::skip]
pub const ROUTES: &Routes = &[
    ("GET", "/api/openapi.json", Need::Nothing),
    ("POST", "/api/v1/setup", Need::Nothing),
    ("POST", "/api/v1/session", Need::Nothing),
    ("DELETE", "/api/v1/session", Need::Role(Role::Viewer)),
    ("GET", "/api/v1/me", Need::Role(Role::Viewer)),
    ("GET", "/api/v1/nodes", Need::Role(Role::Viewer)),
    ("GET", "/api/v1/nodes/{id}", Need::Role(Role::Viewer)),
    ("POST", "/api/v1/nodes/{id}/revoke", Need::Role(Role::Admin)),
    ("GET", "/api/v1/overview", Need::Role(Role::Viewer)),
    ("GET", "/api/v1/overview/events", Need::Role(Role::Viewer)),
    ("GET", "/api/v1/overview/past", Need::Role(Role::Viewer)),
    ("GET", "/api/v1/upstreams", Need::Role(Role::Viewer)),
    ("GET", "/api/v1/images", Need::Role(Role::Viewer)),
    ("GET", "/api/v1/images/{digest}", Need::Role(Role::Viewer)),
    ("GET", "/api/v1/images/{digest}/nodes", Need::Role(Role::Viewer)),
    ("DELETE", "/api/v1/images/{digest}", Need::Role(Role::Operator)),
    ("GET", "/api/v1/removals", Need::Role(Role::Operator)),
    ("GET", "/api/v1/removals/{number}", Need::Role(Role::Operator)),
    ("GET", "/api/v1/removals/{number}/events", Need::Role(Role::Operator)),
    ("GET", "/api/v1/tasks", Need::Role(Role::Viewer)),
    ("GET", "/api/v1/tasks/events", Need::Role(Role::Viewer)),
    ("GET", "/api/v1/tasks/{id}", Need::Role(Role::Viewer)),
    ("DELETE", "/api/v1/tasks/{id}", Need::Role(Role::Operator)),
    ("GET", "/api/v1/tasks/{id}/events", Need::Role(Role::Viewer)),
    ("GET", "/api/v1/swarm", Need::Role(Role::Viewer)),
    ("GET", "/api/v1/join-tokens", Need::Role(Role::Admin)),
    ("POST", "/api/v1/join-tokens", Need::Role(Role::Admin)),
    ("DELETE", "/api/v1/join-tokens/{id}", Need::Role(Role::Admin)),
    ("GET", "/api/v1/seeds", Need::Role(Role::Viewer)),
    ("GET", "/api/v1/schedulers", Need::Role(Role::Viewer)),
    ("GET", "/api/v1/configuration", Need::Role(Role::Viewer)),
    ("GET", "/api/v1/clusters", Need::Role(Role::Viewer)),
    ("POST", "/api/v1/clusters", Need::Role(Role::Admin)),
    ("GET", "/api/v1/clusters/{name}", Need::Role(Role::Viewer)),
    ("PUT", "/api/v1/clusters/{name}", Need::Role(Role::Admin)),
    ("DELETE", "/api/v1/clusters/{name}", Need::Role(Role::Admin)),
    ("GET", "/api/v1/jobs", Need::Role(Role::Viewer)),
    ("POST", "/api/v1/jobs", Need::Role(Role::Operator)),
    ("GET", "/api/v1/jobs/{id}", Need::Role(Role::Viewer)),
    ("GET", "/api/v1/jobs/{id}/events", Need::Role(Role::Viewer)),
    ("POST", "/api/v1/jobs/{id}/cancel", Need::Role(Role::Operator)),
    ("POST", "/api/v1/jobs/{id}/retry", Need::Role(Role::Operator)),
    ("GET", "/api/v1/schedules", Need::Role(Role::Viewer)),
    ("POST", "/api/v1/schedules", Need::Role(Role::Operator)),
    ("GET", "/api/v1/schedules/{name}", Need::Role(Role::Viewer)),
    ("PUT", "/api/v1/schedules/{name}", Need::Role(Role::Operator)),
    ("DELETE", "/api/v1/schedules/{name}", Need::Role(Role::Operator)),
    ("GET", "/api/v1/webhooks", Need::Role(Role::Viewer)),
    ("POST", "/api/v1/webhooks", Need::Role(Role::Admin)),
    ("GET", "/api/v1/webhooks/{name}", Need::Role(Role::Viewer)),
    ("PUT", "/api/v1/webhooks/{name}", Need::Role(Role::Admin)),
    ("DELETE", "/api/v1/webhooks/{name}", Need::Role(Role::Admin)),
    ("POST", "/api/v1/webhooks/{name}", Need::Secret),
    ("GET", "/api/v1/tokens", Need::Role(Role::Viewer)),
    ("POST", "/api/v1/tokens", Need::Role(Role::Viewer)),
    ("DELETE", "/api/v1/tokens/{id}", Need::Role(Role::Viewer)),
    ("GET", "/api/v1/users", Need::Role(Role::Admin)),
    ("POST", "/api/v1/users", Need::Role(Role::Admin)),
    ("GET", "/api/v1/users/{name}", Need::Role(Role::Admin)),
    ("PATCH", "/api/v1/users/{name}", Need::Role(Role::Admin)),
    ("DELETE", "/api/v1/users/{name}", Need::Role(Role::Admin)),
    ("GET", "/api/v1/audit", Need::Role(Role::Admin)),
];

/// Adds to the description how callers show who they are, and which routes need it.
pub(crate) struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut OpenApi) {
        let components = document.components.get_or_insert_default();
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("token", SecurityScheme::Http(bearer));
        let cookie = SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(COOKIE)));
        components.add_security_scheme("session", cookie);
        // A secret or a signature, as the registry that sends it has it.
        let secret = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("webhook", SecurityScheme::Http(secret));
        let none: [String; 0] = [];
        document.security = Some(vec![
            SecurityRequirement::new("token", none.clone()),
            SecurityRequirement::new("session", none),
        ]);
    }
}

/// A table of routes: method, path, and what it needs.
pub type Routes = [(&'static str, &'static str, Need)];

/// What the route of `method` and `path` (as in `routes`) needs; `None` when there is none.
pub fn need(routes: &Routes, method: &Method, path: &str) -> Option<Need> {
    let method = match *method {
        Method::HEAD => "GET",
        ref other => other.as_str(),
    };
    let mut routes = routes.iter();
    let found = routes.find(|(of, at, _)| *of == method && *at == path);
    found.map(|(_, _, need)| *need)
}

/// The gate before every route. Handlers find the [`Caller`] in the request's extensions.
pub(crate) async fn authorize(
    State(api): State<Api>,
    path: MatchedPath,
    mut request: Request,
    next: Next,
) -> Response {
    let method = request.method().clone();
    let allowed = match need(ROUTES, &method, path.as_str()) {
        None => Err(Problem::forbidden("this route is open to nobody")),
        Some(Need::Nothing | Need::Secret) => Ok(None),
        Some(Need::Role(role)) => {
            // Not by reference: a body is not to be shared between threads.
            let headers = request.headers().clone();
            let found = timeout(PATIENCE, caller(&api, &method, &headers, role)).await;
            found.unwrap_or_else(|_| Err(late())).map(Some)
        }
    };
    match allowed {
        Err(problem) => problem.into_response(),
        Ok(caller) => {
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            let answered = timeout(PATIENCE, next.run(request)).await;
            answered.unwrap_or_else(|_| late().into_response())
        }
    }
}

pub(crate) fn late() -> Problem {
    Problem::unavailable("the manager's database does not answer; pulls go on")
}

async fn caller(
    api: &Api,
    method: &Method,
    headers: &HeaderMap,
    needs: Role,
) -> Result<Caller, Problem> {
    let caller = identify(api, headers).await?;
    if !method.is_safe() {
        meant(headers, &caller)?;
    }
    allowed(&caller, needs)?;
    Ok(caller)
}

/// Whoever shows a token or a session.
pub(crate) async fn identify(api: &Api, headers: &HeaderMap) -> Result<Caller, Problem> {
    let found = if let Some(token) = bearer(headers)? {
        credentials::by_token(&api.database, token).await?
    } else if let Some(secret) = cookie(headers) {
        credentials::by_session(&api.database, secret).await?
    } else {
        None
    };
    found.ok_or_else(Problem::unauthorized)
}

/// Whether the caller has the role.
pub(crate) fn allowed(caller: &Caller, needs: Role) -> Result<(), Problem> {
    if caller.role >= needs {
        return Ok(());
    }
    let (has, needs) = (caller.role.as_str(), needs.as_str());
    let why = format!("this needs the role {needs}; yours here is {has}");
    Err(Problem::forbidden(why))
}

/// A change asked for in a session comes from our own pages: a browser adds the cookie to whatever
/// any page asks for.
fn meant(headers: &HeaderMap, caller: &Caller) -> Result<(), Problem> {
    let By::Session { csrf } = &caller.by else {
        return Ok(());
    };
    let given = headers.get(CSRF).map(|value| value.as_bytes());
    match is_ours(headers) && is_same(given, csrf) {
        true => Ok(()),
        false => Err(Problem::forbidden(
            "a change in a session needs the session's X-CSRF-Token, from a page of this site",
        )),
    }
}

/// Whether a browser says that the request comes from a page of this site. Programs say nothing.
pub(crate) fn is_ours(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
    matches!(site, None | Some(b"same-origin" | b"none"))
}

/// Whether the session's value was given.
pub(crate) fn is_same(given: Option<&[u8]>, csrf: &str) -> bool {
    given.is_some_and(|given| {
        aws_lc_rs::constant_time::verify_slices_are_equal(given, csrf.as_bytes()).is_ok()
    })
}

fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(None);
    };
    let token = value.to_str().ok().and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then_some(token.trim())
    });
    token.map(Some).ok_or_else(Problem::unauthorized)
}

/// The session's secret.
pub(crate) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter();
    let pairs = cookies
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'));
    pairs
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, secret)| secret)
}
