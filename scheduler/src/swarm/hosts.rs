//! Who attends: presence, how fast a node may talk, how busy and how fast it is ([`rates`]), and who
//! owns repositories.

mod rates;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use darner_proto::digest::Digest;
use darner_proto::id::{Host, HostId, Role, TaskId};
use darner_proto::rendezvous;
use darner_proto::scheduler::Load;

use super::numbers::{HostNumber, NumberMap, TaskNumber};
use super::{MAX_HOSTS, SessionId};
use rates::{Rates, Usual};

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
/// Names kept of hosts that are gone, so that one that comes back is known by its old number.
const MAX_NAMES: usize = 4 * MAX_HOSTS;

/// A live session and its host.
#[derive(Debug)]
pub(super) struct Attendant {
    pub(super) host: Host,
    pub(super) number: HostNumber,
    pub(super) since: Duration,
    session: SessionId,
    last_heard: Duration,
    /// Tasks it takes part in, ascending.
    pub(super) tasks: Vec<TaskNumber>,
    /// Tasks it holds a lease of.
    pub(super) leases: BTreeSet<TaskId>,
    /// How many children it has in each task, by task; none is zero.
    serves: Vec<(TaskNumber, u32)>,
    /// The sum of `serves`.
    pub(super) children: u32,
    /// Thousandths of messages it may send now.
    allowance: u64,
    pub(super) rates: Rates,
}

impl Attendant {
    pub(super) fn new(session: SessionId, host: Host, number: HostNumber, now: Duration) -> Self {
        Self {
            host,
            number,
            since: now,
            session,
            last_heard: now,
            tasks: Vec::new(),
            leases: BTreeSet::new(),
            serves: Vec::new(),
            children: 0,
            allowance: MESSAGE_BURST * 1000,
            rates: Rates::default(),
        }
    }

    pub(super) fn session(&self) -> SessionId {
        self.session
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

    pub(super) fn joined(&mut self, task: TaskNumber) {
        if let Err(at) = self.tasks.binary_search(&task) {
            self.tasks.insert(at, task);
        }
    }

    pub(super) fn left(&mut self, task: TaskNumber) {
        if let Ok(at) = self.tasks.binary_search(&task) {
            self.tasks.remove(at);
        }
    }

    pub(super) fn children_in(&self, task: TaskNumber) -> u32 {
        self.place(task).map_or(0, |at| self.serves[at].1)
    }

    /// The tasks in which it is somebody's parent, and how many children it has in each.
    pub(super) fn serves(&self) -> &[(TaskNumber, u32)] {
        &self.serves
    }

    pub(super) fn child_gained(&mut self, task: TaskNumber) {
        self.children += 1;
        match self.place(task) {
            Ok(at) => self.serves[at].1 += 1,
            Err(at) => self.serves.insert(at, (task, 1)),
        }
    }

    pub(super) fn child_lost(&mut self, task: TaskNumber) {
        let Ok(at) = self.place(task) else { return };
        self.children -= 1;
        self.serves[at].1 -= 1;
        if self.serves[at].1 == 0 {
            self.serves.remove(at);
        }
    }

    fn place(&self, task: TaskNumber) -> Result<usize, usize> {
        self.serves.binary_search_by_key(&task, |(task, _)| *task)
    }
}

/// All live sessions.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    /// Where each session is in `slots`.
    index: NumberMap<SessionId, u32>,
    slots: Vec<Option<Attendant>>,
    free: Vec<u32>,
    by_id: HashMap<HostId, SessionId>,
    /// Where each live host is in `slots`.
    by_number: NumberMap<HostNumber, u32>,
    names: HashMap<HostId, HostNumber>,
    last_number: u32,
    seeds: BTreeSet<Ranked>,
    mirrors: BTreeSet<Ranked>,
    unlisted: BTreeSet<SessionId>,
    usual: Usual,
}

/// In an order that the coming and going of others does not change.
type Ranked = (Reverse<u64>, SessionId);

