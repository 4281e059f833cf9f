//! What the manager tells its members, and what it is.

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use maud::html;

use super::layout::{Page, Visit};
use crate::api::Api;
use crate::api::members;
use crate::users::credentials::Caller;

pub(super) async fn show(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Response {
    let visit = Visit::new(caller, "/settings", &HeaderMap::new());
    let database = api.database.name();
    let told = members::configuration(State(api)).await.0;
    let between = match told.insecure {
        true => "plain text: [identity] insecure = true",
        false => "mutual TLS 1.3",
    };
    visit.page(&Page {
        title: "Settings".to_owned(),
        main: html! {
            p { "Settings are in files and the environment of each process; " code { "darner config show" } " tells them there." }
            dl.facts {
                div { dt { "Configuration told to members" } dd { (told.version) } }
                div { dt { "Schedulers in it" } dd { (told.schedulers) } }
                div { dt { "Seeds in it" } dd { (told.seeds) } }
                div { dt { "Between processes" } dd { (between) } }
                div { dt { "Database" } dd { (database) } }
                div { dt { "Version" } dd { (env!("CARGO_PKG_VERSION")) } }
                div { dt { "API" } dd { a href="/api/openapi.json" { "Its description" } } }
            }
        },
        ..Page::default()
    })
}
