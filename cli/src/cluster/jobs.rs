//! `darner preheat` and `darner job`.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use serde_json::{Value, json};

use super::begun;
use super::client::{Client, ClientError};
use super::people::{print, segment};
use super::table::{self, string};
use super::{Common, Output};

/// Between looks at a job.
const LOOK: Duration = Duration::from_millis(500);
/// A manager that is away is waited for, so many looks in a row: it may be restarted.
const MISSED_LOOKS: u32 = 120;

/// Have nodes hold images and files before anybody asks for them.
#[derive(Debug, Args)]
pub(crate) struct Preheat {
    #[command(flatten)]
    common: Common,
    /// Images by their full names, such as docker.io/library/debian:12, and files by their URLs, such as
    /// https://files.example.com/model.bin
    #[arg(required = true, value_name = "IMAGE|URL")]
    names: Vec<String>,
    #[command(flatten)]
    how: How,
    /// Wait until it has ended; exit status 1 unless all of it is done
    #[arg(long)]
    wait: bool,
    /// What to call this request: given again, it is the same job
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Not now but at times of the day: minute, hour, day of the month, month and day of the week, in UTC
    #[arg(long, value_name = "EXPRESSION", requires = "name", conflicts_with_all = ["wait", "key"])]
    cron: Option<String>,
    /// What to call the schedule
    #[arg(long, requires = "cron")]
    name: Option<String>,
}

/// Where a job is to bring images and files, and how.
#[derive(Debug, Args)]
pub(super) struct How {
    /// Of an image for several platforms, this: os/architecture[/variant]
    ///
    /// Without it each node gets what a runtime on it would pull.
    #[arg(long)]
    platform: Option<String>,
    /// Which nodes: seeds, nodes (seeds and mirrors), or a label of mirrors as label=KEY=VALUE
    #[arg(long, default_value = "nodes")]
    to: String,
    /// Mirrors that are at it at once; without it 64
    #[arg(long, value_name = "COUNT")]
    at_once: Option<u32>,
    /// Bytes a second that each node takes in for it, such as 20MiB; without it as many as there are
    #[arg(long, value_name = "BYTES")]
    rate: Option<bytesize::ByteSize>,
}

impl How {
    /// What is asked of the API for a job that brings these images and files.
    pub(super) fn bringing(&self, names: &[String]) -> Value {
        let (files, images): (Vec<_>, Vec<_>) = names.iter().partition(|name| name.contains("://"));
        self.body(json!({ "images": images, "files": files }))
    }

    /// Adds it to what is asked of the API.
    pub(super) fn body(&self, mut body: Value) -> Value {
        body["to"] = json!(self.to);
        if let Some(platform) = &self.platform {
            body["platform"] = json!(platform);
        }
        if let Some(at_once) = self.at_once {
            body["at_once"] = json!(at_once);
        }
        if let Some(rate) = self.rate {
            body["bytes_per_second"] = json!(rate.as_u64());
        }
        body
    }
}

