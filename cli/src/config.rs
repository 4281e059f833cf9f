//! `darner config check`: whether a process would start with these settings, without starting it.

use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use darner_service::config::Command;

use crate::run::{self, Args};

/// Look at settings
#[derive(Debug, clap::Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Check(Check),
}

/// Check the settings a command would run on
///
/// Reads the settings file, the DARNER_ variables and the flags just as that command does, and the
/// files they name, and starts nothing. What is wrong is told all at once, with exit status 2.
#[derive(Debug, clap::Args)]
struct Check {
    /// The command
    command: Role,
    #[command(flatten)]
    args: Args,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    Up,
    Mirror,
    Scheduler,
    Manager,
}

impl Config {
    /// Says on standard output that nothing is wrong, or on standard error what is.
    pub(crate) fn run(self) -> ExitCode {
        let What::Check(Check { command, args }) = self.what;
        let command = match command {
            Role::Up => Command::Up,
            Role::Mirror => Command::Mirror,
            Role::Scheduler => Command::Scheduler,
            Role::Manager => Command::Manager,
        };
        match run::settings(command, args) {
            Ok(_) => {
                println!("nothing is wrong with these settings");
                ExitCode::SUCCESS
            }
            Err(status) => status,
        }
    }
}
