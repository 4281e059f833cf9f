//! `darner scheduler`: who holds what, and who reads upstream.

use std::process::ExitCode;

use darner_scheduler::server::Scheduler;
use darner_service::config::Command;

use crate::run::{self, Args, Process};

/// Runs until a signal.
pub(crate) async fn run(args: Args) -> ExitCode {
    let process = match Process::new(Command::Scheduler, args, run::plain_log) {
        Ok(process) => process,
        Err(ended) => return ended,
    };
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
    process.run(start, async |_, _| {}).await
}
