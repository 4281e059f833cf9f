//! Logging in and out, and the first administrator.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json as Answer};
use darner_service::secret::Secret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::access::{self, COOKIE};
use super::body::Json;
use super::problem::{Document, Problem};
use crate::users::accounts;
use crate::users::credentials::{self, Caller, Session};
use crate::users::{Name, Role, SESSION};

/// The first administrator.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Setup {
    /// From the link that the manager printed.
    pub(crate) token: String,
    /// The administrator's name.
    pub(crate) name: Name,
    /// The administrator's password.
    #[schema(min_length = 12, max_length = 256)]
    pub(crate) password: String,
}

/// Who logs in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogIn {
    /// The account.
    pub(crate) name: Name,
    /// Its password.
    pub(crate) password: String,
}

/// A session that has begun; its secret is in the cookie.
#[derive(Serialize, ToSchema)]
pub(crate) struct Begun {
    /// For the header `X-CSRF-Token` of every change.
    csrf: String,
    /// The account.
    user: String,
    /// What it may do.
    role: Role,
}

/// Who calls.
#[derive(Serialize, ToSchema)]
pub(crate) struct Me {
    /// The account.
    user: String,
    /// What this call may do.
    role: Role,
}

/// Make the first administrator, with the link that the manager printed
#[utoipa::path(post, path = "/api/v1/setup", tag = "people", security(()),
    request_body = Setup,
    responses((status = 201, body = Begun), (status = "4XX", body = Document, content_type = "application/problem+json"),
        (status = 503, body = Document, content_type = "application/problem+json")))]
pub(crate) async fn setup(
    State(api): State<Api>,
    Json(setup): Json<Setup>,
) -> Result<Response, Problem> {
    // The link before the password, which costs time to hash.
    let used_up = || {
        let why = "the link is wrong, used or over; without any account, a start of the manager prints another";
        Problem::forbidden(why)
    };
    if accounts::any(&api.database).await? {
        return Err(used_up());
    }
    may_try(&api, "")?;
    let password = api.passwords.hash(&Secret::new(setup.password)).await?;
    let accepted = credentials::accept(&api.database, &setup.token, &setup.name, &password).await?;
    let session = accepted.ok_or_else(used_up)?;
    succeeded(&api, "");
    tracing::info!(user = %setup.name, "the first administrator");
    Ok(begun(session, &setup.name, Role::Admin))
}

/// Begin a session
#[utoipa::path(post, path = "/api/v1/session", tag = "people", security(()),
    request_body = LogIn,
    responses((status = 201, body = Begun), (status = "4XX", body = Document, content_type = "application/problem+json"),
        (status = 503, body = Document, content_type = "application/problem+json")))]
pub(crate) async fn log_in(
    State(api): State<Api>,
    Json(log_in): Json<LogIn>,
) -> Result<Response, Problem> {
    let LogIn { name, password } = log_in;
    may_try(&api, name.as_str())?;
    let found = accounts::with_password(&api.database, &name).await?;
    let (account, kept) = found.unzip();
    let right = api.passwords.verify(&Secret::new(password), kept).await;
    match account.filter(|_| right) {
        Some(account) => {
            succeeded(&api, name.as_str());
            let session = credentials::begin(&api.database, &name).await?;
            Ok(begun(session, &name, account.role))
        }
        None => {
            tracing::warn!(user = %name, "a log-in failed");
            let why = "the name or the password is wrong";
            Err(Problem::new(StatusCode::UNAUTHORIZED, why))
        }
    }
}

/// End the session
#[utoipa::path(delete, path = "/api/v1/session", tag = "people",
    responses((status = 204), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn log_out(
    State(api): State<Api>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if let Some(secret) = access::cookie(&headers) {
        credentials::end(&api.database, secret).await?;
    }
    let gone = format!("{COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0");
    Ok(with_cookie(StatusCode::NO_CONTENT.into_response(), &gone))
}

/// Who calls
#[utoipa::path(get, path = "/api/v1/me", tag = "people",
    responses((status = 200, body = Me), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn me(Extension(caller): Extension<Caller>) -> Answer<Me> {
    Answer(Me {
        user: caller.account.to_string(),
        role: caller.role,
    })
}

/// What a browser keeps of a session.
pub(crate) fn session_cookie(session: &Session) -> String {
    let (secret, life) = (session.secret.reveal(), SESSION.as_secs());
    format!("{COOKIE}={secret}; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age={life}")
}

fn begun(session: Session, name: &Name, role: Role) -> Response {
    let body = Begun {
        csrf: session.csrf.clone(),
        user: name.to_string(),
        role,
    };
    let cookie = session_cookie(&session);
    with_cookie((StatusCode::CREATED, Answer(body)).into_response(), &cookie)
}

fn with_cookie(mut response: Response, cookie: &str) -> Response {
    if let Ok(mut cookie) = HeaderValue::try_from(cookie) {
        cookie.set_sensitive(true);
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

/// Notes a try, unless it has to wait. The link for the first administrator is the name "".
fn may_try(api: &Api, name: &str) -> Result<(), Problem> {
    let now = api.began.elapsed();
    let mut throttle = super::lock(&api.throttle);
    if let Err(wait) = throttle.may_try(now, name) {
        let seconds = wait.as_secs() + 1;
        let why = format!("too many failed tries; the next one counts in {seconds} s");
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, why);
        return Err(problem.retry_after(seconds.to_string()));
    }
    throttle.tries(now, name);
    Ok(())
}

fn succeeded(api: &Api, name: &str) {
    super::lock(&api.throttle).succeeded(name);
}
