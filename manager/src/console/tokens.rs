//! Tokens of people and their programs, and tokens that processes join with.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};

use super::gate::Filled;
use super::layout::{self, Page, Visit, rows, see, table};
use super::text;
use crate::api::Api;
use crate::api::body::{Json, Query};
use crate::api::join::{self, JoinTokenInfo, MadeJoinToken, NewJoinToken};
use crate::api::page::{List, Page as Which};
use crate::api::problem::Problem;
use crate::api::tokens::{self as api_tokens, MadeToken, NewToken};
use crate::users::Role;
use crate::users::credentials::{Caller, TokenInfo};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// How long tokens last, to choose from; in seconds, and in words.
const LIVES: &[(u64, &str)] = &[
    (DAY, "a day"),
    (30 * DAY, "30 days"),
    (90 * DAY, "90 days"),
    (366 * DAY, "a year"),
];
/// And those that processes join with.
const JOIN_LIVES: &[(u64, &str)] = &[(HOUR, "an hour"), (DAY, "a day"), (30 * DAY, "30 days")];

pub(super) async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    which: Result<Query<Which>, Problem>,
) -> Response {
    let visit = Visit::new(caller, "/tokens", &HeaderMap::new());
    let listed = async { api_tokens::list(State(api), visit.extension(), rows(which)?).await };
    match listed.await {
        Ok(tokens) => visit.page(&Page {
            title: "Tokens".to_owned(),
            main: shown(&visit, &tokens.0),
            forms: making(&visit),
        }),
        Err(problem) => visit.problem(&problem),
    }
}

fn shown(visit: &Visit, tokens: &List<TokenInfo>) -> Markup {
    html! {
        (table("Tokens for programs", &["Label", "Of", "Role", "Made", "Good until", "Revoke"], &html! {
            @for token in &tokens.items {
                tr {
                    th scope="row" { (token.label) }
                    td { (token.user) }
                    td { (token.role.as_str()) }
                    td { (text::time(token.created_ms.unsigned_abs())) }
                    td { (text::time(token.expires_ms.unsigned_abs())) }
                    td { (revoking(visit, &format!("/tokens/{}/revoke", token.id), &token.label)) }
                }
            }
            @if tokens.items.is_empty() { tr { td colspan="6" { "None" } } }
        }))
        (layout::further("/tokens", tokens.next.as_deref()))
    }
}

fn revoking(visit: &Visit, action: &str, label: &str) -> Markup {
    html! {
        form method="post" action=(action) {
            (visit.csrf())
            button aria-label={ "Revoke " (label) } { "Revoke" }
        }
    }
}

fn making(visit: &Visit) -> Markup {
    html! {
        h2 { "Make a token" }
        form.fields method="post" action="/tokens" {
            (visit.csrf())
            label for="label" { "What it is for" }
            input #label name="label" required maxlength="128";
            label for="role" { "What it may do" }
            select #role name="role" {
                @for role in Role::ALL.iter().filter(|role| visit.may(**role)) {
                    option value=(role.as_str()) { (role.as_str()) }
                }
            }
            label for="life" { "Good for" }
            (lives(LIVES))
            button { "Make" }
        }
    }
}

fn lives(lives: &[(u64, &str)]) -> Markup {
    html! {
        select #life name="life" {
            @for (seconds, words) in lives { option value=(seconds) { (words) } }
        }
    }
}

pub(super) async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Extension(filled): Extension<Filled>,
) -> Response {
    let visit = Visit::new(caller, "/tokens", &HeaderMap::new());
    match make(api, &visit, &filled).await {
        Ok(made) => visit.came_of(&once("/tokens", "Token made", &made.token)),
        Err(problem) => visit.problem(&problem),
    }
}

async fn make(api: Api, visit: &Visit, filled: &Filled) -> Result<MadeToken, Problem> {
    let new = NewToken {
        label: filled.get("label").to_owned(),
        role: filled.parse("role")?,
        expires_in_seconds: filled.number("life")?,
    };
    let (_, made) = api_tokens::create(State(api), visit.extension(), Json(new)).await?;
    Ok(made.0)
}

