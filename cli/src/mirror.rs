//! `darner mirror`: a node's mirror, or a seed by `[mirror] role`. With `[gossip] enabled` a scheduler
//! runs beside it.

use std::process::ExitCode;

use darner_mirror::server::Mirror;
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
        let identity = Identity::open(settings, settings.mirror.role, identity, shutdown).await?;
        let mut bound = Vec::new();
        if settings.gossip.enabled {
            let own = identity.clone();
            let scheduler = Scheduler::beside(settings, metrics, health, own, shutdown).await?;
            bound.extend(scheduler.addresses());
            scheduler.serve();
            // Others are told the port that it is at.
            if let Some((_, address)) = bound.last() {
                settings.scheduler.listen.set_port(address.port());
            }
        }
        let mirror = Mirror::bind(settings, metrics, health, identity, shutdown).await?;
        bound.extend(mirror.addresses());
        mirror.serve();
        Ok(bound)
    };
    run::role(Command::Mirror, args, start).await
}
