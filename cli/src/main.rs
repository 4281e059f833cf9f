//! The binary `darner`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod setup;

/// A peer-to-peer pull-through mirror for OCI registries
#[derive(Debug, Parser)]
#[command(name = "darner", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Setup(setup::Setup),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(setup) => setup.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("darner: {:#}", anyhow::Error::from(error));
            ExitCode::FAILURE
        }
    }
}
