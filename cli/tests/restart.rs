//! A scheduler that starts again knows nothing. How fast it knows everything once more, and that
//! nobody reads upstream because of that: the real cores of 500 nodes and of a scheduler, in the time
//! of a model.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use darner_mirror::swarm::sessions::{Input, Output, Sessions, TaskEvent};
use darner_proto::digest::Digest;
use darner_proto::id::{Host, HostId, Role, TaskId};
use darner_proto::name::Source;
use darner_proto::piece_set::PieceSet;
use darner_proto::scheduler::{Join, NodeMessage, SchedulerMessage};
use darner_scheduler::swarm::{Action, Event, Options, SessionId, Swarm, TICK};

const NODES: usize = 500;
const SEEDS: usize = 3;
/// Contents that every node holds, of [`CONTENTS`] that there are.
const HELD: usize = 200;
const CONTENTS: usize = 2000;
/// Pieces of a content that is being downloaded.
const PIECES: u32 = 100;
/// Pairs of nodes with half of a content each, which nobody else has.
const HALVES: usize = 25;
/// A scheduler grants no lease this long after its start: the default of `scheduler.settle`.
const SETTLE: Duration = Duration::from_secs(2);
/// Between attempts of a node to attend a scheduler that is away: doubling from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// The grain of the model.
const STEP: Duration = Duration::from_millis(10);
/// The scheduler is away this long.
const AWAY: Duration = Duration::from_secs(3);

/// 95 % must be back by then.
const BAR: Duration = Duration::from_secs(30);
/// Of all keys, this share at most may come within one tenth of a second.
const BURST: f64 = 0.15;

struct Node {
    host: Host,
    sessions: Sessions,
    held: Vec<Digest>,
    session: Option<SessionId>,
    retry_at: Duration,
    pause: Duration,
    /// The parents of the download that began after the restart.
    parents: Vec<HostId>,
}

/// What went over the wire since the scheduler's last start.
#[derive(Default)]
struct Wire {
    /// Keys told in each tenth of a second since the model began.
    keys: BTreeMap<u128, usize>,
    /// The most keys in one message.
    largest: usize,
    leases: Vec<String>,
}

struct Model {
    now: Duration,
    swarm: Option<Swarm>,
    nodes: Vec<Node>,
    of_session: BTreeMap<SessionId, usize>,
    next_session: u64,
    lives: u64,
    wire: Wire,
}

fn scheduler() -> HostId {
    "scheduler".parse().expect("valid")
}

fn content(number: usize) -> Digest {
    Digest::sha256(format!("content {number}").as_bytes())
}

/// Held by one node alone.
fn rare(node: usize) -> Digest {
    Digest::sha256(format!("rare {node}").as_bytes())
}

fn half(pair: usize) -> TaskId {
    Digest::sha256(format!("half {pair}").as_bytes())
}

fn join(task: TaskId, held: PieceSet) -> Join {
    Join {
        task,
        size: u64::from(PIECES) << 20,
        sources: vec![Source {
            registry: "docker.io".parse().expect("valid"),
            repository: "library/debian".parse().expect("valid"),
        }],
        held,
        lease: None,
    }
}

fn node(number: usize) -> Node {
    let role = if number < SEEDS {
        Role::Seed
    } else {
        Role::Mirror
    };
    let host = Host {
        id: format!("node-{number:03}").parse().expect("valid"),
        address: format!("node-{number:03}:7421"),
        role,
        labels: BTreeMap::new(),
        signing_key: None,
        upload_slots: 16,
    };
    let mut sessions = Sessions::of(&host.id);
    sessions.apply(Input::Schedulers(vec![(scheduler(), "http://s".into())]));
    // Neighbours hold different contents, and each content has fifty holders.
    let held = (0..HELD - 1).map(|nth| content((number * 7 + nth * 10) % CONTENTS));
    Node {
        host,
        sessions,
        held: held.chain([rare(number)]).collect(),
        session: None,
        retry_at: Duration::ZERO,
        pause: BACKOFF.0,
        parents: Vec::new(),
    }
}

impl Model {
    fn new() -> Self {
        Self {
            now: Duration::ZERO,
            swarm: None,
            nodes: (0..NODES).map(node).collect(),
            of_session: BTreeMap::new(),
            next_session: 1,
            lives: 0,
            wire: Wire::default(),
        }
    }

    fn start(&mut self) {
        self.lives += 1;
        let options = Options {
            scheduler: scheduler(),
            settle: SETTLE,
            first_lease: self.lives * 1_000_000,
        };
        self.swarm = Some(Swarm::new(self.now, options));
        self.wire = Wire::default();
    }

    fn stop(&mut self) {
        self.swarm = None;
        self.of_session.clear();
        for node in 0..NODES {
            self.nodes[node].session = None;
            self.nodes[node].pause = BACKOFF.0;
            self.nodes[node].retry_at = self.now + BACKOFF.0;
            self.tell(node, Input::Down(scheduler()));
        }
    }

    fn known(&self) -> usize {
        self.swarm
            .as_ref()
            .map_or(0, |swarm| swarm.census().holdings)
    }

    /// A node's core hears something, and what follows from that is done.
    fn tell(&mut self, node: usize, input: Input) {
        let mut said = VecDeque::from([(node, input)]);
        while let Some((node, input)) = said.pop_front() {
            for output in self.nodes[node].sessions.apply(input) {
                match output {
                    Output::Send(_, message) => said.extend(self.send(node, message)),
                    Output::Notify(_, TaskEvent::Parents { parents, .. }) => {
                        let parents = parents.into_iter().map(|one| one.host.id);
                        self.nodes[node].parents = parents.collect();
                    }
                    Output::Check(_, key) => {
                        let answer = self.answer(node, key);
                        said.extend(self.send(node, answer));
                    }
                    _ => {}
                }
            }
        }
    }

