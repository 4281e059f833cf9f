//! Registries, as nodes see them.

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};

use super::layout::{Page, Visit, table};
use super::text;
use crate::api::Api;
use crate::api::overview::{self, UpstreamInfo};
use crate::users::credentials::Caller;

pub(super) async fn show(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Response {
    let visit = Visit::new(caller, "/upstreams", &headers);
    visit
        .live(&api, (), move |api, _, _| async move {
            let upstreams = overview::upstreams(State(api)).await.0;
            Ok(Page {
                title: "Upstreams".to_owned(),
                main: main(&upstreams.items),
                ..Page::default()
            })
        })
        .await
}

fn main(upstreams: &[UpstreamInfo]) -> Markup {
    let heads = [
        "Registry",
        "Requests",
        "Bytes read",
        "Failures",
        "Nodes",
        "Rate limit left",
        "Left alone until",
    ];
    html! {
        p { "Registries that nodes have asked for anything, since this manager started. Which ones nodes may ask is in each node's settings." }
        (table("Registries", &heads, &html! {
            @for upstream in upstreams {
                tr {
                    th scope="row" { (upstream.registry) }
                    td.number { (text::number(upstream.requests)) }
                    td.number { (text::bytes(upstream.bytes)) }
                    td.number { (text::number(upstream.errors)) }
                    td.number { (upstream.nodes) }
                    td.number { (left(upstream)) }
                    td { @if let Some(until) = upstream.quiet_until { (text::time(until * 1000)) } }
                }
            }
            @if upstreams.is_empty() { tr { td colspan="7" { "None has been asked yet" } } }
        }))
    }
}

fn left(upstream: &UpstreamInfo) -> String {
    match (upstream.remaining, upstream.limit) {
        (Some(left), Some(limit)) => format!("{left} of {limit}"),
        (Some(left), None) => left.to_string(),
        (None, _) => String::new(),
    }
}
