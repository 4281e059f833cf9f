//! `darner cluster`: which hosts hear of which schedulers and seeds.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

use super::begun::remove;
use super::client::{Client, ClientError};
use super::people::{print, segment};
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
                let settings = json!({ "position": position, "members": members });
                let set = set(&common.client()?, &name, settings).await?;
                match common.output {
                    Output::Json => table::print_json(&set),
                    Output::Table => table::print(COLUMNS, &[set]),
                }
            }
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

/// Makes the cluster, or changes the one that was there when it was looked for.
async fn set(client: &Client, name: &str, mut settings: Value) -> Result<Value, ClientError> {
    let path = format!("{CLUSTERS}/{}", segment(name)?);
    let shown = match client.send(client.request(Method::GET, &path)).await {
        Ok(shown) => shown,
        Err(ClientError::Refused { status, .. }) if status == StatusCode::NOT_FOUND => {
            settings["name"] = name.into();
            let request = client.request(Method::POST, CLUSTERS).json(&settings);
            return client.json(request).await;
        }
        Err(error) => return Err(error),
    };
    let mut request = client.request(Method::PUT, &path).json(&settings);
    if let Some(version) = shown.headers().get(header::ETAG) {
        request = request.header(header::IF_MATCH, version.clone());
    }
    client.json(request).await
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("is not KEY=VALUE".to_owned()),
    }
}
