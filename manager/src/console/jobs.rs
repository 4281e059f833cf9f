//! Jobs: begin one, see all, follow one.

use std::collections::BTreeMap;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use maud::{Markup, html};

use super::asked::{Asked, Field, Kind};
use super::gate::Filled;
use super::layout::{self, Page, Visit, see, table};
use super::picture::{self, Square};
use super::text;
use crate::api::Api;
use crate::api::body::Query;
use crate::api::jobs::{self as api_jobs, IDEMPOTENCY_KEY, ShownJob, Which};
use crate::api::page::List;
use crate::api::problem::Problem;
use crate::jobs::job::{Item, Phase, State as Stage, Summary};
use crate::jobs::plan::Plan;
use crate::random;
use crate::users::Role;
use crate::users::credentials::Caller;

/// Of a large job, so many items are listed: those that have not ended first, then what failed.
const ITEMS: usize = 500;
/// And so many squares are drawn.
const SQUARES: usize = 2048;

const FIELDS: &[Field] = &[
    Field {
        name: "phase",
        label: "State",
        kind: Kind::OneOf(&["running", "done", "failed", "cancelled"]),
    },
    Field {
        name: "by",
        label: "By",
        kind: Kind::Text,
    },
];

pub(super) async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    asked: Result<Asked<Which>, Problem>,
) -> Response {
    let visit = Visit::new(caller, "/jobs", &headers);
    let asked = match asked {
        Ok(asked) => asked,
        Err(problem) => return visit.problem(&problem),
    };
    visit
        .live(&api, asked, move |api, visit, asked| async move {
            let which = Query(asked.which.clone());
            let jobs = api_jobs::list(State(api), which).await?.0;
            Ok(Page {
                title: "Jobs".to_owned(),
                main: summaries(&jobs, &asked.path()),
                forms: html! { (beginning(&visit)) (asked.form("Look for jobs", FIELDS)) },
            })
        })
        .await
}

fn summaries(jobs: &List<Summary>, path: &str) -> Markup {
    html! {
        (table("Jobs, the latest first", &["Job", "State", "Done", "Bytes", "To", "Images and files", "By", "Begun"], &html! {
            @for job in &jobs.items {
                tr {
                    th scope="row" { a href={ "/jobs/" (job.id) } { (job.id) } }
                    td { (phase(job.phase)) }
                    td.number { (job.done) "/" (job.items) }
                    td { (progress(job)) }
                    td { (job.to) }
                    td { @for name in job.images.iter().chain(&job.files) { (name) br; } }
                    td { (job.by) }
                    td { (text::time(job.created_ms)) }
                }
            }
            @if jobs.items.is_empty() { tr { td colspan="8" { "None" } } }
        }))
        (layout::further(path, jobs.next.as_deref()))
    }
}

/// A key of its own, so that a form sent twice begins one job.
fn beginning(visit: &Visit) -> Markup {
    html! {
        @if visit.may(Role::Operator) {
            h2 { "Have nodes hold images and files ahead of time" }
            form.fields method="post" action="/jobs" {
                (visit.csrf())
                input type="hidden" name="key" value=(random::hexadecimal::<16>());
                label for="images" { "Images and files, one a line" }
                textarea #images name="images" rows="3" required aria-describedby="images-form" {}
                p #images-form .hint { (NAMED) }
                (where_to())
                button { "Begin" }
            }
        }
    }
}

/// The fields of a form that say where to and how.
/// How images and files are named in a form.
pub(super) const NAMED: &str =
    "registry/repository:tag, registry/repository@digest, or the https:// URL of a file";

pub(super) fn where_to() -> Markup {
    html! {
        label for="to" { "To" }
        input #to name="to" value="nodes" required aria-describedby="to-form";
        p #to-form .hint { "seeds, nodes (seeds and mirrors), or a label of mirrors such as label=zone=a" }
        label for="platform" { "Platform" }
        input #platform name="platform" aria-describedby="platform-form";
        p #platform-form .hint { "os/architecture; empty for each node's own" }
        label for="at_once" { "Mirrors at once" }
        input #at_once name="at_once" inputmode="numeric" aria-describedby="at_once-form";
        p #at_once-form .hint { "empty for 64" }
        label for="mib_per_second" { "MiB a second, each node" }
        input #mib_per_second name="mib_per_second" inputmode="numeric" aria-describedby="rate-form";
        p #rate-form .hint { "empty for as many as there are" }
    }
}

