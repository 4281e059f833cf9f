//! The process's metrics: one registry, given out in the Prometheus text format.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

mod classic;
mod process;
pub mod samples;

/// Every metric of the process. Names begin with `darner_`. Clones share it.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    /// What every process has, under the names that every Prometheus client uses.
    process: Arc<Mutex<Registry>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
    revision: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("darner");
        let build: Family<Build, Gauge> = Family::default();
        registry.register(
            "build_info",
            "What this process was built from",
            build.clone(),
        );
        build.get_or_create(&THIS_BUILD).set(1);
        let mut process = Registry::default();
        process.register_collector(Box::new(process::Process));
        Self {
            registry: Arc::new(Mutex::new(registry)),
            process: Arc::new(Mutex::new(process)),
        }
    }
}

const THIS_BUILD: Build = Build {
    version: env!("CARGO_PKG_VERSION"),
    // Set by whoever builds a release; a build from a working directory is of no revision.
    revision: match option_env!("DARNER_BUILD_REVISION") {
        Some(revision) => revision,
        None => "unknown",
    },
};

impl Metrics {
    /// Lets a part add its metrics.
    pub fn register<T>(&self, add: impl FnOnce(&mut Registry) -> T) -> T {
        add(&mut lock(&self.registry))
    }

    /// Everything as it is now, in the [`Metrics::CONTENT_TYPE`] form.
    ///
    /// # Errors
    /// A metric that cannot write itself.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut open_metrics = String::new();
        encode_registry(&mut open_metrics, &lock(&self.registry))?;
        encode_registry(&mut open_metrics, &lock(&self.process))?;
        Ok(classic::from_open_metrics(&open_metrics))
    }

    /// The classic text format: every version of Prometheus, and `promtool`, reads it.
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
}

fn lock(registry: &Mutex<Registry>) -> std::sync::MutexGuard<'_, Registry> {
    registry.lock().unwrap_or_else(PoisonError::into_inner)
}
