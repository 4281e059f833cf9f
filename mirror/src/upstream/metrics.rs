//! What is counted about upstream registries. Label values come from the configuration and from
//! enumerations, never from the network.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use darner_proto::name::RegistryName;
use darner_service::metrics::Metrics;
use http::{Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::allowance::Allowance;
use super::error::UpstreamErrorKind;

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Manifest,
    Blob,
    /// Tag lists and referrers.
    List,
    Token,
    /// What is no part of a registry.
    File,
}

/// Counters of all registries. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct UpstreamMetrics {
    requests: Family<RequestLabel, Counter>,
    bytes: Family<BytesLabel, Counter>,
    errors: Family<ErrorLabel, Counter>,
    connections: Family<RegistryLabel, Gauge>,
    rate_limited: Family<RegistryLabel, Counter>,
    allowed: Family<RegistryLabel, Gauge>,
    remaining: Family<RegistryLabel, Gauge>,
    quiet_until: Family<RegistryLabel, Gauge>,
}

/// The counters as one registry sees them.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    metrics: UpstreamMetrics,
    registry: Arc<str>,
}

/// One of `max_connections` in use, for as long as it lives.
#[derive(Debug)]
pub(super) struct InUse(Gauge);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabel {
    registry: Arc<str>,
    method: &'static str,
    kind: &'static str,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BytesLabel {
    registry: Arc<str>,
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabel {
    registry: Arc<str>,
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RegistryLabel {
    registry: Arc<str>,
}

impl UpstreamMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let new = Self::default();
        metrics.register(|registry| {
            registry.register(
                "upstream_requests",
                "HTTP requests sent to upstream registries and to where they redirect, by class of the answer's status",
                new.requests.clone(),
            );
            registry.register(
                "upstream_bytes",
                "Bytes of bodies received from upstream registries",
                new.bytes.clone(),
            );
            registry.register(
                "upstream_errors",
                "Reads of upstream registries that failed, by what that means to the caller",
                new.errors.clone(),
            );
            registry.register(
                "upstream_connections",
                "Exchanges with upstream registries in progress",
                new.connections.clone(),
            );
            registry.register(
                "upstream_rate_limited",
                "Answers 429 of upstream registries",
                new.rate_limited.clone(),
            );
            registry.register(
                "upstream_rate_limit",
                "Requests that the registry allows us in its window, as its RateLimit headers last said",
                new.allowed.clone(),
            );
            registry.register(
                "upstream_rate_limit_remaining",
                "Requests left of them, as its RateLimit headers last said",
                new.remaining.clone(),
            );
            registry.register(
                "upstream_quiet_until_timestamp_seconds",
                "Unix time until which the registry has asked to be left alone",
                new.quiet_until.clone(),
            );
        });
        new
    }

    /// For hosts that are no registries, which are counted as one: nobody lists them all.
    pub(super) fn of_files(&self) -> Counts {
        Counts {
            metrics: self.clone(),
            registry: "files".into(),
        }
    }

    pub(super) fn of(&self, registry: &RegistryName) -> Counts {
        Counts {
            metrics: self.clone(),
            registry: registry.as_str().into(),
        }
    }
}

impl Counts {
    /// The registry's name.
    pub(super) fn registry(&self) -> &str {
        &self.registry
    }

    /// An exchange has ended, with a status or without an answer.
    pub(super) fn request(&self, method: &Method, kind: Kind, status: Option<StatusCode>) {
        let label = RequestLabel {
            registry: self.registry.clone(),
            method: if method == Method::HEAD {
                "HEAD"
            } else {
                "GET"
            },
            kind: kind.label(),
            status: class(status),
        };
        self.metrics.requests.get_or_create(&label).inc();
    }

    pub(super) fn bytes(&self, kind: Kind) -> Counter {
        let label = BytesLabel {
            registry: self.registry.clone(),
            kind: kind.label(),
        };
        self.metrics.bytes.get_or_create_owned(&label)
    }

    pub(super) fn error(&self, kind: UpstreamErrorKind) {
        let kind = match kind {
            UpstreamErrorKind::Denied => "denied",
            UpstreamErrorKind::NotFound => "not_found",
            UpstreamErrorKind::Unavailable => "unavailable",
            UpstreamErrorKind::Invalid => "invalid",
        };
        let registry = self.registry.clone();
        let label = ErrorLabel { registry, kind };
        self.metrics.errors.get_or_create(&label).inc();
    }

    pub(super) fn rate_limited(&self) {
        let label = self.label();
        self.metrics.rate_limited.get_or_create(&label).inc();
    }

    /// What the registry's headers say of our allowance.
    pub(super) fn allowance(&self, allowance: &Allowance) {
        for (gauge, value) in [
            (&self.metrics.allowed, allowance.limit),
            (&self.metrics.remaining, allowance.remaining),
        ] {
            if let Some(value) = value {
                let value = i64::try_from(value).unwrap_or(i64::MAX);
                gauge.get_or_create(&self.label()).set(value);
            }
        }
    }

    /// The registry is left alone for this long.
    pub(super) fn quiet(&self, left: Duration) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let until = (now.unwrap_or_default() + left).as_secs();
        let until = i64::try_from(until).unwrap_or(i64::MAX);
        let gauge = &self.metrics.quiet_until;
        gauge.get_or_create(&self.label()).set(until);
    }

    pub(super) fn in_use(&self) -> InUse {
        let gauge = self.metrics.connections.get_or_create_owned(&self.label());
        gauge.inc();
        InUse(gauge)
    }

    fn label(&self) -> RegistryLabel {
        RegistryLabel {
            registry: self.registry.clone(),
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::List => "list",
            Self::Token => "token",
            Self::File => "file",
        }
    }
}

fn class(status: Option<StatusCode>) -> &'static str {
    match status.map(|status| status.as_u16() / 100) {
        Some(1) => "1xx",
        Some(2) => "2xx",
        Some(3) => "3xx",
        Some(4) => "4xx",
        Some(5) => "5xx",
        Some(_) => "other",
        None => "none",
    }
}
