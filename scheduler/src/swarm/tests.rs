//! Scenarios: what a scheduler says to nodes that do this and that.

use std::collections::BTreeMap;
use std::ops::Range;

use darner_proto::digest::Digest;
use darner_proto::geometry::Geometry;
use darner_proto::id::{Host, SigningKey};
use darner_proto::name::Source;
use darner_proto::piece_set::PieceSet;
use darner_proto::scheduler::{
    FailureKind, Join, Lease, LeaseClaim, Outcome, ParentRate, Progress, ReturnReason,
};

use super::*;

mod crowd;
mod exchange;
mod finding;
mod pull;
mod reading;
mod simulation;
mod view;

const MIB: u64 = 1 << 20;
const FIRST_LEASE: u64 = 1000;

/// A scheduler with nodes attached, and what it last said to each.
struct Cluster {
    swarm: Swarm,
    now: Duration,
    next: u64,
    nodes: BTreeMap<String, SessionId>,
    heard: BTreeMap<SessionId, Vec<SchedulerMessage>>,
    counted: Vec<Counted>,
    closed: Vec<(SessionId, CloseReason)>,
}

fn id(name: &str) -> HostId {
    name.parse().expect("valid")
}

fn task() -> TaskId {
    Digest::sha256(b"content")
}

fn host(name: &str, role: Role) -> Host {
    let mut key = [0; 32];
    for (byte, letter) in key.iter_mut().zip(name.bytes()) {
        *byte = letter;
    }
    Host {
        id: id(name),
        address: format!("{name}:7421"),
        role,
        labels: BTreeMap::new(),
        signing_key: Some(SigningKey(key)),
        upload_slots: 8,
    }
}

fn source(repository: &str) -> Source {
    Source {
        registry: "docker.io".parse().expect("valid"),
        repository: repository.parse().expect("valid"),
    }
}

fn held(pieces: u32, ranges: &[Range<u32>]) -> PieceSet {
    let mut set = PieceSet::empty(pieces);
    for range in ranges {
        set.insert_range(range.clone());
    }
    set
}

fn join(pieces: u32, ranges: &[Range<u32>]) -> Join {
    let size = u64::from(pieces) * MIB;
    assert_eq!(Geometry::of(size).pieces(), pieces);
    Join {
        task: task(),
        size,
        sources: vec![source("library/debian")],
        held: held(pieces, ranges),
        lease: None,
    }
}

fn claim(pieces: u32, ranges: &[Range<u32>], lease: u64, claimed: Range<u32>) -> Join {
    let lease = LeaseClaim {
        lease,
        ranges: vec![claimed],
    };
    Join {
        lease: Some(lease),
        ..join(pieces, ranges)
    }
}

fn gained(ranges: &[Range<u32>]) -> NodeMessage {
    NodeMessage::Progress(Progress {
        task: task(),
        gained: ranges.to_vec(),
        upstream_bytes: 0,
        upstream_ranges: None,
        rates: Vec::new(),
    })
}

fn read(bytes: u64, upstream_ranges: Option<bool>) -> NodeMessage {
    NodeMessage::Progress(Progress {
        task: task(),
        gained: Vec::new(),
        upstream_bytes: bytes,
        upstream_ranges,
        rates: Vec::new(),
    })
}

impl Cluster {
    fn new(settle_ms: u64) -> Self {
        let options = Options {
            scheduler: id("scheduler"),
            settle: Duration::from_millis(settle_ms),
            first_lease: FIRST_LEASE,
        };
        Self {
            swarm: Swarm::new(Duration::ZERO, options),
            now: Duration::ZERO,
            next: 1,
            nodes: BTreeMap::new(),
            heard: BTreeMap::new(),
            counted: Vec::new(),
            closed: Vec::new(),
        }
    }

    /// With these seeds and mirrors, listed and holding nothing.
    fn of(seeds: &[&str], mirrors: &[&str]) -> Self {
        let mut cluster = Self::new(0);
        for seed in seeds {
            cluster.attend(seed, Role::Seed);
            cluster.list(seed, &[]);
        }
        for mirror in mirrors {
            cluster.attend(mirror, Role::Mirror);
            cluster.list(mirror, &[]);
        }
        cluster.heard.clear();
        cluster
    }

