//! What every role does around its own work: settings, log, admin listener, telling what it listens
//! on and when it is ready, and ending in order.

use std::convert::Infallible;
use std::fmt;
use std::fs::DirBuilder;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use darner_service::admin::Admin;
use darner_service::config::{self, Flag, Sources};
use darner_service::health::Health;
use darner_service::identity::{IdentityMetrics, warn_insecure};
use darner_service::metrics::Metrics;
use darner_service::settings::{Log, Settings};
use darner_service::shutdown::Shutdown;
use darner_service::telemetry::{self, TelemetryError};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Wrong usage or settings.
const USAGE: u8 = 2;
/// As shells report a process that SIGINT ended.
const INTERRUPTED: u8 = 130;
/// A process that could not start has nobody to wait for but itself.
const FAILED_GRACE: Duration = Duration::from_secs(1);

/// What a role listens on: what for, and where.
pub(crate) type Bound = (&'static str, SocketAddr);

/// Flags of every role. They win over variables, which win over the settings file.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Settings file (TOML)
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where all state is kept [default: ~/.local/state/darner; /var/lib/darner for a role that root
    /// runs by itself]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// What is logged, such as info or info,darner_mirror=debug
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// How long what is being served may go on after SIGINT or SIGTERM [default: 30s]
    #[arg(long, value_name = "TIME")]
    grace: Option<String>,
    /// Any setting, such as registry.listen=127.0.0.1:5000, which the variable
    /// DARNER_REGISTRY__LISTEN would set too; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

impl Args {
    fn sources(self) -> Sources {
        let mut flags: Vec<_> = self
            .set
            .iter()
            .map(|argument| Flag::set(argument))
            .collect();
        for (name, key, value) in [
            ("--data-dir", "data_dir", self.data_dir),
            ("--log", "log.filter", self.log),
            ("--grace", "shutdown.grace", self.grace),
        ] {
            flags.extend(value.map(|value| Flag::named(name, key, value)));
        }
        Sources::of_process(self.config, flags)
    }
}

/// A process that has settings and a log, and nothing else yet.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) settings: Settings,
    pub(crate) metrics: Metrics,
    pub(crate) identity: IdentityMetrics,
    pub(crate) health: Health,
    pub(crate) shutdown: Shutdown,
}

impl Process {
    /// Reads the settings and starts the log with `start_log`. What is wrong has been said when
    /// this returns an exit status.
    pub(crate) fn new(
        command: config::Command,
        args: Args,
        start_log: impl FnOnce(&Log) -> Result<(), TelemetryError>,
    ) -> Result<Self, ExitCode> {
        let settings = settings(command, args)?;
        start_log(&settings.log).map_err(|error| {
            say(format_args!("error: {:#}", anyhow::Error::new(error)));
            ExitCode::FAILURE
        })?;
        if settings.identity.insecure {
            warn_insecure();
        }
        let metrics = Metrics::default();
        Ok(Self {
            settings,
            identity: IdentityMetrics::new(&metrics),
            metrics,
            health: Health::default(),
            shutdown: Shutdown::default(),
        })
    }

    /// Starts the role with `start`, serves until a signal ends the process, and says how that
    /// went. Once the role listens and is ready `meanwhile` runs, for as long as it likes.
    pub(crate) async fn run(
        mut self,
        start: impl AsyncFnOnce(&mut Self) -> anyhow::Result<Vec<Bound>>,
        meanwhile: impl AsyncFnOnce(&Self, &[Bound]),
    ) -> ExitCode {
        let mut signals = match Signals::new() {
            Ok(signals) => signals,
            Err(error) => return self.failed(error).await,
        };
        let started = tokio::select! {
            started = self.start(start) => started,
            () = signals.next() => return self.end(&mut signals).await,
        };
        let (admin, bound) = match started {
            Ok(started) => started,
            Err(error) => return self.failed(error).await,
        };
        let until_signal = async {
            tokio::select! {
                () = signals.next() => {}
                never = tell_readiness(&self.health) => match never {},
                () = async {
                    self.health.ready().await;
                    meanwhile(&self, &bound).await;
                    std::future::pending().await
                } => {}
            }
            self.end(&mut signals).await
        };
        tokio::select! {
            never = admin.serve() => match never {},
            ended = until_signal => ended,
        }
    }

    async fn start(
        &mut self,
        start: impl AsyncFnOnce(&mut Self) -> anyhow::Result<Vec<Bound>>,
    ) -> anyhow::Result<(Admin, Vec<Bound>)> {
        let data_dir = &self.settings.data_dir;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir)
            .with_context(|| {
                let path = data_dir.display();
                format!("{path} cannot be made; set data_dir to a directory this user may write")
            })?;
        let admin = Admin::bind(&self.settings.admin, &self.metrics, &self.health).await?;
        let mut bound = start(self).await?;
        bound.push(("admin", admin.address()));
        for (what, address) in &bound {
            tracing::info!(what, %address, "listening");
        }
        Ok((admin, bound))
    }

    async fn end(&self, signals: &mut Signals) -> ExitCode {
        let grace = self.settings.shutdown.grace;
        tracing::info!(grace_seconds = grace.as_secs_f64(), "stopping");
        tokio::select! {
            in_time = self.shutdown.finish(grace) => {
                if in_time {
                    tracing::info!("stopped");
                } else {
                    tracing::warn!("stopped before everything was served: the grace period is over");
                }
                ExitCode::SUCCESS
            }
            () = signals.next() => {
                tracing::warn!("stopped at once, at the second signal");
                ExitCode::from(INTERRUPTED)
            }
        }
    }

    async fn failed(&self, error: anyhow::Error) -> ExitCode {
        tracing::error!(error = format!("{error:#}"), "the process cannot start");
        self.shutdown.finish(FAILED_GRACE).await;
        ExitCode::FAILURE
    }
}

