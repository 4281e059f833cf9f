//! Who attends: presence, how fast a node may talk, and who owns repositories.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use darner_proto::digest::Digest;
use darner_proto::id::{Host, HostId, Role, TaskId};
use darner_proto::rendezvous;

use super::SessionId;

/// Messages a node may send in a second, besides those its tasks give reason to.
const MESSAGES_PER_SECOND: u64 = 50;
/// Further messages a second for every task: progress twice, coming and going.
const MESSAGES_PER_TASK: u64 = 4;
/// What may come at once: as much as a node queues for one scheduler. A reconnect tells all tasks
/// and the whole inventory in one go.
const MESSAGE_BURST: u64 = 1024;
/// Seeds named as owners of repositories; a cluster has a few.
const MAX_SEED_OWNERS: usize = 64;
/// Mirrors named as owners of repositories where there is no seed.
const MAX_MIRROR_OWNERS: usize = 8;

/// A live session and its host.
#[derive(Debug)]
pub(super) struct Attendant {
    pub(super) host: Host,
    pub(super) since: Duration,
    last_heard: Duration,
    /// Whether everything it holds has been told, or it had its time to.
    pub(super) listed: bool,
    /// Tasks it takes part in.
    pub(super) tasks: BTreeSet<TaskId>,
    /// Tasks it holds a lease of.
    pub(super) leases: BTreeSet<TaskId>,
    /// How many children it has in each task; none is zero.
    pub(super) serves: BTreeMap<TaskId, u32>,
    /// The sum of `serves`.
    pub(super) children: u32,
    /// Thousandths of messages it may send now.
    allowance: u64,
}

impl Attendant {
    pub(super) fn new(host: Host, now: Duration) -> Self {
        Self {
            host,
            since: now,
            last_heard: now,
            listed: false,
            tasks: BTreeSet::new(),
            leases: BTreeSet::new(),
            serves: BTreeMap::new(),
            children: 0,
            allowance: MESSAGE_BURST * 1000,
        }
    }

    /// Notes a sign of life. `false` when it says more than it may.
    pub(super) fn heard(&mut self, now: Duration) -> bool {
        let rate = MESSAGES_PER_SECOND + MESSAGES_PER_TASK * self.tasks.len() as u64;
        let passed = now.saturating_sub(self.last_heard).as_micros();
        // rate per second over microseconds is thousandths of a message over thousands.
        let earned = u64::try_from(passed)
            .unwrap_or(u64::MAX)
            .saturating_mul(rate)
            / 1000;
        self.allowance = self
            .allowance
            .saturating_add(earned)
            .min(MESSAGE_BURST * 1000);
        self.last_heard = now;
        match self.allowance.checked_sub(1000) {
            Some(left) => {
                self.allowance = left;
                true
            }
            None => false,
        }
    }

    pub(super) fn children_in(&self, task: &TaskId) -> u32 {
        self.serves.get(task).copied().unwrap_or(0)
    }
}

/// All live sessions.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    live: BTreeMap<SessionId, Attendant>,
    by_id: HashMap<HostId, SessionId>,
    seeds: BTreeSet<Ranked>,
    mirrors: BTreeSet<Ranked>,
    unlisted: BTreeSet<SessionId>,
}

/// In an order that the coming and going of others does not change.
type Ranked = (Reverse<u64>, SessionId);

impl Hosts {
    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    pub(super) fn get(&self, session: SessionId) -> Option<&Attendant> {
        self.live.get(&session)
    }

    pub(super) fn get_mut(&mut self, session: SessionId) -> Option<&mut Attendant> {
        self.live.get_mut(&session)
    }

    pub(super) fn session_of(&self, id: &HostId) -> Option<SessionId> {
        self.by_id.get(id).copied()
    }

    pub(super) fn sessions(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.live.keys().copied()
    }

    /// Sessions of live seeds.
    pub(super) fn seeds(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.seeds.iter().map(|(_, session)| *session)
    }

    pub(super) fn insert(&mut self, session: SessionId, attendant: Attendant) {
        self.by_id.insert(attendant.host.id.clone(), session);
        self.of_role(attendant.host.role)
            .insert(ranked(session, &attendant.host));
        self.unlisted.insert(session);
        self.live.insert(session, attendant);
    }

    pub(super) fn remove(&mut self, session: SessionId) -> Option<Attendant> {
        let attendant = self.live.remove(&session)?;
        self.by_id.remove(&attendant.host.id);
        self.of_role(attendant.host.role)
            .remove(&ranked(session, &attendant.host));
        self.unlisted.remove(&session);
        Some(attendant)
    }

    fn of_role(&mut self, role: Role) -> &mut BTreeSet<Ranked> {
        match role {
            Role::Seed => &mut self.seeds,
            Role::Mirror | Role::Scheduler => &mut self.mirrors,
        }
    }

    /// Sessions that may still have holdings to tell.
    pub(super) fn unlisted(&self) -> &BTreeSet<SessionId> {
        &self.unlisted
    }

    pub(super) fn set_listed(&mut self, session: SessionId) {
        self.unlisted.remove(&session);
        if let Some(attendant) = self.live.get_mut(&session) {
            attendant.listed = true;
        }
    }

    /// The seeds, or without seeds a few mirrors.
    pub(super) fn owners(&self) -> Vec<SessionId> {
        let (ranked, limit) = if self.seeds.is_empty() {
            (&self.mirrors, MAX_MIRROR_OWNERS)
        } else {
            (&self.seeds, MAX_SEED_OWNERS)
        };
        ranked
            .iter()
            .take(limit)
            .map(|(_, session)| *session)
            .collect()
    }

    pub(super) fn silent_since(&self, limit: Duration) -> Vec<SessionId> {
        let live = self.live.iter();
        live.filter(|(_, attendant)| attendant.last_heard < limit)
            .map(|(session, _)| *session)
            .collect()
    }

    pub(super) fn forgive_silence(&mut self, now: Duration) {
        for attendant in self.live.values_mut() {
            attendant.last_heard = now;
        }
    }
}

fn ranked(session: SessionId, host: &Host) -> Ranked {
    // Any fixed key will do; this one is nobody's content.
    let key = Digest::Sha256([0; 32]);
    (Reverse(rendezvous::rank(&key, &host.id)), session)
}
