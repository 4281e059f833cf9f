//! What is counted about membership.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use crate::metrics::Metrics;

/// Clones share it.
#[derive(Debug, Clone, Default)]
pub struct GossipMetrics {
    members: Gauge,
    sent_bytes: Counter,
    received_bytes: Counter,
    packets: Counter,
    refused: Gauge,
}

impl GossipMetrics {
    /// Registers the counters.
    pub fn new(metrics: &Metrics) -> Self {
        let new = Self::default();
        metrics.register(|registry| {
            registry.register(
                "gossip_members",
                "Members that are not known to be gone, this process included",
                new.members.clone(),
            );
            registry.register(
                "gossip_sent_bytes",
                "Bytes of membership packets this process began exchanges with",
                new.sent_bytes.clone(),
            );
            registry.register(
                "gossip_received_bytes",
                "Bytes of membership packets that came in answer",
                new.received_bytes.clone(),
            );
            registry.register(
                "gossip_exchanges",
                "Exchanges of membership packets this process began",
                new.packets.clone(),
            );
            registry.register(
                "gossip_refused_packets",
                "Membership packets since the start that were not valid or not of whom they said",
                new.refused.clone(),
            );
        });
        new
    }

    pub(super) fn members(&self, members: usize) {
        self.members.set(i64::try_from(members).unwrap_or(i64::MAX));
    }

    pub(super) fn refused(&self, packets: u64) {
        self.refused.set(i64::try_from(packets).unwrap_or(i64::MAX));
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.packets.inc();
        self.sent_bytes.inc_by(bytes as u64);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received_bytes.inc_by(bytes as u64);
    }
}