pub(super) async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Extension(filled): Extension<Filled>,
) -> Response {
    let visit = Visit::new(caller, "/jobs", &HeaderMap::new());
    match begin(api, &visit, &filled).await {
        Ok(place) => see(&place),
        Err(problem) => visit.problem(&problem),
    }
}

/// What a form says of a job.
pub(super) fn plan(filled: &Filled) -> Result<Plan, Problem> {
    let platform = filled.get("platform");
    let named = filled.get("images").split_whitespace();
    let (files, images) = named
        .map(str::to_owned)
        .partition(|name| name.contains("://"));
    Ok(Plan {
        images,
        files,
        platform: (!platform.is_empty()).then(|| platform.to_owned()),
        to: filled.get("to").to_owned(),
        at_once: filled.optional("at_once")?,
        bytes_per_second: rate(filled)?,
    })
}

/// Bytes a second, of a form that asks for MiB.
pub(super) fn rate(filled: &Filled) -> Result<Option<u64>, Problem> {
    let mib = filled.optional::<u64>("mib_per_second")?;
    Ok(mib.map(|mib| mib.saturating_mul(1 << 20)))
}

async fn begin(api: Api, visit: &Visit, filled: &Filled) -> Result<String, Problem> {
    let new = plan(filled)?;
    let mut headers = HeaderMap::new();
    if let (Ok(key), false) = (
        HeaderValue::try_from(filled.get("key")),
        filled.get("key").is_empty(),
    ) {
        headers.insert(IDEMPOTENCY_KEY, key);
    }
    let job = api_jobs::begin(&api, &visit.caller, &headers, new)
        .await?
        .job();
    Ok(format!("/jobs/{}", job.id))
}

pub(super) async fn show(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let visit = Visit::new(caller, "/jobs", &headers);
    visit
        .live(&api, id, move |api, visit, id| async move {
            let shown = api_jobs::show(State(api), Path(id)).await?.0;
            Ok(Page {
                title: format!("Job {}", shown.job.id),
                main: one(&visit, &shown),
                ..Page::default()
            })
        })
        .await
}

fn one(visit: &Visit, shown: &ShownJob) -> Markup {
    let job = &shown.job;
    let summary = job.summary();
    let platform = job.platform.as_deref().unwrap_or("each node's own");
    html! {
        dl.facts {
            div { dt { "State" } dd { (phase(shown.phase)) } }
            div { dt { "Done" } dd { (summary.done) " of " (summary.items) } }
            div { dt { "Failed" } dd { (summary.failed) } }
            div { dt { "Bytes" } dd { (progress(&summary)) } }
            div { dt { "To" } dd { (job.to) } }
            div { dt { "Platform" } dd { (platform) } }
            @if let Some(at_once) = job.limits.at_once { div { dt { "Mirrors at once" } dd { (at_once) } } }
            @if let Some(rate) = job.limits.bytes_per_second {
                div { dt { "Each node takes in" } dd { (text::bytes(rate)) " a second" } }
            }
            div { dt { "By" } dd { (job.by) } }
            div { dt { "Begun" } dd { (text::time(job.created_ms)) } }
        }
        (changing(visit, shown))
        (picture::grid("Images and files on nodes", &squares(shown)))
        (items(shown))
    }
}

/// What can be done to it now.
fn changing(visit: &Visit, shown: &ShownJob) -> Markup {
    let (verb, says) = match shown.phase {
        Phase::Running => ("cancel", "Call off what is not done"),
        Phase::Failed | Phase::Cancelled => ("retry", "Begin again with what is not done"),
        Phase::Done => return html! {},
    };
    html! {
        @if visit.may(Role::Operator) {
            form method="post" action={ "/jobs/" (shown.job.id) "/" (verb) } {
                (visit.csrf())
                button { (says) }
            }
        }
    }
}

