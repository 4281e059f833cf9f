//! `darner manager`: who belongs to the cluster, and the API to ask it.

use std::process::ExitCode;

use darner_manager::server::Manager;
use darner_service::config::Command;

use crate::run::{self, Args, Process};

/// Runs until a signal.
pub(crate) async fn run(args: Args) -> ExitCode {
    let start = async |process: &mut Process| {
        let Process {
            settings,
            metrics,
            health,
            shutdown,
        } = process;
        let manager = Manager::bind(settings, metrics, health, shutdown).await?;
        let bound = manager.addresses();
        manager.serve();
        Ok(bound)
    };
    run::role(Command::Manager, args, start).await
}
