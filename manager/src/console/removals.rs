//! Removals: ask for one from an image's page, follow it.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};

use super::layout::{Page, Visit, further, see, table};
use super::text;
use crate::api::Api;
use crate::api::body::Query;
use crate::api::page::{List, Page as Which};
use crate::api::problem::Problem;
use crate::api::removals::{self as look, ShownRemoval};
use crate::users::Role;
use crate::users::credentials::Caller;

/// The form on the page of an image.
pub(super) fn asking(visit: &Visit, digest: &str) -> Markup {
    html! {
        @if visit.may(Role::Operator) {
            details.danger {
                summary { "Remove it from every node" }
                p { "Each node removes the image and the layers that no other image there needs, at once or when it is back. Who pulls it afterwards has it read from the registry again." }
                form method="post" action={ "/images/" (digest) "/remove" } {
                    (visit.csrf())
                    button { "Remove this image everywhere" }
                }
            }
        }
    }
}

pub(super) async fn remove(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(digest): Path<String>,
) -> Response {
    let visit = Visit::new(caller, "/images", &HeaderMap::new());
    match look::begin(&api, &visit.caller, &digest).await {
        Ok(shown) => see(&format!("/removals/{}", shown.number)),
        Err(problem) => visit.problem(&problem),
    }
}

pub(super) async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    which: Result<Query<Which>, Problem>,
) -> Response {
    let visit = Visit::new(caller, "/images", &headers);
    visit
        .list(&api, which, move |api, _, which| async move {
            let removals = look::list(State(api), which).await?.0;
            Ok(Page {
                title: "Removals".to_owned(),
                main: all(&removals),
                ..Page::default()
            })
        })
        .await
}

fn all(removals: &List<ShownRemoval>) -> Markup {
    html! {
        (table("Removals of the last week, the latest first", &["Number", "Image", "Done by", "Asked by", "At"], &html! {
            @for removal in &removals.items {
                tr {
                    th scope="row" { a href={ "/removals/" (removal.number) } { (removal.number) } }
                    td { (removal.name) br; code { (removal.digest) } }
                    td.number { (removal.done) " of " (removal.nodes) " nodes" }
                    td { (removal.by) }
                    td { (text::time(removal.asked_ms.unsigned_abs())) }
                }
            }
            @if removals.items.is_empty() { tr { td colspan="5" { "None" } } }
        }))
        (further("/removals", removals.next.as_deref()))
    }
}

pub(super) async fn show(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(number): Path<String>,
    headers: HeaderMap,
) -> Response {
    let visit = Visit::new(caller, "/images", &headers);
    visit
        .live(&api, number, move |api, _, number| async move {
            let removal = look::show(State(api), Path(number)).await?.0;
            Ok(Page {
                title: format!("Removal {}", removal.number),
                main: one(&removal),
                ..Page::default()
            })
        })
        .await
}

fn one(removal: &ShownRemoval) -> Markup {
    html! {
        dl.facts {
            div { dt { "Image" } dd { (removal.name) } }
            div { dt { "Manifest" } dd { code { (removal.digest) } } }
            div { dt { "Asked by" } dd { (removal.by) } }
            div { dt { "At" } dd { (text::time(removal.asked_ms.unsigned_abs())) } }
            div {
                dt { "Done by" }
                dd {
                    progress max=(removal.nodes.max(1)) value=(removal.done) aria-label="Nodes that have removed it" {}
                    " " (removal.done) " of " (removal.nodes) " nodes"
                }
            }
        }
        @if !removal.waiting.is_empty() { p { "Not yet: " (removal.waiting.join(", ")) } }
        p { "Nodes that are away do it when they are back, within a week." }
        p { a href="/removals" { "All removals" } }
    }
}
