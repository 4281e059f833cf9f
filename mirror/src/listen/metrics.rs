//! What listeners count.

use darner_service::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

/// Counters of all listeners. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct ListenMetrics {
    open: Family<Listener, Gauge>,
    refused: Family<Refused, Counter>,
}

/// Why a connection is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It could not be accepted.
    Accept,
    /// There are more than are allowed.
    TooMany,
    /// It speaks TLS to a plain port, or not as it should.
    Tls,
    /// It does not speak TLS.
    Plain,
}

impl Trouble {
    fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::TooMany => "too_many",
            Self::Tls => "tls",
            Self::Plain => "plain",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Listener {
    listener: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    listener: &'static str,
    kind: &'static str,
}

impl ListenMetrics {
    /// Registers the counters.
    pub fn new(metrics: &Metrics) -> Self {
        let new = Self::default();
        metrics.register(|registry| {
            registry.register("connections", "Connections that are open", new.open.clone());
            registry.register(
                "connections_refused",
                "Connections that were not served, by why",
                new.refused.clone(),
            );
        });
        new
    }

    pub(super) fn trouble(&self, listener: &'static str, trouble: Trouble) {
        let kind = trouble.as_str();
        self.refused
            .get_or_create(&Refused { listener, kind })
            .inc();
    }

    /// Counts a connection for as long as what is returned lives.
    pub(super) fn connection(&self, listener: &'static str) -> Connected {
        let open = self.open.get_or_create(&Listener { listener }).clone();
        open.inc();
        Connected(open)
    }
}

/// A connection that counts as open.
#[derive(Debug)]
pub(super) struct Connected(Gauge);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_is_open_and_what_was_refused() {
        let metrics = Metrics::default();
        let counted = ListenMetrics::new(&metrics);
        let text = || {
            let mut text = String::new();
            metrics
                .register(|registry| prometheus_client::encoding::text::encode(&mut text, registry))
                .unwrap();
            text
        };
        counted.trouble("pieces", Trouble::Tls);
        let open = counted.connection("registry");
        assert!(text().contains(r#"darner_connections{listener="registry"} 1"#));
        drop(open);
        for line in [
            r#"darner_connections{listener="registry"} 0"#,
            r#"darner_connections_refused_total{listener="pieces",kind="tls"} 1"#,
        ] {
            assert!(text().contains(line), "{line} is not in\n{}", text());
        }
    }
}
