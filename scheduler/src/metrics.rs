//! What a scheduler counts.

use std::time::Duration;

use darner_proto::id::Role;
use darner_service::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::swarm::{Census, Counted};

/// Decisions take microseconds; one of a tenth of a second would hold up every node.
const DECISION_SECONDS: [f64; 9] = [
    0.000_01, 0.000_05, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.02, 0.1,
];

/// Counters of one scheduler. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct SchedulerMetrics {
    hosts: Family<RoleLabel, Gauge>,
    tasks: Gauge,
    participants: Gauge,
    holdings: Gauge,
    leases_running: Gauge,
    leases: Family<LeaseLabel, Counter>,
    parents_assigned: Counter,
    messages: Family<DirectionLabel, Counter>,
    /// The two of `messages`: looking them up for every message costs more than counting.
    received: Counter,
    sent: Counter,
    bans: Counter,
    sessions_closed: Family<ReasonLabel, Counter>,
    decision: Histogram,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RoleLabel {
    role: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LeaseLabel {
    event: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabel {
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

impl SchedulerMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let messages = Family::<DirectionLabel, Counter>::default();
        let message = |direction| messages.get_or_create_owned(&DirectionLabel { direction });
        let (received, sent) = (message("in"), message("out"));
        let new = Self {
            hosts: Family::default(),
            tasks: Gauge::default(),
            participants: Gauge::default(),
            holdings: Gauge::default(),
            leases_running: Gauge::default(),
            leases: Family::default(),
            parents_assigned: Counter::default(),
            messages,
            received,
            sent,
            bans: Counter::default(),
            sessions_closed: Family::default(),
            decision: Histogram::new(DECISION_SECONDS),
        };
        new.register(metrics);
        new
    }

    fn register(&self, metrics: &Metrics) {
        metrics.register(|registry| {
            let mut gauge = |name: &str, help: &str, gauge: &Gauge| {
                registry.register(name, help, gauge.clone());
            };
            gauge("scheduler_tasks", "Tasks known", &self.tasks);
            gauge(
                "scheduler_participants",
                "Nodes taking part in tasks, summed over tasks",
                &self.participants,
            );
            gauge(
                "scheduler_holdings",
                "Contents and records held complete, summed over nodes",
                &self.holdings,
            );
            gauge(
                "scheduler_leases_running",
                "Leases to read upstream that are running",
                &self.leases_running,
            );
            registry.register("scheduler_hosts", "Live nodes, by role", self.hosts.clone());
            registry.register(
                "scheduler_leases",
                "What happened to leases to read upstream, by event",
                self.leases.clone(),
            );
            registry.register(
                "scheduler_parents_assigned",
                "Parents told to children",
                self.parents_assigned.clone(),
            );
            registry.register(
                "scheduler_messages",
                "Messages from and to nodes, by direction",
                self.messages.clone(),
            );
            registry.register(
                "scheduler_bans",
                "Hosts banned as parents for wrong bytes",
                self.bans.clone(),
            );
            registry.register(
                "scheduler_sessions_closed",
                "Sessions that were ended from this side, by reason",
                self.sessions_closed.clone(),
            );
            registry.register(
                "scheduler_decision_seconds",
                "Time to decide what follows from one event",
                self.decision.clone(),
            );
        });
    }

    pub(crate) fn census(&self, census: Census) {
        let set = |gauge: &Gauge, count: usize| {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        set(&self.tasks, census.tasks);
        set(&self.participants, census.participants);
        set(&self.holdings, census.holdings);
        set(&self.leases_running, census.leases);
        for (role, count) in [("mirror", census.mirrors), ("seed", census.seeds)] {
            set(&self.hosts.get_or_create(&RoleLabel { role }), count);
        }
    }

    pub(crate) fn counted(&self, counted: Counted) {
        let event = match counted {
            Counted::LeaseGranted(Role::Seed) => "granted_seed",
            Counted::LeaseGranted(Role::Mirror | Role::Scheduler) => "granted_mirror",
            Counted::LeaseExpired => "expired",
            Counted::LeaseReturned => "returned",
            Counted::LeaseRevoked => "revoked",
            Counted::LeaseDone => "done",
            Counted::ParentsAssigned(count) => {
                self.parents_assigned.inc_by(u64::from(count));
                return;
            }
            Counted::Banned => {
                self.bans.inc();
                return;
            }
        };
        self.leases.get_or_create(&LeaseLabel { event }).inc();
    }

    pub(crate) fn received(&self) {
        self.received.inc();
    }

    pub(crate) fn sent(&self) {
        self.sent.inc();
    }

    pub(crate) fn closed(&self, reason: &'static str) {
        self.sessions_closed
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }

    pub(crate) fn decided(&self, took: Duration) {
        self.decision.observe(took.as_secs_f64());
    }
}
