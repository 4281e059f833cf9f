//! The last line of the terminal: what is being served, kept below the log.

use std::convert::Infallible;
use std::io::{self, Write};
use std::time::Duration;

use darner_service::metrics::Metrics;
use darner_service::settings::Log;
use darner_service::telemetry::{self, TelemetryError};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::MissedTickBehavior;

use super::served;

/// Often enough to look alive, seldom enough to be read.
const REFRESH: Duration = Duration::from_millis(500);

/// The line. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Live {
    line: ProgressBar,
}

/// Writes to standard error above the line.
struct Above(ProgressBar);

impl Live {
    pub(super) fn new() -> Self {
        let line = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            line.set_style(style);
        }
        Self { line }
    }

    /// Starts the process's log in such a way that it and the line do not write over each other.
    pub(super) fn start_log(&self, log: &Log) -> Result<(), TelemetryError> {
        let line = self.line.clone();
        telemetry::start_to(log, true, move || Above(line.clone()))
    }

    /// Shows what `metrics` have counted, from now on.
    pub(super) async fn follow(&self, metrics: &Metrics) -> Infallible {
        let mut ticks = tokio::time::interval(REFRESH);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Ok(text) = metrics.encode() {
                self.line.set_message(served::line(&text));
            }
        }
    }

    /// Takes the line away.
    pub(super) fn clear(&self) {
        self.line.finish_and_clear();
    }
}

impl Write for Above {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
