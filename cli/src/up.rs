//! `darner up`: manager, scheduler and one seed in a single process, among themselves on loopback.
//!
//! The parts are those of a cluster, started in the order in which they need each other's address,
//! so that any of their ports may be 0.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;

use darner_manager::server::Manager;
use darner_mirror::server::Mirror;
use darner_proto::id::Role;
use darner_scheduler::server::Scheduler;
use darner_service::config::Command;
use darner_service::identity::Identity;

use crate::run::{self, Args, Bound, Process};

mod live;
mod served;
mod welcome;

use live::Live;

/// Runs until a signal.
pub(crate) async fn run(args: Args) -> ExitCode {
    let live = io::stderr().is_terminal().then(Live::new);
    let start_log = |log: &_| match &live {
        Some(live) => live.start_log(log),
        None => run::plain_log(log),
    };
    let process = match Process::new(Command::Up, args, start_log) {
        Ok(process) => process,
        Err(ended) => return ended,
    };
    let meanwhile = async |process: &Process, bound: &[Bound]| {
        let text = welcome::text(&process.settings, bound);
        // Nobody may be there to read it.
        let _ = io::stdout().write_all(text.as_bytes());
        if let Some(live) = &live {
            match live.follow(&process.metrics).await {}
        }
    };
    let ended = process.run(start, meanwhile).await;
    if let Some(live) = &live {
        live.clear();
    }
    ended
}

async fn start(process: &mut Process) -> anyhow::Result<Vec<Bound>> {
    let Process {
        settings,
        metrics,
        identity,
        health,
        shutdown,
    } = process;
    if settings.manager.address.is_some() || !settings.scheduler.addresses.is_empty() {
        tracing::warn!(
            "[manager] address and [scheduler] addresses mean nothing to `darner up`: it has its own"
        );
    }
    let manager = Manager::bind(settings, metrics, health, identity, shutdown).await?;
    let mut bound = manager.addresses();
    crate::manager::tell_setup_link(&manager);
    settings.scheduler.addresses.clear();
    let address = address_of("manager", &bound);
    settings.manager.address = address.map(|address| manager.url(reachable(address)));
    let authority = manager.authority().cloned();
    manager.serve();
    let of = async |role: Role| match &authority {
        Some(authority) => {
            let issuer = authority.issuer(role.into(), settings.node.id.clone());
            Identity::issued(issuer, identity, shutdown).await
        }
        None => Ok(Identity::insecure(identity)),
    };
    let (schedules, mirrors) = (of(Role::Scheduler).await?, of(settings.mirror.role).await?);
    let scheduler = Scheduler::bind(settings, metrics, health, schedules, shutdown).await?;
    bound.extend(scheduler.addresses());
    scheduler.serve();
    let mirror = Mirror::bind(settings, metrics, health, mirrors, shutdown).await?;
    bound.extend(mirror.addresses());
    mirror.serve();
    Ok(bound)
}

/// Where `what` listens.
fn address_of(what: &str, bound: &[Bound]) -> Option<SocketAddr> {
    let found = bound.iter().find(|(name, _)| *name == what);
    found.map(|(_, address)| *address)
}

/// `address` as this host can connect to it: a wildcard is reached over loopback.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