fn squares(shown: &ShownJob) -> Vec<(String, Vec<Square>)> {
    let mut rows: BTreeMap<u32, Vec<Square>> = BTreeMap::new();
    for item in shown.job.items.iter().take(SQUARES) {
        rows.entry(item.image).or_default().push(Square {
            name: format!("{}: {}", item.node, stage(item)),
            state: stage(item),
            filled: match item.state {
                Stage::Done => 100,
                _ => text::hundredths(item.held.bytes, item.held.total_bytes),
            },
        });
    }
    let named = rows
        .into_iter()
        .map(|(image, squares)| (image_of(shown, image), squares));
    named.collect()
}

fn items(shown: &ShownJob) -> Markup {
    let mut items: Vec<&Item> = shown.job.items.iter().collect();
    items.sort_by_key(|item| match item.state {
        Stage::Running => 0,
        Stage::Failed { .. } => 1,
        Stage::Waiting { .. } => 2,
        Stage::Cancelled | Stage::Done => 3,
    });
    let left = items.len().saturating_sub(ITEMS);
    let heads = [
        "Node",
        "State",
        "Bytes",
        "Blobs",
        "Attempt",
        "Image or file",
        "Why",
    ];
    html! {
        (table("Every image and file on every node", &heads, &html! {
            @for item in items.iter().take(ITEMS) {
                tr {
                    th scope="row" { a href={ "/nodes/" (item.node) } { (item.node) } @if item.seed { " (seed)" } }
                    td { (stage(item)) }
                    td.number {
                        (text::bytes(item.held.bytes)) " of " (text::bytes(item.held.total_bytes))
                        @if !item.coming.is_empty() { (coming(item)) }
                    }
                    td.number { (item.held.blobs) "/" (item.held.total_blobs) }
                    td.number { (item.attempt) "/" (item.last_attempt) }
                    td { (image_of(shown, item.image)) }
                    td { (why(item)) }
                }
            }
        }))
        @if left > 0 { p { (left) " more are in the API's answer." } }
    }
}

/// The layers that are on their way.
fn coming(item: &Item) -> Markup {
    html! {
        ul.layers {
            @for layer in &item.coming {
                @let hundredths = text::hundredths(layer.bytes, layer.total_bytes);
                @let short = text::short(&layer.digest);
                li {
                    code title=(layer.digest) { (short) } " "
                    progress max="100" value=(hundredths) aria-label={ "Layer " (short) " on " (item.node) } { (hundredths) " %" }
                    " " (hundredths) " %"
                }
            }
        }
    }
}

fn image_of(shown: &ShownJob, image: u32) -> String {
    shown.job.name(image).to_owned()
}

fn stage(item: &Item) -> &'static str {
    match item.state {
        Stage::Waiting { .. } => "waiting",
        Stage::Running => "running",
        Stage::Failed { .. } => "failed",
        Stage::Cancelled => "cancelled",
        Stage::Done => "done",
    }
}

fn why(item: &Item) -> &str {
    match &item.state {
        Stage::Failed { why, .. } => why,
        Stage::Waiting { why, .. } => why.as_deref().unwrap_or_default(),
        _ => "",
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Running => "running",
        Phase::Done => "done",
        Phase::Failed => "failed",
        Phase::Cancelled => "cancelled",
    }
}

fn progress(job: &Summary) -> Markup {
    let hundredths = match job.phase {
        Phase::Done => 100,
        _ => text::hundredths(job.bytes, job.total_bytes),
    };
    html! {
        progress max="100" value=(hundredths) aria-label={ "Bytes of job " (job.id) } { (hundredths) " %" }
        " " (text::bytes(job.bytes)) " of " (text::bytes(job.total_bytes))
    }
}

pub(super) async fn cancel(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Response {
    let visit = Visit::new(caller, "/jobs", &HeaderMap::new());
    let changed = api_jobs::cancel(State(api), visit.extension(), Path(id)).await;
    after(&visit, changed)
}

pub(super) async fn retry(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Response {
    let visit = Visit::new(caller, "/jobs", &HeaderMap::new());
    let changed = api_jobs::retry(State(api), visit.extension(), Path(id)).await;
    after(&visit, changed)
}

fn after(visit: &Visit, changed: Result<axum::Json<ShownJob>, Problem>) -> Response {
    match changed {
        Ok(shown) => see(&format!("/jobs/{}", shown.0.job.id)),
        Err(problem) => visit.problem(&problem),
    }
}
