//! Accounts.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use maud::{Markup, html};

use super::asked::{Asked, Field, Kind};
use super::gate::Filled;
use super::layout::{self, Page, Visit, see, table};
use super::text;
use crate::api::Api;
use crate::api::body::{Json, Query};
use crate::api::page::List;
use crate::api::people::{self as api_people, ChangedUser, NewUser, Which};
use crate::api::problem::Problem;
use crate::users::Role;
use crate::users::accounts::Account;
use crate::users::credentials::Caller;

const FIELDS: &[Field] = &[Field {
    name: "role",
    label: "Role",
    kind: Kind::OneOf(&["viewer", "operator", "admin"]),
}];

pub(super) async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    asked: Result<Asked<Which>, Problem>,
) -> Response {
    let visit = Visit::new(caller, "/users", &HeaderMap::new());
    let listed = async {
        let asked = asked?;
        let users = api_people::list(State(api), Query(asked.which.clone()));
        let users = users.await?.0;
        Ok(Page {
            title: "Users".to_owned(),
            main: shown(&visit, &users, &asked.path()),
            forms: html! { (making(&visit)) (asked.form("Look for accounts", FIELDS)) },
        })
    };
    match listed.await {
        Ok(page) => visit.page(&page),
        Err(problem) => visit.problem(&problem),
    }
}

fn shown(visit: &Visit, users: &List<Account>, path: &str) -> Markup {
    html! {
        (table("Accounts", &["Name", "Made", "Role", "Remove"], &html! {
            @for user in &users.items {
                tr {
                    th scope="row" { (user.name) }
                    td { (text::time(user.created_ms.unsigned_abs())) }
                    td {
                        form method="post" action={ "/users/" (user.name) } {
                            (visit.csrf())
                            input type="hidden" name="version" value=(user.version);
                            (roles(&format!("Role of {}", user.name), user.role))
                            " "
                            button aria-label={ "Change the role of " (user.name) } { "Change" }
                        }
                    }
                    td {
                        form method="post" action={ "/users/" (user.name) "/remove" } {
                            (visit.csrf())
                            button aria-label={ "Remove " (user.name) } { "Remove" }
                        }
                    }
                }
            }
        }))
        (layout::further(path, users.next.as_deref()))
    }
}

fn roles(name: &str, chosen: Role) -> Markup {
    html! {
        select name="role" aria-label=(name) {
            @for role in Role::ALL {
                option value=(role.as_str()) selected[role == chosen] { (role.as_str()) }
            }
        }
    }
}

fn making(visit: &Visit) -> Markup {
    html! {
        h2 { "Make an account" }
        form.fields method="post" action="/users" {
            (visit.csrf())
            label for="name" { "Name" }
            input #name name="name" required maxlength="64" autocomplete="off";
            label for="password" { "First password, at least 12 letters" }
            input #password name="password" type="password" required minlength="12" maxlength="256" autocomplete="new-password";
            span { "Role" }
            (roles("Role", Role::Viewer))
            button { "Make" }
        }
    }
}

pub(super) async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Extension(filled): Extension<Filled>,
) -> Response {
    let visit = Visit::new(caller, "/users", &HeaderMap::new());
    let made = async {
        let new = NewUser {
            name: filled.parse("name")?,
            role: filled.parse("role")?,
            password: filled.raw("password"),
        };
        api_people::create(State(api), visit.extension(), Json(new)).await
    };
    after(&visit, made.await)
}

pub(super) async fn change(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Extension(filled): Extension<Filled>,
) -> Response {
    let visit = Visit::new(caller, "/users", &HeaderMap::new());
    let changed = async {
        let version: u64 = filled.number("version")?;
        let mut headers = HeaderMap::new();
        if let Ok(tag) = HeaderValue::try_from(format!("\"{version}\"")) {
            headers.insert(header::IF_MATCH, tag);
        }
        let wanted = ChangedUser {
            role: Some(filled.parse("role")?),
            password: None,
        };
        api_people::change(
            State(api),
            visit.extension(),
            Path(name),
            headers,
            Json(wanted),
        )
        .await
    };
    after(&visit, changed.await)
}

pub(super) async fn remove(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Response {
    let visit = Visit::new(caller, "/users", &HeaderMap::new());
    let removed = {
        let headers = HeaderMap::new();
        api_people::remove(State(api), visit.extension(), Path(name), headers).await
    };
    after(&visit, removed)
}

fn after<T>(visit: &Visit, done: Result<T, Problem>) -> Response {
    match done {
        Ok(_) => see("/users"),
        Err(problem) => visit.problem(&problem),
    }
}
