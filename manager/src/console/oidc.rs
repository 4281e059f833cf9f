//! Logging in with an account of elsewhere, as browsers do it.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::response::Response;
use maud::html;
use serde::Deserialize;

use super::layout::{self, Page, see};
use crate::api::Api;
use crate::api::body::Query;
use crate::api::problem::Problem;
use crate::api::session::session_cookie;
use crate::oidc::{Answer, Oidc, OidcError, PATIENCE};

/// As the session's cookie, but sent when another site leads here: the provider does.
const COOKIE: &str = "__Host-darner-login";

/// Where to go afterwards.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Further {
    to: String,
}

/// What the provider sends a browser back with.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Back {
    code: String,
    state: String,
    error: String,
}

pub(super) async fn begin(
    State(api): State<Api>,
    further: Result<Query<Further>, Problem>,
) -> Response {
    let Query(further) = further.unwrap_or(Query(Further::default()));
    let begun = async {
        let to = super::account::here(&further.to);
        Ok::<_, Problem>(way(&api)?.begin(to).await?)
    };
    match begun.await {
        Ok(begun) => {
            let life = PATIENCE.as_secs();
            let cookie = format!(
                "{COOKIE}={}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={life}",
                begun.browser
            );
            with_cookie(see(&begun.url), &cookie)
        }
        Err(problem) => layout::problem(None, &problem),
    }
}

pub(super) async fn end(
    State(api): State<Api>,
    headers: HeaderMap,
    back: Result<Query<Back>, Problem>,
) -> Response {
    let Query(back) = back.unwrap_or(Query(Back::default()));
    let ended = async {
        if !back.error.is_empty() {
            // It is the provider's word, and anybody can write it into a link.
            tracing::warn!("the provider lets nobody in");
            return Err(Problem::forbidden(
                "the provider did not log you in: begin again",
            ));
        }
        let browser = cookie(&headers).unwrap_or_default();
        let answer = Answer {
            code: &back.code,
            state: &back.state,
            browser,
        };
        Ok(way(&api)?.end(&answer).await?)
    };
    match ended.await {
        Ok((session, to)) => with_cookie(onward(&to), &session_cookie(&session)),
        Err(problem) => layout::problem(None, &problem),
    }
}

/// A page of this site that leads on. The browser sends the session's cookie along only where this site
/// leads: a redirect now would still be the provider's doing.
fn onward(to: &str) -> Response {
    let to = super::account::login_after(to);
    let mut page = layout::outside(&Page {
        title: "Logged in".to_owned(),
        main: html! { p { a href=(to) { "Continue" } } },
        ..Page::default()
    });
    if let Ok(refresh) = HeaderValue::try_from(format!("0; url={to}")) {
        page.headers_mut().insert(header::REFRESH, refresh);
    }
    page
}

fn way(api: &Api) -> Result<&Oidc, Problem> {
    let none = || Problem::not_found("OpenID Connect: [oidc] is not set");
    api.oidc.as_ref().ok_or_else(none)
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter();
    let pairs = cookies
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'));
    let mut pairs = pairs.filter_map(|pair| pair.trim().split_once('='));
    pairs
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, value)| value)
}

fn with_cookie(mut response: Response, cookie: &str) -> Response {
    if let Ok(mut cookie) = HeaderValue::try_from(cookie) {
        cookie.set_sensitive(true);
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

impl From<OidcError> for Problem {
    fn from(error: OidcError) -> Self {
        let why = darner_service::telemetry::with_causes(&error).to_string();
        tracing::warn!(error = why, "a login with OpenID Connect fails");
        match error {
            OidcError::Database(error) => error.into(),
            OidcError::Unknown => Self::new(StatusCode::BAD_REQUEST, error.to_string()),
            OidcError::Provider(_) => Self::new(
                StatusCode::BAD_GATEWAY,
                "the OpenID Connect provider is of no help now; the manager's log says why",
            ),
            OidcError::Token(_)
            | OidcError::Name(_)
            | OidcError::NoRole(_)
            | OidcError::Taken(_) => Self::forbidden(error.to_string()),
        }
    }
}