/// Runs the role of `command` by itself, from its settings to its end.
pub(crate) async fn role(
    command: config::Command,
    args: Args,
    start: impl AsyncFnOnce(&mut Process) -> anyhow::Result<Vec<Bound>>,
) -> ExitCode {
    match Process::new(command, args, plain_log) {
        Ok(process) => process.run(start, async |_, _| {}).await,
        Err(ended) => ended,
    }
}

/// The settings of `command`. What is wrong with them has been said when this returns an exit status.
pub(crate) fn settings(command: config::Command, args: Args) -> Result<Settings, ExitCode> {
    config::load(command, &args.sources()).map_err(|error| {
        say(format_args!("{error}"));
        ExitCode::from(USAGE)
    })
}

/// The signals that ask a process to end. Held from before anything is started, so that none kills
/// it half-way.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be listened for");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Logs every change of readiness, for ever.
async fn tell_readiness(health: &Health) -> Infallible {
    loop {
        health.ready().await;
        tracing::info!("ready");
        health.not_ready().await;
        // What was not ready for a moment only is not to be made out any more.
        if let Some((part, reason)) = health.waiting_for().into_iter().next() {
            tracing::warn!(part, reason, "not ready");
        }
    }
}

/// A line to standard error. That nobody may be there to read it is no reason to fail.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// The log of a role that runs by itself.
pub(crate) fn plain_log(log: &Log) -> Result<(), TelemetryError> {
    telemetry::start(log)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use rustix::process::{Signal as Kind, getpid, kill_process};

    use super::*;

    fn process(data_dir: &std::path::Path, grace: &str) -> Process {
        let sources = Sources {
            flags: vec![
                Flag::named("", "data_dir", data_dir.to_string_lossy()),
                Flag::set("node.id=test"),
                Flag::set("admin.listen=127.0.0.1:0"),
                Flag::named("", "shutdown.grace", grace),
            ],
            ..Sources::default()
        };
        Process {
            settings: config::load(config::Command::Up, &sources).unwrap(),
            metrics: Metrics::default(),
            identity: IdentityMetrics::default(),
            health: Health::default(),
            shutdown: Shutdown::default(),
        }
    }

    fn interrupt() {
        kill_process(getpid(), Kind::INT).unwrap();
    }

    /// Runs a process with work that never ends and sends it `signals`, each when it waits for it.
    async fn interrupted(grace: &str, signals: u32) -> ExitCode {
        let directory = tempfile::tempdir().unwrap();
        let process = process(directory.path(), grace);
        let shutdown = process.shutdown.clone();
        let draining = shutdown.clone();
        let work = async move {
            draining.draining().await;
            (1..signals).for_each(|_| interrupt());
            pending::<()>().await;
        };
        let start = async |_: &mut Process| {
            shutdown.spawn(work);
            Ok(Vec::new())
        };
        process.run(start, async |_, _| interrupt()).await
    }

    /// In one test, since a signal goes to all of them.
    #[tokio::test]
    async fn work_that_does_not_end_is_ended() {
        assert_eq!(interrupted("10ms", 1).await, ExitCode::SUCCESS);
        assert_eq!(interrupted("1h", 2).await, INTERRUPTED.into());
    }
}
