//! Who belongs to the cluster, decided without clock, network or disk.
//!
//! The manager's half of the rules in [`darner_service::directory`]:
//!
//! - A version is `max(last + 1, unix time in ms)`, and above every version anybody asked with. It
//!   is used for a change of schedulers, seeds or clusters, not for a keep-alive or a mirror.
//! - After a start, what the database knew is believed for [`Timing::report`], the time members need
//!   to find the manager again. A member that then asks with a version which neither the database
//!   knew nor this process has told comes from a memory that was lost (a deleted database, an old
//!   backup). What it holds is better than what this process knows, so it waits until members
//!   had that time, and then hears a version above its own.
//! - A host is a member until it says goodbye or [`Timing::missed`] keep-alives in a row fail to
//!   come. Of two processes with one id and role the later counts.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::time::Duration;

use darner_proto::id::{Host, HostId, Role};
use darner_proto::manager::{Configuration, MAX_SCHEDULERS, MAX_SEEDS};
use darner_proto::trust::Trust;

use crate::clusters::set::ClusterSet;

#[cfg(test)]
mod tests;
mod timing;

pub use timing::{KEEP_ALIVE, MISSED_KEEP_ALIVES, REPORT_TIME, Timing};

/// More mirrors than this are refused: four times the largest cluster the design is measured for.
pub const MAX_MIRRORS: usize = 10_000;
/// Versions told right after a start that are remembered as ours. Those told beyond it look foreign,
/// which costs their holders a wait and nothing else.
const MAX_TOLD: usize = 4096;
/// Versions from here on are no clock's and no count's: nobody holds one, and taking it for true
/// would use up the numbers.
pub const MAX_VERSION: u64 = 1 << 62;

/// The time of an event.
#[derive(Debug, Clone, Copy)]
pub struct Time {
    /// Since the process began; never goes back.
    pub up: Duration,
    /// Milliseconds since 1970, by a clock that may be set.
    pub unix_ms: u64,
}

/// Every role a member can have.
pub const ROLES: [Role; 3] = [Role::Mirror, Role::Seed, Role::Scheduler];

/// Which process. The same id in two roles is two members, as a seed and a scheduler on one node
/// are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberKey {
    /// Its role.
    pub role: Role,
    /// Its name.
    pub id: HostId,
}

impl MemberKey {
    /// The member a host is.
    pub fn of(host: &Host) -> Self {
        Self {
            role: host.role,
            id: host.id.clone(),
        }
    }
}

/// A member as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it said of itself.
    pub host: Arc<Host>,
    /// When it was last heard, unix time in ms.
    pub last_seen: u64,
}

/// What outlives the process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// The last version told to anybody.
    pub version: u64,
    /// The members.
    pub hosts: BTreeMap<MemberKey, Record>,
}

/// What other managers over the same database hear.
#[derive(Debug, Clone, Default)]
pub struct Elsewhere {
    /// The last version any of them told, as far as the database knows.
    pub version: u64,
    /// Their members.
    pub hosts: Arc<BTreeMap<MemberKey, Record>>,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A host made itself known, for the first time or again.
    Register(Host),
    /// A host lives.
    KeepAlive(MemberKey),
    /// A host goes away in order.
    Deregister(MemberKey),
    /// A member asks for the configuration, and holds this version of it.
    Watch {
        /// 0 for none.
        known_version: u64,
    },
    /// This is what other managers hear now.
    Elsewhere(Elsewhere),
    /// The authority's word on whose certificates count.
    Trust(Trust),
    /// The hosts are divided so from now on.
    Divide(ClusterSet),
    /// Time passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Tell everybody.
    Publish(Arc<Configuration>),
    /// What is to be remembered has changed.
    Store,
    /// Members had time to report: answer those who were told to [`Action::Wait`].
    Settled,
    /// The one who asks is not to be answered before [`Action::Settled`].
    Wait,
    /// The host is not known: it has to register again.
    Unknown,
    /// The event was refused.
    Refuse(Refusal),
}

/// Why an event is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There are as many hosts of the role as fit.
    #[error("the cluster has {most} hosts of role {role} already, which is the most there can be")]
    Full {
        /// The role.
        role: Role,
        /// How many.
        most: usize,
    },
    /// A version nobody can have told.
    #[error("known_version: {0} is no version a manager has told")]
    Version(u64),
}

/// The members and what was told of them.
#[derive(Debug)]
pub struct Membership {
    timing: Timing,
    members: BTreeMap<Role, BTreeMap<HostId, Member>>,
    told: Arc<Configuration>,
    /// Whose certificates count.
    trust: Arc<Trust>,
    /// Who is told of whom. A change of it is a new version of the same configuration: of that, each
    /// host is told its own part.
    clusters: Arc<ClusterSet>,
    /// Above which the next version has to be.
    floor: u64,
    start: Start,
    ticked: Duration,
}

#[derive(Debug)]
struct Member {
    record: Record,
    deadline: Duration,
    /// Another manager hears it, and remembers it.
    elsewhere: bool,
}

