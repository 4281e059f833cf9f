//! What the nodes have counted: the last word of each, and all of them together.
//!
//! A node counts from the start of its process. So that a node that restarts or leaves takes nothing
//! away, what it adds is added up here, from this manager's start on: with the first word of a node,
//! all it has counted by then. Only nodes that this manager hears are among them. [`Board`] decides,
//! [`Tallies`] gives it the clock and the members.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use darner_proto::figures::{Figures, Served, UpstreamFigures};
use darner_proto::name::RegistryName;
use darner_service::shutdown::Shutdown;

use crate::members::Members;
use crate::membership::MemberKey;
use crate::users::now;

/// Between looks at who is still a member, and between points of the past.
const STEP: Duration = Duration::from_secs(5);
/// Points of the past that are remembered: half an hour.
const POINTS: usize = 360;
/// Registries that are added up; those a node names beyond them are left out.
const MAX_REGISTRIES: usize = 256;
/// Nodes that went are remembered, so many of the last.
const MAX_GONE: usize = 100;

/// The nodes' numbers. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Tallies {
    board: Arc<Mutex<Board>>,
}

/// The nodes' numbers, decided without clock or network.
#[derive(Debug, Default)]
pub struct Board {
    nodes: BTreeMap<MemberKey, Figures>,
    totals: Totals,
    past: VecDeque<Point>,
    gone: VecDeque<Gone>,
}

/// All nodes together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Totals {
    /// Bytes sent to clients.
    pub served: Served,
    /// Requests of clients.
    pub requests: u64,
    /// Those that went wrong.
    pub errors: u64,
    /// Bytes of pieces sent to peers.
    pub uploaded_bytes: u64,
    /// By registry.
    pub upstreams: BTreeMap<RegistryName, Upstream>,
}

/// All nodes' numbers about one registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Upstream {
    /// Requests sent to it.
    pub requests: u64,
    /// Bytes received from it.
    pub bytes: u64,
    /// Reads that failed.
    pub errors: u64,
}

/// What nodes say of a registry at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// How many nodes have asked it for anything.
    pub nodes: usize,
    /// The least that any node is allowed.
    pub limit: Option<u64>,
    /// The least that any node has left.
    pub remaining: Option<u64>,
    /// Unix time in seconds until which it is left alone, or 0.
    pub quiet_until: u64,
}

/// What nodes are at now, together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Present {
    /// Nodes that have told.
    pub nodes: usize,
    /// Downloads in progress.
    pub running: u64,
    /// Bytes that stores take.
    pub held_bytes: u64,
    /// Bytes they may take.
    pub capacity_bytes: u64,
}

/// What all had counted at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Unix time in ms.
    pub at_ms: i64,
    /// Bytes sent to clients.
    pub served: Served,
    /// Bytes received from registries.
    pub upstream_bytes: u64,
    /// Requests sent to registries.
    pub upstream_requests: u64,
}

/// A member that is none any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// Who.
    pub key: MemberKey,
    /// Since when, unix time in ms.
    pub since_ms: i64,
}

impl Board {
    /// A node's latest word.
    pub fn heard(&mut self, key: MemberKey, figures: Figures) {
        let before = self.nodes.get(&key);
        self.totals.add(before, &figures);
        self.gone.retain(|gone| gone.key != key);
        self.nodes.insert(key, figures);
    }

    /// Forgets who is no member any more, and notes how things stand at `now` (unix time in ms).
    pub fn step(&mut self, now: i64, is_member: impl Fn(&MemberKey) -> bool) {
        let left = self.nodes.extract_if(.., |key, _| !is_member(key));
        let left: Vec<_> = left.map(|(key, _)| key).collect();
        for key in left {
            let since_ms = now;
            self.gone.push_front(Gone { key, since_ms });
        }
        self.gone.truncate(MAX_GONE);
        self.past.push_back(self.point(now));
        if self.past.len() > POINTS {
            self.past.pop_front();
        }
    }

    /// What a node last said.
    pub fn node(&self, key: &MemberKey) -> Option<&Figures> {
        self.nodes.get(key)
    }

    /// All together.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// What nodes are at now.
    pub fn present(&self) -> Present {
        let mut present = Present::default();
        for figures in self.nodes.values() {
            present.nodes += 1;
            present.running += figures.running;
            present.held_bytes = present.held_bytes.saturating_add(figures.held_bytes);
            present.capacity_bytes = present
                .capacity_bytes
                .saturating_add(figures.capacity_bytes);
        }
        present
    }

    /// What nodes say of registries now.
    pub fn standings(&self) -> BTreeMap<RegistryName, Standing> {
        let mut standings: BTreeMap<RegistryName, Standing> = BTreeMap::new();
        for told in self.nodes.values().flat_map(|node| &node.upstreams) {
            if !self.totals.upstreams.contains_key(&told.registry) {
                continue;
            }
            let standing = standings.entry(told.registry.clone()).or_default();
            standing.nodes += 1;
            standing.limit = least(standing.limit, told.limit);
            standing.remaining = least(standing.remaining, told.remaining);
            standing.quiet_until = standing.quiet_until.max(told.quiet_until);
        }
        standings
    }

    /// How things stood, the oldest first.
    pub fn past(&self) -> impl Iterator<Item = &Point> {
        self.past.iter()
    }

    /// Who is gone, the last first.
    pub fn gone(&self) -> impl Iterator<Item = &Gone> {
        self.gone.iter()
    }

