//! What the store counts.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use darner_service::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::error::StoreError;
use super::ledger::Totals;
use super::scrub::Schedule;

/// Clones share the counters.
#[derive(Debug, Clone, Default)]
pub(super) struct StoreMetrics {
    bytes: Gauge<u64, AtomicU64>,
    blobs: Gauge<u64, AtomicU64>,
    capacity: Gauge<u64, AtomicU64>,
    evictions: Counter,
    evicted_bytes: Counter,
    quarantined: Counter,
    scrubbed_bytes: Counter,
    scrub_passes: Counter,
    scrub_completed: Gauge<f64, AtomicU64>,
    scrub_interval: Gauge<f64, AtomicU64>,
    scrub_share: Gauge<f64, AtomicU64>,
    errors: Family<KindLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

impl StoreMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let new = Self::default();
        metrics.register(|registry| {
            registry.register(
                "store_bytes",
                "Bytes the store takes on disk, downloads under way included",
                new.bytes.clone(),
            );
            registry.register(
                "store_blobs",
                "Contents that the store holds complete",
                new.blobs.clone(),
            );
            registry.register(
                "store_capacity_bytes",
                "Bytes the store may take on disk",
                new.capacity.clone(),
            );
            registry.register(
                "store_evictions",
                "Contents and downloads that made room for others",
                new.evictions.clone(),
            );
            registry.register(
                "store_evicted_bytes",
                "Bytes of contents and downloads that made room for others",
                new.evicted_bytes.clone(),
            );
            registry.register(
                "store_quarantined",
                "Contents set aside because they no longer had their digest",
                new.quarantined.clone(),
            );
            new.register_scrub(registry);
            registry.register(
                "store_errors",
                "What the store could not do, by why",
                new.errors.clone(),
            );
        });
        new
    }

    fn register_scrub(&self, registry: &mut Registry) {
        registry.register(
            "store_scrubbed_bytes",
            "Bytes of contents that were read again to see whether they are still right",
            self.scrubbed_bytes.clone(),
        );
        registry.register(
            "store_scrub_passes",
            "Times that everything in the store has been read again",
            self.scrub_passes.clone(),
        );
        registry.register(
            "store_scrub_completed_timestamp_seconds",
            "When everything had last been read again; 0 before this process has done so",
            self.scrub_completed.clone(),
        );
        registry.register(
            "store_scrub_interval_seconds",
            "From the beginning of a pass over the store to that of the next; 0 when there is none",
            self.scrub_interval.clone(),
        );
        registry.register(
            "store_scrub_share_ratio",
            "The part of the time that is spent reading the store again, at most",
            self.scrub_share.clone(),
        );
    }

    pub(super) fn scrub_schedule(&self, schedule: Schedule) {
        self.scrub_interval.set(schedule.every.as_secs_f64());
        self.scrub_share.set(f64::from(schedule.share) / 100.0);
    }

    pub(super) fn scrubbed(&self, bytes: u64) {
        self.scrubbed_bytes.inc_by(bytes);
    }

    #[cfg(test)]
    pub(super) fn passes(&self) -> u64 {
        self.scrub_passes.get()
    }

    pub(super) fn scrubbed_all(&self, now_ms: u64) {
        self.scrub_passes.inc();
        let seconds = Duration::from_millis(now_ms).as_secs_f64();
        self.scrub_completed.set(seconds);
    }

    pub(super) fn capacity(&self, bytes: u64) {
        self.capacity.set(bytes);
    }

    pub(super) fn totals(&self, totals: Totals) {
        self.bytes.set(totals.bytes);
        self.blobs.set(totals.blobs);
    }

    pub(super) fn evicted(&self, bytes: u64) {
        self.evictions.inc();
        self.evicted_bytes.inc_by(bytes);
    }

    pub(super) fn quarantined(&self) {
        self.quarantined.inc();
    }

    pub(super) fn failed(&self, error: &StoreError) {
        self.errors
            .get_or_create(&KindLabel { kind: error.kind() })
            .inc();
    }
}