/// What is known of the versions in members' hands.
#[derive(Debug)]
enum Start {
    /// Members may still hold more than this process knows.
    Recent {
        ends: Duration,
        /// The database's version: whoever holds this or an older one holds nothing better.
        restored: u64,
        /// Told by this process, up to [`MAX_TOLD`].
        told: BTreeSet<u64>,
    },
    /// Members had time to report.
    Over,
}

impl Membership {
    /// Begins with what was remembered, at `now`.
    /// `elsewhere` is whether all that was other managers' word.
    pub fn new(snapshot: Snapshot, elsewhere: bool, timing: Timing, now: Time) -> Self {
        let ends = now.up + timing.report;
        let mut members: BTreeMap<Role, BTreeMap<HostId, Member>> = BTreeMap::new();
        for (MemberKey { role, id }, record) in snapshot.hosts {
            let member = Member {
                record,
                deadline: ends,
                elsewhere,
            };
            members.entry(role).or_default().insert(id, member);
        }
        let mut membership = Self {
            timing,
            members,
            told: Arc::default(),
            trust: Arc::default(),
            clusters: Arc::default(),
            floor: snapshot.version,
            start: Start::Recent {
                ends,
                restored: snapshot.version,
                told: BTreeSet::new(),
            },
            ticked: now.up,
        };
        membership.told = Arc::new(membership.configuration(snapshot.version));
        membership
    }

    /// What is told to those who ask now.
    pub fn told(&self) -> &Arc<Configuration> {
        &self.told
    }

    /// Who is told of whom.
    pub fn clusters(&self) -> &Arc<ClusterSet> {
        &self.clusters
    }

    /// The members of a role, by id; those after `after` where it is given.
    pub fn of_role(&self, role: Role, after: Option<&HostId>) -> impl Iterator<Item = &Record> {
        let from = after.map_or(Unbounded, Excluded);
        let of_role = self.members.get(&role);
        of_role
            .into_iter()
            .flat_map(move |members| members.range((from, Unbounded)))
            .map(|(_, member)| &member.record)
    }

    /// A member.
    pub fn get(&self, key: &MemberKey) -> Option<&Record> {
        let member = self.members.get(&key.role)?.get(&key.id)?;
        Some(&member.record)
    }

    /// Whether `key` is a member now, here or by another manager's word.
    pub fn has(&self, key: &MemberKey) -> bool {
        let of_role = self.members.get(&key.role);
        of_role.is_some_and(|members| members.contains_key(&key.id))
    }

    /// How often those of a role are to be heard from, as many as they are now.
    pub fn keep_alive_of(&self, role: Role) -> Duration {
        self.timing.keep_alive_of(role, self.count(role))
    }

    /// How many members have a role.
    pub fn count(&self, role: Role) -> usize {
        self.members.get(&role).map_or(0, BTreeMap::len)
    }

    /// What is to outlive the process.
    pub fn snapshot(&self) -> Snapshot {
        let members = self.members.values().flat_map(BTreeMap::values);
        let records = members
            .filter(|member| !member.elsewhere)
            .map(|member| (MemberKey::of(&member.record.host), member.record.clone()));
        Snapshot {
            version: self.told.version,
            hosts: records.collect(),
        }
    }

    /// Takes an event in, and says what is to be done about it, in order.
    pub fn apply(&mut self, now: Time, event: Event) -> Vec<Action> {
        match event {
            Event::Register(host) => self.register(now, host),
            Event::KeepAlive(key) => self.keep_alive(now, &key),
            Event::Deregister(key) => self.deregister(now, &key),
            Event::Watch { known_version } => self.asked(now, known_version),
            Event::Elsewhere(elsewhere) => self.elsewhere(now, &elsewhere),
            Event::Trust(trust) => {
                self.trust = Arc::new(trust);
                self.changed(now)
            }
            Event::Divide(clusters) => self.divide(now, clusters),
            Event::Tick => self.tick(now),
        }
    }

    fn register(&mut self, now: Time, host: Host) -> Vec<Action> {
        let (role, most) = (host.role, most(host.role));
        let deadline = self.deadline(now, role);
        let of_role = self.members.entry(role).or_default();
        if of_role.len() >= most && !of_role.contains_key(&host.id) {
            return vec![Action::Refuse(Refusal::Full { role, most })];
        }
        let id = host.id.clone();
        let record = Record {
            host: Arc::new(host),
            last_seen: now.unix_ms,
        };
        let member = Member {
            record,
            deadline,
            elsewhere: false,
        };
        of_role.insert(id, member);
        self.changed(now)
    }

    fn keep_alive(&mut self, now: Time, key: &MemberKey) -> Vec<Action> {
        let deadline = self.deadline(now, key.role);
        let of_role = self.members.get_mut(&key.role);
        match of_role.and_then(|members| members.get_mut(&key.id)) {
            // One that another manager heard until now registers with this one.
            Some(member) if !member.elsewhere => {
                member.deadline = member.deadline.max(deadline);
                member.record.last_seen = now.unix_ms;
                Vec::new()
            }
            _ => vec![Action::Unknown],
        }
    }

    fn deregister(&mut self, now: Time, key: &MemberKey) -> Vec<Action> {
        let of_role = self.members.get_mut(&key.role);
        match of_role.and_then(|members| members.remove(&key.id)) {
            Some(_) => self.changed(now),
            None => Vec::new(),
        }
    }

