//! The gate before every page: the API's rules, for browsers.
//!
//! A page that is not in [`super::ROUTES`] is shown to nobody. Who is nobody yet is sent to log in. A
//! change is a form's, and a session's form has the session's value in the field `csrf`; it is compared
//! here, before any page's code runs.

use std::collections::BTreeMap;

use axum::body::{Body, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tokio::time::timeout;

use super::layout::{self, see};
use crate::api::access::{self, Need, PATIENCE};
use crate::api::problem::Problem;
use crate::api::{Api, MAX_BODY};
use crate::users::credentials::{By, Caller};

/// The fields of a form that was sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Filled(BTreeMap<String, String>);

impl Filled {
    /// A field, without the space around it; empty when it is absent.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0
            .get(name)
            .map(|value| value.trim())
            .unwrap_or_default()
    }

    /// A field as it was typed.
    pub(super) fn raw(&self, name: &str) -> String {
        self.0.get(name).cloned().unwrap_or_default()
    }

    /// A field that is one of the words of an enumeration, or the like.
    pub(super) fn parse<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, Problem> {
        let value = serde_json::Value::String(self.get(name).to_owned());
        serde_json::from_value(value)
            .map_err(|error| Problem::bad_request(format!("{name}: {error}")))
    }

    /// A field that is a number or empty.
    pub(super) fn optional<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Problem> {
        match self.get(name) {
            "" => Ok(None),
            _ => self.number(name).map(Some),
        }
    }

    /// A field that is a number.
    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<T, Problem> {
        let parsed = self.get(name).parse();
        parsed.map_err(|_| Problem::bad_request(format!("{name}: is no such number")))
    }
}

/// Lets through who may.
pub(super) async fn authorize(
    State(api): State<Api>,
    path: MatchedPath,
    request: Request,
    next: Next,
) -> Response {
    let method = request.method().clone();
    let wanted = request.uri().path_and_query().map(ToString::to_string);
    match timeout(PATIENCE, admit(&api, path.as_str(), request)).await {
        Err(_) => layout::problem(None, &access::late()),
        Ok(Ok(request)) => {
            let caller = request.extensions().get::<Caller>().cloned();
            let answered = timeout(PATIENCE, next.run(request)).await;
            answered.unwrap_or_else(|_| layout::problem(caller.as_ref(), &access::late()))
        }
        Ok(Err(problem)) if problem.status() == StatusCode::UNAUTHORIZED => {
            let wanted = wanted.filter(|_| method == Method::GET).unwrap_or_default();
            see(&super::account::login_path(&wanted))
        }
        Ok(Err(problem)) => layout::problem(None, &problem),
    }
}

async fn admit(api: &Api, path: &str, request: Request) -> Result<Request, Problem> {
    let method = request.method().clone();
    let need = access::need(super::ROUTES, &method, path);
    let need = need.ok_or_else(|| Problem::forbidden("this page is open to nobody"))?;
    let (mut parts, body) = request.into_parts();
    let caller = match need {
        Need::Nothing | Need::Secret => None,
        Need::Role(role) => {
            let caller = access::identify(api, &parts.headers).await?;
            access::allowed(&caller, role)?;
            Some(caller)
        }
    };
    let mut body = body;
    if !method.is_safe() {
        let filled = filled(body).await?;
        body = Body::empty();
        let meant = match caller.as_ref().map(|caller| &caller.by) {
            Some(By::Session { csrf }) => {
                access::is_same(Some(filled.raw("csrf").as_bytes()), csrf)
            }
            Some(By::Token(_)) | None => true,
        };
        if !meant || !access::is_ours(&parts.headers) {
            let why =
                "this form is not of this session: go back, load the page anew, and send it again";
            return Err(Problem::forbidden(why));
        }
        parts.extensions.insert(filled);
    }
    if let Some(caller) = caller {
        parts.extensions.insert(caller);
    }
    Ok(Request::from_parts(parts, body))
}

async fn filled(body: Body) -> Result<Filled, Problem> {
    let read = to_bytes(body, MAX_BODY).await;
    let bytes = read.map_err(|_| {
        let why = format!("the form is longer than {MAX_BODY} bytes, or broke off");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, why)
    })?;
    let fields = url::form_urlencoded::parse(&bytes);
    Ok(Filled(fields.into_owned().collect()))
}

/// Pages may load what is ours from here, send forms here, and nothing else.
pub(super) async fn guarded(mut response: Response) -> Response {
    const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
        connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
    let policy = header::HeaderValue::from_static(POLICY);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    // Otherwise forms would not say that they come from here.
    let referrer = header::HeaderValue::from_static("same-origin");
    headers.insert(header::REFERRER_POLICY, referrer);
    response.into_response()
}
