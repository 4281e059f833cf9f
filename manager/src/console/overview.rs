//! The cluster at a glance.

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};

use super::layout::{Page, Visit, table};
use super::picture::{self, Moment, Part};
use super::text;
use crate::api::Api;
use crate::api::overview::{self, Overview, PastPoint, ServedBytes};
use crate::users::credentials::Caller;

pub(super) async fn show(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Response {
    let visit = Visit::new(caller, "/", &headers);
    visit
        .live(&api, (), move |api, _, ()| async move {
            let now = overview::overview(State(api.clone())).await.0;
            let past = overview::past(State(api)).await.0;
            Ok(Page {
                title: "Overview".to_owned(),
                main: main(&now, &past.items),
                ..Page::default()
            })
        })
        .await
}

fn main(now: &Overview, past: &[PastPoint]) -> Markup {
    let ratio = now.hit_ratio.map_or("–".to_owned(), text::percent);
    let tiles = [
        ("Not asked of registries", text::bytes(now.saved_bytes)),
        ("Hit ratio, by bytes", ratio),
        ("Sent to clients", text::bytes(now.served_bytes.total())),
        ("Read from registries", text::bytes(now.upstream_bytes)),
        (
            "Requests to registries",
            text::number(now.upstream_requests),
        ),
        ("Requests of clients", text::number(now.requests)),
        ("Requests gone wrong", text::number(now.errors)),
        ("Downloads running", text::number(now.running)),
        ("Jobs running", now.jobs_running.to_string()),
        ("Mirrors", now.mirrors.to_string()),
        ("Seeds", now.seeds.to_string()),
        ("Schedulers", now.schedulers.to_string()),
        ("Nodes that report here", now.reporting.to_string()),
    ];
    html! {
        @if !now.remarks.is_empty() {
            ul.remarks aria-label="Not as it should be" {
                @for remark in &now.remarks { li { span aria-hidden="true" { "⚠ " } (remark) } }
            }
        }
        dl.tiles {
            @for (name, value) in &tiles {
                div {
                    dt { @match more(name) { Some(page) => { a href=(page) { (name) } } None => { (name) } } }
                    dd { (value) }
                }
            }
        }
        (stores(now))
        (served("Where clients' bytes came from", now.served_bytes))
        (picture::lines(
            "Bytes a second in the last half hour",
            ["Sent to clients", "Read from registries"],
            &moments(past),
        ))
        @if !now.gone.is_empty() {
            (table("Nodes that have gone", &["Node", "Role", "Since"], &html! {
                @for gone in &now.gone {
                    tr { th scope="row" { (gone.id) } td { (gone.role) } td { (text::time(gone.since_ms)) } }
                }
            }))
        }
    }
}

/// The page that says more about a number.
fn more(tile: &str) -> Option<&'static str> {
    match tile {
        "Downloads running" => Some("/tasks"),
        "Jobs running" => Some("/jobs"),
        "Mirrors" | "Seeds" | "Schedulers" => Some("/nodes"),
        "Requests to registries" | "Read from registries" => Some("/upstreams"),
        _ => None,
    }
}

fn stores(now: &Overview) -> Markup {
    let used = text::hundredths(now.held_bytes, now.capacity_bytes);
    html! {
        p {
            label for="stores" { "Stores " }
            meter #stores min="0" max="100" value=(used) { (used) " %" }
            " " (text::bytes(now.held_bytes)) " of " (text::bytes(now.capacity_bytes))
        }
    }
}

/// Where bytes came from.
pub(super) fn served(name: &str, bytes: ServedBytes) -> Markup {
    let part = |name, value| Part { name, value };
    picture::bar(
        name,
        &[
            part("The node's store", bytes.store),
            part("Other nodes", bytes.peer),
            part("Seeds", bytes.seed),
            part("Registries", bytes.upstream),
        ],
    )
}

/// Rates between points of the past.
fn moments(past: &[PastPoint]) -> Vec<Moment> {
    let pairs = past.iter().zip(past.iter().skip(1));
    let rates = pairs.map(|(before, after)| {
        let ms = (after.at_ms - before.at_ms).max(1).unsigned_abs();
        let rate = |before: u64, after: u64| after.saturating_sub(before).saturating_mul(1000) / ms;
        Moment {
            at_ms: after.at_ms.unsigned_abs(),
            values: [
                rate(before.served_bytes.total(), after.served_bytes.total()),
                rate(before.upstream_bytes, after.upstream_bytes),
            ],
        }
    });
    rates.collect()
}
