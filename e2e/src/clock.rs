//! A clock of a process's own that can be set forward, by way of Debian's libfaketime: for what takes
//! an hour. Only the process that has it sees another time.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::scene::Scene;

/// Below `/usr/lib`, for programs of several threads.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// The clock, which shows the right time at first.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    ahead: PathBuf,
}

impl Clock {
    /// A new one, kept in a file of the scene.
    pub fn new(scene: &Scene, name: &str) -> Result<Self> {
        let places = std::fs::read_dir("/usr/lib")?.flatten();
        let mut places = places.map(|entry| entry.path().join(LIBRARY));
        let library = places.find(|path| path.is_file());
        let clock = Self {
            library: library.context("faketime is not installed; run e2e/install as root")?,
            ahead: scene.path(format!("{name}.time")),
        };
        clock.set_ahead(Duration::ZERO)?;
        Ok(clock)
    }

    /// Has `command` go by it.
    pub fn give(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library);
        command.env("FAKETIME_TIMESTAMP_FILE", &self.ahead);
        // Looked at each time, so that it holds from one moment to the next.
        command.env("FAKETIME_NO_CACHE", "1");
    }

    /// Makes it so much later than it is, from now on.
    pub fn set_ahead(&self, by: Duration) -> Result<()> {
        let new = self.ahead.with_extension("new");
        std::fs::write(&new, format!("+{}\n", by.as_secs()))?;
        Ok(std::fs::rename(new, &self.ahead)?)
    }
}
