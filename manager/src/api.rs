//! The read-only HTTP API: who is a member, as JSON. Errors are problem documents (RFC 9457).
//!
//! Lists come in pages: `limit` members at most, and `next` is what to pass as `after` for the
//! following page, or null on the last.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{Method, Uri};
use axum::routing::get;
use axum::{Json, Router};
use darner_proto::id::{Host, HostId, Role};
use darner_service::listener::Listener;
use darner_service::shutdown::Shutdown;
use serde::{Deserialize, Serialize};

use crate::members::Members;
use crate::membership::{MemberKey, Membership, Record};

mod problem;
#[cfg(test)]
mod tests;

use problem::Problem;

/// Operators and their tools, not the cluster: a few connections each.
pub(crate) const MAX_CONNECTIONS: usize = 128;
/// Members on a page, when the caller does not say, and at most: half a megabyte of JSON.
const PAGE: usize = 1000;
/// Nothing is uploaded.
const MAX_BODY: usize = 4 << 10;
/// Connections that are open at the process's end have this long to finish.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves the API until the process drains and running requests are done.
pub(crate) async fn serve(listener: Listener, members: Members, shutdown: Shutdown) {
    let draining = shutdown.clone();
    let serving = axum::serve(listener, routes(members))
        .with_graceful_shutdown(async move { draining.draining().await });
    let late = async {
        shutdown.draining().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        ended = serving.into_future() => {
            if let Err(error) = ended {
                tracing::error!(%error, "the API's listener ended");
            }
        }
        () = late => tracing::debug!("idle connections to the API cut"),
    }
}

fn routes(members: Members) -> Router {
    Router::new()
        .route("/api/v1/nodes", get(nodes))
        .route("/api/v1/schedulers", get(schedulers))
        .route("/api/v1/configuration", get(configuration))
        .fallback(nothing_here)
        .method_not_allowed_fallback(not_that_way)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(members)
}

/// `?limit=&after=`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    limit: Option<usize>,
    /// `role:id`
    after: Option<String>,
}

#[derive(Debug, Serialize)]
struct List {
    items: Vec<Member>,
    next: Option<String>,
}

#[derive(Debug, Serialize)]
struct Member {
    id: String,
    role: String,
    address: String,
    labels: BTreeMap<String, String>,
    /// Hexadecimal.
    signing_key: Option<String>,
    upload_slots: u32,
    /// Unix time in ms.
    last_seen_ms: u64,
}

#[derive(Debug, Serialize)]
struct Version {
    version: u64,
    schedulers: usize,
    seeds: usize,
}

type Asked = Result<Query<Page>, QueryRejection>;

async fn nodes(State(members): State<Members>, page: Asked) -> Result<Json<List>, Problem> {
    list(&members, &[Role::Mirror, Role::Seed], page)
}

async fn schedulers(State(members): State<Members>, page: Asked) -> Result<Json<List>, Problem> {
    list(&members, &[Role::Scheduler], page)
}

async fn configuration(State(members): State<Members>) -> Json<Version> {
    let told = members.look(|membership| membership.told().clone());
    Json(Version {
        version: told.version,
        schedulers: told.schedulers.len(),
        seeds: told.seeds.len(),
    })
}

async fn nothing_here(uri: Uri) -> Problem {
    Problem::not_found(uri.path())
}

async fn not_that_way(method: Method) -> Problem {
    Problem::method_not_allowed(&method)
}

fn list(members: &Members, roles: &[Role], page: Asked) -> Result<Json<List>, Problem> {
    let Query(page) = page.map_err(|refused| Problem::bad_request(refused.body_text()))?;
    let limit = page.limit.unwrap_or(PAGE);
    if limit == 0 || limit > PAGE {
        let why = format!("limit: is not 1 to {PAGE}");
        return Err(Problem::bad_request(why));
    }
    let after = page.after.as_deref().map(|after| parse_after(after, roles));
    let after = after.transpose()?;
    let mut records =
        members.look(|membership| records(membership, roles, after.as_ref(), limit + 1));
    let more = records.len() > limit;
    records.truncate(limit);
    let last = records.last().filter(|_| more);
    let next = last.map(|record| format!("{}:{}", record.host.role, record.host.id));
    let items = records.iter().map(Member::from).collect();
    Ok(Json(List { items, next }))
}

fn records(
    membership: &Membership,
    roles: &[Role],
    after: Option<&MemberKey>,
    most: usize,
) -> Vec<Record> {
    let from = after.and_then(|after| roles.iter().position(|role| *role == after.role));
    roles[from.unwrap_or(0)..]
        .iter()
        .flat_map(|role| {
            let after = after.filter(|after| after.role == *role);
            membership.of_role(*role, after.map(|after| &after.id))
        })
        .take(most)
        .cloned()
        .collect()
}

fn parse_after(text: &str, roles: &[Role]) -> Result<MemberKey, Problem> {
    let bad = || Problem::bad_request("after: is no `next` of this list");
    let (name, id) = text.split_once(':').ok_or_else(bad)?;
    let role = roles.iter().find(|role| role.to_string() == name);
    let id: HostId = id.parse().map_err(|_| bad())?;
    let role = *role.ok_or_else(bad)?;
    Ok(MemberKey { role, id })
}

impl From<&Record> for Member {
    fn from(record: &Record) -> Self {
        let Host {
            id,
            address,
            role,
            labels,
            signing_key,
            upload_slots,
        } = &*record.host;
        Self {
            id: id.to_string(),
            role: role.to_string(),
            address: address.clone(),
            labels: labels.clone(),
            signing_key: signing_key.map(|key| format!("{key:?}")),
            upload_slots: *upload_slots,
            last_seen_ms: record.last_seen,
        }
    }
}
