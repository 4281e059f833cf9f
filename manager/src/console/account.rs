//! Logging in and out, and the first administrator.

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::gate::Filled;
use super::layout::{self, Page, see};
use crate::api::Api;
use crate::api::access;
use crate::api::body::{Json, Query};
use crate::api::problem::Problem;
use crate::api::session::{self, LogIn, Setup};

/// Where to go afterwards, and whether a session was just begun.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Further {
    #[serde(default)]
    to: String,
    #[serde(default)]
    begun: bool,
}

/// Where to log in, and to come back from to `wanted`.
pub(super) fn login_path(wanted: &str) -> String {
    path(wanted, false)
}

fn path(wanted: &str, begun: bool) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    if is_here(wanted) && wanted != "/" {
        query.append_pair("to", wanted);
    }
    if begun {
        query.append_pair("begun", "true");
    }
    match query.finish() {
        query if query.is_empty() => "/login".to_owned(),
        query => format!("/login?{query}"),
    }
}

/// `path` where it is a page of this site, else none.
pub(super) fn here(path: &str) -> &str {
    if is_here(path) { path } else { "" }
}

/// Where a login ends that has begun a session, to go to `wanted`.
pub(super) fn login_after(wanted: &str) -> String {
    path(wanted, true)
}

/// A page of this site, and nothing that a browser could take for another's.
fn is_here(path: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'\\';
    path.starts_with('/') && !path.starts_with("//") && path.bytes().all(fits)
}

pub(super) async fn log_in_page(
    State(api): State<Api>,
    headers: HeaderMap,
    further: Result<Query<Further>, Problem>,
) -> Response {
    let Query(further) = further.unwrap_or(Query(Further::default()));
    if further.begun && access::identify(&api, &headers).await.is_ok() {
        return see(if is_here(&further.to) {
            &further.to
        } else {
            "/"
        });
    }
    let why = further.begun.then_some(
        "The browser did not keep the session. It keeps it over https, and over http only from the manager's own host: http://127.0.0.1 or a tunnel (ssh -L) that ends there.",
    );
    layout::outside(&asking(&api, why, &further.to))
}

fn asking(api: &Api, why: Option<&str>, to: &str) -> Page {
    let main = html! {
        @if let Some(why) = why { p role="alert" { (why) } }
        form.fields method="post" action="/login" {
            input type="hidden" name="to" value=(to);
            label for="name" { "Name" }
            input #name name="name" required autocomplete="username" autofocus;
            label for="password" { "Password" }
            input #password name="password" type="password" required autocomplete="current-password";
            button { "Log in" }
        }
        @if api.oidc.is_some() { p { a.button href=(elsewhere(to)) { "Log in with OpenID Connect" } } }
    };
    page("Log in", main)
}

/// Where a login with an account of elsewhere begins.
fn elsewhere(to: &str) -> String {
    login_path(to).replacen("/login", "/oidc/login", 1)
}

fn page(title: &str, main: Markup) -> Page {
    Page {
        title: title.to_owned(),
        main,
        ..Page::default()
    }
}

pub(super) async fn log_in(
    State(api): State<Api>,
    Extension(filled): Extension<Filled>,
) -> Response {
    let to = filled.get("to").to_owned();
    let asked = api.clone();
    let begun = async {
        // A name that no account can have is as wrong as any other.
        let wrong = |_| {
            Problem::new(
                StatusCode::UNAUTHORIZED,
                "the name or the password is wrong",
            )
        };
        let log_in = LogIn {
            name: filled.parse("name").map_err(wrong)?,
            password: filled.raw("password"),
        };
        session::log_in(State(api), Json(log_in)).await
    };
    match begun.await {
        Ok(begun) => with_session(&begun, &path(&to, true)),
        Err(problem) => refused(&problem, &asking(&asked, Some(problem.detail()), &to)),
    }
}

pub(super) async fn setup_page() -> Response {
    layout::outside(&setting_up(None, ""))
}

fn setting_up(why: Option<&str>, token: &str) -> Page {
    let main = html! {
        @if let Some(why) = why { p role="alert" { (why) } }
        p { "The manager has printed a link when it was first started. What follows " code { "#" } " in it is the secret." }
        form.fields method="post" action="/setup" {
            label for="token" { "Secret" }
            input #token name="token" required autocomplete="off" value=(token) data-fragment;
            label for="name" { "Your name here" }
            input #name name="name" required maxlength="64" autocomplete="username" value="admin";
            label for="password" { "Password, at least 12 letters" }
            input #password name="password" type="password" required minlength="12" maxlength="256" autocomplete="new-password";
            button { "Become the first administrator" }
        }
    };
    page("First administrator", main)
}

pub(super) async fn setup(
    State(api): State<Api>,
    Extension(filled): Extension<Filled>,
) -> Response {
    let begun = async {
        let setup = Setup {
            token: filled.get("token").to_owned(),
            name: filled.parse("name")?,
            password: filled.raw("password"),
        };
        session::setup(State(api), Json(setup)).await
    };
    match begun.await {
        Ok(begun) => with_session(&begun, &path("", true)),
        Err(problem) => {
            let again = setting_up(Some(problem.detail()), filled.get("token"));
            refused(&problem, &again)
        }
    }
}

pub(super) async fn log_out(State(api): State<Api>, headers: HeaderMap) -> Response {
    match session::log_out(State(api), headers).await {
        Ok(ended) => with_session(&ended, "/login"),
        Err(problem) => layout::problem(None, &problem),
    }
}

/// To `path`, with what the API's answer lets the browser keep.
fn with_session(answer: &Response, path: &str) -> Response {
    let mut response = see(path);
    if let Some(cookie) = answer.headers().get(header::SET_COOKIE) {
        response
            .headers_mut()
            .insert(header::SET_COOKIE, cookie.clone());
    }
    response
}

/// The form again, with the status and the wait of the refusal.
fn refused(problem: &Problem, again: &Page) -> Response {
    let mut response = layout::outside(again);
    *response.status_mut() = problem.status();
    if let Some(wait) = problem.wait().and_then(|wait| wait.parse().ok()) {
        response.headers_mut().insert(header::RETRY_AFTER, wait);
    }
    response.into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_to_another_site() {
        assert_eq!(login_path("/jobs?after=1"), "/login?to=%2Fjobs%3Fafter%3D1");
        for elsewhere in [
            "",
            "/",
            "//evil.example",
            "https://evil.example",
            "/\\evil.example",
            "/a\nb",
        ] {
            assert_eq!(login_path(elsewhere), "/login", "{elsewhere:?}");
        }
    }
}
