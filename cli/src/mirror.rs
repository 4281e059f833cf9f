//! `darner mirror`: a node's mirror, or a seed by `[mirror] role`.

use std::process::ExitCode;

use darner_mirror::server::Mirror;
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
        let identity = Identity::open(settings, settings.mirror.role, identity, shutdown).await?;
        let mirror = Mirror::bind(settings, metrics, health, identity, shutdown).await?;
        let bound = mirror.addresses();
        mirror.serve();
        Ok(bound)
    };
    run::role(Command::Mirror, args, start).await
}
