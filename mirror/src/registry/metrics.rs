//! What the front end counts.

use std::time::Duration;

use axum::http::StatusCode;
use darner_service::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use crate::access::grants::Step;
use crate::task::ServedFrom;

/// From a hit in memory to the last moment at which a client is answered.
const FIRST_BYTE_BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0,
];

/// What a request was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ping,
    Manifest,
    Blob,
    Tags,
    Referrers,
    /// Refused before it was known.
    Other,
}

/// What went wrong in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The request itself.
    Malformed,
    /// Too many requests before it.
    Queue,
    /// Nobody could say what a name means.
    Resolve,
    /// No source delivered in time.
    Source,
    /// The answer broke off after its first byte.
    Cut,
    /// Upstream could not be asked on the caller's behalf.
    Relay,
    /// The manager's rules block it.
    Blocked,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Tags => "tags",
            Self::Referrers => "referrers",
            Self::Other => "other",
        }
    }
}

impl Trouble {
    fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Queue => "queue",
            Self::Resolve => "resolve",
            Self::Source => "source",
            Self::Cut => "cut",
            Self::Relay => "relay",
            Self::Blocked => "blocked",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    kind: &'static str,
    status: &'static str,
    source: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabel {
    source: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TroubleLabel {
    kind: &'static str,
}

/// Counters of the front end. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct RegistryMetrics {
    served_bytes: Family<SourceLabel, Counter>,
    served_requests: Family<RequestLabels, Counter>,
    errors: Family<TroubleLabel, Counter>,
    first_byte: Family<SourceLabel, Histogram>,
    decisions: Family<StepLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabel {
    decision: &'static str,
}

impl RegistryMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let new = Self {
            served_bytes: Family::default(),
            served_requests: Family::default(),
            errors: Family::default(),
            decisions: Family::default(),
            first_byte: Family::new_with_constructor(|| Histogram::new(FIRST_BYTE_BUCKETS)),
        };
        metrics.register(|registry| {
            registry.register(
                "served_bytes",
                "Bytes of content sent to clients, by where the first of each answer came from",
                new.served_bytes.clone(),
            );
            registry.register(
                "served_requests",
                "Requests of clients, by what they were about, the answer's class of status and where its content came from",
                new.served_requests.clone(),
            );
            registry.register(
                "request_errors",
                "Requests of clients that went wrong, by what was wrong",
                new.errors.clone(),
            );
            registry.register(
                "first_byte_seconds",
                "Time from a client's request to the first byte of content, by where that came from",
                new.first_byte.clone(),
            );
            registry.register(
                "private_decisions",
                "Requests for what is not public, by what was decided: served, served on the word of an earlier time, answered by upstream itself, or sent there",
                new.decisions.clone(),
            );
        });
        new
    }

    /// What was decided about a request for what is not public.
    pub(super) fn decided(&self, step: Step) {
        let decision = match step {
            Step::Serve { stale: false } => "served",
            Step::Serve { stale: true } => "served_stale",
            Step::Relay | Step::Prove => "upstream",
            Step::StepAside => "aside",
        };
        let label = StepLabel { decision };
        self.decisions.get_or_create(&label).inc();
    }

    pub(super) fn answered(&self, kind: Kind, status: StatusCode, source: Option<ServedFrom>) {
        let status = match status.as_u16() / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        let source = source.map_or("none", |source| source.as_str());
        let labels = RequestLabels {
            kind: kind.as_str(),
            status,
            source,
        };
        self.served_requests.get_or_create(&labels).inc();
    }

    pub(super) fn first_byte(&self, source: ServedFrom, after: Duration) {
        let source = source.as_str();
        self.first_byte
            .get_or_create(&SourceLabel { source })
            .observe(after.as_secs_f64());
    }

    /// The counter of bytes from one source, for an answer to count into as it is sent.
    pub(super) fn bytes(&self, source: ServedFrom) -> Counter {
        let source = source.as_str();
        self.served_bytes
            .get_or_create(&SourceLabel { source })
            .clone()
    }

    pub(super) fn trouble(&self, trouble: Trouble) {
        let kind = trouble.as_str();
        self.errors.get_or_create(&TroubleLabel { kind }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_was_served() {
        let metrics = Metrics::default();
        let counted = RegistryMetrics::new(&metrics);
        counted.answered(
            Kind::Blob,
            StatusCode::PARTIAL_CONTENT,
            Some(ServedFrom::Peer),
        );
        counted.bytes(ServedFrom::Peer).inc_by(5);
        counted.first_byte(ServedFrom::Peer, Duration::from_millis(2));
        counted.trouble(Trouble::Cut);
        let text = || {
            let mut text = String::new();
            metrics
                .register(|registry| prometheus_client::encoding::text::encode(&mut text, registry))
                .unwrap();
            text
        };
        let now = text();
        for line in [
            r#"darner_served_requests_total{kind="blob",status="2xx",source="peer"} 1"#,
            r#"darner_served_bytes_total{source="peer"} 5"#,
            r#"darner_first_byte_seconds_bucket{le="0.0025",source="peer"} 1"#,
            r#"darner_request_errors_total{kind="cut"} 1"#,
        ] {
            assert!(now.contains(line), "{line} is not in\n{now}");
        }
    }
}
