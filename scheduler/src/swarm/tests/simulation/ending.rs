//! Whatever has happened, once the nodes do their part and no more goes wrong, everything ends: who
//! wants pieces that somebody holds, or that can be read, is told of them until it has all, and then
//! nothing is left.

use super::*;

/// One round of transfers takes this long, and moves so many pieces to each node.
const ROUND: Duration = TICK;
const PIECES_PER_ROUND: usize = 12;
const ROUNDS_PER_HEARTBEAT: u32 = 10;
/// Everything is over within so much time: the longest waits are those for a reader that is gone
/// (four seconds), and between readers that upstream failed (four seconds, four times).
const IN_TIME: Duration = Duration::from_secs(60);
/// It is remembered a moment that there is no source, and what was asked is forgotten a second after
/// its answer.
const MEMORY: Duration = Duration::from_secs(3);

impl World {
    /// A world in which nodes fail and lie to nobody; they come, go, hand leases back and lose them.
    fn honest(seed: u64) -> Self {
        Self {
            honest: true,
            ..Self::new(seed)
        }
    }

    /// Every node does its part for a while. Who still wants something then.
    fn finish(&mut self) -> Vec<(SessionId, TaskId)> {
        let end = self.now + IN_TIME;
        for session in self.sessions.keys().copied().collect::<Vec<_>>() {
            let keys = Vec::new();
            let listed = NodeMessage::Inventory { keys, listed: true };
            self.take_in(Event::Message(session, listed));
        }
        while self.now < end && !(self.held.is_empty() && self.leases.is_empty()) {
            self.round();
        }
        self.held.keys().copied().collect()
    }

    fn round(&mut self) {
        self.now += ROUND;
        self.rounds += 1;
        if self.rounds.is_multiple_of(ROUNDS_PER_HEARTBEAT) {
            for session in self.sessions.keys().copied().collect::<Vec<_>>() {
                self.take_in(Event::Message(session, NodeMessage::Heartbeat));
            }
        }
        self.take_in(Event::Tick);
        self.begin_leased();
        let mut taking_part: Vec<_> = self.held.keys().copied().collect();
        taking_part.sort_unstable();
        for (session, task) in taking_part {
            let gained = self.transfers(session, task);
            self.tell_gained(session, task, gained);
        }
        self.leave_failed();
        self.check();
    }

    /// Who was given a lease for a task it did not have takes part in it.
    fn begin_leased(&mut self) {
        let mut leased: Vec<_> = self.leases.keys().copied().collect();
        leased.sort_unstable();
        for key in leased {
            if !self.held.contains_key(&key) && self.leases.contains_key(&key) {
                let (session, task) = key;
                if self.complete.contains(&key) {
                    self.leases.remove(&key);
                    continue;
                }
                self.held.insert(key, PieceSet::empty(PIECES));
                let join = self.joining(session, task);
                self.take_in(Event::Message(session, join));
            }
        }
    }

    /// What comes to a node within a round: from upstream under its lease, and from its parents.
    fn transfers(&self, session: SessionId, task: TaskId) -> PieceSet {
        let mut offered = PieceSet::empty(PIECES);
        if let Some(lease) = self.leases.get(&(session, task)) {
            offered.union(&lease.ranges);
        }
        let parents = self.parents.get(&(session, task));
        for parent in parents.into_iter().flatten() {
            let Some(parent) = self.swarm.hosts.session_of(parent) else {
                continue;
            };
            if self.complete.contains(&(parent, task)) {
                offered.union(&PieceSet::full(PIECES));
            } else if let Some(held) = self.held.get(&(parent, task)) {
                offered.union(held);
            }
        }
        if let Some(mine) = self.held.get(&(session, task)) {
            offered.subtract(mine);
        }
        let mut gained = PieceSet::empty(PIECES);
        for index in offered.iter().take(PIECES_PER_ROUND) {
            gained.insert(index);
        }
        gained
    }

    fn tell_gained(&mut self, session: SessionId, task: TaskId, gained: PieceSet) {
        let Some(held) = self.held.get_mut(&(session, task)) else {
            return;
        };
        held.union(&gained);
        let whole = held.is_full();
        let progress = Progress {
            task,
            gained: gained.runs(),
            upstream_bytes: 0,
            upstream_ranges: None,
            rates: Vec::new(),
        };
        self.take_in(Event::Message(session, NodeMessage::Progress(progress)));
        if whole {
            let leave = self.leaving(session, task, Outcome::Complete);
            self.take_in(Event::Message(session, leave));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn who_wants_pieces_gets_them_in_the_end_and_nothing_is_left(seed in any::<u64>()) {
        let mut world = World::honest(seed);
        for _ in 0..SHORT {
            world.step();
            world.leave_failed();
        }
        let wanting = world.finish();
        prop_assert!(wanting.is_empty(), "{wanting:?} wait in vain at {:?}", world.now);
        world.now += MEMORY;
        world.take_in(Event::Tick);
        world.take_in(Event::Tick);
        prop_assert!(world.swarm.tasks.is_empty(), "tasks without anybody");
        prop_assert_eq!(world.swarm.census().leases, 0);
    }
}

/// The runs above are worth something: most who take part get everything.
#[test]
fn most_who_want_something_get_it() {
    let (mut got, mut failed) = (0, 0);
    for seed in 0..200 {
        let mut world = World::honest(seed);
        for _ in 0..SHORT {
            world.step();
            world.leave_failed();
        }
        let before = world.complete.len();
        let wanting = world.held.len();
        world.finish();
        let complete = world.complete.len() - before;
        got += complete;
        failed += wanting.saturating_sub(complete);
    }
    assert!(
        got > 200 && got > 4 * failed,
        "{got} got it, {failed} did not"
    );
}
