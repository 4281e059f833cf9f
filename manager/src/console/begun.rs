//! What begins jobs by itself: schedules, and webhooks of registries.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};

use super::gate::Filled;
use super::jobs::{NAMED, plan, rate, where_to};
use super::layout::{Page, Visit, see, table};
use super::text;
use crate::api::Api;
use crate::api::body::{Json, Query};
use crate::api::page::Page as Which;
use crate::api::problem::Problem;
use crate::api::schedules::{self as api_schedules, NewSchedule};
use crate::api::webhooks::{self as api_webhooks, NewHook};
use crate::hooks::{Hook, Wiring};
use crate::jobs::schedules::Schedule;
use crate::users::Role;
use crate::users::credentials::Caller;

const KINDS: &[(&str, &str)] = &[
    ("harbor", "Harbor"),
    ("distribution", "distribution (notifications)"),
    ("github", "GitHub packages"),
];

pub(super) async fn show(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Response {
    let visit = Visit::new(caller, "/schedules", &HeaderMap::new());
    let listed = async {
        let all = || Query(Which::default());
        let schedules = api_schedules::list(State(api.clone()), all()).await?.0;
        let hooks = api_webhooks::list(State(api.clone()), all()).await?.0;
        Ok::<_, Problem>((schedules.items, hooks.items))
    };
    match listed.await {
        Ok((schedules, hooks)) => visit.page(&Page {
            title: "Schedules and webhooks".to_owned(),
            main: html! { (scheduled(&visit, &schedules)) (hooked(&visit, &hooks)) },
            forms: html! { (scheduling(&visit)) (hooking(&visit)) },
        }),
        Err(problem) => visit.problem(&problem),
    }
}

fn scheduled(visit: &Visit, schedules: &[Schedule]) -> Markup {
    let heads = [
        "Name",
        "When (UTC)",
        "Next",
        "Last job",
        "To",
        "Images and files",
        "By",
        "Remove",
    ];
    html! {
        (table("Schedules", &heads, &html! {
            @for schedule in schedules {
                tr {
                    th scope="row" { (schedule.name) }
                    td { code { (schedule.cron) } }
                    td { (text::time(schedule.next_ms.unsigned_abs())) }
                    td {
                        @if let Some(job) = &schedule.last_job { a href={ "/jobs/" (job) } { (job) } }
                        @if let Some(trouble) = &schedule.trouble { " None the last time: " (trouble) }
                    }
                    td { (schedule.job.to) }
                    td { @for name in schedule.job.names() { (name) br; } }
                    td { (schedule.by) }
                    td { (removing(visit, Role::Operator, "/schedules", &schedule.name)) }
                }
            }
            @if schedules.is_empty() { tr { td colspan="8" { "None" } } }
        }))
    }
}

fn hooked(visit: &Visit, hooks: &[Hook]) -> Markup {
    let heads = [
        "Name",
        "Of",
        "Registry",
        "Repositories",
        "To",
        "By",
        "Remove",
    ];
    html! {
        (table("Webhooks", &heads, &html! {
            @for hook in hooks {
                tr {
                    th scope="row" { (hook.name) }
                    td { (hook.wiring.kind.as_str()) }
                    td { (hook.wiring.registry) }
                    td { @for repository in &hook.wiring.repositories { (repository) br; } }
                    td { (hook.wiring.to) }
                    td { (hook.by) }
                    td { (removing(visit, Role::Admin, "/webhooks", &hook.name)) }
                }
            }
            @if hooks.is_empty() { tr { td colspan="7" { "None" } } }
        }))
    }
}

fn removing(visit: &Visit, needs: Role, path: &str, name: &str) -> Markup {
    html! {
        @if visit.may(needs) {
            form method="post" action={ (path) "/" (name) "/remove" } {
                (visit.csrf())
                button aria-label={ "Remove " (name) } { "Remove" }
            }
        }
    }
}

fn scheduling(visit: &Visit) -> Markup {
    html! {
        @if visit.may(Role::Operator) {
            details {
                summary { "Make a schedule" }
                form.fields method="post" action="/schedules" {
                    (visit.csrf())
                    label for="name" { "Name" }
                    input #name name="name" required maxlength="64";
                    label for="cron" { "When" }
                    input #cron name="cron" required aria-describedby="cron-form";
                    p #cron-form .hint { "minute, hour, day of the month, month and day of the week, in UTC, such as 30 3 * * MON-FRI" }
                    label for="images" { "Images and files, one a line" }
                    textarea #images name="images" rows="3" required aria-describedby="images-form" {}
                    p #images-form .hint { (NAMED) }
                    (where_to())
                    button { "Make" }
                }
            }
        }
    }
}

fn hooking(visit: &Visit) -> Markup {
    html! {
        @if visit.may(Role::Admin) {
            p { a href="/webhooks/new" { "Make a webhook" } }
        }
    }
}

pub(super) async fn new_hook(Extension(caller): Extension<Caller>) -> Response {
    let visit = Visit::new(caller, "/schedules", &HeaderMap::new());
    visit.page(&Page {
        title: "Make a webhook".to_owned(),
        main: html! {
            p { "The registry tells of every push, and the image is brought to nodes before anybody pulls it." }
            form.fields method="post" action="/webhooks" {
                (visit.csrf())
                label for="name" { "Name" }
                input #name name="name" required maxlength="64";
                label for="kind" { "Who notifies" }
                select #kind name="kind" { @for (value, words) in KINDS { option value=(value) { (words) } } }
                label for="registry" { "Registry" }
                input #registry name="registry" required aria-describedby="registry-form";
                p #registry-form .hint { "as nodes name it" }
                label for="repositories" { "Repositories, one a line" }
                textarea #repositories name="repositories" rows="3" required aria-describedby="repositories-form" {}
                p #repositories-form .hint { "by name, team/* for all below, or * for all" }
                (where_to())
                button { "Make" }
            }
        },
        ..Page::default()
    })
}

pub(super) async fn create_schedule(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Extension(filled): Extension<Filled>,
) -> Response {
    let visit = Visit::new(caller, "/schedules", &HeaderMap::new());
    let made = async {
        let new = NewSchedule {
            name: filled.parse("name")?,
            cron: filled.get("cron").to_owned(),
            job: plan(&filled)?,
        };
        api_schedules::create(State(api), visit.extension(), Json(new)).await
    };
    after(&visit, made.await.map(drop))
}

pub(super) async fn create_hook(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Extension(filled): Extension<Filled>,
) -> Response {
    let visit = Visit::new(caller, "/schedules", &HeaderMap::new());
    let made = async {
        let job = plan(&filled)?;
        let repositories = filled.get("repositories").split_whitespace();
        let new = NewHook {
            name: filled.parse("name")?,
            hook: Wiring {
                kind: filled.parse("kind")?,
                registry: filled.get("registry").to_owned(),
                repositories: repositories.map(str::to_owned).collect(),
                platform: job.platform,
                to: job.to,
                at_once: job.at_once,
                bytes_per_second: rate(&filled)?,
            },
        };
        api_webhooks::make(&api, &visit.caller, new).await
    };
    match made.await {
        Ok(made) => visit.came_of(&Page {
            title: "Webhook made".to_owned(),
            main: html! {
                p { "The secret is shown this once: copy it now." }
                p { label for="path" { "Path on this manager" } " " input #path readonly value=(made.path); }
                p { label for="secret" { "Secret" } " " input #secret .secret readonly value=(made.secret); }
                p { a href="/schedules" { "Back to the list" } }
            },
            ..Page::default()
        }),
        Err(problem) => visit.problem(&problem),
    }
}

pub(super) async fn remove_schedule(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Response {
    let visit = Visit::new(caller, "/schedules", &HeaderMap::new());
    let (extension, headers) = (visit.extension(), HeaderMap::new());
    let removed = api_schedules::remove(State(api), extension, Path(name), headers).await;
    after(&visit, removed.map(drop))
}

pub(super) async fn remove_hook(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Response {
    let visit = Visit::new(caller, "/schedules", &HeaderMap::new());
    let (extension, headers) = (visit.extension(), HeaderMap::new());
    let removed = api_webhooks::remove(State(api), extension, Path(name), headers).await;
    after(&visit, removed.map(drop))
}

fn after(visit: &Visit, changed: Result<(), Problem>) -> Response {
    match changed {
        Ok(()) => see("/schedules"),
        Err(problem) => visit.problem(&problem),
    }
}
