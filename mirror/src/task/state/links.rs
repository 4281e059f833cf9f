//! The parents of a task, as far as its decisions need to know them.

mod table;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use darner_proto::id::{Host, HostId, Role};
use darner_proto::piece_map::PieceRun;
use darner_proto::piece_set::PieceSet;
use darner_proto::scheduler::{FailureKind, Parent};

use super::picker::PER_PARENT;
use super::requests::SMOOTHING;
use super::{Action, Input, Task};
pub(super) use table::Links;

/// An availability stream that ended early is opened again after this, doubling.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// A parent that failed this often, short of sending wrong bytes, is dropped.
const MAX_STRIKES: u32 = 4;
/// A parent that was dropped because it could not be reached may have restarted by then.
const DROPPED_FOR: Duration = Duration::from_secs(5);

/// A difference of waiting times that counts.
const NOTICEABLE: Duration = Duration::from_millis(5);

/// One parent.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) host: Arc<Host>,
    pub(super) is_seed: bool,
    /// Its place in the scheduler's order, best first.
    pub(super) order: usize,
    stream: Stream,
    /// What it has of what is missing here.
    pub(super) has: PieceSet,
    /// What pieces hash to by the word of nobody who counts.
    untrusted: BTreeMap<u32, Arc<PieceRun>>,
    pub(super) in_flight: u32,
    pub(super) busy_until: Duration,
    /// How often in a row it said "busy".
    pub(super) busy: u32,
    /// How often in a row what it let lie, without a word, was asked for elsewhere.
    pub(super) passed_over: u32,
    /// How long requests have waited there of late,
    wait: Duration,
    /// and how many noticeable differences that is.
    notches: u32,
    /// When it last could not send at once.
    pub(super) refused_at: Duration,
    /// A piece was late from it, and nothing came in time since.
    pub(super) slow: bool,
    pub(super) strikes: u32,
    received_bytes: u64,
}

/// The availability stream of a parent.
#[derive(Debug, PartialEq)]
enum Stream {
    Open,
    /// Everything has been told.
    Done,
    /// To be opened again then.
    Broken {
        retry_at: Duration,
    },
    /// The parent is not used for this task any more, or not before then.
    Dropped {
        until: Option<Duration>,
    },
}

impl Link {
    fn new(host: Arc<Host>, order: usize, pieces: u32) -> Self {
        Self {
            is_seed: host.role == Role::Seed,
            host,
            order,
            stream: Stream::Open,
            has: PieceSet::empty(pieces),
            untrusted: BTreeMap::new(),
            in_flight: 0,
            busy_until: Duration::ZERO,
            busy: 0,
            passed_over: 0,
            refused_at: Duration::ZERO,
            wait: Duration::ZERO,
            notches: 0,
            slow: false,
            strikes: 0,
            received_bytes: 0,
        }
    }

    /// Whether it can be asked for more pieces now.
    pub(super) fn can_be_asked(&self, now: Duration) -> bool {
        self.in_flight < PER_PARENT && now >= self.busy_until && !self.is_dropped()
    }

    /// It sends what was asked for so long before. Newer measurements count one part in a few.
    pub(super) fn answered(&mut self, after: Duration) {
        self.wait = (self.wait * (SMOOTHING - 1) + after) / SMOOTHING;
        let notches = self.wait.as_millis() / NOTICEABLE.as_millis();
        self.notches = u32::try_from(notches).unwrap_or(u32::MAX);
        self.busy = 0;
        self.passed_over = 0;
    }

    /// Whom to ask first: the least. Of those with as many requests, where these wait least: a parent with a
    /// slow uplink, or one that everybody asks, then has no more of them than it can serve, and nobody has less
    /// than his share because such are among his parents.
    pub(super) fn rank(&self) -> (bool, u32, bool, u32, u32, usize) {
        (
            self.slow,
            self.in_flight,
            self.is_seed,
            self.notches,
            self.strikes,
            self.order,
        )
    }

    pub(super) fn is_dropped(&self) -> bool {
        matches!(self.stream, Stream::Dropped { .. })
    }

    /// The piece is held here now: what the parent has of it no longer matters.
    pub(super) fn forget(&mut self, index: u32) {
        self.has.remove(index);
        self.untrusted.remove(&index);
    }
}

impl Task {
    /// Whether the piece is here, or what it must hash to is known.
    pub fn knows(&self, index: u32) -> bool {
        self.held.contains(index) || self.expected.contains(index)
    }

    /// The scheduler's list replaces the one before. A parent that is sending stays until it is
    /// done: what is in flight is not thrown away.
    pub(super) fn set_parents(&mut self, parents: Vec<Parent>, out: &mut Vec<Action>) {
        let gone: Vec<_> = self
            .links
            .values()
            .filter(|link| {
                let named = |parent: &Parent| parent.host.id == link.host.id;
                link.in_flight == 0 && !parents.iter().any(named)
            })
            .filter(|link| !link.is_dropped())
            .map(|link| link.host.id.clone())
            .collect();
        for id in gone {
            self.links.remove(&id);
            out.push(Action::Unsubscribe(id));
        }
        for (order, parent) in parents.into_iter().enumerate() {
            match self.links.get_mut(&parent.host.id) {
                // A host that restarted elsewhere is a new parent.
                Some(link) if link.host.address != parent.host.address => {
                    let id = parent.host.id.clone();
                    out.push(Action::Unsubscribe(id.clone()));
                    self.links.remove(&id);
                    self.add_parent_at(parent.host, order, out);
                }
                Some(link) => link.order = order,
                None => self.add_parent_at(parent.host, order, out),
            }
        }
    }

