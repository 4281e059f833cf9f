//! Images, and which nodes hold them.
//!
//! Viewers see what anybody may read; what is of repositories that not everybody may read is shown to
//! operators and administrators, and is not there for anybody else.

use axum::extract::{Path, State};
use axum::{Extension, Json};
use darner_proto::digest::Digest;
use darner_proto::id::HostId;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::body::Query;
use super::page::{List, Page};
use super::problem::{Document, Problem};
use crate::images::{Cursor, Filter, Holder, ImageSeen, Row, Sees};
use crate::users::Role;
use crate::users::credentials::Caller;

/// Longer parts of names are no parts of names.
const MAX_NAME: usize = 512;

/// Which images, and which page of them.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Items at most.
    #[param(minimum = 1, maximum = 1000)]
    pub(crate) limit: Option<usize>,
    /// `next` of the page before.
    pub(crate) after: Option<String>,
    /// Only those with this in `registry/repository:tag`.
    #[param(max_length = 512)]
    pub(crate) name: Option<String>,
    /// Only those with a manifest or blob of this digest.
    pub(crate) digest: Option<String>,
    /// Only those that this node holds, or a part of.
    pub(crate) node: Option<String>,
}

/// An image in a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ImageSummary {
    /// `registry/repository`
    pub(crate) repository: String,
    /// Its tags there, as upstream said when it was last asked.
    pub(crate) tags: Vec<String>,
    /// Of its manifest.
    pub(crate) digest: String,
    /// Not everybody may read it there.
    pub(crate) private: bool,
    /// `os/architecture[/variant]`; null where that is not known.
    pub(crate) platform: Option<String>,
    /// Bytes of its blobs; null where they are not known yet.
    pub(crate) size_bytes: Option<u64>,
    /// Layers; null where they are not known yet.
    pub(crate) layers: Option<usize>,
    /// Nodes that hold it, or a part of it.
    pub(crate) nodes: usize,
    /// Nodes that hold all of it.
    pub(crate) complete_nodes: usize,
}

/// A list of images.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ImageList {
    /// In the order of their names.
    pub(crate) items: Vec<ImageSummary>,
    /// What to pass as `after` for the following page; null on the last.
    pub(crate) next: Option<String>,
    /// Nodes that have told this manager what they hold.
    pub(crate) reporting: usize,
    /// Images on nodes that hold more of them than a node tells of.
    pub(crate) left_off: u64,
}

/// What an image is called in a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ImageName {
    /// `registry/repository`
    pub(crate) repository: String,
    /// Its tags there, as upstream said when it was last asked.
    pub(crate) tags: Vec<String>,
    /// Not everybody may read it there.
    pub(crate) private: bool,
}

/// A blob of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ImageBlob {
    /// Its digest.
    pub(crate) digest: String,
    /// Bytes.
    pub(crate) size_bytes: u64,
    /// The image's configuration, not a layer.
    pub(crate) config: bool,
    /// Nodes that hold it.
    pub(crate) nodes: usize,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ShownImage {
    /// Of its manifest.
    pub(crate) digest: String,
    /// What it is called.
    pub(crate) names: Vec<ImageName>,
    /// `os/architecture[/variant]`; null where that is not known.
    pub(crate) platform: Option<String>,
    /// Bytes of its blobs.
    pub(crate) size_bytes: u64,
    /// Bytes of it on all nodes together.
    pub(crate) held_bytes: u64,
    /// The configuration and the layers, the lowest first; empty while they are not known.
    pub(crate) blobs: Vec<ImageBlob>,
    /// Nodes that hold it, or a part of it.
    pub(crate) nodes: usize,
    /// Nodes that hold all of it.
    pub(crate) complete_nodes: usize,
}

/// A node that holds an image, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ImageHolder {
    /// The node.
    pub(crate) node: String,
    /// Whether it is a seed.
    pub(crate) seed: bool,
    /// Whether it holds all of it.
    pub(crate) complete: bool,
    /// Bytes of it that the node holds.
    pub(crate) held_bytes: u64,
    /// In the order of the image's blobs, whether the node holds each.
    pub(crate) blobs: Vec<bool>,
}

/// Images that nodes hold
#[utoipa::path(get, path = "/api/v1/images", tag = "images", params(Which),
    responses((status = 200, body = ImageList), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(which): Query<Which>,
) -> Result<Json<ImageList>, Problem> {
    let (page, filter) = which.parsed()?;
    let limit = page.limit()?;
    let after = page.after.as_deref().map(str::parse::<Cursor>).transpose();
    let after = after.map_err(|()| Problem::bad_request("after: is no `next` of this list"))?;
    let sees = sees(&caller);
    let list = api.images.look(|catalog| {
        let rows = catalog.list(sees, &filter, after.as_ref(), limit + 1);
        let List { items, next } = List::of(rows, limit, |row| row.at.to_string());
        ImageList {
            items: items.iter().map(ImageSummary::from).collect(),
            next,
            reporting: catalog.nodes(),
            left_off: catalog.left_off(),
        }
    });
    Ok(Json(list))
}

