//! Members of the cluster, and what they are told.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use darner_proto::id::{Host, HostId, Role};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::body::Query;
use super::page::{List, Page};
use super::problem::{Document, Problem};
use crate::clusters::set::ClusterSet;
use crate::members::Members;
use crate::membership::{MemberKey, Membership, Record};

/// A member of the cluster, as it describes itself.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Member {
    /// Its name; the same name in two roles is two members.
    pub(crate) id: String,
    /// `mirror`, `seed` or `scheduler`
    pub(crate) role: String,
    /// `host:port` that others reach it at.
    pub(crate) address: String,
    /// Where it is, and the like.
    pub(crate) labels: BTreeMap<String, String>,
    /// The cluster that it is of.
    pub(crate) cluster: String,
    /// What its statements about pieces are checked with, hexadecimal.
    pub(crate) signing_key: Option<String>,
    /// Pieces it sends at once.
    pub(crate) upload_slots: u32,
    /// Unix time in ms.
    pub(crate) last_seen_ms: u64,
}

/// What members are told.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Version {
    /// Grows with every change.
    pub(crate) version: u64,
    /// How many schedulers are told.
    pub(crate) schedulers: usize,
    /// How many seeds are told.
    pub(crate) seeds: usize,
    /// Whether processes talk in plain text (`[identity] insecure`).
    pub(crate) insecure: bool,
}

/// Mirrors and seeds
#[utoipa::path(get, path = "/api/v1/nodes", tag = "cluster", params(Page),
    responses((status = 200, body = List<Member>), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn nodes(
    State(api): State<Api>,
    Query(page): Query<Page>,
) -> Result<Json<List<Member>>, Problem> {
    list(&api.members, &[Role::Mirror, Role::Seed], &page)
}

/// Seeds: mirrors that read upstream for the others
#[utoipa::path(get, path = "/api/v1/seeds", tag = "cluster", params(Page),
    responses((status = 200, body = List<Member>), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn seeds(
    State(api): State<Api>,
    Query(page): Query<Page>,
) -> Result<Json<List<Member>>, Problem> {
    list(&api.members, &[Role::Seed], &page)
}

/// Schedulers
#[utoipa::path(get, path = "/api/v1/schedulers", tag = "cluster", params(Page),
    responses((status = 200, body = List<Member>), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn schedulers(
    State(api): State<Api>,
    Query(page): Query<Page>,
) -> Result<Json<List<Member>>, Problem> {
    list(&api.members, &[Role::Scheduler], &page)
}

/// The configuration told to members
#[utoipa::path(get, path = "/api/v1/configuration", tag = "cluster",
    responses((status = 200, body = Version), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn configuration(State(api): State<Api>) -> Json<Version> {
    let told = api.members.look(|membership| membership.told().clone());
    Json(Version {
        version: told.version,
        schedulers: told.schedulers.len(),
        seeds: told.seeds.len(),
        insecure: api.authority.is_none(),
    })
}

fn list(members: &Members, roles: &[Role], page: &Page) -> Result<Json<List<Member>>, Problem> {
    let limit = page.limit()?;
    let after = page.after.as_deref().map(|after| parse_after(after, roles));
    let after = after.transpose()?;
    let (records, clusters) = members.look(|membership| {
        let records = records(membership, roles, after.as_ref(), limit + 1);
        (records, membership.clusters().clone())
    });
    let key = |record: &Record| format!("{}:{}", record.host.role, record.host.id);
    let List { items, next } = List::of(records, limit, key);
    let items = items.iter().map(|record| Member::new(record, &clusters));
    let items = items.collect();
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

impl Member {
    /// A member as it is remembered, where hosts are divided so.
    pub(crate) fn new(record: &Record, clusters: &ClusterSet) -> Self {
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
            cluster: clusters.of(&record.host).to_owned(),
            signing_key: signing_key.map(|key| format!("{key:?}")),
            upload_slots: *upload_slots,
            last_seen_ms: record.last_seen,
        }
    }
}