/// Jobs.
#[derive(Debug, Args)]
pub(crate) struct OfJobs {
    #[command(subcommand)]
    what: What,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Phase {
    /// Some of it has not ended
    Running,
    /// All of it is done
    Done,
    /// Some of it has failed
    Failed,
    /// It was called off
    Cancelled,
}

#[derive(Debug, Subcommand)]
enum What {
    /// See all jobs, the latest first
    List {
        #[command(flatten)]
        common: Common,
        /// Only those that are so far
        #[arg(long, value_enum)]
        phase: Option<Phase>,
        /// Only those that this account asked for, itself or with a token
        #[arg(long, value_name = "NAME")]
        by: Option<String>,
    },
    /// See how far a job is on each node
    Show {
        #[command(flatten)]
        common: Common,
        id: String,
    },
    /// Wait until a job has ended; exit status 1 unless all of it is done
    Wait {
        #[command(flatten)]
        common: Common,
        id: String,
    },
    /// Call a job off; what nodes hold they keep
    Cancel {
        #[command(flatten)]
        common: Common,
        id: String,
    },
    /// Begin again with what failed or was called off
    Retry {
        #[command(flatten)]
        common: Common,
        id: String,
    },
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Preheat {
    pub(super) async fn run(self) -> Result<ExitCode, ClientError> {
        let client = self.common.client()?;
        let body = self.how.bringing(&self.names);
        if let (Some(cron), Some(name)) = (&self.cron, &self.name) {
            begun::create(&self.common, name, cron, body).await?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut request = client.request(Method::POST, "/api/v1/jobs").json(&body);
        if let Some(key) = &self.key {
            request = request.header("idempotency-key", key);
        }
        let job = client.json(request).await?;
        let id = string(&job, "id");
        match self.wait {
            true => wait(&self.common, &client, &id).await,
            false => {
                match self.common.output {
                    Output::Json => table::print_json(&job),
                    Output::Table => table::print(&[("JOB", |job| string(job, "id"))], &[job]),
                }
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

impl OfJobs {
    pub(super) async fn run(self) -> Result<ExitCode, ClientError> {
        match self.what {
            What::List { common, phase, by } => {
                let phase = phase.map(|phase| ("phase", phase.as_str()));
                let by = by.as_deref().map(|by| ("by", by));
                let wanted: Vec<_> = phase.into_iter().chain(by).collect();
                let client = common.client()?;
                let jobs = client.list_of("/api/v1/jobs", &wanted).await?;
                let columns: &[table::Column] = &[
                    ("JOB", |job| string(job, "id")),
                    ("STATE", |job| string(job, "phase")),
                    ("TO", |job| string(job, "to")),
                    ("DONE", |job| format!("{}/{}", job["done"], job["items"])),
                    ("IMAGES AND FILES", |job| names(job).join(" ")),
                ];
                print(&common, columns, jobs);
            }
            What::Show { common, id } => {
                let job = get(&common.client()?, &id).await?;
                show(&common, &job);
            }
            What::Wait { common, id } => {
                let client = common.client()?;
                return wait(&common, &client, &id).await;
            }
            What::Cancel { common, id } => change(&common, &id, "cancel").await?,
            What::Retry { common, id } => change(&common, &id, "retry").await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn get(client: &Client, id: &str) -> Result<Value, ClientError> {
    client.get(&format!("/api/v1/jobs/{}", segment(id)?)).await
}

async fn change(common: &Common, id: &str, verb: &str) -> Result<(), ClientError> {
    let client = common.client()?;
    let path = format!("/api/v1/jobs/{}/{verb}", segment(id)?);
    client.send(client.request(Method::POST, &path)).await?;
    Ok(())
}

/// Looks at the job until it has ended, whatever becomes of the manager meanwhile.
async fn wait(common: &Common, client: &Client, id: &str) -> Result<ExitCode, ClientError> {
    let bar = ProgressBar::new(0);
    let style = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {msg}";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    let mut missed = 0;
    let job = loop {
        match get(client, id).await {
            Ok(job) => {
                missed = 0;
                progress(&bar, &job);
                if job["phase"] != "running" {
                    break job;
                }
            }
            Err(error) if error.is_passing() && missed < MISSED_LOOKS => missed += 1,
            Err(error) => return Err(error),
        }
        tokio::time::sleep(LOOK).await;
    };
    bar.finish_and_clear();
    show(common, &job);
    Ok(match job["phase"] == "done" {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn progress(bar: &ProgressBar, job: &Value) {
    let items = job["items"].as_array().map_or(&[][..], Vec::as_slice);
    let sum = |key: &str| items.iter().filter_map(|item| item[key].as_u64()).sum();
    let done = items.iter().filter(|item| item["state"] == "done").count();
    bar.set_length(sum("total_bytes"));
    bar.set_position(sum("bytes"));
    bar.set_message(format!("{done}/{} done", items.len()));
}

fn show(common: &Common, job: &Value) {
    if let Output::Json = common.output {
        return table::print_json(job);
    }
    let items = job["items"].as_array().cloned().unwrap_or_default();
    let names = names(job);
    let with_names = items.into_iter().map(|mut item| {
        let at = item["image"].as_u64();
        let at = at.and_then(|at| usize::try_from(at).ok());
        item["name"] = json!(at.and_then(|at| names.get(at)));
        item
    });
    let columns: &[table::Column] = &[
        ("NODE", |item| string(item, "node")),
        ("STATE", |item| string(item, "state")),
        ("BYTES", |item| {
            format!("{}/{}", item["bytes"], item["total_bytes"])
        }),
        ("BLOBS", |item| {
            format!("{}/{}", item["blobs"], item["total_blobs"])
        }),
        ("ON THEIR WAY", coming),
        ("IMAGE OR FILE", |item| string(item, "name")),
        ("WHY", |item| string(item, "why")),
    ];
    table::print(columns, &with_names.collect::<Vec<_>>());
}

/// The layers that are on their way, and how much of each is there.
fn coming(item: &Value) -> String {
    let layers = item["coming"].as_array().into_iter().flatten();
    let layers = layers.map(|layer| {
        let digest = layer["digest"].as_str().unwrap_or_default();
        let short = digest.split_once(':').map_or(digest, |(_, hex)| hex);
        let short = short.get(..12).unwrap_or(short);
        let number = |key: &str| layer[key].as_u64().unwrap_or(0);
        let hundredths = number("bytes") * 100 / number("total_bytes").max(1);
        format!("{short} {hundredths}%")
    });
    layers.collect::<Vec<_>>().join(", ")
}

/// What a job is about, in the order its items count it.
pub(super) fn names(job: &Value) -> Vec<&str> {
    let names = [&job["images"], &job["files"]];
    let names = names.into_iter().filter_map(Value::as_array).flatten();
    names.filter_map(Value::as_str).collect()
}
