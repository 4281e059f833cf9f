//! `darner scheduler`: who holds what, and who reads upstream.

use std::process::ExitCode;

use darner_scheduler::server::Scheduler;
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
        let scheduler = Scheduler::bind(settings, metrics, health, shutdown).await?;
        let bound = scheduler.addresses();
        scheduler.serve();
        Ok(bound)
    };
    run::role(Command::Scheduler, args, start).await
}
