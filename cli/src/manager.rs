//! `darner manager`: who belongs to the cluster, and the API to ask it; and a copy of what it
//! remembers.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use darner_manager::database::Location;
use darner_manager::database::backup::backup;
use darner_manager::server::Manager;
use darner_service::config::Command;

mod authority;

use crate::run::{self, Args, Process};

/// What to run, or what to do with the manager's data.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Manage {
    #[command(flatten)]
    run: Args,
    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Copy the manager's database to a new file while the manager runs
    Backup {
        #[command(flatten)]
        settings: Args,
        /// The copy; a file that must not exist
        #[arg(value_name = "FILE")]
        to: PathBuf,
    },
    /// Make, list and remove tokens that processes join the cluster with
    #[command(subcommand)]
    Token(authority::Token),
    /// Take a node's certificates back: every process refuses them within a minute
    Revoke(authority::Revoke),
    /// Let a new certificate authority sign; the old one counts until its last certificate is over
    RotateAuthority(authority::Rotate),
}

/// Runs the manager until a signal, or does what was asked.
pub(crate) async fn run(manage: Manage) -> ExitCode {
    match manage.task {
        None => serve(manage.run).await,
        Some(Task::Backup { settings, to }) => copy(settings, to).await,
        Some(Task::Token(token)) => authority::token(token).await,
        Some(Task::Revoke(revoke)) => authority::revoke(revoke).await,
        Some(Task::RotateAuthority(rotate)) => authority::rotate(rotate).await,
    }
}

async fn serve(args: Args) -> ExitCode {
    let start = async |process: &mut Process| {
        let Process {
            settings,
            metrics,
            identity,
            health,
            shutdown,
        } = process;
        let manager = Manager::bind(settings, metrics, health, identity, shutdown).await?;
        let bound = manager.addresses();
        tell_setup_link(&manager);
        manager.serve();
        Ok(bound)
    };
    run::role(Command::Manager, args, start).await
}

/// To whoever started the process, and not to the log, which others may read.
pub(crate) fn tell_setup_link(manager: &Manager) {
    if let Some(link) = manager.setup_link() {
        run::say(format_args!(
            "Make the first administrator, within a day: open this link in a browser on this host, or run darner login --setup '{}'",
            link.reveal()
        ));
    }
}

async fn copy(args: Args, to: PathBuf) -> ExitCode {
    let settings = match run::settings(Command::Manager, args) {
        Ok(settings) => settings,
        Err(ended) => return ended,
    };
    match backup(&Location::of(&settings), &to).await {
        Ok(bytes) => {
            let _ = writeln!(std::io::stdout(), "{}: {bytes} bytes", to.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            run::say(format_args!("error: {:#}", anyhow::Error::from(error)));
            ExitCode::FAILURE
        }
    }
}
