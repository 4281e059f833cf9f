//! `darner tasks` and `darner top`: what is on its way.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use super::client::{Client, ClientError};
use super::images::{remove, segment};
use super::people::print;
use super::table::{self, Column, string};
use super::{Common, Output};

/// What is on its way to nodes.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Tasks {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    common: Common,
    /// Only such content
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Only what is of this registry
    #[arg(long, value_name = "NAME")]
    registry: Option<String>,
    /// Only what is of this repository, without its registry, such as library/debian
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
}

/// What a task brings.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// A layer of an image
    Layer,
    /// A file
    File,
}

#[derive(Debug, Subcommand)]
enum What {
    /// See which nodes have how much of one, and whom they fetch from
    Show {
        #[command(flatten)]
        common: Common,
        /// The digest of a layer, or the key of a file
        id: String,
    },
    /// Remove what one brings from every node, whether it is on its way or not
    ///
    /// It is had again when somebody wants it. What is on its way comes to its end.
    Rm {
        #[command(flatten)]
        common: Common,
        /// The digest of a layer, or the key of a file
        id: String,
        /// Wait until every node that is in the cluster has done it
        #[arg(long)]
        wait: bool,
    },
}

/// What is on its way, again and again.
#[derive(Debug, Args)]
pub(crate) struct Top {
    #[command(flatten)]
    common: Common,
    /// Seconds between looks
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Look so many times; without this, until it is interrupted
    #[arg(long, value_name = "TIMES")]
    times: Option<u64>,
}

const TASKS: &[Column] = &[
    ("TASK", |task| string(task, "id")),
    ("SIZE", |task| bytes(&task["size_bytes"])),
    ("NODES", |task| string(task, "nodes")),
    ("WHOLE", |task| string(task, "complete_nodes")),
    ("DONE", |task| percent(&task["progress"])),
    ("SPEED", |task| speed(&task["bytes_per_second"])),
    ("READING", |task| string(task, "leases")),
    ("OF", |task| joined(&task["sources"])),
];

const NODES: &[Column] = &[
    ("NODE", |node| string(node, "node")),
    ("SEED", |node| string(node, "seed")),
    ("DONE", |node| percent(&node["progress"])),
    ("SPEED", |node| speed(&node["bytes_per_second"])),
    ("READS", |node| {
        let reads = node["reading"]
            .as_array()
            .is_some_and(|runs| !runs.is_empty());
        let from = if reads { "upstream" } else { "" };
        from.to_owned()
    }),
    ("FROM", |node| joined(&node["parents"])),
];

impl Tasks {
    pub(super) async fn run(self) -> Result<ExitCode, ClientError> {
        match self.what {
            Some(What::Show { common, id }) => {
                let path = format!("/api/v1/tasks/{}", segment(&id)?);
                let task = common.client()?.get(&path).await?;
                match common.output {
                    Output::Json => table::print_json(&task),
                    Output::Table => {
                        let nodes = task["participants"].as_array().cloned();
                        table::print(NODES, &nodes.unwrap_or_default());
                    }
                }
            }
            Some(What::Rm { common, id, wait }) => {
                let path = format!("/api/v1/tasks/{}", segment(&id)?);
                remove(&common, &path, wait).await?;
            }
            None => {
                let kind = self.kind.map(|kind| match kind {
                    Kind::Layer => "layer",
                    Kind::File => "file",
                });
                let fields = [
                    ("kind", kind),
                    ("registry", self.registry.as_deref()),
                    ("repository", self.repository.as_deref()),
                ];
                let given = fields.into_iter();
                let wanted: Vec<_> = given
                    .filter_map(|(name, value)| Some((name, value?)))
                    .collect();
                let client = self.common.client()?;
                let tasks = client.list_of("/api/v1/tasks", &wanted).await?;
                print(&self.common, TASKS, tasks);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Top {
    pub(super) async fn run(self) -> Result<ExitCode, ClientError> {
        let client = self.common.client()?;
        let mut looks = 0;
        loop {
            self.look(&client).await?;
            looks += 1;
            if self.times.is_some_and(|times| looks >= times) {
                return Ok(ExitCode::SUCCESS);
            }
            tokio::time::sleep(Duration::from_secs(self.every)).await;
        }
    }

    /// On a terminal in place of the look before, otherwise after it.
    async fn look(&self, client: &Client) -> Result<(), ClientError> {
        let (overview, tasks) = tokio::join!(
            client.get("/api/v1/overview"),
            client.get("/api/v1/tasks?limit=30"),
        );
        let (overview, tasks) = (overview?, tasks?);
        if let Output::Json = self.common.output {
            // One line a look, for who reads line by line.
            let both = serde_json::json!({ "overview": overview, "tasks": tasks["items"] });
            table::print_line(&both.to_string());
            return Ok(());
        }
        let mut out = io::stdout();
        if out.is_terminal() {
            // Home, and everything below is cleared.
            let _ = out.write_all(b"\x1b[H\x1b[J");
            let _ = out.flush();
        }
        table::print_line(&format!(
            "{} mirrors, {} seeds, {} schedulers; {} downloads running; {} sent to clients, {} read from registries",
            overview["mirrors"],
            overview["seeds"],
            overview["schedulers"],
            overview["running"],
            served(&overview["served_bytes"]),
            bytes(&overview["upstream_bytes"]),
        ));
        let items = tasks["items"].as_array().cloned().unwrap_or_default();
        table::print(TASKS, &items);
        Ok(())
    }
}

fn served(parts: &Value) -> String {
    let parts = parts.as_object().into_iter().flatten();
    let sum: u64 = parts.filter_map(|(_, part)| part.as_u64()).sum();
    ByteSize::b(sum).to_string()
}

fn joined(names: &Value) -> String {
    let names = names.as_array().into_iter().flatten();
    names
        .filter_map(Value::as_str)
        .collect::<Vec<_>>()
        .join(",")
}

fn bytes(value: &Value) -> String {
    let known = value.as_u64();
    known.map_or(String::new(), |count| ByteSize::b(count).to_string())
}

fn speed(value: &Value) -> String {
    let known = value.as_u64();
    known.map_or(String::new(), |rate| format!("{}/s", ByteSize::b(rate)))
}

fn percent(value: &Value) -> String {
    let known = value.as_f64();
    known.map_or(String::new(), |ratio| format!("{:.0} %", ratio * 100.0))
}
