//! `darner scheduler`: who holds what, and who reads upstream.

use std::process::ExitCode;

use darner_proto::id::Role;
use darner_scheduler::server::Scheduler;
use darner_service::config::Command;
use darner_service::identity::Identity;

use crate::run::{self, Args, Process};

/// Runs until a signal.
pub(crate) async fn run(args: Args) -> ExitCode {
    let start = async |process: &mut Process| {
        let Process {
            settings,
            metrics,
            identity,
            health,
            shutdown,
        } = process;
        let identity = Identity::open(settings, Role::Scheduler, identity, shutdown).await?;
        let scheduler = Scheduler::bind(settings, metrics, health, identity, shutdown).await?;
        let bound = scheduler.addresses();
        scheduler.serve();
        Ok(bound)
    };
    run::role(Command::Scheduler, args, start).await
}
