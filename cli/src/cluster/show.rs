//! `darner status` and `darner nodes`.

use std::process::ExitCode;

use bytesize::ByteSize;
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
        let mut told = client.get("/api/v1/overview").await?;
        let is_healthy = told["schedulers"].as_u64().unwrap_or(0) > 0;
        told["healthy"] = json!(is_healthy);
        told["hits"] = match told["hit_ratio"].as_f64() {
            Some(ratio) => json!(format!("{:.1} %", ratio * 100.0)),
            None => Value::Null,
        };
        let remarks = told["remarks"].as_array().cloned().unwrap_or_default();
        match self.common.output {
            Output::Json => table::print_json(&told),
            Output::Table => {
                let columns: [Column; 8] = [
                    ("HEALTHY", |item| string(item, "healthy")),
                    ("MIRRORS", |item| string(item, "mirrors")),
                    ("SEEDS", |item| string(item, "seeds")),
                    ("SCHEDULERS", |item| string(item, "schedulers")),
                    ("SAVED", |item| bytes(&item["saved_bytes"])),
                    ("HITS", |item| string(item, "hits")),
                    ("RUNNING", |item| string(item, "running")),
                    ("CONFIGURATION", |item| string(item, "version")),
                ];
                table::print(&columns, &[told]);
                for remark in remarks.iter().filter_map(Value::as_str) {
                    crate::run::say(format_args!("{remark}"));
                }
            }
        }
        Ok(match is_healthy {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(UNHEALTHY),
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
                    ("CLUSTER", |item| string(item, "cluster")),
                    ("ADDRESS", |item| string(item, "address")),
                    ("LABELS", table::labels),
                ],
                &nodes,
            ),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn bytes(value: &Value) -> String {
    ByteSize::b(value.as_u64().unwrap_or(0)).to_string()
}
