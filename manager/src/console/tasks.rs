//! What is on its way: all tasks, one with its piece map, and who feeds whom.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};

use super::asked::{Asked, Field, Kind};
use super::layout::{Page, Visit, further, table};
use super::picture::pieces::{Bar, piece_map};
use super::picture::topology::{self, Link, topology};
use super::text;
use crate::api::Api;
use crate::api::body::Query;
use crate::api::problem::Problem;
use crate::api::tasks::{
    self as look, Run, ShownTask, TaskList, TaskNode, TaskSummary, Topology, Which,
};
use crate::users::credentials::Caller;

/// Nodes whose pieces are drawn.
const BARS: usize = 64;
/// Links that are listed.
const LINKS: usize = 500;

const FIELDS: &[Field] = &[
    Field {
        name: "kind",
        label: "Kind",
        kind: Kind::OneOf(&["layer", "file"]),
    },
    Field {
        name: "registry",
        label: "Registry",
        kind: Kind::Text,
    },
    Field {
        name: "repository",
        label: "Repository in it",
        kind: Kind::Text,
    },
];

pub(super) async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    asked: Result<Asked<Which>, Problem>,
) -> Response {
    let visit = Visit::new(caller, "/tasks", &headers);
    let asked = match asked {
        Ok(asked) => asked,
        Err(problem) => return visit.problem(&problem),
    };
    visit
        .live(&api, asked, move |api, _, asked| async move {
            let tasks = look::list(State(api), Query(asked.which.clone())).await?.0;
            Ok(Page {
                title: "Tasks".to_owned(),
                main: all(&tasks, &asked.path()),
                forms: asked.form("Look for tasks", FIELDS),
            })
        })
        .await
}

fn all(tasks: &TaskList, path: &str) -> Markup {
    let heads = [
        "Task", "Of", "Size", "Nodes", "Have all", "Progress", "Speed", "Reading",
    ];
    html! {
        p {
            (tasks.answering) " of " (tasks.schedulers) " schedulers answer; they know "
            (text::number(tasks.tasks)) " tasks. " a href="/swarm" { "Who feeds whom" }
        }
        (table("What is on its way", &heads, &html! {
            @for task in &tasks.items { (row(task)) }
            @if tasks.items.is_empty() { tr { td colspan="8" { "Nothing" } } }
        }))
        (further(path, tasks.next.as_deref()))
    }
}

fn row(task: &TaskSummary) -> Markup {
    html! {
        tr {
            th scope="row" { a href={ "/tasks/" (task.id) } { code { (text::short(&task.id)) } } }
            td { @for source in &task.sources { (source) br; } }
            td.number { (text::bytes(task.size_bytes)) }
            td.number { (task.nodes) }
            td.number { (task.complete_nodes) }
            td { (progress(task)) }
            td.number { (speed(task.bytes_per_second)) }
            td.number { (task.leases) }
        }
    }
}

fn progress(task: &TaskSummary) -> Markup {
    let percent = format!("{:.0}", task.progress * 100.0);
    html! {
        progress max="100" value=(percent) aria-label={ "Progress of " (task.id) } {}
        " " (percent) " %"
    }
}

fn speed(rate: Option<u64>) -> String {
    rate.map_or("–".to_owned(), |rate| format!("{}/s", text::bytes(rate)))
}

pub(super) async fn show(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let visit = Visit::new(caller, "/tasks", &headers);
    visit
        .live(&api, id, move |api, _, id| async move {
            let task = look::show(State(api), Path(id)).await?.0;
            Ok(Page {
                title: "Task".to_owned(),
                main: one(&task),
                ..Page::default()
            })
        })
        .await
}

fn one(shown: &ShownTask) -> Markup {
    let task = &shown.task;
    html! {
        dl.facts {
            div { dt { "Content" } dd { code { (task.id) } } }
            @for source in &task.sources { div { dt { "Of" } dd { (source) } } }
            div { dt { "Size" } dd { (text::bytes(task.size_bytes)) " in " (task.pieces) " pieces" } }
            div { dt { "Nodes" } dd { (task.nodes) " take part, " (task.complete_nodes) " of them have all; " (task.holders) " hold it" } }
            div { dt { "Progress" } dd { (progress(task)) } }
            div { dt { "Speed" } dd { (speed(task.bytes_per_second)) } }
            div { dt { "Copies of a piece" } dd { (shown.least_copies) " at least, " (format!("{:.1}", shown.mean_copies)) " on average" } }
        }
        (piece_map("Pieces on nodes", task.pieces, &bars(shown)))
        (table("Who feeds whom", &["Node", "Has", "Speed", "Fetches from"], &html! {
            @for node in &shown.participants { (feeding(node)) }
            @if shown.participants.is_empty() { tr { td colspan="4" { "Nobody takes part" } } }
        }))
    }
}

fn feeding(node: &TaskNode) -> Markup {
    html! {
        tr {
            th scope="row" { a href={ "/nodes/" (node.node) } { (named(node)) } }
            td.number { (format!("{:.0} %", node.progress * 100.0)) }
            td.number { (speed(node.bytes_per_second)) }
            td {
                @if !node.reading.is_empty() { "the registry" @if !node.parents.is_empty() { ", " } }
                (node.parents.join(", "))
            }
        }
    }
}

fn named(node: &TaskNode) -> String {
    match node.seed {
        true => format!("{} (seed)", node.node),
        false => node.node.clone(),
    }
}

fn bars(shown: &ShownTask) -> Vec<Bar> {
    let runs = |runs: &[Run]| runs.iter().map(|run| (run.first, run.count)).collect();
    let nodes = shown.participants.iter().take(BARS);
    let bars = nodes.map(|node| Bar {
        name: named(node),
        held: runs(&node.held),
        reading: runs(&node.reading),
    });
    bars.collect()
}

pub(super) async fn swarm(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Response {
    let visit = Visit::new(caller, "/tasks", &headers);
    visit
        .live(&api, (), move |api, _, _| async move {
            let shape = look::swarm(State(api)).await.0;
            Ok(Page {
                title: "Swarm".to_owned(),
                main: whole(&shape),
                ..Page::default()
            })
        })
        .await
}

fn whole(shape: &Topology) -> Markup {
    let nodes = shape.nodes.iter().map(|node| topology::Node {
        name: node.node.clone(),
        seed: node.seed,
        zone: node.zone.clone().unwrap_or_default(),
    });
    let links = shape.links.iter().map(|link| Link {
        from: link.from.clone(),
        to: link.to.clone(),
        tasks: link.tasks,
    });
    let (nodes, links): (Vec<_>, Vec<_>) = (nodes.collect(), links.collect());
    let left = shape.links.len().saturating_sub(LINKS);
    html! {
        (topology("Who feeds whom now", &nodes, &links))
        details open[links.is_empty()] {
            summary { "Data" }
            (table("Links", &["From", "To", "Tasks"], &html! {
                @for link in shape.links.iter().take(LINKS) {
                    tr { th scope="row" { (link.from) } td { (link.to) } td.number { (link.tasks) } }
                }
                @if shape.links.is_empty() { tr { td colspan="3" { "Nothing is on its way" } } }
            }))
            @if left > 0 { p { (left) " more are in the API's answer." } }
        }
    }
}
