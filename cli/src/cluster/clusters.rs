//! `darner cluster`: which hosts hear of which schedulers and seeds. What is set for their nodes is
//! [`super::rules`]'.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use reqwest::header::HeaderValue;
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

use super::begun::remove;
use super::client::{Client, ClientError};
use super::people::{print, segment};
use super::rules;
use super::table::{self, string};
use super::{Common, Output};

const CLUSTERS: &str = "/api/v1/clusters";

/// Clusters of one manager.
#[derive(Debug, Args)]
pub(crate) struct Cluster {
    #[command(subcommand)]
    what: OfClusters,
}

#[derive(Debug, Subcommand)]
enum OfClusters {
    /// See all clusters; hosts that fit none are of `default`
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Say which hosts are of a cluster, which is made if there is none of that name. Of each kind that
    /// is given one has to fit, of labels all; `*` stands for anything
    Set {
        #[command(flatten)]
        common: Common,
        /// What it is called
        name: String,
        /// Hosts that are reached at an address of this network, such as 10.1.0.0/16
        #[arg(long = "network", value_name = "NETWORK")]
        networks: Vec<String>,
        /// Hosts of this id
        #[arg(long = "host", value_name = "ID")]
        hosts: Vec<String>,
        /// Hosts with this label
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
        labels: Vec<(String, String)>,
        /// Of the clusters that a host fits, it is of the one with the least
        #[arg(long, default_value_t = 0)]
        position: u32,
    },
    Show(rules::Show),
    Limit(rules::Limit),
    Block(rules::Block),
    Registry(rules::Registry),
    /// Remove a cluster; its hosts are of the next that they fit
    Remove {
        #[command(flatten)]
        common: Common,
        name: String,
    },
}

impl Cluster {
    pub(super) async fn run(self) -> Result<ExitCode, ClientError> {
        match self.what {
            OfClusters::List { common } => {
                let clusters = common.client()?.list(CLUSTERS).await?;
                print(&common, COLUMNS, clusters);
            }
            OfClusters::Set {
                common,
                name,
                networks,
                hosts,
                labels,
                position,
            } => {
                let labels: BTreeMap<_, _> = labels.into_iter().collect();
                let members = json!({ "networks": networks, "hosts": hosts, "labels": labels });
                let client = common.client()?;
                let set = set(&client, &name, |cluster| {
                    cluster["position"] = json!(position);
                    cluster["members"] = members;
                });
                let set = set.await?;
                match common.output {
                    Output::Json => table::print_json(&set),
                    Output::Table => table::print(COLUMNS, &[set]),
                }
            }
            OfClusters::Show(show) => return show.run().await,
            OfClusters::Limit(limit) => return limit.run().await,
            OfClusters::Block(block) => return block.run().await,
            OfClusters::Registry(registry) => return registry.run().await,
            OfClusters::Remove { common, name } => remove(&common, CLUSTERS, &name).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

const COLUMNS: &[table::Column] = &[
    ("NAME", |item| string(item, "name")),
    ("POSITION", |item| item["position"].to_string()),
    ("NETWORKS", |item| {
        table::words(&item["members"]["networks"])
    }),
    ("HOSTS", |item| table::words(&item["members"]["hosts"])),
    ("LABELS", |item| table::labels(&item["members"])),
];

/// The cluster that hosts are of which fit no other: it is there without being made.
const DEFAULT: &str = "default";

pub(super) fn path(name: &str) -> Result<String, ClientError> {
    Ok(format!("{CLUSTERS}/{}", segment(name)?))
}

/// Makes the cluster, or changes the one that was there when it was looked for.
async fn set(
    client: &Client,
    name: &str,
    change: impl FnOnce(&mut Value),
) -> Result<Value, ClientError> {
    match found(client, name).await? {
        Some(found) => put(client, name, found, change).await,
        None => {
            let mut cluster = json!({ "name": name });
            change(&mut cluster);
            let request = client.request(Method::POST, CLUSTERS).json(&cluster);
            client.json(request).await
        }
    }
}

/// Changes the cluster that was there when it was looked for. The one of all others is always there.
pub(super) async fn edit(
    client: &Client,
    name: &str,
    change: impl FnOnce(&mut Value),
) -> Result<Value, ClientError> {
    if name == DEFAULT {
        return set(client, name, change).await;
    }
    match found(client, name).await? {
        Some(found) => put(client, name, found, change).await,
        None => Err(ClientError::Refused {
            status: StatusCode::NOT_FOUND,
            detail: format!("there is no cluster {name}; make it with darner cluster set"),
        }),
    }
}

/// What is said of a cluster, and the version of that.
type Found = (Value, Option<HeaderValue>);

async fn found(client: &Client, name: &str) -> Result<Option<Found>, ClientError> {
    let request = client.request(Method::GET, &path(name)?);
    let shown = match client.send(request).await {
        Ok(shown) => shown,
        Err(ClientError::Refused { status, .. }) if status == StatusCode::NOT_FOUND => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let version = shown.headers().get(header::ETAG).cloned();
    let cluster = client.read(shown).await?;
    Ok(Some((cluster, version)))
}

async fn put(
    client: &Client,
    name: &str,
    (found, version): Found,
    change: impl FnOnce(&mut Value),
) -> Result<Value, ClientError> {
    let parts = ["position", "members", "rules"];
    let parts = parts.map(|part| (part.to_owned(), found[part].clone()));
    let mut cluster = Value::Object(parts.into_iter().collect());
    change(&mut cluster);
    let mut request = client.request(Method::PUT, &path(name)?).json(&cluster);
    if let Some(version) = version {
        request = request.header(header::IF_MATCH, version);
    }
    client.json(request).await
}

pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("is not KEY=VALUE".to_owned()),
    }
}
