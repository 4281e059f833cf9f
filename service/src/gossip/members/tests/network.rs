//! The network: what is sent arrives a millisecond or two later, where somebody is there to take it,
//! and what it costs is counted.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use darner_proto::gossip::Place;
use darner_proto::id::Role;
use rand::RngExt as _;

use super::*;

/// Of the first members.
pub(super) const EPOCH: u64 = 1_764_000_000_000;
/// Connections without a request are given up after this.
const IDLE: Duration = Duration::from_secs(50);
/// Request line, headers and TLS record of an exchange, each way.
const HEADS: (u64, u64) = (100, 100);
/// A handshake that resumes a session, each way; measured in `identity::cluster_key`.
const HANDSHAKE: (u64, u64) = (960, 920);
/// What nobody is there to take is known to be lost after this, where the port is closed.
const REFUSAL: Duration = Duration::from_millis(2);
/// And after this where nobody answers.
const SILENCE: Duration = Duration::from_millis(1300);

/// How somebody ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Death {
    /// In order.
    Leaves,
    /// Its ports are closed.
    Killed,
    /// Nothing comes from there any more.
    Silent,
}

enum Arriving {
    /// A packet that begins an exchange.
    Request(u32, u32, Bytes),
    /// One that ends it.
    Response(u32, u32, Bytes),
    Refused(u32, Arc<Member>),
    Timer(u32, u32),
}

pub(super) struct Network {
    now: Duration,
    random: SmallRng,
    members: BTreeMap<u32, Members>,
    lives: BTreeMap<u32, u32>,
    /// For when each life of a member has a timer in the queue.
    armed: HashMap<(u32, u32), Option<Duration>>,
    silent: BTreeSet<u32>,
    cut_off: BTreeSet<u32>,
    /// Until when.
    stalled: HashMap<u32, Duration>,
    queue: BTreeMap<(Duration, u64), Arriving>,
    queued: u64,
    loss: f64,
    contacts: HashMap<(u32, u32), Duration>,
    sent: u64,
    since: Duration,
}

/// The record of a member in its first life or a later one.
pub(super) fn member(name: u32, life: u64) -> Member {
    Member {
        id: format!("node-{name:04}.pool-a").parse().expect("valid"),
        generation: EPOCH + life,
        place: Some(Place {
            address: format!(
                "10.{}.{}.{}:7421",
                name >> 16,
                (name >> 8) & 255,
                name & 255
            ),
            scheduler_port: 7422,
            role: Role::Mirror,
            labels: [
                (
                    "zone".to_owned(),
                    format!("central-1{}", ["a", "b", "c"][name as usize % 3]),
                ),
                ("rack".to_owned(), format!("r{}", name / 40)),
            ]
            .into(),
        }),
    }
}

fn name_of(id: &HostId) -> u32 {
    let digits = id.as_str()[5..].split('.').next().expect("a name");
    digits.parse().expect("digits")
}

