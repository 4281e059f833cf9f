//! Images, and an image: its layers, and which nodes have which.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};

use super::asked::{Asked, Field, Kind};
use super::layout::{Page, Visit, further, table};
use super::picture::heat::{Row, heat};
use super::text;
use crate::api::Api;
use crate::api::body::Query;
use crate::api::images::{
    self as look, ImageHolder, ImageList, ImageName, ImageSummary, ShownImage, Which,
};
use crate::api::page::{List, Page as WhichPage};
use crate::api::problem::Problem;
use crate::users::credentials::Caller;

const FIELDS: &[Field] = &[
    Field {
        name: "name",
        label: "A part of registry/repository:tag",
        kind: Kind::Text,
    },
    Field {
        name: "digest",
        label: "Digest of a manifest or a layer",
        kind: Kind::Text,
    },
    Field {
        name: "node",
        label: "On the node",
        kind: Kind::Text,
    },
];

pub(super) async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    asked: Result<Asked<Which>, Problem>,
) -> Response {
    let visit = Visit::new(caller, "/images", &headers);
    let asked = match asked {
        Ok(asked) => asked,
        Err(problem) => return visit.problem(&problem),
    };
    visit
        .live(&api, asked, move |api, visit, asked| async move {
            let wanted = Query(asked.which.clone());
            let images = look::list(State(api), visit.extension(), wanted).await?.0;
            Ok(Page {
                title: "Images".to_owned(),
                main: all(&images, &asked.path()),
                forms: asked.form("Look for images", FIELDS),
            })
        })
        .await
}

fn all(images: &ImageList, path: &str) -> Markup {
    let heads = [
        "Image", "Platform", "Size", "Layers", "On nodes", "Whole on", "Manifest",
    ];
    html! {
        p { (text::number(images.reporting.try_into().unwrap_or(0))) " nodes tell what they hold." }
        @if images.left_off > 0 { p { (images.left_off) " images more are on nodes that hold more than a node tells of." } }
        (table("Images that nodes hold", &heads, &html! {
            @for image in &images.items { (one(image)) }
            @if images.items.is_empty() { tr { td colspan="7" { "None" } } }
        }))
        (further(path, images.next.as_deref()))
    }
}

fn one(image: &ImageSummary) -> Markup {
    html! {
        tr {
            th scope="row" {
                a href={ "/images/" (image.digest) } { (called(&image.repository, &image.tags)) }
                @if image.private { " (private)" }
            }
            td { (image.platform.as_deref().unwrap_or("–")) }
            td.number { (image.size_bytes.map_or("–".to_owned(), text::bytes)) }
            td.number { (image.layers.map_or("–".to_owned(), |layers| layers.to_string())) }
            td.number { (image.nodes) }
            td.number { (image.complete_nodes) }
            td { code { (text::short(&image.digest)) } }
        }
    }
}

/// `repository:tag`, with further tags after it.
fn called(repository: &str, tags: &[String]) -> String {
    match tags.is_empty() {
        true => format!("{repository} (no tag)"),
        false => format!("{repository}:{}", tags.join(", ")),
    }
}

pub(super) async fn show(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(digest): Path<String>,
    headers: HeaderMap,
    which: Result<Query<WhichPage>, Problem>,
) -> Response {
    let visit = Visit::new(caller, "/images", &headers);
    let make = move |api: Api, visit: Visit, which| {
        let digest = digest.clone();
        async move {
            let at = Path(digest.clone());
            let image = look::show(State(api.clone()), visit.extension(), at);
            let image = image.await?.0;
            let holders = look::nodes(State(api), visit.extension(), Path(digest), which);
            let holders = holders.await?.0;
            Ok(Page {
                title: title(&image),
                main: whole(&image, &holders),
                forms: super::removals::asking(&visit, &image.digest),
            })
        }
    };
    visit.list(&api, which, make).await
}

fn title(image: &ShownImage) -> String {
    let named = |name: &ImageName| called(&name.repository, &name.tags);
    let first = image.names.first().map(named);
    first.unwrap_or_else(|| image.digest.clone())
}

fn whole(image: &ShownImage, holders: &List<ImageHolder>) -> Markup {
    html! {
        dl.facts {
            div { dt { "Manifest" } dd { code { (image.digest) } } }
            @for name in &image.names {
                div {
                    dt { "Known as" }
                    dd { (called(&name.repository, &name.tags)) @if name.private { " (private)" } }
                }
            }
            div { dt { "Platform" } dd { (image.platform.as_deref().unwrap_or("–")) } }
            div { dt { "Size" } dd { (text::bytes(image.size_bytes)) } }
            div { dt { "On all nodes together" } dd { (text::bytes(image.held_bytes)) } }
            div { dt { "On nodes" } dd { (image.nodes) ", whole on " (image.complete_nodes) } }
        }
        (map(image, &holders.items))
        (further(&format!("/images/{}", image.digest), holders.next.as_deref()))
        (table("Layers, the lowest first", &["Number", "Digest", "Size", "On nodes"], &html! {
            @for (at, blob) in image.blobs.iter().enumerate() {
                tr {
                    th scope="row" { (at) @if blob.config { " (configuration)" } }
                    td { code { (blob.digest) } }
                    td.number { (text::bytes(blob.size_bytes)) }
                    td.number { (blob.nodes) }
                }
            }
            @if image.blobs.is_empty() { tr { td colspan="4" { "Not known yet" } } }
        }))
    }
}

fn map(image: &ShownImage, holders: &[ImageHolder]) -> Markup {
    let columns: Vec<_> = image.blobs.iter().map(|blob| blob.digest.clone()).collect();
    let rows = holders.iter().map(|holder| Row {
        name: match holder.seed {
            true => format!("{} (seed)", holder.node),
            false => holder.node.clone(),
        },
        has: holder.blobs.clone(),
    });
    heat("Layers on nodes", &columns, &rows.collect::<Vec<_>>())
}
