//! The console: the API's answers as pages, made here and whole without any script.
//!
//! A page calls the API's own functions and shows what they answer, so it can do nothing that a
//! program could not, and decides nothing. The browser loads from this manager and from nobody else.
//! A page that changes by itself is served twice from one address: as a document, and to who accepts
//! `text/event-stream` as its main part, again and again; the one script puts that in place.
//!
//! The session is the API's, in its `__Host-` cookie. Browsers keep such a cookie over TLS only, and
//! from the host itself: over plain HTTP the console is for `127.0.0.1` and `localhost` (or a tunnel
//! that ends there), and says so to who comes otherwise.

use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Router, middleware};

use crate::api::Api;
use crate::api::access::{Need, Routes};
use crate::users::Role;

mod account;
mod asked;
mod audit;
mod begun;
mod clusters;
mod gate;
mod images;
mod jobs;
mod layout;
mod nodes;
mod oidc;
mod overview;
mod people;
mod picture;
mod removals;
mod settings;
mod tasks;
#[cfg(test)]
mod tests;
mod text;
mod tokens;
mod upstreams;

/// Every page, and what it needs.
#[rustfmt::skip]
pub(crate) const ROUTES: &Routes = &[
    ("GET", "/console.css", Need::Nothing),
    ("GET", "/console.js", Need::Nothing),
    ("GET", "/icon.svg", Need::Nothing),
    ("GET", "/login", Need::Nothing),
    ("POST", "/login", Need::Nothing),
    ("GET", "/setup", Need::Nothing),
    ("POST", "/setup", Need::Nothing),
    ("GET", "/oidc/login", Need::Nothing),
    ("GET", "/oidc/callback", Need::Nothing),
    ("POST", "/logout", Need::Role(Role::Viewer)),
    ("GET", "/", Need::Role(Role::Viewer)),
    ("GET", "/nodes", Need::Role(Role::Viewer)),
    ("GET", "/nodes/{id}", Need::Role(Role::Viewer)),
    ("POST", "/nodes/{id}/revoke", Need::Role(Role::Admin)),
    ("GET", "/images", Need::Role(Role::Viewer)),
    ("GET", "/images/{digest}", Need::Role(Role::Viewer)),
    ("POST", "/images/{digest}/remove", Need::Role(Role::Operator)),
    ("GET", "/removals", Need::Role(Role::Operator)),
    ("GET", "/removals/{number}", Need::Role(Role::Operator)),
    ("GET", "/tasks", Need::Role(Role::Viewer)),
    ("GET", "/tasks/{id}", Need::Role(Role::Viewer)),
    ("GET", "/swarm", Need::Role(Role::Viewer)),
    ("GET", "/jobs", Need::Role(Role::Viewer)),
    ("POST", "/jobs", Need::Role(Role::Operator)),
    ("GET", "/jobs/{id}", Need::Role(Role::Viewer)),
    ("POST", "/jobs/{id}/cancel", Need::Role(Role::Operator)),
    ("POST", "/jobs/{id}/retry", Need::Role(Role::Operator)),
    ("GET", "/schedules", Need::Role(Role::Viewer)),
    ("POST", "/schedules", Need::Role(Role::Operator)),
    ("POST", "/schedules/{name}/remove", Need::Role(Role::Operator)),
    ("GET", "/webhooks/new", Need::Role(Role::Admin)),
    ("POST", "/webhooks", Need::Role(Role::Admin)),
    ("POST", "/webhooks/{name}/remove", Need::Role(Role::Admin)),
    ("GET", "/clusters", Need::Role(Role::Viewer)),
    ("POST", "/clusters", Need::Role(Role::Admin)),
    ("GET", "/clusters/{name}", Need::Role(Role::Viewer)),
    ("POST", "/clusters/{name}/members", Need::Role(Role::Admin)),
    ("POST", "/clusters/{name}/limits", Need::Role(Role::Admin)),
    ("POST", "/clusters/{name}/blocked", Need::Role(Role::Admin)),
    ("POST", "/clusters/{name}/registries", Need::Role(Role::Admin)),
    (
        "POST",
        "/clusters/{name}/registries/remove",
        Need::Role(Role::Admin),
    ),
    ("POST", "/clusters/{name}/remove", Need::Role(Role::Admin)),
    ("GET", "/upstreams", Need::Role(Role::Viewer)),
    ("GET", "/tokens", Need::Role(Role::Viewer)),
    ("POST", "/tokens", Need::Role(Role::Viewer)),
    ("POST", "/tokens/{id}/revoke", Need::Role(Role::Viewer)),
    ("GET", "/join-tokens", Need::Role(Role::Admin)),
    ("POST", "/join-tokens", Need::Role(Role::Admin)),
    ("POST", "/join-tokens/{id}/revoke", Need::Role(Role::Admin)),
    ("GET", "/users", Need::Role(Role::Admin)),
    ("POST", "/users", Need::Role(Role::Admin)),
    ("POST", "/users/{name}", Need::Role(Role::Admin)),
    ("POST", "/users/{name}/remove", Need::Role(Role::Admin)),
    ("GET", "/audit", Need::Role(Role::Admin)),
    ("GET", "/settings", Need::Role(Role::Viewer)),
];