impl Network {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            now: Duration::ZERO,
            random: SmallRng::seed_from_u64(seed),
            members: BTreeMap::new(),
            lives: BTreeMap::new(),
            armed: HashMap::new(),
            silent: BTreeSet::new(),
            cut_off: BTreeSet::new(),
            stalled: HashMap::new(),
            queue: BTreeMap::new(),
            queued: 0,
            loss: 0.0,
            contacts: HashMap::new(),
            sent: 0,
            since: Duration::ZERO,
        }
    }

    /// So many members that know each other.
    pub(super) fn settled(seed: u64, members: u32) -> Self {
        let mut network = Self::new(seed);
        let all: Vec<_> = (0..members).map(|name| Arc::new(member(name, 1))).collect();
        for name in 0..members {
            let members = network.begin(name, 1);
            network.members.insert(name, members);
            // Spread, as starts are.
            let begins = Duration::from_micros(network.random.random_range(0..1_000_000));
            network.now = begins;
            network.apply(name, Event::Introduced(all.clone()));
        }
        network.now = Duration::from_secs(1);
        // What was late at the start is forgotten.
        network.run(Duration::from_secs(7));
        network
    }

    fn begin(&mut self, name: u32, generation: u64) -> Members {
        *self.lives.entry(name).or_default() += 1;
        Members::new(
            self.now,
            member(name, generation),
            EPOCH,
            self.random.random_range(0..u64::MAX),
        )
    }

    /// Somebody starts, and asks one of the others whom it knows.
    pub(super) fn join(&mut self, name: u32) {
        let known: Vec<_> = self
            .live()
            .into_iter()
            .filter(|other| !self.silent.contains(other))
            .collect();
        let passed = u64::try_from(self.now.as_millis()).expect("short");
        let members = self.begin(name, 1 + passed);
        self.members.insert(name, members);
        self.silent.remove(&name);
        if known.is_empty() {
            return;
        }
        let host = known[self.random.random_range(0..known.len())];
        let list: Vec<_> = self.members[&host].live().cloned().collect();
        let bytes: usize = list
            .iter()
            .map(|one| {
                prost::Message::encoded_len(&darner_proto::wire::GossipMember::from(one.as_ref()))
                    + 3
            })
            .sum();
        self.sent += bytes as u64;
        self.apply(name, Event::Introduced(list));
    }

    pub(super) fn end(&mut self, name: u32, death: Death) {
        match death {
            Death::Leaves => {
                self.apply(name, Event::Leave);
                self.members.remove(&name);
            }
            Death::Killed => drop(self.members.remove(&name)),
            Death::Silent => {
                self.members.remove(&name);
                self.silent.insert(name);
            }
        }
    }

    pub(super) fn cut_off(&mut self, name: u32, is: bool) {
        match is {
            true => self.cut_off.insert(name),
            false => self.cut_off.remove(&name),
        };
    }

    pub(super) fn lose(&mut self, share: f64) {
        self.loss = share;
    }

    /// Hands `to` a packet as if `from` had sent it.
    pub(super) fn inject(&mut self, from: u32, to: u32, packet: Bytes) {
        self.queue(Duration::ZERO, Arriving::Request(from, to, packet));
    }

    pub(super) fn live(&self) -> Vec<u32> {
        self.members.keys().copied().collect()
    }

    pub(super) fn anybody(&mut self) -> u32 {
        let live = self.live();
        live[self.random.random_range(0..live.len())]
    }

    /// Whom `name` takes for alive.
    pub(super) fn sees(&self, name: u32) -> Vec<u32> {
        let mut seen: Vec<_> = self.members[&name]
            .live()
            .map(|one| name_of(&one.id))
            .collect();
        seen.sort_unstable();
        seen
    }

    /// Entries of all views that are not as they should be.
    pub(super) fn differences(&self) -> usize {
        let live: HashSet<_> = self.members.values().map(|one| &one.me().id).collect();
        let of = |members: &Members| {
            let right = members.live().filter(|one| live.contains(&one.id)).count();
            members.count() + live.len() - 2 * right
        };
        self.members.values().map(of).sum()
    }

    pub(super) fn keepers(&self, name: u32) -> Vec<HostId> {
        self.members[&name]
            .keepers()
            .iter()
            .map(|one| one.id.clone())
            .collect()
    }

    /// As it describes itself.
    pub(super) fn record(&self, name: u32) -> Member {
        self.members[&name].me().as_ref().clone()
    }

    pub(super) fn knows(&self, name: u32, record: &Member) -> bool {
        self.members[&name].live().any(|one| one.as_ref() == record)
    }

    /// Lives of this name since the beginning, those begun to outdo a lie included.
    pub(super) fn lives_of(&self, name: u32) -> u64 {
        self.record(name).generation - EPOCH
    }

    pub(super) fn forget_costs(&mut self) {
        self.sent = 0;
        self.since = self.now;
    }

    pub(super) fn bytes_per_second(&self) -> f64 {
        let seconds = (self.now - self.since).as_secs_f64();
        self.sent as f64 / seconds / self.members.len() as f64
    }

    /// Runs until `is_so`, and says how long that took; `limit` if it was not.
    pub(super) fn until(&mut self, limit: Duration, is_so: impl Fn(&Self) -> bool) -> Duration {
        let begun = self.now;
        while self.now - begun < limit && !is_so(self) {
            self.run(Duration::from_millis(100));
        }
        self.now - begun
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(first) = self.queue.first_entry() {
            if first.key().0 > end {
                break;
            }
            let ((at, _), arriving) = first.remove_entry();
            self.now = self.now.max(at);
            self.arrive(arriving);
        }
        self.now = end;
    }

    fn arrive(&mut self, arriving: Arriving) {
        let (Arriving::Request(_, to, _)
        | Arriving::Response(_, to, _)
        | Arriving::Refused(to, _)
        | Arriving::Timer(to, _)) = &arriving;
        if let Some(rest) = self.stalls(*to) {
            return self.queue(rest, arriving);
        }
        match arriving {
            Arriving::Request(from, to, packet) => self.request(from, to, packet),
            Arriving::Response(from, to, packet) => {
                if !self.random.random_bool(self.loss) {
                    self.packet(from, to, packet, None);
                }
            }
            Arriving::Refused(name, whom) => self.apply(name, Event::Unreachable(whom)),
            Arriving::Timer(name, life) => {
                if self.lives.get(&name) == Some(&life) {
                    self.apply(name, Event::Tick);
                }
            }
        }
    }

    fn request(&mut self, from: u32, to: u32, packet: Bytes) {
        let is_apart = self.cut_off.contains(&from) != self.cut_off.contains(&to);
        if is_apart || self.silent.contains(&to) {
            let whom = self.as_known_to(from, to);
            return self.queue(SILENCE, Arriving::Refused(from, whom));
        }
        if self.random.random_bool(self.loss) {
            return;
        }
        if !self.members.contains_key(&to) {
            let whom = self.as_known_to(from, to);
            return self.queue(REFUSAL, Arriving::Refused(from, whom));
        }
        self.sent += HEADS.1;
        self.packet(from, to, packet, Some(from));
        let whom = Arc::new(member(to, 1));
        self.apply(from, Event::Answered(whom));
    }

    fn as_known_to(&self, name: u32, whom: u32) -> Arc<Member> {
        let whom = Arc::new(member(whom, 1));
        let members = self.members.get(&name);
        let known = members.and_then(|members| members.live().find(|one| one.id == whom.id));
        known.cloned().unwrap_or(whom)
    }

    fn packet(&mut self, from: u32, to: u32, packet: Bytes, asker: Option<u32>) {
        let from = Some(member(from, 1).id);
        self.carry_out(to, Event::Packet { from, packet }, asker);
    }

    fn apply(&mut self, name: u32, event: Event) {
        self.carry_out(name, event, None);
    }

    fn carry_out(&mut self, name: u32, event: Event, asker: Option<u32>) {
        let Some(members) = self.members.get_mut(&name) else {
            return;
        };
        let actions = members.apply(self.now, event);
        let (due, life) = (members.next_due(), self.lives[&name]);
        let armed = self.armed.insert((name, life), due);
        if let Some(due) = due.filter(|_| armed != Some(due)) {
            let wait = due.saturating_sub(self.now);
            self.queue(wait, Arriving::Timer(name, life));
        }
        for action in actions {
            if let Action::Send { to, packet } = action {
                self.send(name, name_of(&to.id), packet, asker);
            }
        }
    }

    fn send(&mut self, from: u32, to: u32, packet: Bytes, asker: Option<u32>) {
        let takes = Duration::from_micros(self.random.random_range(500..2000));
        self.sent += packet.len() as u64;
        if asker == Some(to) {
            return self.queue(takes, Arriving::Response(from, to, packet));
        }
        self.sent += HEADS.0;
        let last = self.contacts.insert((from, to), self.now);
        if last.is_none_or(|last| self.now - last > IDLE) {
            self.sent += HANDSHAKE.0 + HANDSHAKE.1;
        }
        self.queue(takes, Arriving::Request(from, to, packet));
    }

    /// From now on `name` is so busy that it does nothing for `time`. Its machine takes connections.
    pub(super) fn stall(&mut self, name: u32, time: Duration) {
        self.stalled.insert(name, self.now + time);
    }

    /// How long it still does nothing.
    fn stalls(&self, name: u32) -> Option<Duration> {
        let rest = self.stalled.get(&name)?.saturating_sub(self.now);
        Some(rest).filter(|rest| !rest.is_zero())
    }

    fn queue(&mut self, wait: Duration, arriving: Arriving) {
        self.queued += 1;
        self.queue.insert((self.now + wait, self.queued), arriving);
    }
}
