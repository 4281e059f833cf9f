//! `darner images`: which nodes hold which images.

use std::process::ExitCode;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::Value;

use super::client::ClientError;
use super::people::print;
use super::table::{self, Column, string};
use super::{Common, Output};

/// Images that nodes hold.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Images {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    common: Common,
    /// Only those with this in registry/repository:tag
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Only those with a manifest or layer of this digest
    #[arg(long)]
    digest: Option<String>,
    /// Only those on this node
    #[arg(long, value_name = "ID")]
    node: Option<String>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// See the layers of an image, and on how many nodes each is
    Show {
        #[command(flatten)]
        common: Common,
        /// Digest of the image's manifest
        digest: String,
    },
    /// Remove an image from every node
    ///
    /// Each removes what it holds of it and no other image there needs, at once or when it is back.
    Rm {
        #[command(flatten)]
        common: Common,
        /// Digest of the image's manifest
        digest: String,
        /// Wait until every node that is in the cluster has done it
        #[arg(long)]
        wait: bool,
    },
    /// See the removals of the last week, and how far nodes are
    Removals {
        #[command(flatten)]
        common: Common,
    },
    /// See which nodes hold an image, or a part of it
    Nodes {
        #[command(flatten)]
        common: Common,
        /// Digest of the image's manifest
        digest: String,
    },
}

impl Images {
    pub(super) async fn run(self) -> Result<ExitCode, ClientError> {
        match self.what {
            Some(What::Show { common, digest }) => show(&common, &digest).await?,
            Some(What::Rm {
                common,
                digest,
                wait,
            }) => {
                let path = format!("/api/v1/images/{}", segment(&digest)?);
                remove(&common, &path, wait).await?;
            }
            Some(What::Removals { common }) => {
                let removals = common.client()?.list("/api/v1/removals").await?;
                print(&common, REMOVALS, removals);
            }
            Some(What::Nodes { common, digest }) => {
                let path = format!("/api/v1/images/{}/nodes", segment(&digest)?);
                let nodes = common.client()?.list(&path).await?;
                print(&common, NODES, nodes);
            }
            None => {
                let wanted = [
                    ("name", &self.name),
                    ("digest", &self.digest),
                    ("node", &self.node),
                ];
                let wanted = wanted
                    .into_iter()
                    .filter_map(|(key, value)| Some((key, value.as_deref()?)));
                let wanted: Vec<_> = wanted.collect();
                let client = self.common.client()?;
                let images = client.list_of("/api/v1/images", &wanted).await?;
                print(&self.common, IMAGES, images);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

const IMAGES: &[Column] = &[
    ("IMAGE", |image| {
        let repository = string(image, "repository");
        match joined(&image["tags"]) {
            tags if tags.is_empty() => repository,
            tags => format!("{repository}:{tags}"),
        }
    }),
    ("PLATFORM", |image| string(image, "platform")),
    ("SIZE", |image| bytes(&image["size_bytes"])),
    ("NODES", |image| string(image, "nodes")),
    ("WHOLE", |image| string(image, "complete_nodes")),
    ("PRIVATE", |image| string(image, "private")),
    ("DIGEST", |image| string(image, "digest")),
];

const NODES: &[Column] = &[
    ("NODE", |node| string(node, "node")),
    ("SEED", |node| string(node, "seed")),
    ("WHOLE", |node| string(node, "complete")),
    ("HELD", |node| bytes(&node["held_bytes"])),
    ("BLOBS", |node| {
        let blobs = node["blobs"].as_array().map_or(&[][..], Vec::as_slice);
        let held = blobs.iter().filter(|held| **held == true).count();
        format!("{held}/{}", blobs.len())
    }),
];

const BLOBS: &[Column] = &[
    ("DIGEST", |blob| string(blob, "digest")),
    ("SIZE", |blob| bytes(&blob["size_bytes"])),
    ("NODES", |blob| string(blob, "nodes")),
    ("CONFIG", |blob| string(blob, "config")),
];

const REMOVALS: &[Column] = &[
    ("REMOVAL", |removal| string(removal, "number")),
    ("DONE", |removal| {
        format!("{}/{}", removal["done"], removal["nodes"])
    }),
    ("BY", |removal| string(removal, "by")),
    ("IMAGE", |removal| string(removal, "name")),
    ("DIGEST", |removal| string(removal, "digest")),
    ("NOT YET", |removal| joined(&removal["waiting"])),
];

/// Between looks at a removal.
const LOOK: Duration = Duration::from_millis(500);

/// Has what is at `path` of the API be removed from every node.
pub(super) async fn remove(common: &Common, path: &str, wait: bool) -> Result<(), ClientError> {
    let client = common.client()?;
    let mut removal = client.json(client.request(Method::DELETE, path)).await?;
    let path = format!("/api/v1/removals/{}", removal["number"]);
    while wait && removal["done"] != removal["nodes"] {
        tokio::time::sleep(LOOK).await;
        removal = client.get(&path).await?;
    }
    match common.output {
        Output::Json => table::print_json(&removal),
        Output::Table => table::print(REMOVALS, &[removal]),
    }
    Ok(())
}

async fn show(common: &Common, digest: &str) -> Result<(), ClientError> {
    let path = format!("/api/v1/images/{}", segment(digest)?);
    let client = common.client()?;
    let image = client.json(client.request(Method::GET, &path)).await?;
    match common.output {
        Output::Json => table::print_json(&image),
        Output::Table => {
            let blobs = image["blobs"].as_array().cloned();
            table::print(BLOBS, &blobs.unwrap_or_default());
        }
    }
    Ok(())
}

/// A digest as a part of a path.
pub(super) fn segment(digest: &str) -> Result<&str, ClientError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b':';
    match !digest.is_empty() && digest.bytes().all(fits) {
        true => Ok(digest),
        false => Err(ClientError::Usage(format!("{digest:?} is no digest"))),
    }
}

fn joined(tags: &Value) -> String {
    let tags = tags.as_array().into_iter().flatten();
    tags.filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

fn bytes(value: &Value) -> String {
    let known = value.as_u64();
    known.map_or(String::new(), |count| ByteSize::b(count).to_string())
}
