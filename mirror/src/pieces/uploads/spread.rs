//! How far the pieces of one content have gone out, and which of them a child gets.
//!
//! A source gives each new piece to one of the children that follow it, its *owner*, and for a short
//! time tells and sends nobody else of it: the owner passes it on meanwhile. Were everybody told, all
//! would ask the source at once, and it would send its uplink full of copies that the children could
//! have got from each other. The time is short, so that a child whose neighbours do not serve it
//! loses a moment, not its source; and what has been sent least often goes first.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use darner_proto::geometry::Geometry;
use darner_proto::piece_set::PieceSet;

use super::{Child, Holding, Withheld};

/// A child that let this many of its pieces lie is passed over while another can be chosen.
const MAX_MISSED: u32 = 2;

/// The spread of one content from this node.
#[derive(Debug)]
pub(super) struct Spread {
    geometry: Geometry,
    source: bool,
    held: PieceSet,
    /// By piece: copies sent, or begun to be.
    sent: Vec<u32>,
    /// Pieces of a source that are here and have not been sent.
    fresh: BTreeSet<u32>,
    /// By piece; nothing where none has ever been one child's alone, as at every host but a source.
    turns: Vec<Turn>,
    /// Pieces that may still be another child's alone.
    closed: BTreeSet<u32>,
    watchers: BTreeMap<Child, Watcher>,
    used_at: Duration,
}

/// Whose alone a piece is for a time.
#[derive(Debug, Clone, Default)]
struct Turn {
    /// Who has it, or is to have it, for itself until `open_at`.
    owner: Option<Child>,
    open_at: Duration,
    /// When it was given to its owner.
    given_at: Duration,
    /// Until then nobody else is told to ask for it.
    called_until: Duration,
}

#[derive(Debug, Default)]
struct Watcher {
    streams: u32,
    given: u64,
    missed: u32,
}

/// What a request is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) pieces: Range<u32>,
    /// How often they have been sent before.
    pub(super) sent: u32,
}

impl Spread {
    pub(super) fn new(geometry: Geometry, held: PieceSet) -> Self {
        Self {
            geometry,
            source: false,
            fresh: BTreeSet::new(),
            held,
            sent: vec![0; geometry.pieces() as usize],
            turns: Vec::new(),
            closed: BTreeSet::new(),
            watchers: BTreeMap::new(),
            used_at: Duration::ZERO,
        }
    }

    /// Takes in what is here now; what is new is given out as [`Spread::gained`] says.
    pub(super) fn update(&mut self, now: Duration, holding: &Holding<'_>, exclusive: Duration) {
        self.used_at = now;
        if holding.source && !self.source {
            self.source = true;
            let unsent = |index: &u32| self.sent.get(*index as usize) == Some(&0);
            self.fresh = self.held.iter().filter(unsent).collect();
        }
        if self.held == *holding.held {
            return;
        }
        self.held.intersect(holding.held);
        let held = &self.held;
        self.fresh.retain(|index| held.contains(*index));
        let mut new = holding.held.clone();
        new.subtract(&self.held);
        for index in new.iter() {
            self.gained(now, index, exclusive);
        }
    }

    pub(super) fn used_at(&self) -> Duration {
        self.used_at
    }

    pub(super) fn is_source(&self) -> bool {
        self.source
    }

    /// Whether the piece is here and has not been sent.
    pub(super) fn is_fresh(&self, index: u32) -> bool {
        self.fresh.contains(&index)
    }

    /// Whether a piece lies here that `child`, which wants others, had better ask for: one that has not left
    /// yet, is nobody else's, and that it was told of after `since`, if that is given. It is taken as asked for
    /// until then.
    pub(super) fn call(
        &mut self,
        now: Duration,
        (child, want, since): (Child, &[u32], Option<Duration>),
        until: Duration,
    ) -> bool {
        if !self.source || self.fresh.is_empty() {
            return false;
        }
        self.turns.resize(self.sent.len(), Turn::default());
        let may = |index: &u32| self.is_fresh(*index) && self.is_open(child, *index, now);
        if want.iter().any(may) {
            return false;
        }
        let told = |one: &Turn| match one.owner == Some(child) {
            true => one.given_at,
            false => one.open_at,
        };
        let new = |one: &Turn| since.is_none_or(|since| told(one) > since);
        let due = |one: &Turn| now >= one.called_until && new(one);
        let mut fresh = self.fresh.iter().copied();
        let lies = fresh.find(|index| self.turn(*index).is_some_and(due) && may(index));
        let lies = lies.and_then(|index| self.turns.get_mut(index as usize));
        let Some(turn) = lies else { return false };
        turn.called_until = until;
        true
    }

    /// Whether nothing here is one child's alone.
    pub(super) fn is_open_to_all(&self) -> bool {
        self.closed.is_empty()
    }

    pub(super) fn holds(&self, index: u32) -> bool {
        self.held.contains(index)
    }

    pub(super) fn bytes(&self, run: &Range<u32>) -> u64 {
        let bytes = self
            .geometry
            .bytes_of_run(run.start, run.end.saturating_sub(run.start));
        bytes.end - bytes.start
    }

