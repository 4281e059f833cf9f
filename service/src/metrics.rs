//! The process's metrics: one registry, encoded in the Prometheus text format.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::registry::Registry;

/// Every metric of the process. Names begin with `darner_`. Clones share it.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            registry: Arc::new(Mutex::new(Registry::with_prefix("darner"))),
        }
    }
}

impl Metrics {
    /// Lets a part add its metrics.
    pub fn register<T>(&self, add: impl FnOnce(&mut Registry) -> T) -> T {
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
