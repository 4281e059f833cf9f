//! What the manager counts.

use darner_proto::id::Role;
use darner_service::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

/// Counters of a manager. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct ManagerMetrics {
    hosts: Family<RoleLabel, Gauge>,
    /// Open Watch streams.
    pub(crate) watchers: Gauge,
    version: Gauge,
    /// Register calls that were taken.
    pub(crate) registrations: Counter,
    /// Failed dealings with the database.
    pub(crate) database_errors: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RoleLabel {
    role: String,
}

impl ManagerMetrics {
    /// Registers the counters.
    pub fn new(metrics: &Metrics) -> Self {
        let new = Self::default();
        metrics.register(|registry| {
            registry.register("manager_hosts", "Members, by role", new.hosts.clone());
            registry.register(
                "manager_watchers",
                "Processes that follow the configuration",
                new.watchers.clone(),
            );
            registry.register(
                "manager_configuration_version",
                "Version of the configuration told last",
                new.version.clone(),
            );
            registry.register(
                "manager_registrations",
                "Hosts that made themselves known, for the first time or again",
                new.registrations.clone(),
            );
            registry.register(
                "manager_database_errors",
                "Failed attempts to open or write the database",
                new.database_errors.clone(),
            );
        });
        new
    }

    pub(crate) fn hosts(&self, role: Role, count: usize) {
        let role = role.to_string();
        let gauge = self.hosts.get_or_create_owned(&RoleLabel { role });
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn version(&self, version: u64) {
        self.version.set(i64::try_from(version).unwrap_or(i64::MAX));
    }
}
