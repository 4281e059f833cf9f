//! One process of a scene: its output goes to a file, and it ends with the scene.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::{self, PATIENCE};

/// How long a process that is no longer needed may take to stop by itself.
const LEAVE: Duration = Duration::from_secs(3);

/// A running process. Stopped when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    polite: bool,
}

impl Process {
    /// Starts `command`, with standard output and error appended to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("log {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("{name}: {command:?}"))?;
        Ok(Self {
            name: name.to_owned(),
            log: log.to_owned(),
            child,
            polite: false,
        })
    }

    /// When dropped, asks the process to end and waits, in place of killing it: for those that
    /// leave mounts behind.
    pub fn polite(mut self) -> Self {
        self.polite = true;
        self
    }

    /// Everything it has written, since its first start.
    pub fn output(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until `find` gets something out of the output; fails at once when the process ends.
    pub async fn wait_output<T>(
        &mut self,
        what: &str,
        find: impl Fn(&str) -> Option<T>,
    ) -> Result<T> {
        let started = Instant::now();
        loop {
            // In this order, so that the last words of a process that ends are still read.
            let ended = self.child.try_wait()?;
            if let Some(found) = find(&self.output()) {
                return Ok(found);
            }
            if let Some(status) = ended {
                bail!("{} ended ({status}) before: {what}", self.name);
            }
            if started.elapsed() > PATIENCE {
                bail!("{}: waited {PATIENCE:?} for: {what}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for its end.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        let what = format!("end of {}", self.name);
        let child = &mut self.child;
        wait::until(&what, async || child.try_wait().transpose())
            .await?
            .context(what)
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("signal {signal:?} to {}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.polite && self.signal(Signal::TERM).is_ok() {
            let started = Instant::now();
            while started.elapsed() < LEAVE && self.is_running() {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a command that takes no time exits with 0. What it says is not kept.
pub fn run_quietly(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null());
    let status = command.stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Runs a command to its end without blocking the scene; fails unless it exits with 0.
pub async fn run(command: Command) -> Result<Output> {
    let described = format!("{command:?}");
    let output = finish(command).await?;
    if !output.status.success() {
        bail!(
            "{described}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output)
}

/// Runs a command to its end, whatever its exit status.
pub async fn finish(mut command: Command) -> Result<Output> {
    let described = format!("{command:?}");
    tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output())
        .await?
        .with_context(|| described)
}
