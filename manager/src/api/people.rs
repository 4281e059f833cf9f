//! Accounts.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::{Extension, Json as Answer};
use darner_service::secret::Secret;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::body::{Json, Query, expected_version, given_version, stale, versioned};
use super::page::{List, Page};
use super::problem::{Document, Problem};
use crate::users::accounts::{self, Account, Change, Changed};
use crate::users::credentials::Caller;
use crate::users::{Name, Role};

/// Which accounts, and which page of them.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Items at most.
    #[param(minimum = 1, maximum = 1000)]
    pub(crate) limit: Option<usize>,
    /// `next` of the page before.
    pub(crate) after: Option<String>,
    /// Only those that may do this.
    #[param(inline)]
    pub(crate) role: Option<Role>,
}

/// A new account.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewUser {
    /// The name to log in with.
    pub(crate) name: Name,
    /// What it may do.
    pub(crate) role: Role,
    /// The first password.
    #[schema(min_length = 12, max_length = 256)]
    pub(crate) password: String,
}

/// What is to change.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangedUser {
    /// What it may do from now on.
    pub(crate) role: Option<Role>,
    /// Its new password.
    #[schema(min_length = 12, max_length = 256)]
    pub(crate) password: Option<String>,
}

/// Accounts
#[utoipa::path(get, path = "/api/v1/users", tag = "people", params(Which),
    responses((status = 200, body = List<Account>), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(api): State<Api>,
    Query(Which { limit, after, role }): Query<Which>,
) -> Result<Answer<List<Account>>, Problem> {
    let page = Page { limit, after };
    let found = accounts::list(&api.database, role, page.after(), page.wanted()?).await?;
    let list = List::of(found, page.limit()?, |account| account.name.clone());
    Ok(Answer(list))
}

/// Make an account
#[utoipa::path(post, path = "/api/v1/users", tag = "people", request_body = NewUser,
    responses((status = 201, body = Account), (status = 409, body = Document, content_type = "application/problem+json"),
        (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(new): Json<NewUser>,
) -> Result<Response, Problem> {
    let password = api.passwords.hash(&Secret::new(new.password)).await?;
    let made = accounts::create(
        &api.database,
        &caller.actor(),
        &new.name,
        new.role,
        &password,
    )
    .await;
    match made {
        Err(error) if error.is_duplicate() => {
            let why = format!("there is an account {} already", new.name);
            return Err(Problem::conflict(why));
        }
        made => made?,
    }
    let account = accounts::get(&api.database, &new.name).await?;
    let account = account.ok_or_else(|| absent(&new.name))?;
    let version = account.version;
    Ok(versioned(StatusCode::CREATED, account, version))
}

/// An account
#[utoipa::path(get, path = "/api/v1/users/{name}", tag = "people",
    params(("name" = String, Path, description = "The account")),
    responses((status = 200, body = Account), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn show(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let name = parse(&name)?;
    let account = accounts::get(&api.database, &name).await?;
    let account = account.ok_or_else(|| absent(&name))?;
    let version = account.version;
    Ok(versioned(StatusCode::OK, account, version))
}

/// Change an account; its sessions end
#[utoipa::path(patch, path = "/api/v1/users/{name}", tag = "people", request_body = ChangedUser,
    params(("name" = String, Path, description = "The account"),
        ("If-Match" = String, Header, description = "The account's ETag, or * for any")),
    responses((status = 200, body = Account), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn change(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(wanted): Json<ChangedUser>,
) -> Result<Response, Problem> {
    let name = parse(&name)?;
    let expected = expected_version(&headers)?;
    let password = match wanted.password {
        Some(password) => Some(api.passwords.hash(&Secret::new(password)).await?),
        None => None,
    };
    let change = Change {
        role: wanted.role,
        password,
    };
    let changed = accounts::change(&api.database, &caller.actor(), &name, expected, change).await?;
    made(changed, &name)?;
    let account = accounts::get(&api.database, &name).await?;
    let account = account.ok_or_else(|| absent(&name))?;
    let version = account.version;
    Ok(versioned(StatusCode::OK, account, version))
}

/// Remove an account, with its tokens and sessions
#[utoipa::path(delete, path = "/api/v1/users/{name}", tag = "people",
    params(("name" = String, Path, description = "The account"),
        ("If-Match" = Option<String>, Header, description = "The account's ETag")),
    responses((status = 204), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn remove(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let name = parse(&name)?;
    let expected = given_version(&headers);
    let removed = accounts::remove(&api.database, &caller.actor(), &name, expected).await?;
    made(removed, &name)?;
    Ok(StatusCode::NO_CONTENT)
}

/// A name that no account can have has none.
fn parse(name: &str) -> Result<Name, Problem> {
    name.parse().map_err(|_| Problem::not_found(name))
}

fn absent(name: &Name) -> Problem {
    Problem::not_found(name.as_str())
}

fn made(changed: Changed, name: &Name) -> Result<(), Problem> {
    match changed {
        Changed::Yes => Ok(()),
        Changed::Absent => Err(absent(name)),
        Changed::Stale => Err(stale()),
        Changed::LastAdmin => Err(Problem::conflict(
            "nobody would be left to manage people: make another admin first",
        )),
    }
}