/// An image: its layers, and on how many nodes each is
#[utoipa::path(get, path = "/api/v1/images/{digest}", tag = "images",
    params(("digest" = String, Path, description = "Of the image's manifest")),
    responses((status = 200, body = ShownImage), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn show(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(digest): Path<String>,
) -> Result<Json<ShownImage>, Problem> {
    let absent = || Problem::not_found(&digest);
    let wanted: Digest = digest.parse().map_err(|_| absent())?;
    let sees = sees(&caller);
    let seen = api.images.look(|catalog| catalog.image(sees, &wanted));
    Ok(Json(ShownImage::from(seen.ok_or_else(absent)?)))
}

/// The nodes that hold an image, or a part of it
#[utoipa::path(get, path = "/api/v1/images/{digest}/nodes", tag = "images",
    params(("digest" = String, Path, description = "Of the image's manifest"), Page),
    responses((status = 200, body = List<ImageHolder>), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn nodes(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(digest): Path<String>,
    Query(page): Query<Page>,
) -> Result<Json<List<ImageHolder>>, Problem> {
    let absent = || Problem::not_found(&digest);
    let wanted: Digest = digest.parse().map_err(|_| absent())?;
    let (limit, sees) = (page.limit()?, sees(&caller));
    let found = api.images.look(|catalog| {
        let image = catalog.image(sees, &wanted)?;
        Some((image, catalog.holders(sees, &wanted)))
    });
    let (image, mut holders) = found.ok_or_else(absent)?;
    holders.sort_by_key(place);
    let after = page.after();
    let rest = holders
        .into_iter()
        .filter(|one| after.is_empty() || place(one).as_str() > after);
    let rest = rest.take(limit + 1).collect();
    let List { items, next } = List::of(rest, limit, place);
    let items = items.iter().map(|one| shown(one, &image)).collect();
    Ok(Json(List { items, next }))
}

/// The same name may be that of a seed and of a mirror.
fn place(holder: &Holder) -> String {
    let role = if holder.seed { "seed" } else { "mirror" };
    format!("{}:{role}", holder.node)
}

fn shown(holder: &Holder, image: &ImageSeen) -> ImageHolder {
    let sizes = image.blobs.iter().map(|blob| blob.blob.size);
    let held = sizes.zip(&holder.share).filter(|(_, held)| **held);
    ImageHolder {
        node: holder.node.to_string(),
        seed: holder.seed,
        complete: holder.is_complete(),
        held_bytes: held.map(|(size, _)| size).fold(0, u64::saturating_add),
        blobs: holder.share.clone(),
    }
}

/// What is of repositories that not everybody may read is for those who run the cluster.
pub(crate) fn sees(caller: &Caller) -> Sees {
    match caller.role >= Role::Operator {
        true => Sees::All,
        false => Sees::Public,
    }
}

impl Which {
    fn parsed(self) -> Result<(Page, Filter), Problem> {
        let bad = |what: &str, error: darner_proto::invalid::Invalid| {
            Problem::bad_request(format!("{what}: {error}"))
        };
        if self.name.as_ref().is_some_and(|name| name.len() > MAX_NAME) {
            return Err(Problem::bad_request(format!(
                "name: is longer than {MAX_NAME} bytes"
            )));
        }
        let digest = self.digest.as_deref().map(str::parse::<Digest>);
        let node = self.node.as_deref().map(str::parse::<HostId>);
        let filter = Filter {
            name: self.name,
            digest: digest.transpose().map_err(|error| bad("digest", error))?,
            node: node.transpose().map_err(|error| bad("node", error))?,
        };
        let page = Page {
            limit: self.limit,
            after: self.after,
        };
        Ok((page, filter))
    }
}

impl From<&Row> for ImageSummary {
    fn from(row: &Row) -> Self {
        let facts = row.facts.as_deref();
        let blobs = facts.map(|facts| &facts.blobs);
        let size = blobs.map(|blobs| blobs.iter().map(|blob| blob.size));
        Self {
            repository: row.source().to_string(),
            tags: row.tags.clone(),
            digest: row.digest().to_string(),
            private: row.private(),
            platform: platform(facts.map_or("", |facts| &facts.platform)),
            size_bytes: size.map(|sizes| sizes.fold(0, u64::saturating_add)),
            layers: blobs.map(|blobs| blobs.iter().filter(|blob| !blob.config).count()),
            nodes: row.nodes,
            complete_nodes: row.complete,
        }
    }
}

impl From<ImageSeen> for ShownImage {
    fn from(image: ImageSeen) -> Self {
        let sizes = image.blobs.iter().map(|blob| blob.blob.size);
        let held = image.blobs.iter().map(|blob| {
            let nodes = u64::try_from(blob.nodes).unwrap_or(u64::MAX);
            blob.blob.size.saturating_mul(nodes)
        });
        Self {
            digest: image.digest.to_string(),
            platform: platform(&image.platform),
            size_bytes: sizes.fold(0, u64::saturating_add),
            held_bytes: held.fold(0, u64::saturating_add),
            nodes: image.nodes,
            complete_nodes: image.complete,
            names: image
                .names
                .into_iter()
                .map(|name| ImageName {
                    repository: name.source.to_string(),
                    tags: name.tags,
                    private: name.private,
                })
                .collect(),
            blobs: image
                .blobs
                .iter()
                .map(|blob| ImageBlob {
                    digest: blob.blob.digest.to_string(),
                    size_bytes: blob.blob.size,
                    config: blob.blob.config,
                    nodes: blob.nodes,
                })
                .collect(),
        }
    }
}

fn platform(written: &str) -> Option<String> {
    (!written.is_empty()).then(|| written.to_owned())
}
