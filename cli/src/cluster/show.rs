//! `darner status` and `darner nodes`.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::client::ClientError;
use super::table::{self, Column, string};
use super::{Common, Output};

const UNHEALTHY: u8 = 3;

/// Whether the cluster has what it needs.
#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    common: Common,
}

/// Who belongs to it.
#[derive(Debug, Args)]
pub(crate) struct Nodes {
    #[command(flatten)]
    common: Common,
    /// Only those with this label, such as zone=a
    #[arg(long, value_name = "KEY=VALUE")]
    label: Option<String>,
}

impl Status {
    pub(super) async fn run(self) -> Result<ExitCode, ClientError> {
        let client = self.common.client()?;
        let told = client.get("/api/v1/configuration").await?;
        let nodes = client.list("/api/v1/nodes").await?;
        let schedulers = client.list("/api/v1/schedulers").await?;
        let seeds = nodes.iter().filter(|node| node["role"] == "seed").count();
        let mut missing = Vec::new();
        if schedulers.is_empty() {
            missing.push("no scheduler: nodes read upstream by themselves");
        }
        if seeds == 0 {
            missing.push("no seed: what is private does not travel between nodes");
        }
        let status = json!({
            "healthy": !schedulers.is_empty(),
            "version": told["version"],
            "mirrors": nodes.len() - seeds,
            "seeds": seeds,
            "schedulers": schedulers.len(),
            "remarks": missing,
        });
        match self.common.output {
            Output::Json => table::print_json(&status),
            Output::Table => {
                let columns: [Column; 5] = [
                    ("HEALTHY", |item| string(item, "healthy")),
                    ("MIRRORS", |item| string(item, "mirrors")),
                    ("SEEDS", |item| string(item, "seeds")),
                    ("SCHEDULERS", |item| string(item, "schedulers")),
                    ("CONFIGURATION", |item| string(item, "version")),
                ];
                table::print(&columns, &[status]);
                for remark in missing {
                    crate::run::say(format_args!("{remark}"));
                }
            }
        }
        Ok(match schedulers.is_empty() {
            true => ExitCode::from(UNHEALTHY),
            false => ExitCode::SUCCESS,
        })
    }
}

impl Nodes {
    pub(super) async fn run(self) -> Result<ExitCode, ClientError> {
        let label = match &self.label {
            None => None,
            Some(label) => Some(
                label
                    .split_once('=')
                    .ok_or_else(|| ClientError::Usage("--label: is not KEY=VALUE".to_owned()))?,
            ),
        };
        let client = self.common.client()?;
        let mut nodes = client.list("/api/v1/nodes").await?;
        nodes.extend(client.list("/api/v1/schedulers").await?);
        nodes.retain(|node| label.is_none_or(|(key, value)| node["labels"][key] == value));
        match self.common.output {
            Output::Json => table::print_json(&Value::Array(nodes)),
            Output::Table => table::print(
                &[
                    ("ID", |item| string(item, "id")),
                    ("ROLE", |item| string(item, "role")),
                    ("ADDRESS", |item| string(item, "address")),
                    ("LABELS", labels),
                ],
                &nodes,
            ),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn labels(item: &Value) -> String {
    let labels = item["labels"].as_object().into_iter().flatten();
    let labels = labels.map(|(key, value)| {
        let value = value.as_str().unwrap_or_default();
        format!("{key}={value}")
    });
    labels.collect::<Vec<_>>().join(",")
}
