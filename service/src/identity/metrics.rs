//! What is counted about certificates and those who show them.

use std::fmt;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::peer::{Peer, PeerRole};
use crate::metrics::Metrics;

/// Clones share it; a process has one for all its parts.
#[derive(Debug, Clone, Default)]
pub struct IdentityMetrics {
    expiry: Family<RoleLabel, Gauge>,
    refused: Family<ReasonLabel, Counter>,
    renewals: Family<RoleLabel, Counter>,
    insecure: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RoleLabel {
    role: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Why a connection was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No TLS 1.3, no certificate, or one that no authority of ours signed or that is over.
    Handshake,
    /// It was not done in time.
    Timeout,
    /// The certificate does not name a process of ours.
    Name,
    /// It was revoked, or is over since the session began.
    Revoked,
    /// Its role has nothing to do there.
    Role,
}

impl Refused {
    fn label(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Timeout => "timeout",
            Self::Name => "name",
            Self::Revoked => "revoked",
            Self::Role => "role",
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl IdentityMetrics {
    /// Registers the counters.
    pub fn new(metrics: &Metrics) -> Self {
        let new = Self::default();
        metrics.register(|registry| {
            registry.register(
                "identity_certificate_expiry_timestamp_seconds",
                "When the process's certificate is over, in seconds since 1970, by role",
                new.expiry.clone(),
            );
            registry.register(
                "identity_handshakes_refused",
                "Connections refused for what their other side showed or did not show, by reason",
                new.refused.clone(),
            );
            registry.register(
                "identity_renewals",
                "Certificates taken into use after the first, by role",
                new.renewals.clone(),
            );
            registry.register(
                "identity_insecure",
                "1 when the process talks in plain text, by [identity] insecure",
                new.insecure.clone(),
            );
        });
        new
    }

    pub(super) fn refused(&self, reason: Refused) {
        let reason = reason.label();
        let counter = self.refused.get_or_create_owned(&ReasonLabel { reason });
        counter.inc();
    }

    pub(super) fn holds(&self, peer: &Peer) {
        let until = i64::try_from(peer.not_after).unwrap_or(i64::MAX);
        let gauge = self.expiry.get_or_create_owned(&label(peer.role));
        gauge.set(until);
    }

    pub(super) fn renewed(&self, role: PeerRole) {
        self.renewals.get_or_create_owned(&label(role)).inc();
    }

    pub(super) fn insecure(&self) {
        self.insecure.set(1);
    }
}

fn label(role: PeerRole) -> RoleLabel {
    RoleLabel {
        role: role.to_string(),
    }
}
