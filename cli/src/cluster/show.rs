//! `darner status` and `darner nodes`.

use std::process::ExitCode;

use bytesize::ByteSize;
use clap::Args;
use serde_json::{Value, json};

use super::client::ClientError;
use super::clusters::label;
use super::people::Becomes;
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
    /// Only those that are this
    #[arg(long, value_enum)]
    role: Option<Becomes>,
    /// Only those of this cluster
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Only those with this label, such as zone=a; given several times, with all of them
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Only those whose id begins so
    #[arg(long, value_name = "PREFIX")]
    id: Option<String>,
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
        let nodes = self.found().await?;
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

    /// Those that are asked for: the manager has nodes and schedulers in lists of their own.
    async fn found(&self) -> Result<Vec<Value>, ClientError> {
        let client = self.common.client()?;
        let labels = self.labels.iter();
        let labels: Vec<_> = labels
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let labels = Some(labels.join(",")).filter(|labels| !labels.is_empty());
        let fields = [
            ("cluster", &self.cluster),
            ("label", &labels),
            ("id", &self.id),
        ];
        let given = fields
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let wanted: Vec<_> = given.collect();
        let mut found = Vec::new();
        if self.role != Some(Becomes::Scheduler) {
            let role = self.role.map(|role| ("role", role.as_str()));
            let wanted: Vec<_> = wanted.iter().copied().chain(role).collect();
            found.extend(client.list_of("/api/v1/nodes", &wanted).await?);
        }
        if self.role.is_none_or(|role| role == Becomes::Scheduler) {
            found.extend(client.list_of("/api/v1/schedulers", &wanted).await?);
        }
        Ok(found)
    }
}

fn bytes(value: &Value) -> String {
    ByteSize::b(value.as_u64().unwrap_or(0)).to_string()
}
