//! Nodes, and one node.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};

use super::asked::{Asked, Field, Kind};
use super::layout::{self, Page, Visit, see, table};
use super::{overview, text};
use crate::api::Api;
use crate::api::body::Query;
use crate::api::join;
use crate::api::members::{self, Member, WhichMembers, WhichNodes};
use crate::api::overview::{self as look, Counted, Node};
use crate::api::page::List;
use crate::api::problem::Problem;
use crate::users::Role;
use crate::users::credentials::Caller;

const FIELDS: &[Field] = &[
    Field {
        name: "id",
        label: "The id begins with",
        kind: Kind::Text,
    },
    Field {
        name: "role",
        label: "Role",
        kind: Kind::OneOf(&["mirror", "seed"]),
    },
    Field {
        name: "cluster",
        label: "Cluster",
        kind: Kind::Text,
    },
    Field {
        name: "label",
        label: "Labels, such as zone=a or zone=a,disk=fast",
        kind: Kind::Text,
    },
];

pub(super) async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    asked: Result<Asked<WhichNodes>, Problem>,
) -> Response {
    let visit = Visit::new(caller, "/nodes", &headers);
    let asked = match asked {
        Ok(asked) => asked,
        Err(problem) => return visit.problem(&problem),
    };
    visit
        .live(&api, asked, move |api, _, asked| async move {
            let which = asked.which.clone();
            let schedulers = schedulers(&api, &which).await?;
            let nodes = members::nodes(State(api), Query(which)).await?.0;
            Ok(Page {
                title: "Nodes".to_owned(),
                main: members_of(&nodes, &schedulers, &asked.path()),
                forms: asked.form("Look for nodes", FIELDS),
            })
        })
        .await
}

/// All that fit, beside each page of nodes; none where only mirrors or seeds are looked for.
async fn schedulers(api: &Api, which: &WhichNodes) -> Result<Vec<Member>, Problem> {
    if which.role.is_some() {
        return Ok(Vec::new());
    }
    let which = WhichMembers {
        limit: None,
        after: None,
        ..which.clone().into()
    };
    let found = members::schedulers(State(api.clone()), Query(which)).await?;
    Ok(found.0.items)
}

fn members_of(nodes: &List<Member>, schedulers: &[Member], path: &str) -> Markup {
    html! {
        (table("Mirrors and seeds", &["Node", "Role", "Cluster", "Address", "Labels", "Last heard"], &html! {
            @for node in &nodes.items {
                tr {
                    th scope="row" { a href={ "/nodes/" (node.id) } { (node.id) } }
                    (facts(node))
                }
            }
            @if nodes.items.is_empty() { tr { td colspan="6" { "None" } } }
        }))
        (layout::further(path, nodes.next.as_deref()))
        (table("Schedulers", &["Scheduler", "Role", "Cluster", "Address", "Labels", "Last heard"], &html! {
            @for node in schedulers { tr { th scope="row" { (node.id) } (facts(node)) } }
            @if schedulers.is_empty() { tr { td colspan="6" { "None" } } }
        }))
    }
}

fn facts(node: &Member) -> Markup {
    html! {
        td { (node.role) }
        td { (node.cluster) }
        td { (node.address) }
        td { (labels(node)) }
        td { (text::time(node.last_seen_ms)) }
    }
}

fn labels(node: &Member) -> String {
    let labels = node.labels.iter();
    let labels: Vec<_> = labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    labels.join(", ")
}

pub(super) async fn show(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let visit = Visit::new(caller, "/nodes", &headers);
    visit
        .live(&api, id, move |api, visit, id| async move {
            let node = look::node(State(api), Path(id)).await?.0;
            Ok(Page {
                title: node.member.id.clone(),
                main: one(&node),
                forms: revoking(&visit, &node.member.id),
            })
        })
        .await
}

fn one(node: &Node) -> Markup {
    let member = &node.member;
    html! {
        dl.facts {
            div { dt { "Role" } dd { (member.role) } }
            div { dt { "Cluster" } dd { (member.cluster) } }
            div { dt { "Address" } dd { (member.address) } }
            div { dt { "Labels" } dd { (labels(member)) } }
            div { dt { "Pieces sent at once" } dd { (member.upload_slots) } }
            div { dt { "Last heard" } dd { (text::time(member.last_seen_ms)) } }
        }
        p { a href={ "/images?node=" (member.id) } { "Images on this node" } }
        @match &node.counted {
            Some(counted) => { (figures(counted)) }
            None => { p { "Its counters are not known to this manager." } }
        }
    }
}

fn figures(counted: &Counted) -> Markup {
    let used = text::hundredths(counted.held_bytes, counted.capacity_bytes);
    html! {
        h2 { "Since its process began" }
        dl.tiles {
            div { dt { "Sent to clients" } dd { (text::bytes(counted.served_bytes.total())) } }
            div { dt { "Sent to other nodes" } dd { (text::bytes(counted.uploaded_bytes)) } }
            div { dt { "Read from registries" } dd { (text::bytes(counted.upstream_bytes)) } }
            div { dt { "Requests to registries" } dd { (text::number(counted.upstream_requests)) } }
            div { dt { "Requests of clients" } dd { (text::number(counted.requests)) } }
            div { dt { "Requests gone wrong" } dd { (text::number(counted.errors)) } }
            div { dt { "Downloads running" } dd { (text::number(counted.running)) } }
            div { dt { "Version" } dd { (counted.version) } }
        }
        p {
            label for="store" { "Store " }
            meter #store min="0" max="100" value=(used) { (used) " %" }
            " " (text::bytes(counted.held_bytes)) " of " (text::bytes(counted.capacity_bytes))
        }
        (overview::served("Where its clients' bytes came from", counted.served_bytes))
    }
}

fn revoking(visit: &Visit, id: &str) -> Markup {
    html! {
        @if visit.may(Role::Admin) {
            details.danger {
                summary { "Take its certificates back" }
                p { "Every process refuses the node within a minute. It can come back with a join token." }
                form method="post" action={ "/nodes/" (id) "/revoke" } {
                    (visit.csrf())
                    button { "Take back the certificates of " (id) }
                }
            }
        }
    }
}

pub(super) async fn revoke(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Response {
    let visit = Visit::new(caller, "/nodes", &HeaderMap::new());
    match join::revoke_node(State(api), visit.extension(), Path(id)).await {
        Ok(_) => see("/nodes"),
        Err(problem) => visit.problem(&problem),
    }
}
