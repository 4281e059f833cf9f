//! Commands that ask the manager: log in, and see and change what its API shows.
//!
//! Data goes to standard output, as a table or (`-o json`) as the API sends it; everything else to
//! standard error. Exit status: 0 done, 1 refused, 2 wrong usage, 3 the cluster is not well, 4 the
//! manager or its database cannot be reached, 5 not logged in or not allowed to.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

mod begun;
mod client;
mod clusters;
mod images;
mod jobs;
mod login;
mod people;
mod rules;
mod show;
mod table;
mod tasks;

pub(crate) use login::Login;

use client::{Client, ClientError};

/// How data is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// As the API sends it, all pages of a list in one.
    Json,
}

/// Flags of every such command.
#[derive(Debug, Args)]
struct Common {
    /// How to write it
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
    /// Where `darner login` kept the manager's address and the token
    #[arg(long, value_name = "FILE")]
    login_file: Option<std::path::PathBuf>,
}

/// What to ask the manager.
#[derive(Debug, Subcommand)]
pub(crate) enum Ask {
    /// See whether the cluster has what it needs
    Status(show::Status),
    /// See who belongs to the cluster
    Nodes(show::Nodes),
    /// See which nodes hold which images
    Images(images::Images),
    /// See what is on its way to nodes
    Tasks(tasks::Tasks),
    /// See what is on its way, again and again
    Top(tasks::Top),
    /// Have nodes hold images ahead of time
    Preheat(jobs::Preheat),
    /// See, call off and retry jobs
    #[command(visible_alias = "jobs")]
    Job(jobs::OfJobs),
    /// Make, see and remove jobs that begin by themselves
    Schedule(begun::Schedule),
    /// Make, see and remove what registries tell of pushes
    Webhook(begun::Webhook),
    /// Divide the hosts of a manager into clusters, and say what is set for their nodes
    Cluster(clusters::Cluster),
    /// See and revoke tokens
    Token(people::Token),
    /// Make, see, change and remove accounts
    User(people::User),
}

impl Ask {
    /// Asks, and says how that went.
    pub(crate) async fn run(self) -> ExitCode {
        let ended = match self {
            Self::Status(status) => status.run().await,
            Self::Nodes(nodes) => nodes.run().await,
            Self::Images(images) => images.run().await,
            Self::Tasks(tasks) => tasks.run().await,
            Self::Top(top) => top.run().await,
            Self::Preheat(preheat) => preheat.run().await,
            Self::Job(job) => job.run().await,
            Self::Schedule(schedule) => schedule.run().await,
            Self::Webhook(webhook) => webhook.run().await,
            Self::Cluster(cluster) => cluster.run().await,
            Self::Token(token) => token.run().await,
            Self::User(user) => user.run().await,
        };
        ended_as(ended)
    }
}

fn ended_as(ended: Result<ExitCode, ClientError>) -> ExitCode {
    ended.unwrap_or_else(|error| {
        let status = error.exit_status();
        crate::run::say(format_args!("error: {:#}", anyhow::Error::from(error)));
        ExitCode::from(status)
    })
}

impl Common {
    fn client(&self) -> Result<Client, ClientError> {
        Client::logged_in(self.login_file.as_deref())
    }
}