    /// Adds a parent that no scheduler named.
    pub(super) fn add_parent(&mut self, host: Host, out: &mut Vec<Action>) {
        if !self.links.contains(&host.id) {
            self.add_parent_at(host, 0, out);
        }
    }

    fn add_parent_at(&mut self, host: Host, order: usize, out: &mut Vec<Action>) {
        if host.id == self.me {
            return;
        }
        let link = Link::new(Arc::new(host.clone()), order, self.geometry.pieces());
        self.links.insert(host.id.clone(), link);
        out.push(Action::Subscribe(host));
    }

    /// Says whether the parent has received more meanwhile: such a one is worth waiting for.
    pub(super) fn offered(
        &mut self,
        parent: &HostId,
        available: Vec<Range<u32>>,
        runs: Vec<(Arc<PieceRun>, bool)>,
        received_bytes: u64,
    ) -> bool {
        let Some(link) = self.links.get_mut(parent) else {
            return false;
        };
        let moved = received_bytes > link.received_bytes;
        link.received_bytes = link.received_bytes.max(received_bytes);
        if link.is_dropped() {
            return moved;
        }
        let before = link.has.len();
        for range in available {
            link.has.insert_range(range);
        }
        link.has.subtract(&self.held);
        if link.is_seed && link.has.len() > before {
            link.busy_until = Duration::ZERO;
        }
        for (run, trusted) in runs {
            for index in run.indexes().filter(|index| !self.held.contains(*index)) {
                if !(trusted || self.unvouched) {
                    link.untrusted.insert(index, run.clone());
                } else {
                    self.expected.learn(index, &run);
                }
            }
        }
        moved
    }

    /// Others count now: what the parents said before is judged anew.
    pub(super) fn ask_again(&mut self, out: &mut Vec<Action>) {
        for link in self
            .links
            .values_mut()
            .filter(|link| !link.untrusted.is_empty())
        {
            link.untrusted.clear();
            link.stream = Stream::Open;
            out.push(Action::Unsubscribe(link.host.id.clone()));
            out.push(Action::Subscribe(Host::clone(&link.host)));
        }
    }

    /// Nobody who counts has said anything for a while: what others say will do until the whole
    /// digest decides.
    pub(super) fn take_untrusted_word(&mut self, out: &mut Vec<Action>) {
        if self.links.values().all(|link| link.untrusted.is_empty()) {
            return;
        }
        self.unvouched = true;
        out.push(Action::Unvouch);
        let mut links: Vec<_> = self.links.values_mut().collect();
        links.sort_by_key(|link| link.order);
        for link in links {
            for (index, run) in std::mem::take(&mut link.untrusted) {
                self.expected.learn(index, &run);
            }
        }
    }

    pub(super) fn link_closed(
        &mut self,
        now: Duration,
        parent: &HostId,
        failure: Option<FailureKind>,
        out: &mut Vec<Action>,
    ) {
        let Some(link) = self.links.get_mut(parent) else {
            return;
        };
        if link.is_dropped() {
            return;
        }
        match failure {
            None => link.stream = Stream::Done,
            Some(kind) => {
                let pause = RETRY_PAUSE * 2u32.pow(link.strikes.min(4));
                link.stream = Stream::Broken {
                    retry_at: now + pause,
                };
                self.strike(now, parent, kind, out);
                // Nothing is gained by waiting for an owner that cannot be reached.
                if let Some(alone) = &mut self.alone {
                    alone.next_step = now;
                }
            }
        }
    }

    pub(super) fn retry_links(&mut self, now: Duration, out: &mut Vec<Action>) {
        for link in self.links.values_mut() {
            let due = match link.stream {
                Stream::Broken { retry_at } => now >= retry_at,
                Stream::Dropped { until } => until.is_some_and(|until| now >= until),
                Stream::Open | Stream::Done => false,
            };
            if due {
                link.stream = Stream::Open;
                out.push(Action::Subscribe(Host::clone(&link.host)));
            }
        }
    }

    /// Counts a failure against a parent, drops it after too many, and tells the scheduler. One
    /// that sent something wrong is dropped for good.
    pub(super) fn strike(
        &mut self,
        now: Duration,
        parent: &HostId,
        kind: FailureKind,
        out: &mut Vec<Action>,
    ) {
        let Some(link) = self.links.get_mut(parent) else {
            return;
        };
        link.strikes += 1;
        let wrong = matches!(kind, FailureKind::WrongBytes | FailureKind::WrongLength);
        if kind == FailureKind::WrongBytes {
            out.push(Action::Doubt(Host::clone(&link.host)));
        }
        if wrong || link.strikes >= MAX_STRIKES {
            let until = (!wrong).then_some(now + DROPPED_FOR);
            link.stream = Stream::Dropped { until };
            link.has = PieceSet::empty(self.geometry.pieces());
            link.untrusted.clear();
            out.push(Action::Unsubscribe(parent.clone()));
        }
        if wrong || link.strikes >= 2 {
            out.push(Action::Tell(Input::ParentFailed(
                self.id,
                parent.clone(),
                kind,
            )));
        }
    }
}
