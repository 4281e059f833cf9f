//! What all pages have around them, and the two ways in which one is served.

use axum::extract::Extension;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use maud::{DOCTYPE, Markup, html};

use crate::api::Api;
use crate::api::body::Query;
use crate::api::live::Now;
use crate::api::page::Page as Which;
use crate::api::problem::Problem;
use crate::users::Role;
use crate::users::credentials::{By, Caller};

/// Items of a list on one page.
pub(super) const ROWS: usize = 100;

/// The part of a list that a page shows.
pub(super) fn rows(which: Result<Query<Which>, Problem>) -> Result<Query<Which>, Problem> {
    let limit = Some(ROWS);
    which.map(|Query(which)| Query(Which { limit, ..which }))
}

/// The pages in the navigation, with whom they are for.
const PAGES: &[(&str, &str, Role)] = &[
    ("/", "Overview", Role::Viewer),
    ("/nodes", "Nodes", Role::Viewer),
    ("/images", "Images", Role::Viewer),
    ("/tasks", "Tasks", Role::Viewer),
    ("/jobs", "Jobs", Role::Viewer),
    ("/schedules", "Schedules", Role::Viewer),
    ("/clusters", "Clusters", Role::Viewer),
    ("/upstreams", "Upstreams", Role::Viewer),
    ("/tokens", "Tokens", Role::Viewer),
    ("/join-tokens", "Join tokens", Role::Admin),
    ("/users", "Users", Role::Admin),
    ("/audit", "Audit", Role::Admin),
    ("/settings", "Settings", Role::Viewer),
];

/// What a page consists of.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// What it is called.
    pub(super) title: String,
    /// What it shows; of a page that changes by itself, what changes.
    pub(super) main: Markup,
    /// Below that: forms, which stay as they are while somebody fills them in.
    pub(super) forms: Markup,
}

/// Who looks, and how.
#[derive(Debug, Clone)]
pub(super) struct Visit {
    pub(super) caller: Caller,
    /// The entry of the navigation that the page belongs to.
    pub(super) at: &'static str,
    goes_on: bool,
}

impl Visit {
    pub(super) fn new(caller: Caller, at: &'static str, headers: &HeaderMap) -> Self {
        let accept = headers.get(header::ACCEPT);
        let accept = accept.and_then(|accept| accept.to_str().ok());
        let goes_on = accept.is_some_and(|accept| accept.contains("text/event-stream"));
        Self {
            caller,
            at,
            goes_on,
        }
    }

    /// The caller, as the API's functions take it.
    pub(super) fn extension(&self) -> Extension<Caller> {
        Extension(self.caller.clone())
    }

    pub(super) fn may(&self, role: Role) -> bool {
        self.caller.role >= role
    }

    /// For every form: what shows that it is of this session.
    pub(super) fn csrf(&self) -> Markup {
        match &self.caller.by {
            By::Session { csrf } => html! { input type="hidden" name="csrf" value=(csrf); },
            By::Token(_) => html! {},
        }
    }

    /// A page that stays as it is.
    pub(super) fn page(&self, page: &Page) -> Response {
        document(Some(self), page, false, StatusCode::OK)
    }

    /// What came of a form that was sent, where that is more than another page to go to.
    pub(super) fn came_of(&self, page: &Page) -> Response {
        document(Some(self), page, false, StatusCode::CREATED)
    }

    pub(super) fn problem(&self, problem: &Problem) -> Response {
        self::problem(Some(&self.caller), problem)
    }

    /// A page that changes by itself: what `make` makes of `of`, again and again.
    pub(super) async fn live<W, F>(
        self,
        api: &Api,
        of: W,
        mut make: impl FnMut(Api, Visit, W) -> F + Send + 'static,
    ) -> Response
    where
        W: Clone + Send + 'static,
        F: Future<Output = Result<Page, Problem>> + Send,
    {
        if !self.goes_on {
            return match make(api.clone(), self.clone(), of).await {
                Ok(page) => document(Some(&self), &page, true, StatusCode::OK),
                Err(problem) => self.problem(&problem),
            };
        }
        let (visit, api, streams) = (self.clone(), api.clone(), api.streams.clone());
        let look = move || {
            let made = make(api.clone(), visit.clone(), of.clone());
            async move { Ok(Now::of("main", made.await?.main.into_string())) }
        };
        match streams.follow(look).await {
            Ok(stream) => stream,
            Err(problem) => self.problem(&problem),
        }
    }

