//! `darner`: one program for every part of the cluster. Each subcommand has a file of its own; what
//! the roles do is in their crates, and only put together here.
//!
//! Exit status: 0 done, 1 failed, 2 wrong usage or settings, 3 the cluster is not well, 4 not
//! reachable, 5 denied, 6 something would change, 130 interrupted a second time.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod cluster;
mod config;
mod demo;
mod doctor;
mod get;
mod manager;
mod mirror;
mod pull;
mod put;
mod run;
mod scheduler;
mod setup;
mod simulate;
mod up;
mod verify;

/// Its threads do not wait for one another, and it gives memory back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A peer-to-peer pull-through mirror for OCI registries: each layer leaves the registry once per
/// cluster
#[derive(Debug, Parser)]
#[command(
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    disable_help_subcommand = true,
    after_help = "Exit status: 0 done, 1 failed, 2 wrong usage or settings, 3 the cluster is not well, \
                  4 not reachable, 5 denied, 6 something would change, 130 interrupted twice."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything in one process on this host, for itself
    Up(run::Args),
    /// Run a node's mirror, or a seed
    Mirror(run::Args),
    /// Run a scheduler, which knows who holds what
    Scheduler(run::Args),
    /// Run the manager, which knows who belongs to the cluster
    Manager(manager::Manage),
    /// Try it: a whole cluster on this machine, for as long as one pull takes
    Demo(demo::Args),
    /// Pull an image through a mirror into an OCI image layout
    Pull(pull::Args),
    /// Get a file through a mirror: what is at a URL, or what was put into the cluster
    Get(Box<get::Args>),
    /// Put a file into the cluster
    Put(put::Args),
    /// See where an image comes from and how fast, without keeping it
    Verify(verify::Args),
    /// See how fast a cluster of any size would pull, and what faults would cost
    Simulate(simulate::Args),
    /// Let the container runtimes of this host pull through its mirror
    Setup(Box<setup::Setup>),
    /// Take back what `darner setup` did
    Teardown(setup::Teardown),
    /// Look at all that has to be right for a mirror on this host
    Doctor(Box<doctor::Doctor>),
    /// Log in to the manager
    Login(cluster::Login),
    #[command(flatten)]
    Ask(cluster::Ask),
    /// Check settings without starting anything
    Config(config::Config),
}

/// Each connection and each blob that is open is a file, of which shells and service managers allow a
/// thousand unless they are asked for more. That protects programs that use `select`, of which this
/// is none.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(MAX_FILES, |maximum| maximum.min(MAX_FILES));
    if current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            maximum,
        };
        // With fewer it works too: connections beyond are turned away.
        let _ = setrlimit(Resource::Nofile, raised);
    }
}

/// More than all that listeners and stores ever hold open.
const MAX_FILES: u64 = 1 << 18;

fn main() -> ExitCode {
    let command = Cli::parse().command;
    // What waits would otherwise hold a third more memory: pages of 2 MiB, mostly unused.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    // Credentials of callers are in its memory: no core of it is written, and only root looks in.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    raise_file_limit();
    // The only other way to have one is somebody else's having been first, and there is nobody.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            run::say(format_args!("error: no threads to run on: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(async {
        match command {
            Command::Up(args) => up::run(args).await,
            Command::Mirror(args) => mirror::run(args).await,
            Command::Scheduler(args) => scheduler::run(args).await,
            Command::Manager(args) => manager::run(args).await,
            Command::Demo(args) => demo::run(args).await,
            Command::Pull(args) => pull::run(args).await,
            Command::Get(args) => get::run(*args).await,
            Command::Put(args) => put::run(args).await,
            Command::Verify(args) => verify::run(args).await,
            Command::Login(login) => login.run().await,
            Command::Ask(ask) => ask.run().await,
            Command::Config(config) => config.run(),
            Command::Simulate(args) => simulate::run(&args),
            Command::Doctor(args) => doctor::run(*args).await,
            Command::Setup(args) => setup::setup(*args).await,
            Command::Teardown(args) => setup::teardown(&args),
        }
    });
    // What had to end in order has; what hangs in a system call is not waited for.
    runtime.shutdown_background();
    ended
}