    fn asked(&mut self, now: Time, known: u64) -> Vec<Action> {
        if known >= MAX_VERSION {
            return vec![Action::Refuse(Refusal::Version(known))];
        }
        let foreign = match &self.start {
            Start::Recent { restored, told, .. } => known > *restored && !told.contains(&known),
            Start::Over => false,
        };
        self.floor = self.floor.max(known);
        if foreign {
            return vec![Action::Wait];
        }
        self.tell_above_floor(now)
    }

    /// A host that moves from one manager to another is not missed in between: it has the time that
    /// hosts have to report.
    fn elsewhere(&mut self, now: Time, others: &Elsewhere) -> Vec<Action> {
        if let Start::Recent { restored, .. } = &mut self.start {
            *restored = (*restored).max(others.version);
        }
        self.floor = self.floor.max(others.version);
        let deadline = now.up + self.timing.report;
        let mut news = false;
        for (key, record) in others.hosts.iter() {
            let of_role = self.members.entry(key.role).or_default();
            match of_role.get_mut(&key.id) {
                // What this process hears itself it knows best.
                Some(member) if !member.elsewhere => {}
                Some(member) => {
                    news |= member.record.host != record.host;
                    member.record = record.clone();
                    member.deadline = deadline;
                }
                None => {
                    news = true;
                    let member = Member {
                        record: record.clone(),
                        deadline,
                        elsewhere: true,
                    };
                    of_role.insert(key.id.clone(), member);
                }
            }
        }
        if news { self.changed(now) } else { Vec::new() }
    }

    fn divide(&mut self, now: Time, clusters: ClusterSet) -> Vec<Action> {
        if *self.clusters == clusters {
            return Vec::new();
        }
        self.clusters = Arc::new(clusters);
        let current = Configuration::clone(&self.told);
        vec![self.tell(now, current), Action::Store]
    }

    fn tick(&mut self, now: Time) -> Vec<Action> {
        let pause = self.pause(now);
        let mut dropped = false;
        for members in self.members.values_mut() {
            let before = members.len();
            members.retain(|_, member| {
                member.deadline += pause;
                member.deadline > now.up
            });
            dropped |= members.len() < before;
        }
        let mut actions = Vec::new();
        if dropped {
            actions.extend(self.changed(now));
        }
        if matches!(self.start, Start::Recent { ends, .. } if ends <= now.up) {
            self.start = Start::Over;
            actions.extend(self.tell_above_floor(now));
            actions.push(Action::Settled);
        }
        actions
    }

    /// How long this process did not run, when that was long: what it did not hear in that time
    /// says nothing about its members.
    fn pause(&mut self, now: Time) -> Duration {
        let since = now.up.saturating_sub(self.ticked);
        self.ticked = now.up;
        let paused = since > self.timing.keep_alive;
        if !paused {
            return Duration::ZERO;
        }
        if let Start::Recent { ends, .. } = &mut self.start {
            *ends += since;
        }
        since
    }

    /// After a change of members: to be stored in any case, told when it is one of the lists.
    fn changed(&mut self, now: Time) -> Vec<Action> {
        let current = self.configuration(self.told.version);
        let mut actions = Vec::new();
        if current != *self.told {
            actions.push(self.tell(now, current));
        }
        actions.push(Action::Store);
        actions
    }

    /// Somebody may hold a higher version than was told: what is told has to be above it.
    fn tell_above_floor(&mut self, now: Time) -> Vec<Action> {
        let recent = matches!(self.start, Start::Recent { .. });
        if recent || self.floor <= self.told.version {
            return Vec::new();
        }
        let current = Configuration::clone(&self.told);
        vec![self.tell(now, current), Action::Store]
    }

    fn tell(&mut self, now: Time, mut configuration: Configuration) -> Action {
        let clock = now.unix_ms.min(MAX_VERSION);
        configuration.version = clock.max(self.floor.saturating_add(1));
        if let Start::Recent { told, .. } = &mut self.start
            && told.len() < MAX_TOLD
        {
            told.insert(configuration.version);
        }
        self.floor = configuration.version;
        self.told = Arc::new(configuration);
        Action::Publish(self.told.clone())
    }

    fn configuration(&self, version: u64) -> Configuration {
        let hosts = |role| {
            let records = self.of_role(role, None);
            records.map(|record| Host::clone(&record.host)).collect()
        };
        Configuration {
            version,
            schedulers: hosts(Role::Scheduler),
            seeds: hosts(Role::Seed),
            trust: self.trust.clone(),
            rules: Arc::default(),
        }
    }

    /// Until when a host of this role that is heard now is a member: it is told now how often it is to be
    /// heard from.
    fn deadline(&self, now: Time, role: Role) -> Duration {
        now.up + self.keep_alive_of(role) * self.timing.missed
    }
}

fn most(role: Role) -> usize {
    match role {
        Role::Mirror => MAX_MIRRORS,
        Role::Seed => MAX_SEEDS,
        Role::Scheduler => MAX_SCHEDULERS,
    }
}
