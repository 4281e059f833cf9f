//! Two thousand members without servers, in one process and on a clock of its own: the schedulers beside
//! the members that keep the table, and each member's own sessions with them, as they run in production.
//! Only what lies between is made up: the network, and after how long each member hears of a change (as
//! the model of membership itself shows in `darner-service`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use darner_mirror::swarm::keepers::Table;
use darner_mirror::swarm::sessions::{Input, Output, Sessions};
use darner_proto::digest::Digest;
use darner_proto::gossip::{Member, Place};
use darner_proto::id::{Host, HostId, Role};
use darner_proto::scheduler::{NodeMessage, SchedulerMessage};
use darner_scheduler::swarm::{Action, Event, Options, SessionId, Swarm};
use darner_service::gossip::members::{KEEPERS, rank};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

const MEMBERS: u32 = 2000;
/// A tenth of the members goes every minute, and as many come.
const CHANGE: Duration = Duration::from_millis(300);
/// That is one of those who keep the table in a quarter of an hour. Here it is one in so many seconds.
const KEEPER_GOES: Duration = Duration::from_secs(6);
const CONTENTS: u32 = 500;
const HOLDERS: usize = 4;
const LOOKUP: Duration = Duration::from_millis(25);
/// Who has been gone for so long is in nobody's answer.
const KNOWN_TO_BE_GONE: Duration = Duration::from_secs(5);
/// As long as whoever asks waits.
const ANSWERED: Duration = Duration::from_secs(2);
const TURN: Duration = Duration::from_millis(100);
const HEARTBEAT: Duration = Duration::from_millis(1500);
/// A way of the network, a connection with its handshake, and how long one is tried again after.
const WAY: Duration = Duration::from_millis(2);
const CONNECTING: Duration = Duration::from_millis(10);
const AGAIN: Duration = Duration::from_millis(500);
/// Nothing comes from a machine that is gone: its session ends after this.
const KEEPALIVE: Duration = Duration::from_secs(5);
const SETTLE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    /// Its connections are closed.
    Known,
    /// Nothing comes from there any more.
    Silent,
}

enum Due {
    Turn(u32),
    Heartbeat(u32),
    Tick(u32),
    Hear(u32, Arc<Vec<Arc<Member>>>),
    Connect(u32, u32),
    ToNode(u32, u32, SchedulerMessage),
    Lost(u32, u32, SessionId),
    Lookup,
    Overdue(u64),
    Change,
    KeeperGoes,
}

struct Node {
    table: Table,
    sessions: Sessions,
    keys: BTreeSet<Digest>,
    /// Whom it wants a session with, and the session.
    links: BTreeMap<u32, Option<SessionId>>,
    swarm: Swarm,
    attended: HashMap<SessionId, u32>,
}

struct World {
    now: Duration,
    random: SmallRng,
    queue: BTreeMap<(Duration, u64), Due>,
    queued: u64,
    next: u32,
    nodes: BTreeMap<u32, Node>,
    /// Of each content.
    holders: BTreeMap<Digest, BTreeSet<u32>>,
    keepers: Vec<u32>,
    /// When they went.
    gone: HashMap<u32, Duration>,
    sessions: u64,
    lookups: BTreeMap<u64, Digest>,
    asked: u64,
    failed: Vec<String>,
}

fn id(name: u32) -> HostId {
    format!("node-{name}").parse().expect("valid")
}

fn number(id: &HostId) -> u32 {
    let text = id.as_str().trim_start_matches("node-");
    let text = text.trim_end_matches(".mirror");
    text.parse().expect("a number")
}

fn member(name: u32) -> Arc<Member> {
    Arc::new(Member {
        id: id(name),
        generation: 1,
        place: Some(Place {
            address: format!("node-{name}:7421"),
            scheduler_port: 7422,
            role: Role::Mirror,
            labels: BTreeMap::new(),
        }),
    })
}