/// A secret, which is shown this once.
fn once(back: &str, title: &str, secret: &str) -> Page {
    Page {
        title: title.to_owned(),
        main: html! {
            p { "It is shown this once: copy it now." }
            p { label for="secret" { "Token" } " " input #secret .secret readonly value=(secret); }
            p { a href=(back) { "Back to the list" } }
        },
        ..Page::default()
    }
}

pub(super) async fn revoke(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Response {
    let visit = Visit::new(caller, "/tokens", &HeaderMap::new());
    match api_tokens::revoke(State(api), visit.extension(), Path(id)).await {
        Ok(_) => see("/tokens"),
        Err(problem) => visit.problem(&problem),
    }
}

pub(super) async fn list_join(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    which: Result<Query<Which>, Problem>,
) -> Response {
    let visit = Visit::new(caller, "/join-tokens", &HeaderMap::new());
    let listed = async { join::list(State(api), rows(which)?).await };
    match listed.await {
        Ok(tokens) => visit.page(&Page {
            title: "Join tokens".to_owned(),
            main: shown_join(&visit, &tokens.0),
            forms: making_join(&visit),
        }),
        Err(problem) => visit.problem(&problem),
    }
}

fn shown_join(visit: &Visit, tokens: &List<JoinTokenInfo>) -> Markup {
    html! {
        p { "A process joins the cluster with one. Who has joined stays when its token is revoked." }
        (table("Tokens that are not over", &["Token", "Role", "Used", "Good until", "Revoke"], &html! {
            @for token in &tokens.items {
                tr {
                    th scope="row" { (token.id) }
                    td { (token.role) }
                    td.number { (token.used) "/" (token.uses.map_or("any".to_owned(), |uses| uses.to_string())) }
                    td { (text::time(token.expires_ms)) }
                    td { (revoking(visit, &format!("/join-tokens/{}/revoke", token.id), &token.id)) }
                }
            }
            @if tokens.items.is_empty() { tr { td colspan="5" { "None" } } }
        }))
        (layout::further("/join-tokens", tokens.next.as_deref()))
    }
}

fn making_join(visit: &Visit) -> Markup {
    html! {
        h2 { "Make a join token" }
        form.fields method="post" action="/join-tokens" {
            (visit.csrf())
            label for="role" { "Its holder becomes a" }
            select #role name="role" {
                @for role in ["mirror", "seed", "scheduler"] { option value=(role) { (role) } }
            }
            label for="uses" { "Processes that may join with it" }
            input #uses name="uses" type="number" min="1" max="10000" value="1" required;
            label for="life" { "Good for" }
            (lives(JOIN_LIVES))
            button { "Make" }
        }
    }
}

pub(super) async fn create_join(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Extension(filled): Extension<Filled>,
) -> Response {
    let visit = Visit::new(caller, "/join-tokens", &HeaderMap::new());
    match make_join(api, &visit, &filled).await {
        Ok(made) => visit.came_of(&once("/join-tokens", "Join token made", &made.token)),
        Err(problem) => visit.problem(&problem),
    }
}

async fn make_join(api: Api, visit: &Visit, filled: &Filled) -> Result<MadeJoinToken, Problem> {
    let new = NewJoinToken {
        role: filled.parse("role")?,
        uses: filled.number("uses")?,
        expires_in_seconds: filled.number("life")?,
    };
    let (_, made) = join::create(State(api), visit.extension(), Json(new)).await?;
    Ok(made.0)
}

pub(super) async fn revoke_join(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Response {
    let visit = Visit::new(caller, "/join-tokens", &HeaderMap::new());
    match join::revoke(State(api), visit.extension(), Path(id)).await {
        Ok(_) => see("/join-tokens"),
        Err(problem) => visit.problem(&problem),
    }
}
