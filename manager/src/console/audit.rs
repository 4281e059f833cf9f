//! Who changed what.

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};

use super::layout::{self, Page, Visit, rows, table};
use super::text;
use crate::api::Api;
use crate::api::body::Query;
use crate::api::log;
use crate::api::page::{List, Page as Which};
use crate::api::problem::Problem;
use crate::users::audit::Line;
use crate::users::credentials::Caller;

pub(super) async fn show(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    which: Result<Query<Which>, Problem>,
) -> Response {
    let visit = Visit::new(caller, "/audit", &HeaderMap::new());
    let listed = async { log::list(State(api), rows(which)?).await };
    match listed.await {
        Ok(lines) => visit.page(&Page {
            title: "Audit".to_owned(),
            main: main(&lines.0),
            ..Page::default()
        }),
        Err(problem) => visit.problem(&problem),
    }
}

fn main(lines: &List<Line>) -> Markup {
    html! {
        (table("Changes, the newest first", &["When", "Who", "What", "To what", "Details"], &html! {
            @for line in &lines.items {
                tr {
                    td { (text::time(line.at_ms.unsigned_abs())) }
                    td { (line.actor) }
                    th scope="row" { (line.action) }
                    td { (line.object) }
                    td { (line.detail) }
                }
            }
        }))
        (layout::further("/audit", lines.next.as_deref()))
    }
}
