//! Join tokens and certificates: who may become a member, and who may not be one any more.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json as Answer};
use darner_proto::id::{HostId, Role};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::body::{Json, Query};
use super::page::{List, Page};
use super::problem::{Document, Problem};
use crate::authority::state::{MAX_USES, Token};
use crate::authority::{Authority, AuthorityError};
use crate::users::credentials::Caller;

/// What can be seen of a token goes on no longer than a certificate would.
const MAX_LIFE: Duration = Duration::from_secs(366 * 24 * 3600);

/// What a process becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Becomes {
    /// A node's mirror.
    Mirror,
    /// A mirror that reads upstream for the others.
    Seed,
    /// A scheduler.
    Scheduler,
}

/// A join token to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewJoinToken {
    /// What its holder becomes.
    pub(crate) role: Becomes,
    /// How many processes may join with it.
    #[schema(minimum = 1, maximum = 10000)]
    pub(crate) uses: u32,
    /// How long it is good for.
    #[schema(minimum = 60, maximum = 31622400)]
    pub(crate) expires_in_seconds: u64,
}

/// What is known of a join token; never its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JoinTokenInfo {
    /// To revoke it by: its public part.
    pub(crate) id: String,
    /// What its holder becomes.
    pub(crate) role: String,
    /// How many processes may join with it; null for any number.
    pub(crate) uses: Option<u32>,
    /// How many have.
    pub(crate) used: usize,
    /// Unix time in ms.
    pub(crate) expires_ms: u64,
}

/// A join token that was made.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MadeJoinToken {
    #[serde(flatten)]
    pub(crate) info: JoinTokenInfo,
    /// The token itself, which is shown this once.
    pub(crate) token: String,
}

/// Join tokens that are not over
#[utoipa::path(get, path = "/api/v1/join-tokens", tag = "cluster", params(Page),
    responses((status = 200, body = List<JoinTokenInfo>), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(api): State<Api>,
    Query(page): Query<Page>,
) -> Result<Answer<List<JoinTokenInfo>>, Problem> {
    let tokens = authority(&api)?.tokens().await?;
    let limit = page.limit()?;
    let after = page.after().to_owned();
    let tokens = tokens.into_iter().filter(|token| token.number > after);
    let found: Vec<_> = tokens.take(limit + 1).map(JoinTokenInfo::from).collect();
    Ok(Answer(List::of(found, limit, |token| token.id.clone())))
}

/// Make a join token
#[utoipa::path(post, path = "/api/v1/join-tokens", tag = "cluster", request_body = NewJoinToken,
    responses((status = 201, body = MadeJoinToken), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(new): Json<NewJoinToken>,
) -> Result<(StatusCode, Answer<MadeJoinToken>), Problem> {
    if !(1..=MAX_USES).contains(&new.uses) {
        return Err(Problem::bad_request(format!(
            "uses: is not 1 to {MAX_USES}"
        )));
    }
    let life = Duration::from_secs(new.expires_in_seconds);
    if life < Duration::from_secs(60) || life > MAX_LIFE {
        let most = MAX_LIFE.as_secs();
        let why = format!("expires_in_seconds: is not 60 to {most}");
        return Err(Problem::bad_request(why));
    }
    let role = Role::from(new.role);
    let actor = caller.actor();
    let expires = crate::users::now().unsigned_abs() / 1000 + life.as_secs();
    let made = authority(&api)?.create_token_until(role, Some(new.uses), expires, &actor);
    let token = made.await?;
    let made = MadeJoinToken {
        info: JoinTokenInfo {
            id: token.number().to_owned(),
            role: role.to_string(),
            uses: Some(new.uses),
            used: 0,
            expires_ms: expires * 1000,
        },
        token: token.reveal(),
    };
    Ok((StatusCode::CREATED, Answer(made)))
}

/// Revoke a join token; who joined with it stays
#[utoipa::path(delete, path = "/api/v1/join-tokens/{id}", tag = "cluster",
    params(("id" = String, Path, description = "The token's id")),
    responses((status = 204), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn revoke(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    match authority(&api)?.remove_token(&id, &caller.actor()).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found(&id)),
    }
}

/// Take a node's certificates back: within a minute every process refuses them
#[utoipa::path(post, path = "/api/v1/nodes/{id}/revoke", tag = "cluster",
    params(("id" = String, Path, description = "The node's id")),
    responses((status = 204), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn revoke_node(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let node: HostId = id.parse().map_err(|_| Problem::not_found(&id))?;
    authority(&api)?.revoke(&node, &caller.actor()).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn authority(api: &Api) -> Result<&Authority, Problem> {
    api.authority.as_ref().ok_or_else(|| {
        Problem::conflict(
            "this manager talks in plain text ([identity] insecure = true): there are no certificates",
        )
    })
}

impl From<Becomes> for Role {
    fn from(becomes: Becomes) -> Self {
        match becomes {
            Becomes::Mirror => Self::Mirror,
            Becomes::Seed => Self::Seed,
            Becomes::Scheduler => Self::Scheduler,
        }
    }
}

impl From<Token> for JoinTokenInfo {
    fn from(token: Token) -> Self {
        Self {
            id: token.number,
            role: token.role,
            uses: token.uses,
            used: token.used,
            expires_ms: token.expires.saturating_mul(1000),
        }
    }
}

impl From<AuthorityError> for Problem {
    fn from(error: AuthorityError) -> Self {
        match error {
            AuthorityError::Database(error) => error.into(),
            AuthorityError::Refused(refusal) => Self::conflict(refusal.to_string()),
            AuthorityError::Busy => Self::conflict(error.to_string()),
            error => {
                let error = darner_service::telemetry::with_causes(&error).to_string();
                tracing::error!(error, "the authority fails");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the certificate authority fails; the manager's log says why",
                )
            }
        }
    }
}
