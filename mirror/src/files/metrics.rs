//! What requests for files count.

use darner_service::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::task::ServedFrom;

/// Counters of files. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct FileMetrics {
    answers: Family<OutcomeLabel, Counter>,
    bytes: Family<FromLabel, Counter>,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Answered with content of the cluster.
    Shared,
    /// Passed on.
    Straight,
    /// Not allowed.
    Refused,
    /// No answer could be had.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FromLabel {
    source: ServedFrom,
}

impl FileMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let new = Self::default();
        metrics.register(|registry| {
            registry.register(
                "file_requests",
                "Requests for files, by what became of them",
                new.answers.clone(),
            );
            registry.register(
                "file_served_bytes",
                "Bytes of files sent to clients, by where the first byte came from",
                new.bytes.clone(),
            );
        });
        new
    }

    pub(super) fn answered(&self, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Shared => "shared",
            Outcome::Straight => "straight",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
        };
        let label = OutcomeLabel { outcome };
        self.answers.get_or_create(&label).inc();
    }

    pub(super) fn bytes(&self, source: ServedFrom) -> Counter {
        self.bytes.get_or_create_owned(&FromLabel { source })
    }
}