fn host(name: u32) -> Host {
    Host {
        id: id(name),
        address: format!("node-{name}:7421"),
        role: Role::Mirror,
        labels: BTreeMap::new(),
        signing_key: None,
        upload_slots: 16,
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            now: Duration::ZERO,
            random: SmallRng::seed_from_u64(seed),
            queue: BTreeMap::new(),
            queued: 0,
            next: 0,
            nodes: BTreeMap::new(),
            holders: BTreeMap::new(),
            keepers: Vec::new(),
            gone: HashMap::new(),
            sessions: 0,
            lookups: BTreeMap::new(),
            asked: 0,
            failed: Vec::new(),
        };
        (0..MEMBERS).for_each(|_| world.begin());
        let names: Vec<_> = world.nodes.keys().copied().collect();
        for content in 0..CONTENTS {
            let key = Digest::sha256(&content.to_be_bytes());
            let holders: Vec<_> = names.sample(&mut world.random, HOLDERS).copied().collect();
            for holder in holders {
                world.holders.entry(key).or_default().insert(holder);
                let node = world.nodes.get_mut(&holder).expect("there");
                node.keys.insert(key);
            }
        }
        let keepers = world.first();
        let heard = Arc::new(keepers.iter().map(|name| member(*name)).collect::<Vec<_>>());
        world.keepers = keepers;
        for name in names {
            world.at(Duration::ZERO, Due::Hear(name, heard.clone()));
        }
        world
    }

    fn begin(&mut self) {
        let name = self.next;
        self.next += 1;
        let options = Options {
            scheduler: id(name),
            settle: SETTLE,
            first_lease: 1,
        };
        let node = Node {
            table: Table::new("https"),
            sessions: Sessions::of(&id(name)),
            keys: BTreeSet::new(),
            links: BTreeMap::new(),
            swarm: Swarm::new(self.now, options),
            attended: HashMap::new(),
        };
        self.nodes.insert(name, node);
        let first = self.up_to(TURN);
        self.at(first, Due::Turn(name));
        let first = self.up_to(HEARTBEAT);
        self.at(first, Due::Heartbeat(name));
        let first = self.up_to(TURN);
        self.at(first, Due::Tick(name));
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.random.random())
    }

    fn at(&mut self, after: Duration, due: Due) {
        self.queued += 1;
        self.queue.insert((self.now + after, self.queued), due);
    }

    /// Who keeps the table, by all that is so.
    fn first(&self) -> Vec<u32> {
        let mut names: Vec<_> = self.nodes.keys().copied().collect();
        names.sort_by_key(|name| std::cmp::Reverse(rank(&id(*name))));
        names.truncate(KEEPERS);
        names.sort_by_key(|name| id(*name));
        names
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(first) = self.queue.first_entry() {
            if first.key().0 > end {
                break;
            }
            let ((at, _), due) = first.remove_entry();
            self.now = at;
            self.happens(due);
        }
        self.now = end;
    }

    fn happens(&mut self, due: Due) {
        match due {
            Due::Turn(name) if self.nodes.contains_key(&name) => {
                self.input(name, Input::Turn);
                self.at(TURN, Due::Turn(name));
            }
            Due::Heartbeat(name) => self.heartbeat(name),
            Due::Tick(name) => self.tick(name),
            Due::Hear(name, keepers) => {
                if let Some(node) = self.nodes.get_mut(&name) {
                    node.table.keep(&keepers);
                }
            }
            Due::Connect(name, keeper) => self.connect(name, keeper),
            Due::ToNode(name, keeper, message) => self.tell_node(name, keeper, message),
            Due::Lost(name, keeper, session) => self.lost(name, keeper, session),
            Due::Lookup => self.lookup(),
            Due::Overdue(request) => {
                if let Some(key) = self.lookups.remove(&request) {
                    self.failed.push(format!("{key}: no answer"));
                }
            }
            Due::Change => {
                let names: Vec<_> = self.nodes.keys().copied().collect();
                let goes = *names.choose(&mut self.random).expect("many");
                self.one_goes(goes);
                self.at(CHANGE, Due::Change);
            }
            Due::KeeperGoes => {
                let keepers = self.first();
                let goes = *keepers.choose(&mut self.random).expect("five");
                self.one_goes(goes);
                self.at(KEEPER_GOES, Due::KeeperGoes);
            }
            Due::Turn(_) => {}
        }
    }

    /// One ends, in one way or another, and another comes.
    fn one_goes(&mut self, name: u32) {
        let end = if self.random.random_bool(0.7) {
            End::Known
        } else {
            End::Silent
        };
        let node = self.nodes.remove(&name).expect("lives");
        self.gone.insert(name, self.now);
        for key in &node.keys {
            if let Some(holders) = self.holders.get_mut(key) {
                holders.remove(&name);
            }
        }
        let after = if end == End::Known { WAY } else { KEEPALIVE };
        for (session, attendant) in node.attended {
            self.at(after, Due::Lost(attendant, name, session));
        }
        if end == End::Known {
            for (keeper, session) in node.links {
                if let (Some(keeper), Some(session)) = (self.nodes.get_mut(&keeper), session) {
                    keeper.attended.remove(&session);
                    keeper.swarm.apply(self.now, Event::Closed(session));
                }
            }
        }
        self.begin();
        self.membership(end);
    }

    /// Everybody hears of it, each after a while.
    fn membership(&mut self, end: End) {
        let newest = self.next - 1;
        let keepers = self.first();
        let heard = Arc::new(keepers.iter().map(|name| member(*name)).collect::<Vec<_>>());
        self.at(WAY, Due::Hear(newest, heard.clone()));
        if keepers == self.keepers {
            return;
        }
        self.keepers = keepers;
        let (first, last) = match end {
            End::Known => (500, 8000),
            End::Silent => (4000, 15_000),
        };
        let names: Vec<_> = self
            .nodes
            .keys()
            .copied()
            .filter(|name| *name != newest)
            .collect();
        for name in names {
            let after = Duration::from_millis(self.random.random_range(first..last));
            self.at(after, Due::Hear(name, heard.clone()));
        }
    }

    fn input(&mut self, name: u32, input: Input) -> Option<()> {
        let node = self.nodes.get_mut(&name)?;
        let mut outputs = Vec::new();
        for input in node.table.apply(input) {
            let input = match input {
                Input::Up { scheduler, .. } => Input::Up {
                    scheduler,
                    keys: node.keys.iter().copied().collect(),
                },
                input => input,
            };
            outputs.extend(node.sessions.apply(input));
        }
        for output in outputs {
            self.carry_out(name, output)?;
        }
        Some(())
    }

    fn carry_out(&mut self, name: u32, output: Output) -> Option<()> {
        match output {
            Output::Connect(scheduler, _) => {
                let keeper = number(&scheduler);
                self.nodes.get_mut(&name)?.links.insert(keeper, None);
                self.at(CONNECTING, Due::Connect(name, keeper));
            }
            Output::Disconnect(scheduler) => {
                let keeper = number(&scheduler);
                let link = self.nodes.get_mut(&name)?.links.remove(&keeper).flatten();
                if let (Some(session), Some(keeper)) = (link, self.nodes.get_mut(&keeper)) {
                    keeper.attended.remove(&session);
                    keeper.swarm.apply(self.now, Event::Closed(session));
                }
            }
            Output::Send(scheduler, message) => {
                let keeper = number(&scheduler);
                let session = (*self.nodes.get(&name)?.links.get(&keeper)?)?;
                self.tell_keeper(keeper, Event::Message(session, message));
            }
            Output::Check(scheduler, key) => {
                let keys = vec![key];
                let message = match self.nodes.get(&name)?.keys.contains(&key) {
                    true => NodeMessage::Inventory {
                        keys,
                        listed: false,
                    },
                    false => NodeMessage::Withdraw(keys),
                };
                self.carry_out(name, Output::Send(scheduler, message));
            }
            Output::Found(request, holders) => self.found(request, &holders),
            Output::Notify(..) | Output::Begin(_) | Output::Owners(_) => {}
        }
        Some(())
    }

    fn connect(&mut self, name: u32, keeper: u32) {
        let wanted = self
            .nodes
            .get(&name)
            .and_then(|node| node.links.get(&keeper));
        if wanted.is_none_or(Option::is_some) {
            return;
        }
        if !self.nodes.contains_key(&keeper) {
            return self.at(AGAIN, Due::Connect(name, keeper));
        }
        self.sessions += 1;
        let session = SessionId(self.sessions);
        if let Some(node) = self.nodes.get_mut(&name) {
            node.links.insert(keeper, Some(session));
        }
        if let Some(keeper) = self.nodes.get_mut(&keeper) {
            keeper.attended.insert(session, name);
        }
        let hello = NodeMessage::Hello(host(name));
        self.tell_keeper(keeper, Event::Message(session, hello));
    }

    fn tell_keeper(&mut self, name: u32, event: Event) {
        let Some(keeper) = self.nodes.get_mut(&name) else {
            return;
        };
        let actions = keeper.swarm.apply(self.now, event);
        let mut sent = Vec::new();
        for action in actions {
            match action {
                Action::Send(session, message) => {
                    sent.extend(keeper.attended.get(&session).map(|to| (*to, message)));
                }
                Action::Close(session, _) => {
                    if let Some(attendant) = keeper.attended.remove(&session) {
                        self.at(WAY, Due::Lost(attendant, name, session));
                        return;
                    }
                }
                Action::Count(_) => {}
            }
        }
        for (to, message) in sent {
            self.at(WAY, Due::ToNode(to, name, message));
        }
    }

    fn tell_node(&mut self, name: u32, keeper: u32, message: SchedulerMessage) {
        let attends = self
            .nodes
            .get(&name)
            .and_then(|node| node.links.get(&keeper));
        if attends.is_none_or(Option::is_none) {
            return;
        }
        let scheduler: HostId = format!("node-{keeper}.mirror").parse().expect("valid");
        if matches!(message, SchedulerMessage::Welcome { .. }) {
            let up = Input::Up {
                scheduler: scheduler.clone(),
                keys: Vec::new(),
            };
            self.input(name, up);
        }
        self.input(name, Input::Received(scheduler, message));
    }

    fn lost(&mut self, name: u32, keeper: u32, session: SessionId) {
        let node = self.nodes.get_mut(&name);
        let Some(link) = node.and_then(|node| node.links.get_mut(&keeper)) else {
            return;
        };
        if *link != Some(session) {
            return;
        }
        *link = None;
        let scheduler = format!("node-{keeper}.mirror").parse().expect("valid");
        self.input(name, Input::Down(scheduler));
        self.at(AGAIN, Due::Connect(name, keeper));
    }

    fn heartbeat(&mut self, name: u32) {
        let Some(node) = self.nodes.get(&name) else {
            return;
        };
        let links = node.links.iter();
        let open: Vec<_> = links
            .filter_map(|(keeper, link)| Some((*keeper, (*link)?)))
            .collect();
        for (keeper, session) in open {
            let beat = NodeMessage::Heartbeat;
            self.tell_keeper(keeper, Event::Message(session, beat));
        }
        self.at(HEARTBEAT, Due::Heartbeat(name));
    }

    fn tick(&mut self, name: u32) {
        let Some(node) = self.nodes.get(&name) else {
            return;
        };
        if !node.attended.is_empty() {
            self.tell_keeper(name, Event::Tick);
        }
        self.at(TURN, Due::Tick(name));
    }

    /// Somebody looks for what somebody else holds.
    fn lookup(&mut self) {
        self.at(LOOKUP, Due::Lookup);
        let held: Vec<_> = self
            .holders
            .iter()
            .filter(|(_, who)| !who.is_empty())
            .collect();
        let (key, holders) = *held.choose(&mut self.random).expect("some");
        let names: Vec<_> = self
            .nodes
            .keys()
            .copied()
            .filter(|name| !holders.contains(name))
            .collect();
        let (key, asks) = (*key, *names.choose(&mut self.random).expect("many"));
        // Whoever began a moment ago attends nobody yet, and reads nothing.
        if self.nodes[&asks].links.values().all(Option::is_none) {
            return;
        }
        self.asked += 1;
        let request = self.asked;
        self.lookups.insert(request, key);
        self.at(ANSWERED, Due::Overdue(request));
        self.input(asks, Input::Find { request, key });
    }

    fn found(&mut self, request: u64, holders: &[Host]) {
        let Some(key) = self.lookups.remove(&request) else {
            return;
        };
        let latest = self.now.saturating_sub(KNOWN_TO_BE_GONE);
        for host in holders.iter().map(|host| number(&host.id)) {
            if self.gone.get(&host).is_some_and(|went| *went < latest) {
                self.failed.push(format!("{key}: {host} is long gone"));
            }
        }
        let right = &self.holders[&key];
        let lives = holders.iter().any(|host| right.contains(&number(&host.id)));
        if !lives && !right.is_empty() {
            let named: Vec<_> = holders.iter().map(|host| host.id.to_string()).collect();
            self.failed.push(format!(
                "{key}: {right:?} hold it, {named:?} were named at {:?}",
                self.now
            ));
        }
    }
}

#[test]
fn of_two_thousand_members_that_come_and_go_each_finds_what_another_holds_and_nobody_who_is_gone() {
    let mut world = World::new(1);
    world.run(Duration::from_secs(8));
    world.at(Duration::ZERO, Due::Lookup);
    world.at(CHANGE, Due::Change);
    world.at(KEEPER_GOES / 2, Due::KeeperGoes);
    world.run(Duration::from_secs(20));
    println!("{} looked up, {} in vain", world.asked, world.failed.len());
    assert!(world.asked > 500, "{}", world.asked);
    assert!(world.failed.is_empty(), "{:#?}", world.failed);
}
