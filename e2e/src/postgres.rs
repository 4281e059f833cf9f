//! A PostgreSQL server on a socket in a directory of its own.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use crate::process::{self, Process};
use crate::wait;

/// A server. It ends, and its data with it, when this is dropped.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    directory: tempfile::TempDir,
    server: Option<Process>,
}

impl Postgres {
    /// Makes a database and serves it.
    pub async fn start() -> Result<Self> {
        let mut new = Self {
            programs: programs()?,
            directory: tempfile::tempdir()?,
            server: None,
        };
        if is_root()? {
            // It refuses to run as root.
            let mut give = Command::new("chown");
            give.arg("nobody").arg(new.directory.path());
            process::run(give).await?;
        }
        let mut initdb = new.command("initdb")?;
        initdb.args(["--no-sync", "--auth=trust", "--username=darner", "-D"]);
        initdb.arg(new.directory.path().join("data"));
        process::run(initdb).await?;
        new.resume().await?;
        Ok(new)
    }

    /// The URL of its database.
    pub fn url(&self) -> String {
        let host = self.directory.path().display().to_string();
        format!("postgres://darner@{}/postgres", host.replace('/', "%2F"))
    }

    /// Ends it at once, as a crash would; what was committed is kept.
    pub async fn pause(&mut self) -> Result<()> {
        if let Some(mut server) = self.server.take() {
            server.signal(Signal::QUIT)?;
            server.wait().await?;
        }
        Ok(())
    }

    /// Serves again.
    pub async fn resume(&mut self) -> Result<()> {
        let directory = self.directory.path();
        let mut command = self.command("postgres")?;
        command.arg("-F").arg("-D").arg(directory.join("data"));
        command.arg("-k").arg(directory).args(["-h", ""]);
        let log = directory.join("log");
        self.server = Some(Process::start("postgres", command, &log)?.polite());
        wait::until("PostgreSQL", async || {
            let mut ask = self.command("pg_isready").ok()?;
            process::run_quietly(&mut ask).then_some(())
        })
        .await
    }

    fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new("setpriv");
        if is_root()? {
            command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]);
        }
        command.arg("--").arg(self.programs.join(program));
        command.env("PGHOST", self.directory.path());
        command.current_dir(self.directory.path());
        Ok(command)
    }
}

fn is_root() -> Result<bool> {
    Ok(std::fs::metadata("/proc/self")?.uid() == 0)
}

/// Debian keeps them by version, out of the way.
fn programs() -> Result<PathBuf> {
    let all = Path::new("/usr/lib/postgresql");
    let versions = std::fs::read_dir(all).context("PostgreSQL is missing: run e2e/install")?;
    let mut found: Vec<PathBuf> = versions
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .filter(|programs| programs.join("postgres").exists())
        .collect();
    found.sort();
    found
        .pop()
        .context("PostgreSQL is missing: run e2e/install")
}