    pub(super) fn children(&self) -> u32 {
        u32::try_from(self.watchers.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn watched(&mut self, child: Child) {
        self.watchers.entry(child).or_default().streams += 1;
    }

    pub(super) fn unwatched(&mut self, child: Child) {
        if let Some(watcher) = self.watchers.get_mut(&child) {
            watcher.streams -= 1;
            if watcher.streams == 0 {
                self.watchers.remove(&child);
            }
        }
    }

    /// A piece is here: at a source it becomes one child's alone for a time.
    pub(super) fn gained(&mut self, now: Duration, index: u32, exclusive: Duration) {
        if !self.held.insert(index) || !self.source {
            return;
        }
        if self.sent.get(index as usize) == Some(&0) {
            self.fresh.insert(index);
        }
        self.open_what_is_due(now);
        let Some(owner) = self.next_owner() else {
            return;
        };
        if let Some(watcher) = self.watchers.get_mut(&owner) {
            watcher.given += 1;
        }
        self.close(index, |turn| {
            turn.owner = Some(owner);
            turn.open_at = now + exclusive;
            turn.given_at = now;
        });
    }

    /// The piece becomes one child's alone.
    fn close(&mut self, index: u32, whose: impl FnOnce(&mut Turn)) {
        self.turns.resize(self.sent.len(), Turn::default());
        if let Some(turn) = self.turns.get_mut(index as usize) {
            whose(turn);
            self.closed.insert(index);
        }
    }

    /// Of the children that take what they are given, the one with the least on its way, then the
    /// one that was given least.
    fn next_owner(&self) -> Option<Child> {
        let mut on_its_way: BTreeMap<Child, u32> = BTreeMap::new();
        for owner in self.closed.iter().filter_map(|at| self.turn(*at)?.owner) {
            *on_its_way.entry(owner).or_default() += 1;
        }
        let rank = |child: &Child, watcher: &Watcher| {
            let lies = watcher.missed >= MAX_MISSED;
            (lies, on_its_way.get(child).copied(), watcher.given)
        };
        let next = self
            .watchers
            .iter()
            .min_by_key(|(child, watcher)| rank(child, watcher));
        next.map(|(child, _)| *child)
    }

    fn turn(&self, index: u32) -> Option<&Turn> {
        self.turns.get(index as usize)
    }

    fn open_what_is_due(&mut self, now: Duration) {
        let (sent, turns) = (&self.sent, &self.turns);
        let watchers = &mut self.watchers;
        self.closed.retain(|index| {
            let at = *index as usize;
            let (Some(sent), Some(turn)) = (sent.get(at), turns.get(at)) else {
                return false;
            };
            let open = now >= turn.open_at;
            let watcher = turn.owner.and_then(|owner| watchers.get_mut(&owner));
            if let Some(watcher) = watcher.filter(|_| open && *sent == 0) {
                watcher.missed += 1;
            }
            !open
        });
    }

    pub(super) fn withheld(&self, now: Duration, child: Child) -> Option<Withheld> {
        if self.closed.is_empty() {
            return None;
        }
        let mut pieces = PieceSet::empty(self.held.pieces());
        let mut until = Duration::MAX;
        for index in &self.closed {
            let Some(turn) = self.turn(*index) else {
                continue;
            };
            if turn.open_at > now && turn.owner != Some(child) {
                pieces.insert(*index);
                until = until.min(turn.open_at);
            }
        }
        (!pieces.is_empty()).then_some(Withheld { pieces, until })
    }

    /// Whether a child that asked then may be sent the piece. Who asked while the piece was another
    /// child's may have got it from that one since: it must ask again.
    fn is_open(&self, child: Child, index: u32, asked_at: Duration) -> bool {
        self.turn(index)
            .is_none_or(|turn| turn.owner == Some(child) || asked_at >= turn.open_at)
    }

    /// When the child had better ask again: the first time that something it wants, and may not have
    /// now, is free. `None` when it need not: something of it can be sent as it is.
    pub(super) fn frees_at(
        &self,
        child: Child,
        want: &[u32],
        asked_at: Duration,
    ) -> Option<Duration> {
        let mut frees = None;
        for index in want {
            if self.is_open(child, *index, asked_at) {
                return None;
            }
            let open_at = self.turn(*index)?.open_at;
            frees = Some(frees.map_or(open_at, |first: Duration| first.min(open_at)));
        }
        frees
    }

    /// Of what is wanted, the run that was sent least often; of equals, what the child named first.
    pub(super) fn choose(
        &self,
        child: Child,
        want: &[u32],
        asked_at: Duration,
        most: u32,
    ) -> Option<Choice> {
        let may = |index: u32| self.holds(index) && self.is_open(child, index, asked_at);
        let sent = |index: u32| self.sent.get(index as usize).copied();
        let mut first: Option<(u32, u32)> = None;
        for index in want.iter().copied().filter(|index| may(*index)) {
            let times = sent(index)?;
            if first.is_none_or(|(least, _)| times < least) {
                first = Some((times, index));
            }
            if times == 0 {
                break;
            }
        }
        let (times, start) = first?;
        let mut end = start + 1;
        while end - start < most && want.contains(&end) && may(end) && sent(end) == Some(times) {
            end += 1;
        }
        Some(Choice {
            pieces: start..end,
            sent: times,
        })
    }

    /// The run goes out to `child`, whose alone it is for a time where pieces enter the swarm. Says
    /// how long that child had known of what it was given.
    pub(super) fn begun(
        &mut self,
        now: Duration,
        child: Child,
        run: Range<u32>,
        relay: Duration,
    ) -> Option<Duration> {
        let is_first = self.sent.get(run.start as usize) == Some(&0);
        let given = self.turn(run.start).filter(|_| is_first);
        let given = given.filter(|turn| turn.owner == Some(child));
        let reaction = given.map(|turn| now.saturating_sub(turn.given_at));
        if let Some(watcher) = self.watchers.get_mut(&child) {
            watcher.missed = 0;
        }
        for index in run {
            let Some(sent) = self.sent.get_mut(index as usize) else {
                continue;
            };
            *sent = sent.saturating_add(1);
            self.fresh.remove(&index);
            if self.source {
                self.close(index, |turn| {
                    turn.owner = Some(child);
                    turn.open_at = now + relay;
                });
            }
        }
        self.open_what_is_due(now);
        reaction
    }
}