/// The pages.
pub(crate) fn routes(api: &Api) -> Router<Api> {
    Router::new()
        .route("/console.css", get(style))
        .route("/console.js", get(script))
        .route("/icon.svg", get(icon))
        .route("/login", get(account::log_in_page).post(account::log_in))
        .route("/setup", get(account::setup_page).post(account::setup))
        .route("/oidc/login", get(oidc::begin))
        .route("/oidc/callback", get(oidc::end))
        .route("/logout", post(account::log_out))
        .route("/", get(overview::show))
        .route("/nodes", get(nodes::list))
        .route("/nodes/{id}", get(nodes::show))
        .route("/nodes/{id}/revoke", post(nodes::revoke))
        .route("/images", get(images::list))
        .route("/images/{digest}", get(images::show))
        .route("/images/{digest}/remove", post(removals::remove))
        .route("/removals", get(removals::list))
        .route("/removals/{number}", get(removals::show))
        .route("/tasks", get(tasks::list))
        .route("/tasks/{id}", get(tasks::show))
        .route("/swarm", get(tasks::swarm))
        .route("/jobs", get(jobs::list).post(jobs::create))
        .route("/jobs/{id}", get(jobs::show))
        .route("/jobs/{id}/cancel", post(jobs::cancel))
        .route("/jobs/{id}/retry", post(jobs::retry))
        .route("/schedules", get(begun::show).post(begun::create_schedule))
        .route("/schedules/{name}/remove", post(begun::remove_schedule))
        .route("/webhooks/new", get(begun::new_hook))
        .route("/webhooks", post(begun::create_hook))
        .route("/webhooks/{name}/remove", post(begun::remove_hook))
        .route("/clusters", get(clusters::list).post(clusters::create))
        .route("/clusters/{name}", get(clusters::show))
        .route("/clusters/{name}/members", post(clusters::set_members))
        .route("/clusters/{name}/limits", post(clusters::set_limits))
        .route("/clusters/{name}/blocked", post(clusters::set_blocked))
        .route("/clusters/{name}/registries", post(clusters::set_registry))
        .route(
            "/clusters/{name}/registries/remove",
            post(clusters::remove_registry),
        )
        .route("/clusters/{name}/remove", post(clusters::remove))
        .route("/upstreams", get(upstreams::show))
        .route("/tokens", get(tokens::list).post(tokens::create))
        .route("/tokens/{id}/revoke", post(tokens::revoke))
        .route(
            "/join-tokens",
            get(tokens::list_join).post(tokens::create_join),
        )
        .route("/join-tokens/{id}/revoke", post(tokens::revoke_join))
        .route("/users", get(people::list).post(people::create))
        .route("/users/{name}", post(people::change))
        .route("/users/{name}/remove", post(people::remove))
        .route("/audit", get(audit::show))
        .route("/settings", get(settings::show))
        .route_layer(middleware::from_fn_with_state(api.clone(), gate::authorize))
        .route_layer(middleware::map_response(gate::guarded))
}

async fn style() -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, "text/css; charset=utf-8")];
    (kind, include_str!("console/console.css"))
}

async fn script() -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, "text/javascript; charset=utf-8")];
    (kind, include_str!("console/console.js"))
}

async fn icon() -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, "image/svg+xml")];
    (kind, include_str!("console/icon.svg"))
}