    fn point(&self, at_ms: i64) -> Point {
        Point {
            at_ms,
            served: self.totals.served,
            upstream_bytes: self.totals.upstream_bytes(),
            upstream_requests: self.totals.upstream_requests(),
        }
    }
}

impl Totals {
    /// Bytes received from all registries.
    pub fn upstream_bytes(&self) -> u64 {
        self.upstreams.values().map(|upstream| upstream.bytes).sum()
    }

    /// Requests sent to all registries.
    pub fn upstream_requests(&self) -> u64 {
        let upstreams = self.upstreams.values();
        upstreams.map(|upstream| upstream.requests).sum()
    }

    fn add(&mut self, before: Option<&Figures>, now: &Figures) {
        let grown = |of: fn(&Figures) -> u64| more(before.map(of), of(now));
        grow(&mut self.served.store, grown(|node| node.served.store));
        grow(&mut self.served.peer, grown(|node| node.served.peer));
        grow(&mut self.served.seed, grown(|node| node.served.seed));
        grow(
            &mut self.served.upstream,
            grown(|node| node.served.upstream),
        );
        grow(&mut self.requests, grown(|node| node.requests));
        grow(&mut self.errors, grown(|node| node.errors));
        grow(&mut self.uploaded_bytes, grown(|node| node.uploaded_bytes));
        for told in &now.upstreams {
            let before = before.and_then(|before| {
                let mut upstreams = before.upstreams.iter();
                upstreams.find(|one| one.registry == told.registry)
            });
            self.add_upstream(before, told);
        }
    }

    fn add_upstream(&mut self, before: Option<&UpstreamFigures>, now: &UpstreamFigures) {
        let is_full = self.upstreams.len() >= MAX_REGISTRIES;
        if is_full && !self.upstreams.contains_key(&now.registry) {
            return;
        }
        let upstream = self.upstreams.entry(now.registry.clone()).or_default();
        let grown = |of: fn(&UpstreamFigures) -> u64| more(before.map(of), of(now));
        grow(&mut upstream.requests, grown(|one| one.requests));
        grow(&mut upstream.bytes, grown(|one| one.bytes));
        grow(&mut upstream.errors, grown(|one| one.errors));
    }
}

impl Tallies {
    /// A node's latest word.
    pub fn heard(&self, key: MemberKey, figures: Figures) {
        self.lock().heard(key, figures);
    }

    /// Lets `read` look at the numbers. It must be quick: nodes wait.
    pub fn look<T>(&self, read: impl FnOnce(&Board) -> T) -> T {
        read(&self.lock())
    }

    /// Looks who is still a member until the process drains.
    pub async fn run(self, members: Members, shutdown: Shutdown) {
        let look = |present: &BTreeSet<_>| self.lock().step(now(), |key| present.contains(key));
        members.each_step(STEP, &shutdown, look).await;
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was added to a counter, which begins anew with its process.
fn more(before: Option<u64>, now: u64) -> u64 {
    now.checked_sub(before.unwrap_or(0)).unwrap_or(now)
}

fn grow(total: &mut u64, by: u64) {
    *total = total.saturating_add(by);
}

fn least(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use darner_proto::id::Role;

    fn key(id: &str) -> MemberKey {
        MemberKey {
            role: Role::Mirror,
            id: id.parse().unwrap(),
        }
    }

    fn told(store: u64, bytes: u64, remaining: Option<u64>) -> Figures {
        Figures {
            served: Served {
                store,
                ..Served::default()
            },
            running: 1,
            upstreams: vec![UpstreamFigures {
                registry: "docker.io".parse().unwrap(),
                requests: 1,
                bytes,
                errors: 0,
                limit: remaining,
                remaining,
                quiet_until: 0,
            }],
            ..Figures::default()
        }
    }

    #[test]
    fn totals_only_grow_whatever_nodes_do() {
        let mut board = Board::default();
        board.heard(key("a"), told(10, 5, Some(40)));
        board.heard(key("a"), told(12, 6, Some(30)));
        board.heard(key("b"), told(100, 50, None));
        assert_eq!(board.totals().served.store, 112);
        assert_eq!(board.totals().upstream_bytes(), 56);
        // Its process began anew.
        board.heard(key("a"), told(3, 1, Some(20)));
        assert_eq!(board.totals().served.store, 115);
        assert_eq!(board.present().running, 2);
        board.step(7, |of| *of == key("b"));
        assert_eq!(
            board.totals().served.store,
            115,
            "who leaves takes nothing away"
        );
        assert_eq!(board.present().nodes, 1);
        let gone: Vec<_> = board.gone().map(|gone| gone.key.clone()).collect();
        assert_eq!(gone, [key("a")]);
        board.heard(key("a"), told(1, 1, None));
        assert_eq!(board.gone().count(), 0, "it is back");
    }

    #[test]
    fn of_a_registry_the_least_that_is_left_counts() {
        let mut board = Board::default();
        board.heard(key("a"), told(0, 0, Some(40)));
        board.heard(key("b"), told(0, 0, Some(7)));
        board.heard(key("c"), told(0, 0, None));
        let standing = board.standings()[&"docker.io".parse().unwrap()];
        assert_eq!((standing.nodes, standing.remaining), (3, Some(7)));
    }

    #[test]
    fn the_past_is_bounded() {
        let mut board = Board::default();
        for at in 0..2 * i64::try_from(POINTS).unwrap() {
            board.step(at, |_| true);
        }
        assert_eq!(board.past().count(), POINTS);
        assert_eq!(board.past().last().unwrap().at_ms, 719);
    }
}