    fn apply(&mut self, event: Event) {
        for action in self.swarm.apply(self.now, event) {
            match action {
                Action::Send(session, message) => {
                    self.heard.entry(session).or_default().push(message);
                }
                Action::Count(counted) => self.counted.push(counted),
                Action::Close(session, reason) => self.closed.push((session, reason)),
            }
        }
    }

    fn attend(&mut self, name: &str, role: Role) {
        let session = SessionId(self.next);
        self.next += 1;
        self.nodes.insert(name.to_owned(), session);
        self.apply(Event::Message(
            session,
            NodeMessage::Hello(host(name, role)),
        ));
    }

    fn say(&mut self, name: &str, message: NodeMessage) {
        self.apply(Event::Message(self.nodes[name], message));
    }

    fn join(&mut self, name: &str, join: Join) {
        self.say(name, NodeMessage::Join(join));
    }

    fn list(&mut self, name: &str, keys: &[Digest]) {
        let keys = keys.to_vec();
        self.say(name, NodeMessage::Inventory { keys, listed: true });
    }

    fn leave(&mut self, name: &str, outcome: Outcome) {
        let task = task();
        self.say(name, NodeMessage::Leave { task, outcome });
    }

    fn fail(&mut self, reporter: &str, parent: &str, kind: FailureKind) {
        let (task, parent) = (task(), id(parent));
        self.say(reporter, NodeMessage::ParentFailed { task, parent, kind });
    }

    fn give_back(&mut self, name: &str, lease: u64, reason: ReturnReason) {
        let task = task();
        self.say(
            name,
            NodeMessage::LeaseReturn {
                task,
                lease,
                reason,
            },
        );
    }

    fn die(&mut self, name: &str) {
        let session = self.nodes.remove(name).expect("attends");
        self.apply(Event::Closed(session));
    }

    /// Lets time pass in ticks; everybody lives.
    fn pass(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while self.now < end {
            self.now = (self.now + TICK).min(end);
            let names: Vec<_> = self.nodes.keys().cloned().collect();
            for name in names {
                self.say(&name, NodeMessage::Heartbeat);
            }
            self.apply(Event::Tick);
        }
    }

    /// What a node has heard since it was last asked for.
    fn heard(&mut self, name: &str) -> Vec<SchedulerMessage> {
        self.heard.remove(&self.nodes[name]).unwrap_or_default()
    }

    fn lease(&mut self, name: &str) -> Option<Lease> {
        self.heard(name)
            .into_iter()
            .rev()
            .find_map(|message| match message {
                SchedulerMessage::Lease(lease) => Some(lease),
                _ => None,
            })
    }

    /// Everybody's leases since they were last asked for.
    fn leases(&mut self) -> Vec<(String, Lease)> {
        let names: Vec<_> = self.nodes.keys().cloned().collect();
        names
            .into_iter()
            .filter_map(|name| Some((name.clone(), self.lease(&name)?)))
            .collect()
    }

    /// The parents a node was last told.
    fn parents(&mut self, name: &str) -> Option<Vec<String>> {
        self.heard(name)
            .into_iter()
            .rev()
            .find_map(|message| match message {
                SchedulerMessage::Parents { parents, .. } => Some(
                    parents
                        .iter()
                        .map(|parent| parent.host.id.to_string())
                        .collect(),
                ),
                _ => None,
            })
    }
}

#[test]
fn a_session_is_welcomed_and_told_the_members() {
    let mut cluster = Cluster::new(0);
    cluster.attend("m-1", Role::Mirror);
    let scheduler = id("scheduler");
    assert_eq!(
        cluster.heard("m-1"),
        [
            SchedulerMessage::Welcome { scheduler },
            SchedulerMessage::Members(vec![host("m-1", Role::Mirror)])
        ]
    );
    cluster.attend("s-1", Role::Seed);
    let seeds = SchedulerMessage::Members(vec![host("s-1", Role::Seed)]);
    assert_eq!(
        cluster.heard("m-1").as_slice(),
        std::slice::from_ref(&seeds)
    );
    cluster.attend("m-2", Role::Mirror);
    assert_eq!(cluster.heard("m-1"), []);
    assert_eq!(cluster.heard("m-2")[1], seeds);
    cluster.die("s-1");
    let SchedulerMessage::Members(owners) = &cluster.heard("m-1")[0] else {
        panic!("no members");
    };
    assert_eq!(owners.len(), 2);
}

