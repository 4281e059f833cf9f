//! What downloads count.

use darner_proto::scheduler::{FailureKind, Outcome};
use darner_service::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::ServedFrom;

/// Counters of all downloads. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct TaskMetrics {
    fetched_bytes: Family<FromLabel, Counter>,
    pieces: Family<FromLabel, Counter>,
    piece_failures: Family<FailureLabel, Counter>,
    tasks: Family<OutcomeLabel, Counter>,
    running: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FromLabel {
    source: ServedFrom,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

impl TaskMetrics {
    /// Registers the counters.
    pub fn new(metrics: &Metrics) -> Self {
        let new = Self::default();
        metrics.register(|registry| {
            registry.register(
                "fetched_bytes",
                "Bytes of verified pieces that came to this node, by where from",
                new.fetched_bytes.clone(),
            );
            registry.register(
                "pieces",
                "Verified pieces that came to this node, by where from",
                new.pieces.clone(),
            );
            registry.register(
                "piece_failures",
                "Requests to parents that failed, by what was wrong",
                new.piece_failures.clone(),
            );
            registry.register(
                "tasks",
                "Downloads that have ended, by outcome",
                new.tasks.clone(),
            );
            registry.register(
                "tasks_running",
                "Downloads in progress",
                new.running.clone(),
            );
        });
        new
    }

    pub(super) fn piece(&self, from: ServedFrom, bytes: u64) {
        let label = FromLabel { source: from };
        self.pieces.get_or_create(&label).inc();
        self.fetched_bytes.get_or_create(&label).inc_by(bytes);
    }

    pub(super) fn piece_failed(&self, kind: FailureKind) {
        let kind = match kind {
            FailureKind::Unreachable => "unreachable",
            FailureKind::Slow => "slow",
            FailureKind::WrongBytes => "wrong_bytes",
            FailureKind::WrongLength => "wrong_length",
            FailureKind::NotHeld => "not_held",
        };
        self.piece_failures
            .get_or_create(&FailureLabel { kind })
            .inc();
    }

    pub(super) fn began(&self) {
        self.running.inc();
    }

    /// Downloads under way.
    pub(super) fn running(&self) -> u32 {
        u32::try_from(self.running.get()).unwrap_or(0)
    }

    pub(super) fn ended(&self, outcome: Outcome) {
        self.running.dec();
        let outcome = match outcome {
            Outcome::Complete => "complete",
            Outcome::Failed => "failed",
            Outcome::Abandoned => "abandoned",
        };
        self.tasks.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}
