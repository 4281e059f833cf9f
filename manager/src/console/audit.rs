//! Who changed what.

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};

use super::asked::{Asked, Field, Kind};
use super::layout::{self, Page, Visit, table};
use super::text;
use crate::api::Api;
use crate::api::body::Query;
use crate::api::log::{self, Which};
use crate::api::page::List;
use crate::api::problem::Problem;
use crate::users::audit::Line;
use crate::users::credentials::Caller;

const FIELDS: &[Field] = &[
    Field {
        name: "actor",
        label: "Who",
        kind: Kind::Text,
    },
    Field {
        name: "action",
        label: "What, such as user.create",
        kind: Kind::Text,
    },
    Field {
        name: "object",
        label: "To what",
        kind: Kind::Text,
    },
    Field {
        name: "since",
        label: "From then on, such as 2026-07-01T12:00 (UTC)",
        kind: Kind::Text,
    },
    Field {
        name: "until",
        label: "Before then (UTC)",
        kind: Kind::Text,
    },
];

pub(super) async fn show(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    asked: Result<Asked<Which>, Problem>,
) -> Response {
    let visit = Visit::new(caller, "/audit", &HeaderMap::new());
    let listed = async {
        let asked = asked?;
        let lines = log::list(State(api), Query(asked.which.clone())).await?.0;
        Ok(Page {
            title: "Audit".to_owned(),
            main: main(&lines, &asked.path()),
            forms: asked.form("Look for changes", FIELDS),
        })
    };
    match listed.await {
        Ok(page) => visit.page(&page),
        Err(problem) => visit.problem(&problem),
    }
}

fn main(lines: &List<Line>, path: &str) -> Markup {
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
            @if lines.items.is_empty() { tr { td colspan="5" { "None" } } }
        }))
        (layout::further(path, lines.next.as_deref()))
    }
}
