//! Clusters: which hosts hear of which schedulers and seeds, and what is set for them.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::{Extension, Json as Answer};
use serde::Deserialize;
use utoipa::ToSchema;

use super::Api;
use super::body::{Json, Query, expected_version, given_version, stale, versioned};
use super::named::{change, changed, name_in_path};
use super::page::{List, Page};
use super::problem::{Document, Problem};
use crate::clusters::passwords::{GivenPasswords, Passwords};
use crate::clusters::set::DEFAULT;
use crate::clusters::settings::{ClusterSettings, MemberRule, NodeRules};
use crate::clusters::{ClusterError, Kept};
use crate::users::Name;
use crate::users::credentials::Caller;

/// A new cluster.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewCluster {
    /// What to call it; `default` for all that fit no other.
    pub(crate) name: Name,
    /// Clusters are looked through in this order, the least first, and then by name: a host is of the
    /// first that it fits, or of `default`.
    #[serde(default)]
    #[schema(maximum = 1000000)]
    pub(crate) position: u32,
    /// Which hosts are of it; nothing for `default`.
    #[serde(default)]
    pub(crate) members: MemberRule,
    /// What is set for its nodes.
    #[serde(default)]
    pub(crate) rules: NodeRules,
    /// By registry, the password of its `username`.
    #[serde(default)]
    #[schema(value_type = std::collections::BTreeMap<String, String>, write_only)]
    pub(crate) passwords: GivenPasswords,
}

/// What a cluster is to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangedCluster {
    /// As in a new one.
    #[serde(default)]
    #[schema(maximum = 1000000)]
    pub(crate) position: u32,
    /// As in a new one.
    #[serde(default)]
    pub(crate) members: MemberRule,
    /// As in a new one.
    #[serde(default)]
    pub(crate) rules: NodeRules,
    /// By registry, the password of its `username`. One that is left out stays as it was, while url and
    /// username do.
    #[serde(default)]
    #[schema(value_type = std::collections::BTreeMap<String, String>, write_only)]
    pub(crate) passwords: GivenPasswords,
}

/// Clusters; hosts that fit none are of `default`, which is not listed
#[utoipa::path(get, path = "/api/v1/clusters", tag = "cluster", params(Page),
    responses((status = 200, body = List<Kept>), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(api): State<Api>,
    Query(page): Query<Page>,
) -> Result<Answer<List<Kept>>, Problem> {
    let found = api.clusters.list(page.after(), page.wanted()?).await?;
    let list = List::of(found, page.limit()?, |cluster| cluster.name.clone());
    Ok(Answer(list))
}

/// Make a cluster: its hosts hear of its own schedulers and seeds from now on, and of no others
#[utoipa::path(post, path = "/api/v1/clusters", tag = "cluster", request_body = NewCluster,
    responses((status = 201, body = Kept), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(new): Json<NewCluster>,
) -> Result<Response, Problem> {
    let NewCluster {
        name,
        position,
        members,
        rules,
        passwords,
    } = new;
    let settings = ClusterSettings {
        position,
        members,
        rules,
    };
    make(&api, &caller, (&name, &settings), passwords.into()).await?;
    shown(&api, &name, StatusCode::CREATED).await
}

/// A cluster
#[utoipa::path(get, path = "/api/v1/clusters/{name}", tag = "cluster",
    params(("name" = String, Path, description = "The cluster's name")),
    responses((status = 200, body = Kept), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn show(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    shown(&api, &name_in_path(&name)?, StatusCode::OK).await
}

/// Change which hosts are of a cluster, and what is set for its nodes
#[utoipa::path(put, path = "/api/v1/clusters/{name}", tag = "cluster", request_body = ChangedCluster,
    params(("name" = String, Path, description = "The cluster's name"),
        ("If-Match" = String, Header, description = "The cluster's ETag, or * for any")),
    responses((status = 200, body = Kept), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn replace(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(changed_to): Json<ChangedCluster>,
) -> Result<Response, Problem> {
    let name = name_in_path(&name)?;
    let expected = expected_version(&headers)?;
    let ChangedCluster {
        position,
        members,
        rules,
        passwords,
    } = changed_to;
    let settings = ClusterSettings {
        position,
        members,
        rules,
    };
    let (of, passwords) = ((&name, expected), passwords.into());
    put(&api, &caller, of, (&settings, passwords)).await?;
    shown(&api, &name, StatusCode::OK).await
}

/// Remove a cluster; its hosts are of the next that they fit
#[utoipa::path(delete, path = "/api/v1/clusters/{name}", tag = "cluster",
    params(("name" = String, Path, description = "The cluster's name"),
        ("If-Match" = Option<String>, Header, description = "The cluster's ETag")),
    responses((status = 204), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn remove(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let name = name_in_path(&name)?;
    take_away(&api, &caller, (name, given_version(&headers))).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn make(
    api: &Api,
    caller: &Caller,
    (name, settings): (&Name, &ClusterSettings),
    passwords: Passwords,
) -> Result<(), Problem> {
    let actor = caller.actor();
    let change = change(&actor, name, None);
    let made = api.clusters.create(change, settings, passwords).await?;
    changed(made, "cluster", name)
}

async fn put(
    api: &Api,
    caller: &Caller,
    (name, expected): (&Name, Option<i64>),
    (settings, passwords): (&ClusterSettings, Passwords),
) -> Result<(), Problem> {
    let actor = caller.actor();
    let change = change(&actor, name, expected);
    let made = api.clusters.change(change, settings, passwords).await?;
    changed(made, "cluster", name)
}

pub(crate) async fn take_away(
    api: &Api,
    caller: &Caller,
    (name, expected): (Name, Option<i64>),
) -> Result<(), Problem> {
    let actor = caller.actor();
    let removed = api.clusters.remove(change(&actor, &name, expected));
    changed(removed.await?, "cluster", &name)
}

/// What is set of a cluster, and its version. The one of all others is there without being made.
pub(crate) async fn found(
    api: &Api,
    name: &Name,
) -> Result<(ClusterSettings, Option<i64>), Problem> {
    match api.clusters.get(name).await? {
        Some(kept) => Ok((kept.settings, Some(kept.version))),
        None if name.as_str() == DEFAULT => Ok((ClusterSettings::default(), None)),
        None => Err(Problem::not_found(name.as_str())),
    }
}

/// Changes a part of a cluster that has this version.
pub(crate) async fn edit(
    api: &Api,
    caller: &Caller,
    (name, expected): (Name, Option<i64>),
    change: impl FnOnce(&mut ClusterSettings) -> Result<Passwords, Problem>,
) -> Result<(), Problem> {
    let (mut settings, version) = found(api, &name).await?;
    let passwords = change(&mut settings)?;
    match version {
        Some(_) => {
            let of = (&name, expected.or(Some(0)));
            put(api, caller, of, (&settings, passwords)).await
        }
        None if expected.is_none() => make(api, caller, (&name, &settings), passwords).await,
        // It was removed meanwhile.
        None => Err(stale()),
    }
}

async fn shown(api: &Api, name: &Name, status: StatusCode) -> Result<Response, Problem> {
    let found = api.clusters.get(name).await?;
    let found = found.ok_or_else(|| Problem::not_found(name.as_str()))?;
    let version = found.version;
    Ok(versioned(status, found, version))
}

impl From<ClusterError> for Problem {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::Database(error) => error.into(),
            ClusterError::Invalid(_) | ClusterError::NoSeal => Self::bad_request(error.to_string()),
            ClusterError::Seal(_) | ClusterError::Sealed { .. } => {
                Self::new(StatusCode::CONFLICT, error.to_string())
            }
        }
    }
}