#[test]
fn without_seeds_at_most_eight_mirrors_own_repositories() {
    let mut cluster = Cluster::new(0);
    for n in 0..30 {
        cluster.attend(&format!("m-{n}"), Role::Mirror);
    }
    let heard = cluster.heard("m-29");
    let Some(SchedulerMessage::Members(owners)) = heard.last() else {
        panic!("no members");
    };
    assert_eq!(owners.len(), 8);
}

#[test]
fn the_newer_of_two_sessions_of_one_host_stays() {
    let mut cluster = Cluster::of(&["s-1"], &["m-1"]);
    let old = cluster.nodes["m-1"];
    cluster.attend("m-1", Role::Mirror);
    assert_eq!(cluster.closed, [(old, CloseReason::Superseded)]);
    assert_eq!(cluster.swarm.census().mirrors, 1);
    cluster.apply(Event::Closed(old));
    assert_eq!(cluster.swarm.census().mirrors, 1);
}

#[test]
fn a_silent_node_is_gone_and_one_that_speaks_is_not() {
    let mut cluster = Cluster::of(&[], &["m-1", "m-2"]);
    let silent = cluster.nodes.remove("m-2").expect("attends");
    cluster.pass(4400);
    assert_eq!(cluster.closed, []);
    cluster.pass(300);
    assert_eq!(cluster.closed, [(silent, CloseReason::Silent)]);
    assert_eq!(cluster.swarm.census().mirrors, 1);
}

#[test]
fn a_scheduler_that_does_not_keep_up_waits_longer_for_what_has_not_been_heard() {
    let mut cluster = Cluster::of(&[], &["m-1", "m-2"]);
    let silent = cluster.nodes.remove("m-2").expect("attends");
    for _ in 0..80 {
        cluster.apply(Event::Lagged(Duration::from_secs(4)));
        cluster.pass(100);
    }
    assert_eq!(cluster.closed, []);
    // It keeps up again: the silence is one.
    cluster.pass(2500);
    assert_eq!(cluster.closed, [(silent, CloseReason::Silent)]);
}

#[test]
fn when_the_scheduler_itself_slept_nobody_is_silent() {
    let mut cluster = Cluster::of(&[], &["m-1"]);
    cluster.now += Duration::from_secs(60);
    cluster.apply(Event::Tick);
    assert_eq!(cluster.closed, []);
}

#[test]
fn a_node_that_floods_is_ended_and_one_with_much_to_tell_is_not() {
    let mut cluster = Cluster::of(&[], &["m-1", "m-2"]);
    for _ in 0..1000 {
        cluster.say("m-1", gained(&[0..1]));
    }
    assert_eq!(cluster.closed, []);
    for _ in 0..100 {
        cluster.say("m-1", gained(&[0..1]));
    }
    let flooded = (cluster.nodes["m-1"], CloseReason::Flooding);
    assert_eq!(cluster.closed[0], flooded);
    for _ in 0..600 {
        cluster.say("m-2", gained(&[0..1]));
        cluster.now += Duration::from_millis(20);
    }
    assert!(
        cluster
            .closed
            .iter()
            .all(|(session, _)| *session == flooded.0)
    );
}

#[test]
fn only_nodes_that_said_hello_are_heard() {
    let mut cluster = Cluster::new(0);
    cluster.apply(Event::Message(SessionId(7), NodeMessage::Heartbeat));
    cluster.attend("other", Role::Scheduler);
    let reasons: Vec<_> = cluster.closed.iter().map(|(_, reason)| *reason).collect();
    assert_eq!(reasons, [CloseReason::Protocol, CloseReason::NotANode]);
}
