//! Where settings come from: defaults, then a TOML file, then `DARNER_SECTION__KEY` variables, then
//! flags; what comes later wins. Everything wrong with them is found in one go, each fault with the
//! file and line, variable or flag it is in.
//!
//! What a setting means is [`crate::settings`]' business. Nothing here prints, logs or ends the
//! process.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::settings::Settings;

mod fault;
mod layers;
mod oidc;
mod parse;
mod read;
mod routes;
mod rules;
mod sections;
#[cfg(test)]
mod tests;
mod upstreams;
mod value;

pub use fault::{ConfigError, Fault, Origin};
pub use upstreams::{KNOWN, default_connections, is_given, known_url};

/// What the settings are for: some defaults and rules differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// `darner manager`
    Manager,
    /// `darner scheduler`
    Scheduler,
    /// `darner mirror`
    Mirror,
    /// `darner up`: one of each, among themselves
    Up,
}

/// Everything settings are read from, besides the files it names.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The settings file. Without one there is none: no place is looked in unasked.
    pub file: Option<PathBuf>,
    /// Variables of the process.
    pub environment: Vec<(OsString, OsString)>,
    /// Flags, in order; later ones win.
    pub flags: Vec<Flag>,
    /// The machine, for defaults.
    pub machine: Machine,
}

/// A setting given on the command line.
#[derive(Debug, Clone)]
pub struct Flag {
    /// As the user wrote it, for messages, such as `--set registry.listen` or `--data-dir`.
    name: String,
    /// `section.key`, or a key outside any section.
    key: String,
    /// `None` for a `--set` without `=`.
    value: Option<String>,
}

/// What defaults depend on.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// As the system calls itself.
    pub host_name: Option<String>,
    /// Whether the process may write where system services keep their state.
    pub root: bool,
}

impl Flag {
    /// `--set section.key=value`
    pub fn set(argument: &str) -> Self {
        let (key, value) = match argument.split_once('=') {
            Some((key, value)) => (key.trim(), Some(value.to_owned())),
            None => (argument, None),
        };
        Self {
            name: format!("--set {key}"),
            key: key.to_owned(),
            value,
        }
    }

    /// A flag of its own, such as `--data-dir`, for the setting `key`.
    pub fn named(flag: &str, key: &str, value: impl Into<String>) -> Self {
        Self {
            name: flag.to_owned(),
            key: key.to_owned(),
            value: Some(value.into()),
        }
    }
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        Self {
            host_name: host_name.map(|name| name.trim().to_owned()),
            root: rustix::process::geteuid().is_root(),
        }
    }
}

impl Sources {
    /// This process's environment and machine, with what its command line says.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<Flag>) -> Self {
        Self {
            file,
            environment: std::env::vars_os().collect(),
            flags,
            machine: Machine::here(),
        }
    }
}

/// The settings of `command`.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn load(command: Command, sources: &Sources) -> Result<Settings, ConfigError> {
    let reading = read::Reading::default();
    let table = layers::read(sources, &reading);
    // Where a file does not parse, what was not found in it may well be there.
    let complete = reading.is_clean();
    let settings = sections::read(command, sources, table, &reading);
    if complete && let Some(settings) = &settings {
        rules::check(command, settings, sources.file.as_deref(), &reading);
    }
    reading.finish(settings)
}