impl Hosts {
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn get(&self, session: SessionId) -> Option<&Attendant> {
        let slot = self.index.get(&session)?;
        self.slots.get(*slot as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, session: SessionId) -> Option<&mut Attendant> {
        of_session(&self.index, &mut self.slots, session)
    }

    /// The live host of this number.
    pub(super) fn numbered(&self, number: HostNumber) -> Option<&Attendant> {
        let slot = self.by_number.get(&number)?;
        self.slots.get(*slot as usize)?.as_ref()
    }

    pub(super) fn numbered_mut(&mut self, number: HostNumber) -> Option<&mut Attendant> {
        let slot = self.by_number.get(&number)?;
        self.slots.get_mut(*slot as usize)?.as_mut()
    }

    pub(super) fn session_of(&self, id: &HostId) -> Option<SessionId> {
        self.by_id.get(id).copied()
    }

    /// The number of a host that attends or has attended.
    pub(super) fn number_of(&self, id: &HostId) -> Option<HostNumber> {
        self.names.get(id).copied()
    }

    /// The number of `id`: its old one, if that is remembered. `is_needed` tells whose may not be
    /// forgotten.
    pub(super) fn number(
        &mut self,
        id: &HostId,
        is_needed: impl Fn(HostNumber) -> bool,
    ) -> HostNumber {
        if let Some(number) = self.names.get(id) {
            return *number;
        }
        if self.names.len() >= MAX_NAMES {
            let live = &self.by_id;
            self.names
                .retain(|id, number| live.contains_key(id) || is_needed(*number));
        }
        self.last_number += 1;
        let number = HostNumber(self.last_number);
        self.names.insert(id.clone(), number);
        number
    }

    /// Live sessions, in an order that is the same in every run.
    pub(super) fn sessions(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.live().map(|attendant| attendant.session)
    }

    fn live(&self) -> impl Iterator<Item = &Attendant> {
        self.slots.iter().flatten()
    }

    /// Sessions of live seeds.
    pub(super) fn seeds(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.seeds.iter().map(|(_, session)| *session)
    }

    pub(super) fn seed_count(&self) -> usize {
        self.seeds.len()
    }

    /// Live seeds and their hosts, in weighted rendezvous order for `task`.
    pub(super) fn seeds_for(&self, task: &TaskId) -> Vec<&Attendant> {
        let seeds: Vec<_> = self.seeds().filter_map(|seed| self.get(seed)).collect();
        rendezvous::order_by_weight(task, &seeds, |seed| &seed.host)
            .into_iter()
            .copied()
            .collect()
    }

    pub(super) fn insert(&mut self, attendant: Attendant) {
        let session = attendant.session;
        self.by_id.insert(attendant.host.id.clone(), session);
        self.of_role(attendant.host.role)
            .insert(ranked(session, &attendant.host));
        self.unlisted.insert(session);
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                // There are at most MAX_HOSTS.
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.index.insert(session, slot);
        self.by_number.insert(attendant.number, slot);
        self.slots[slot as usize] = Some(attendant);
    }

    pub(super) fn remove(&mut self, session: SessionId) -> Option<Attendant> {
        let slot = self.index.remove(&session)?;
        let attendant = self.slots[slot as usize].take()?;
        self.free.push(slot);
        self.by_id.remove(&attendant.host.id);
        self.by_number.remove(&attendant.number);
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
    }

    /// Takes down how busy a host says it is.
    pub(super) fn loaded(&mut self, session: SessionId, now: Duration, load: Load) {
        let Self {
            index,
            slots,
            usual,
            ..
        } = self;
        if let Some(one) = of_session(index, slots, session) {
            one.rates.loaded(now, load, one.host.upload_slots, usual);
        }
    }

    /// Takes down how fast a host sent to a child.
    pub(super) fn seen(&mut self, session: SessionId, now: Duration, rate: u64) {
        let Self {
            index,
            slots,
            usual,
            ..
        } = self;
        if let Some(one) = of_session(index, slots, session) {
            one.rates.seen(now, rate, usual);
        }
    }

    /// Whether its link gives less than half of what is usual.
    pub(super) fn is_slow(&self, attendant: &Attendant) -> bool {
        attendant.rates.is_slow(&self.usual)
    }

    /// How fast children see it send, in percent of what is usual.
    pub(super) fn pace(&self, attendant: &Attendant, now: Duration) -> u32 {
        attendant.rates.pace(now, &self.usual)
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
        let silent = self.live().filter(|one| one.last_heard < limit);
        silent.map(|attendant| attendant.session).collect()
    }

    pub(super) fn forgive_silence(&mut self, now: Duration) {
        for attendant in self.slots.iter_mut().flatten() {
            attendant.last_heard = now;
        }
    }
}

fn of_session<'a>(
    index: &NumberMap<SessionId, u32>,
    slots: &'a mut [Option<Attendant>],
    session: SessionId,
) -> Option<&'a mut Attendant> {
    slots.get_mut(*index.get(&session)? as usize)?.as_mut()
}

fn ranked(session: SessionId, host: &Host) -> Ranked {
    // Any fixed key will do; this one is nobody's content.
    let key = Digest::Sha256([0; 32]);
    (Reverse(rendezvous::rank(&key, &host.id)), session)
}