    /// A page of a list that changes by itself.
    pub(super) async fn list<F>(
        self,
        api: &Api,
        which: Result<Query<Which>, Problem>,
        mut make: impl FnMut(Api, Visit, Query<Which>) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = Result<Page, Problem>> + Send,
    {
        match rows(which) {
            Ok(Query(which)) => {
                let make = move |api, visit, which| make(api, visit, Query(which));
                self.live(api, which, make).await
            }
            Err(problem) => self.problem(&problem),
        }
    }
}

/// Goes to another page after a form.
pub(super) fn see(path: &str) -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, path)]).into_response()
}

/// A page for who is nobody yet.
pub(super) fn outside(page: &Page) -> Response {
    document(None, page, false, StatusCode::OK)
}

/// What went wrong.
pub(super) fn problem(caller: Option<&Caller>, problem: &Problem) -> Response {
    let status = problem.status();
    let page = Page {
        title: status.canonical_reason().unwrap_or("Problem").to_owned(),
        main: html! {
            p role="alert" { (problem.detail()) }
            p { a href="/" { "Overview" } }
        },
        forms: html! {},
    };
    let visit = caller.map(|caller| Visit {
        caller: caller.clone(),
        at: "",
        goes_on: false,
    });
    document(visit.as_ref(), &page, false, status)
}

fn document(visit: Option<&Visit>, page: &Page, live: bool, status: StatusCode) -> Response {
    let html = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (page.title) " · Darner" }
                link rel="icon" href="/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/console.css";
                script src="/console.js" defer {}
            }
            body {
                a.skip href="#main" { "Skip to content" }
                header {
                    a.brand href="/" { "Darner" }
                    @if let Some(visit) = visit { (navigation(visit)) (account(visit)) }
                }
                main #main tabindex="-1" {
                    h1 { (page.title) }
                    @if live { p #state .state role="status" { "As it was when the page was loaded" } }
                    div data-live[live] { (page.main) }
                    (page.forms)
                }
            }
        }
    };
    let kind = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    (status, kind, html.into_string()).into_response()
}

fn navigation(visit: &Visit) -> Markup {
    html! {
        nav aria-label="Pages" {
            ul {
                @for (path, name, role) in PAGES.iter().filter(|page| visit.may(page.2)) {
                    @let _ = role;
                    li {
                        @if visit.at == *path { a href=(path) aria-current="page" { (name) } }
                        @else { a href=(path) { (name) } }
                    }
                }
            }
        }
    }
}

fn account(visit: &Visit) -> Markup {
    html! {
        form.account method="post" action="/logout" {
            (visit.csrf())
            span { (visit.caller.account) " (" (visit.caller.role.as_str()) ")" }
            button { "Log out" }
        }
    }
}

/// A link to the following page of a list; `path` may have a query.
pub(super) fn further(path: &str, next: Option<&str>) -> Markup {
    let query = next.map(|next| {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("after", next);
        let joint = if path.contains('?') { "&" } else { "?" };
        format!("{path}{joint}{}", query.finish())
    });
    html! {
        @if let Some(query) = query { p { a href=(query) rel="next" { "Further" } } }
    }
}

/// A table that can be scrolled by itself, with the name that readers of screens tell.
pub(super) fn table(caption: &str, heads: &[&str], rows: &Markup) -> Markup {
    html! {
        div.scroll role="region" aria-label=(caption) tabindex="0" {
            table {
                caption { (caption) }
                thead { tr { @for head in heads { th scope="col" { (head) } } } }
                tbody { (rows) }
            }
        }
    }
}
