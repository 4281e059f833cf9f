//! Who failed whom, and who is how fast by the word of its children. One node's word lowers a host's
//! standing; only the word of two bans it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use darner_proto::id::{HostId, TaskId};
use darner_proto::scheduler::{FailureKind, Progress};

use super::numbers::HostNumber;
use super::{Counted, SessionId, Swarm};

/// A failure counts against a host this long.
const FAILURE_MEMORY: Duration = Duration::from_secs(60);
/// An accusation of wrong bytes is kept this long, waiting for a second one.
const ACCUSATION_MEMORY: Duration = Duration::from_secs(600);
/// Distinct hosts that must have been sent wrong bytes.
const ACCUSERS: usize = 2;
/// How long a banned host is nobody's parent.
const BAN: Duration = Duration::from_secs(3600);
/// More bans than this in a minute are not believed: then the accusers are the likelier fault.
const BANS_PER_MINUTE: usize = 3;
const MINUTE: Duration = Duration::from_secs(60);
/// Reporters remembered per host, and hosts remembered in all.
const MAX_REPORTERS: usize = 64;
const MAX_RECORDS: usize = 20_000;

/// What is remembered of hosts: it outlives their sessions.
#[derive(Debug, Default)]
pub(super) struct Reputation {
    records: HashMap<HostNumber, Record>,
    recent_bans: VecDeque<Duration>,
}

#[derive(Debug, Default)]
struct Record {
    failures: BTreeMap<HostNumber, Duration>,
    accusers: BTreeMap<HostNumber, Duration>,
    banned_until: Option<Duration>,
}

impl Reputation {
    /// Whether anything is remembered of it.
    pub(super) fn knows(&self, host: HostNumber) -> bool {
        self.records.contains_key(&host)
    }

    pub(super) fn is_banned(&self, host: HostNumber, now: Duration) -> bool {
        self.records
            .get(&host)
            .and_then(|record| record.banned_until)
            .is_some_and(|until| now < until)
    }

    /// How many hosts it failed of late.
    pub(super) fn failures(&self, host: HostNumber, now: Duration) -> u32 {
        let Some(record) = self.records.get(&host) else {
            return 0;
        };
        let recent = record.failures.values();
        let count = recent.filter(|at| now < **at + FAILURE_MEMORY).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Takes down a report. `true` when it bans the parent.
    fn report(
        &mut self,
        now: Duration,
        parent: HostNumber,
        by: HostNumber,
        kind: FailureKind,
    ) -> bool {
        if self.records.len() >= MAX_RECORDS && !self.records.contains_key(&parent) {
            return false;
        }
        while self
            .recent_bans
            .front()
            .is_some_and(|at| now >= *at + MINUTE)
        {
            self.recent_bans.pop_front();
        }
        let record = self.records.entry(parent).or_default();
        remember(&mut record.failures, by, now);
        if !matches!(kind, FailureKind::WrongBytes | FailureKind::WrongLength) {
            return false;
        }
        remember(&mut record.accusers, by, now);
        record
            .accusers
            .retain(|_, at| now < *at + ACCUSATION_MEMORY);
        let banned = record.banned_until.is_some_and(|until| now < until);
        if banned || record.accusers.len() < ACCUSERS || self.recent_bans.len() >= BANS_PER_MINUTE {
            return false;
        }
        record.banned_until = Some(now + BAN);
        record.accusers.clear();
        self.recent_bans.push_back(now);
        true
    }

    pub(super) fn prune(&mut self, now: Duration) {
        self.records.retain(|_, record| {
            record.failures.retain(|_, at| now < *at + FAILURE_MEMORY);
            record
                .accusers
                .retain(|_, at| now < *at + ACCUSATION_MEMORY);
            record.banned_until = record.banned_until.filter(|until| now < *until);
            !record.failures.is_empty()
                || !record.accusers.is_empty()
                || record.banned_until.is_some()
        });
    }
}

fn remember(reports: &mut BTreeMap<HostNumber, Duration>, by: HostNumber, now: Duration) {
    if reports.len() < MAX_REPORTERS || reports.contains_key(&by) {
        reports.insert(by, now);
    }
}

impl Swarm {
    pub(super) fn is_banned(&self, session: SessionId) -> bool {
        self.hosts
            .get(session)
            .is_none_or(|attendant| self.reputation.is_banned(attendant.number, self.now))
    }

    /// How fast parents sent to a child: its word about those it was given.
    pub(super) fn parents_seen(&mut self, child: SessionId, progress: &Progress) {
        if progress.rates.is_empty() {
            return;
        }
        let task = self.tasks.get(&progress.task);
        let Some(me) = task.and_then(|task| task.participants.get(&child)) else {
            return;
        };
        for rate in &progress.rates {
            let number = self.hosts.number_of(&rate.parent);
            let given = number.is_some_and(|number| me.was_given(number));
            if let Some(parent) = self.hosts.session_of(&rate.parent).filter(|_| given) {
                self.hosts.seen(parent, self.now, rate.bytes_per_second);
            }
        }
    }

    /// Only a child's word about a parent it was given counts.
    pub(super) fn parent_failed(
        &mut self,
        reporter: SessionId,
        id: &TaskId,
        parent: HostId,
        kind: FailureKind,
    ) {
        let (Some(by), Some(accused)) = (
            self.hosts.get(reporter).map(|node| node.number),
            self.hosts.number_of(&parent),
        ) else {
            return;
        };
        let child = self
            .tasks
            .get_mut(id)
            .and_then(|task| task.participants.get_mut(&reporter));
        let Some(child) = child.filter(|child| child.was_given(accused)) else {
            return;
        };
        child.failed_by(accused, kind);
        let banned = self.reputation.report(self.now, accused, by, kind);
        let Some(session) = self.hosts.session_of(&parent) else {
            return;
        };
        if banned {
            self.ban(session);
        } else if self.fails_everybody(id, session, accused) {
            self.shun(id, session);
        }
        self.refresh(id, reporter);
        self.look_after(id);
    }

    fn ban(&mut self, session: SessionId) {
        let Some(attendant) = self.hosts.get(session) else {
            return;
        };
        tracing::warn!(host = %attendant.host.id, "banned as a parent for an hour: several nodes had wrong bytes from it");
        let serves = attendant.serves().iter().map(|(task, _)| *task);
        let numbers = attendant.tasks.iter().copied().chain(serves);
        let mut tasks: BTreeSet<_> = self.numbers.of(numbers).into_iter().collect();
        tasks.extend(attendant.leases.iter().copied());
        self.count(Counted::Banned);
        for task in tasks {
            self.shun(&task, session);
            self.look_after(&task);
        }
    }
}
