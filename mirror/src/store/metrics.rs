//! What the store counts.

use std::sync::atomic::AtomicU64;

use darner_service::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::error::StoreError;
use super::ledger::Totals;

/// Clones share the counters.
#[derive(Debug, Clone, Default)]
pub(super) struct StoreMetrics {
    bytes: Gauge<u64, AtomicU64>,
    blobs: Gauge<u64, AtomicU64>,
    capacity: Gauge<u64, AtomicU64>,
    evictions: Counter,
    evicted_bytes: Counter,
    quarantined: Counter,
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
            registry.register(
                "store_errors",
                "What the store could not do, by why",
                new.errors.clone(),
            );
        });
        new
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
