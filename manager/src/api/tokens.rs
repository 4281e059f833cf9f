//! Personal access tokens.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json as Answer};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::body::{Json, Query};
use super::page::{List, Page};
use super::problem::{Document, Problem};
use crate::users::credentials::{self, By, Caller, MAX_TOKENS, TokenInfo};
use crate::users::{MAX_TOKEN_LIFE, Role};

/// A label is for people.
const MAX_LABEL: usize = 128;

/// A token to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewToken {
    /// What it is for.
    #[schema(max_length = 128)]
    pub(crate) label: String,
    /// What it may do at most; no more than its owner.
    pub(crate) role: Role,
    /// How long it lasts.
    #[schema(minimum = 60, maximum = 31622400)]
    pub(crate) expires_in_seconds: u64,
}

/// A token that was made.
#[derive(Serialize, ToSchema)]
pub(crate) struct MadeToken {
    #[serde(flatten)]
    pub(crate) info: TokenInfo,
    /// The token itself, which is shown this once.
    pub(crate) token: String,
}

/// The caller's tokens; everybody's for an administrator
#[utoipa::path(get, path = "/api/v1/tokens", tag = "people", params(Page),
    responses((status = 200, body = List<TokenInfo>), (status = "4XX", body = Document)))]
pub(crate) async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(page): Query<Page>,
) -> Result<Answer<List<TokenInfo>>, Problem> {
    let own = (caller.role < Role::Admin).then_some(&caller.account);
    let found = credentials::tokens(&api.database, own, page.after(), page.wanted()?).await?;
    Ok(Answer(List::of(found, page.limit()?, |token| {
        token.id.clone()
    })))
}

/// Make a token of the caller's
#[utoipa::path(post, path = "/api/v1/tokens", tag = "people", request_body = NewToken,
    responses((status = 201, body = MadeToken), (status = "4XX", body = Document)))]
pub(crate) async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(new): Json<NewToken>,
) -> Result<(StatusCode, Answer<MadeToken>), Problem> {
    if let By::Token(_) = caller.by {
        // Or one that is about to expire would renew itself.
        let why = "a token cannot make tokens: log in";
        return Err(Problem::forbidden(why));
    }
    if new.role > caller.role {
        let why = format!("role: is above yours, {}", caller.role.as_str());
        return Err(Problem::forbidden(why));
    }
    if new.label.is_empty() || new.label.len() > MAX_LABEL {
        let why = format!("label: is not 1 to {MAX_LABEL} bytes");
        return Err(Problem::bad_request(why));
    }
    let life = Duration::from_secs(new.expires_in_seconds);
    if life < Duration::from_secs(60) || life > MAX_TOKEN_LIFE {
        let most = MAX_TOKEN_LIFE.as_secs();
        let why = format!("expires_in_seconds: is not 60 to {most}");
        return Err(Problem::bad_request(why));
    }
    let made =
        credentials::create_token(&api.database, &caller, &new.label, new.role, life).await?;
    let (info, token) = made.ok_or_else(|| {
        Problem::conflict(format!(
            "there are {MAX_TOKENS} tokens already: revoke some"
        ))
    })?;
    let token = token.reveal().to_owned();
    Ok((StatusCode::CREATED, Answer(MadeToken { info, token })))
}

/// Revoke a token: anybody's for an administrator, else one's own
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", tag = "people",
    params(("id" = String, Path, description = "The token's id")),
    responses((status = 204), (status = "4XX", body = Document)))]
pub(crate) async fn revoke(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    // The same answer for what is not there and what is somebody else's.
    match credentials::revoke(&api.database, &caller, &id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found(&id)),
    }
}