    /// What a node says that is asked for a key.
    fn answer(&self, node: usize, key: Digest) -> NodeMessage {
        let keys = vec![key];
        if self.nodes[node].held.contains(&key) {
            let listed = false;
            NodeMessage::Inventory { keys, listed }
        } else {
            NodeMessage::Withdraw(keys)
        }
    }

    /// A message reaches the scheduler; what it says to whom.
    fn send(&mut self, node: usize, message: NodeMessage) -> Vec<(usize, Input)> {
        let Some(session) = self.nodes[node].session else {
            return Vec::new();
        };
        if let NodeMessage::Inventory { keys, .. } = &message {
            let tenth = self.now.as_millis() / 100;
            *self.wire.keys.entry(tenth).or_default() += keys.len();
            self.wire.largest = self.wire.largest.max(keys.len());
        }
        self.apply(Event::Message(session, message))
    }

    fn apply(&mut self, event: Event) -> Vec<(usize, Input)> {
        let Some(swarm) = &mut self.swarm else {
            return Vec::new();
        };
        let mut heard = Vec::new();
        for action in swarm.apply(self.now, event) {
            match action {
                Action::Send(session, message) => {
                    let node = self.of_session[&session];
                    // Without ranges it is an invitation to fetch it from peers.
                    if let SchedulerMessage::Lease(lease) = &message
                        && !lease.ranges.is_empty()
                    {
                        let reader = &self.nodes[node].host.id;
                        let at = self.now;
                        self.wire
                            .leases
                            .push(format!("{at:?} {reader}: {}", lease.task));
                    }
                    heard.push((node, Input::Received(scheduler(), message)));
                }
                Action::Close(session, reason) => panic!("{session:?} is ended: {reason:?}"),
                Action::Count(_) => {}
            }
        }
        heard
    }

    fn attend(&mut self, node: usize) {
        let now = self.now;
        let one = &mut self.nodes[node];
        if one.session.is_some() || now < one.retry_at {
            return;
        }
        if self.swarm.is_none() {
            one.retry_at = now + one.pause;
            one.pause = (one.pause * 2).min(BACKOFF.1);
            return;
        }
        let session = SessionId(self.next_session);
        self.next_session += 1;
        one.session = Some(session);
        let (hello, keys) = (NodeMessage::Hello(one.host.clone()), one.held.clone());
        self.of_session.insert(session, node);
        let heard = self.send(node, hello);
        let scheduler = scheduler();
        self.tell(node, Input::Up { scheduler, keys });
        for (node, input) in heard {
            self.tell(node, input);
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        let millis = self.now.as_millis();
        for node in 0..NODES {
            self.attend(node);
            // Each node's clock begins somewhere else.
            let own = millis + node as u128 * 10;
            if own.is_multiple_of(100) {
                self.tell(node, Input::Turn);
            }
            if own.is_multiple_of(1000) {
                let heard = self.send(node, NodeMessage::Heartbeat);
                for (node, input) in heard {
                    self.tell(node, input);
                }
            }
        }
        if millis.is_multiple_of(TICK.as_millis()) {
            for (node, input) in self.apply(Event::Tick) {
                self.tell(node, input);
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }
}

#[test]
fn a_restarted_scheduler_knows_nearly_everything_in_seconds_and_nobody_reads_upstream_meanwhile() {
    let mut model = Model::new();
    model.start();
    model.pass(Duration::from_secs(8));
    assert_eq!(model.known(), NODES * HELD);
    for pair in 0..HALVES {
        for (node, pieces) in [
            (pair, 0..PIECES / 2),
            (NODES - 1 - pair, PIECES / 2..PIECES),
        ] {
            let mut held = PieceSet::empty(PIECES);
            held.insert_range(pieces);
            model.tell(node, Input::Join(join(half(pair), held)));
        }
    }
    model.stop();
    model.pass(AWAY);

    model.start();
    let restarted = model.now;
    // Clients go on asking meanwhile: for what fifty nodes hold, and for what one alone holds.
    let askers: Vec<_> = (100..300).collect();
    let mut back = None;
    for (nth, asker) in askers.iter().copied().enumerate() {
        model.pass(STEP * 2);
        let wanted = if nth % 2 == 0 {
            rare(asker + 150)
        } else {
            (asker..CONTENTS)
                .map(content)
                .find(|one| !model.nodes[asker].held.contains(one))
                .expect("nobody holds everything")
        };
        model.tell(asker, Input::Join(join(wanted, PieceSet::empty(PIECES))));
        let known = model.known() * 100 >= NODES * HELD * 95;
        back = back.or(known.then_some(model.now - restarted));
    }
    while back.is_none() && model.now - restarted < BAR * 2 {
        model.step();
        let known = model.known() * 100 >= NODES * HELD * 95;
        back = back.or(known.then_some(model.now - restarted));
    }
    let back = back.expect("most is never back");
    assert!(back <= BAR, "95 % were back after {back:?} only");
    model.pass(Duration::from_secs(6));
    assert_eq!(model.known(), NODES * HELD, "after {back:?} 95 % were back");

    // Nobody was to read upstream, and whoever asked was told of a holder.
    assert!(model.wire.leases.is_empty(), "{:?}", model.wire.leases);
    for asker in askers {
        assert!(!model.nodes[asker].parents.is_empty(), "node {asker}");
    }
    // Bounded and spread.
    let most = model.wire.keys.values().max().copied().unwrap_or(0);
    let share = most as f64 / (NODES * HELD) as f64;
    println!("95 % back after {back:?}; at most {share:.3} of all keys in a tenth of a second");
    assert!(share <= BURST, "{share} of all keys came at once");
    assert!(model.wire.largest <= 1024);
}
