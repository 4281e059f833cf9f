//! Logs: to standard error, for people on a terminal, else one JSON object a line. A panic is logged
//! like everything else.
//!
//! The names `timestamp`, `level`, `target` and `message` are stable; an event's fields stand beside
//! them. What is logged, and that no credential is, is up to who logs.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::error::Error;
use std::io;
use std::panic::PanicHookInfo;

use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{Layer, Registry};

use crate::settings::{Log, LogFormat};

/// Logging cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is none.
    #[error("[log] filter {filter:?} cannot be used")]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
    /// Something else receives the process's log already.
    #[error("logging was started before")]
    Started(#[source] TryInitError),
}

/// Whether `filter` says what is to be logged.
///
/// # Errors
/// What is wrong with it.
pub fn check_filter(filter: &str) -> Result<(), ParseError> {
    EnvFilter::builder().parse(filter).map(|_| ())
}

/// An error with everything that led to it, in one line.
pub fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |error| (*error).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Logs to standard error from here on.
///
/// # Errors
/// A filter that is none, or a log that has been started before.
pub fn start(log: &Log) -> Result<(), TelemetryError> {
    start_to(log, io::IsTerminal::is_terminal(&io::stderr()), io::stderr)
}

/// Logs to `writer` from here on; `terminal` says whether that ends at one.
///
/// # Errors
/// As [`start`].
pub fn start_to<W>(log: &Log, terminal: bool, writer: W) -> Result<(), TelemetryError>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let filter =
        EnvFilter::builder()
            .parse(&log.filter)
            .map_err(|source| TelemetryError::Filter {
                filter: log.filter.clone(),
                source,
            })?;
    tracing_subscriber::registry()
        .with(layer(log.format, terminal, writer).with_filter(filter))
        .try_init()
        .map_err(TelemetryError::Started)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

fn layer<W>(format: LogFormat, terminal: bool, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    let human = match format {
        LogFormat::Auto => terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    match (human, terminal) {
        // Colour, unless NO_COLOR asks for none.
        (true, true) => layer.boxed(),
        (true, false) => layer.with_ansi(false).boxed(),
        (false, _) => layer
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .boxed(),
    }
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string);
    let thread = std::thread::current();
    // Empty unless RUST_BACKTRACE asks for one.
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => Some(backtrace.to_string()),
        _ => None,
    };
    tracing::error!(
        panic = panic.payload_as_str().unwrap_or("(not text)"),
        location,
        thread = thread.name(),
        backtrace,
        "panic"
    );
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, terminal: bool, log: impl FnOnce()) -> String {
        let written = Written::default();
        let make = {
            let written = written.clone();
            move || written.clone()
        };
        let subscriber = tracing_subscriber::registry().with(layer(format, terminal, make));
        tracing::subscriber::with_default(subscriber, log);
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_error_is_told_with_what_led_to_it() {
        let source = check_filter("=no=level=").unwrap_err();
        let cause = source.to_string();
        let filter = "=no=level=".to_owned();
        let error = TelemetryError::Filter { filter, source };
        assert_eq!(with_causes(&error), format!("{error}: {cause}"));
    }

    #[test]
    fn json_has_the_stable_names_and_the_fields_beside_them() {
        let text = logged(LogFormat::Auto, false, || {
            tracing::info!(what = "registry", address = %"127.0.0.1:1", "listening");
        });
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["message"], "listening");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["what"], "registry");
        assert_eq!(line["address"], "127.0.0.1:1");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
        assert!(line["target"].as_str().unwrap().contains("telemetry"));
    }

    #[test]
    fn a_line_for_people_has_no_escapes_away_from_a_terminal() {
        let text = logged(LogFormat::Human, false, || tracing::warn!("careful"));
        assert!(text.contains("WARN") && text.contains("careful"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn a_panic_is_one_line_of_the_log() {
        let before = std::panic::take_hook();
        let text = logged(LogFormat::Json, false, || {
            std::panic::set_hook(Box::new(log_panic));
            let _ = std::panic::catch_unwind(|| panic!("no such thing: {}", 7));
        });
        std::panic::set_hook(before);
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["message"], "panic");
        assert_eq!(line["level"], "ERROR");
        assert_eq!(line["panic"], "no such thing: 7");
        assert!(line["location"].as_str().unwrap().contains("telemetry.rs"));
    }

    #[test]
    fn a_filter_is_checked() {
        assert!(check_filter("info,darner_mirror=debug").is_ok());
        assert!(check_filter("info,=,").is_err());
    }
}
