//! Members of the cluster, and what they are told.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use darner_proto::id::{Host, HostId, Role};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::body::Query;
use super::page::{List, Page, text};
use super::problem::{Document, Problem};
use crate::clusters::set::ClusterSet;
use crate::members::Members;
use crate::membership::{MemberKey, Membership, Record};

/// Labels that are looked for at once.
const MAX_LABELS: usize = 32;

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NodeRole {
    /// A node's mirror.
    Mirror,
    /// A mirror that reads upstream for the others.
    Seed,
}

/// Which nodes, and which page of them.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WhichNodes {
    /// Items at most.
    #[param(minimum = 1, maximum = 1000)]
    pub(crate) limit: Option<usize>,
    /// `next` of the page before.
    pub(crate) after: Option<String>,
    /// Only those that are this.
    #[param(inline)]
    pub(crate) role: Option<NodeRole>,
    /// Only those of this cluster.
    #[param(min_length = 1, max_length = 512)]
    pub(crate) cluster: Option<String>,
    /// Only those with this label, `key=value`; with all of several, separated by commas.
    #[param(min_length = 1, max_length = 512)]
    pub(crate) label: Option<String>,
    /// Only those whose id begins so.
    #[param(min_length = 1, max_length = 512)]
    pub(crate) id: Option<String>,
}

/// Which members of one role, and which page of them.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WhichMembers {
    /// Items at most.
    #[param(minimum = 1, maximum = 1000)]
    pub(crate) limit: Option<usize>,
    /// `next` of the page before.
    pub(crate) after: Option<String>,
    /// Only those of this cluster.
    #[param(min_length = 1, max_length = 512)]
    pub(crate) cluster: Option<String>,
    /// Only those with this label, `key=value`; with all of several, separated by commas.
    #[param(min_length = 1, max_length = 512)]
    pub(crate) label: Option<String>,
    /// Only those whose id begins so.
    #[param(min_length = 1, max_length = 512)]
    pub(crate) id: Option<String>,
}

/// [`WhichMembers`], as it is meant.
#[derive(Debug)]
struct Filter<'a> {
    cluster: Option<&'a str>,
    labels: Vec<(&'a str, &'a str)>,
    id: &'a str,
}

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
#[utoipa::path(get, path = "/api/v1/nodes", tag = "cluster", params(WhichNodes),
    responses((status = 200, body = List<Member>), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn nodes(
    State(api): State<Api>,
    Query(which): Query<WhichNodes>,
) -> Result<Json<List<Member>>, Problem> {
    let roles: &[Role] = match which.role {
        None => &[Role::Mirror, Role::Seed],
        Some(NodeRole::Mirror) => &[Role::Mirror],
        Some(NodeRole::Seed) => &[Role::Seed],
    };
    list(&api.members, roles, &which.into())
}

/// Seeds: mirrors that read upstream for the others
#[utoipa::path(get, path = "/api/v1/seeds", tag = "cluster", params(WhichMembers),
    responses((status = 200, body = List<Member>), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn seeds(
    State(api): State<Api>,
    Query(which): Query<WhichMembers>,
) -> Result<Json<List<Member>>, Problem> {
    list(&api.members, &[Role::Seed], &which)
}

/// Schedulers
#[utoipa::path(get, path = "/api/v1/schedulers", tag = "cluster", params(WhichMembers),
    responses((status = 200, body = List<Member>), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn schedulers(
    State(api): State<Api>,
    Query(which): Query<WhichMembers>,
) -> Result<Json<List<Member>>, Problem> {
    list(&api.members, &[Role::Scheduler], &which)
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

fn list(
    members: &Members,
    roles: &[Role],
    which: &WhichMembers,
) -> Result<Json<List<Member>>, Problem> {
    let filter = which.filter()?;
    let page = Page {
        limit: which.limit,
        after: which.after.clone(),
    };
    let limit = page.limit()?;
    let after = page.after.as_deref().map(|after| parse_after(after, roles));
    let after = after.transpose()?;
    let (records, clusters) = members.look(|membership| {
        let meant = |record: &Record| filter.fits(record, membership.clusters());
        let records = records(membership, roles, after.as_ref(), meant);
        let records: Vec<_> = records.take(limit + 1).cloned().collect();
        (records, membership.clusters().clone())
    });
    if let Some(name) = filter.cluster.filter(|name| !clusters.has(name)) {
        let why = format!("cluster: there is none called {name:?}");
        return Err(Problem::bad_request(why));
    }
    let key = |record: &Record| format!("{}:{}", record.host.role, record.host.id);
    let List { items, next } = List::of(records, limit, key);
    let items = items.iter().map(|record| Member::new(record, &clusters));
    let items = items.collect();
    Ok(Json(List { items, next }))
}

fn records<'a>(
    membership: &'a Membership,
    roles: &'a [Role],
    after: Option<&'a MemberKey>,
    meant: impl Fn(&Record) -> bool,
) -> impl Iterator<Item = &'a Record> {
    let from = after.and_then(|after| roles.iter().position(|role| *role == after.role));
    roles[from.unwrap_or(0)..]
        .iter()
        .flat_map(move |role| {
            let after = after.filter(|after| after.role == *role);
            membership.of_role(*role, after.map(|after| &after.id))
        })
        .filter(move |record| meant(record))
}

fn parse_after(text: &str, roles: &[Role]) -> Result<MemberKey, Problem> {
    let bad = || Problem::bad_request("after: is no `next` of this list");
    let (name, id) = text.split_once(':').ok_or_else(bad)?;
    let role = roles.iter().find(|role| role.to_string() == name);
    let id: HostId = id.parse().map_err(|_| bad())?;
    let role = *role.ok_or_else(bad)?;
    Ok(MemberKey { role, id })
}

impl WhichMembers {
    fn filter(&self) -> Result<Filter<'_>, Problem> {
        let labels = text("label", self.label.as_ref())?.map(|labels| labels.split(','));
        let labels = labels.into_iter().flatten().map(|label| {
            let parts = label.split_once('=').filter(|(key, _)| !key.is_empty());
            let bad = || Problem::bad_request(format!("label: {label:?} is not key=value"));
            parts.ok_or_else(bad)
        });
        let labels: Vec<_> = labels.collect::<Result<_, _>>()?;
        if labels.len() > MAX_LABELS {
            let why = format!("label: is more than {MAX_LABELS}");
            return Err(Problem::bad_request(why));
        }
        Ok(Filter {
            cluster: text("cluster", self.cluster.as_ref())?,
            labels,
            id: text("id", self.id.as_ref())?.unwrap_or_default(),
        })
    }
}

/// What is asked of nodes whatever they are.
impl From<WhichNodes> for WhichMembers {
    fn from(which: WhichNodes) -> Self {
        Self {
            limit: which.limit,
            after: which.after,
            cluster: which.cluster,
            label: which.label,
            id: which.id,
        }
    }
}

impl Filter<'_> {
    fn fits(&self, Record { host, .. }: &Record, clusters: &ClusterSet) -> bool {
        let mut labels = self.labels.iter();
        host.id.as_str().starts_with(self.id)
            && labels.all(|(key, value)| host.labels.get(*key).is_some_and(|has| has == value))
            && self.cluster.is_none_or(|name| clusters.of(host) == name)
    }
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
