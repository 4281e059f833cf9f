//! `darner schedule` and `darner webhook`: what begins jobs by itself.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::ClientError;
use super::jobs::{How, names};
use super::people::{print, segment};
use super::table::{self, string};
use super::{Common, Output};

const SCHEDULES: &str = "/api/v1/schedules";
const WEBHOOKS: &str = "/api/v1/webhooks";

/// Jobs that begin by themselves at times of the day.
#[derive(Debug, Args)]
pub(crate) struct Schedule {
    #[command(subcommand)]
    what: OfSchedules,
}

#[derive(Debug, Subcommand)]
enum OfSchedules {
    /// See all schedules, and what came of them the last time
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Have images and files be brought to nodes at times of the day
    Create {
        #[command(flatten)]
        common: Common,
        /// What to call it
        name: String,
        /// Minute, hour, day of the month, month and day of the week, in UTC
        #[arg(long, value_name = "EXPRESSION")]
        cron: String,
        /// Images by their full names, such as docker.io/library/debian:12, and files by their URLs
        #[arg(required = true, value_name = "IMAGE|URL")]
        names: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// Remove a schedule; its jobs stay
    Remove {
        #[command(flatten)]
        common: Common,
        name: String,
    },
}

/// What registries tell of pushes.
#[derive(Debug, Args)]
pub(crate) struct Webhook {
    #[command(subcommand)]
    what: OfWebhooks,
}

/// Who notifies.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// A webhook of a Harbor project
    Harbor,
    /// Notifications of a distribution registry
    Distribution,
    /// A webhook of GitHub, for packages
    Github,
}

#[derive(Debug, Subcommand)]
enum OfWebhooks {
    /// See all webhooks, without their secrets
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Make a webhook; prints the path to call and the secret, which is shown this once
    Create {
        #[command(flatten)]
        common: Common,
        /// What to call it
        name: String,
        /// Who notifies
        #[arg(long)]
        kind: Kind,
        /// The registry, as nodes name it
        #[arg(long)]
        registry: String,
        /// Repositories in it: by name, team/* for all below, or *
        #[arg(required = true, value_name = "REPOSITORY")]
        repositories: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// Remove a webhook; its jobs stay
    Remove {
        #[command(flatten)]
        common: Common,
        name: String,
    },
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Harbor => "harbor",
            Self::Distribution => "distribution",
            Self::Github => "github",
        }
    }
}

impl Schedule {
    pub(super) async fn run(self) -> Result<ExitCode, ClientError> {
        match self.what {
            OfSchedules::List { common } => {
                let schedules = common.client()?.list(SCHEDULES).await?;
                let columns: &[table::Column] = &[
                    ("NAME", |item| string(item, "name")),
                    ("CRON", |item| string(item, "cron")),
                    ("NEXT", |item| table::time(&item["next_ms"])),
                    ("TO", |item| string(&item["job"], "to")),
                    ("LAST JOB", |item| string(item, "last_job")),
                    ("TROUBLE", |item| string(item, "trouble")),
                    ("IMAGES AND FILES", |item| names(&item["job"]).join(" ")),
                ];
                print(&common, columns, schedules);
            }
            OfSchedules::Create {
                common,
                name,
                cron,
                names,
                how,
            } => {
                create(&common, &name, &cron, how.bringing(&names)).await?;
            }
            OfSchedules::Remove { common, name } => remove(&common, SCHEDULES, &name).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Makes a schedule that begins `job`.
pub(super) async fn create(
    common: &Common,
    name: &str,
    cron: &str,
    job: Value,
) -> Result<(), ClientError> {
    let client = common.client()?;
    let body = json!({ "name": name, "cron": cron, "job": job });
    let made = client.json(client.request(Method::POST, SCHEDULES).json(&body));
    let made = made.await?;
    match common.output {
        Output::Json => table::print_json(&made),
        Output::Table => {
            let columns: &[table::Column] = &[
                ("NAME", |item| string(item, "name")),
                ("NEXT", |item| table::time(&item["next_ms"])),
            ];
            table::print(columns, &[made]);
        }
    }
    Ok(())
}

impl Webhook {
    pub(super) async fn run(self) -> Result<ExitCode, ClientError> {
        match self.what {
            OfWebhooks::List { common } => {
                let hooks = common.client()?.list(WEBHOOKS).await?;
                let columns: &[table::Column] = &[
                    ("NAME", |item| string(item, "name")),
                    ("KIND", |item| string(item, "kind")),
                    ("REGISTRY", |item| string(item, "registry")),
                    ("TO", |item| string(item, "to")),
                    ("REPOSITORIES", |item| table::words(&item["repositories"])),
                ];
                print(&common, columns, hooks);
            }
            OfWebhooks::Create {
                common,
                name,
                kind,
                registry,
                repositories,
                how,
            } => {
                let client = common.client()?;
                let hook = how.body(json!({
                    "kind": kind.as_str(), "registry": registry, "repositories": repositories
                }));
                let body = json!({ "name": name, "hook": hook });
                let made = client.json(client.request(Method::POST, WEBHOOKS).json(&body));
                let made = made.await?;
                match common.output {
                    Output::Json => table::print_json(&made),
                    Output::Table => {
                        let columns: &[table::Column] = &[
                            ("PATH", |item| string(item, "path")),
                            ("SECRET", |item| string(item, "secret")),
                        ];
                        table::print(columns, &[made]);
                    }
                }
            }
            OfWebhooks::Remove { common, name } => remove(&common, WEBHOOKS, &name).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

pub(super) async fn remove(common: &Common, all: &str, name: &str) -> Result<(), ClientError> {
    let client = common.client()?;
    let path = format!("{all}/{}", segment(name)?);
    client.send(client.request(Method::DELETE, &path)).await?;
    Ok(())
}
