//! How fast this node sends, as measured, and what follows from it: how many runs at once, how long
//! a run is, and how long a piece is left to one child.

use std::time::Duration;

use crate::swarm::peers::MAX_RUN;

/// Slots to begin with, unless fewer are configured. Few slots make pieces whole soon, so that they
/// can be passed on; four with a piece each keep a link full.
const FIRST_SLOTS: u32 = 4;
/// A measurement lasts at least this long, and this many runs.
const WINDOW: Duration = Duration::from_millis(500);
const WINDOW_RUNS: u32 = 32;
/// More slots are kept only if they bring this much more, in percent.
const WORTHWHILE: u64 = 10;
/// After a trial that brought nothing, this many windows pass before the next.
const REST: u32 = 16;
/// A run is as long as is sent in this time: long runs spare requests, short ones make pieces
/// available sooner.
const RUN_TIME: Duration = Duration::from_millis(4);
/// Before anything has been measured a run takes this long.
const FIRST_TYPICAL: Duration = Duration::from_millis(10);
/// Pieces are left to their owner within these bounds, whatever was measured.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);
/// On a slow link a piece takes a second to come and another to be passed on.
const LONGEST_RELAY: Duration = Duration::from_secs(4);
/// A place in the queue is waited for within these bounds.
const TURN: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_millis(250);
/// Newer measurements count one part in this many.
const SMOOTHING: u32 = 8;

#[derive(Debug)]
pub(super) struct Pace {
    most: u32,
    slots: u32,
    /// How long a run takes.
    typical: Duration,
    /// How long a child takes from when it may be told of a piece until it is sent.
    reaction: Duration,
    /// Bytes a second of one run.
    rate: u64,
    window: Window,
    /// Bytes a second of the window before the present trial.
    before: Option<u64>,
    rest: u32,
}

#[derive(Debug, Default)]
struct Window {
    began_at: Option<Duration>,
    bytes: u64,
    runs: u32,
}

impl Pace {
    pub(super) fn new(most: u32) -> Self {
        Self {
            most,
            slots: most.min(FIRST_SLOTS),
            typical: FIRST_TYPICAL,
            reaction: FIRST_TYPICAL,
            rate: 0,
            window: Window::default(),
            before: None,
            rest: 0,
        }
    }

    pub(super) fn slots(&self) -> u32 {
        self.slots
    }

    /// Pieces in one run.
    pub(super) fn run(&self) -> u32 {
        let in_time = u128::from(self.rate) * RUN_TIME.as_micros() / 1_000_000;
        let pieces = in_time / u128::from(darner_proto::geometry::MIN_PIECE_LENGTH);
        u32::try_from(pieces).unwrap_or(MAX_RUN).clamp(1, MAX_RUN)
    }

    /// How long a new piece is kept for its owner to ask for it.
    pub(super) fn exclusive(&self) -> Duration {
        (self.reaction * 4).clamp(SHORTEST, LONGEST)
    }

    /// How long it takes a child to get a piece and pass it on: each of the two is asked and sends,
    /// and both may have others to serve.
    pub(super) fn relay(&self) -> Duration {
        ((self.typical + self.reaction) * 4).clamp(SHORTEST, LONGEST_RELAY)
    }

    /// A child was sent what it had been given, so long after.
    pub(super) fn reacted(&mut self, after: Duration) {
        self.reaction = (self.reaction * (SMOOTHING - 1) + after) / SMOOTHING;
    }

    /// When a place in the queue is free again, about.
    pub(super) fn turn(&self) -> Duration {
        (self.typical / self.slots.max(1)).clamp(*TURN.start(), *TURN.end())
    }

    /// A run of `bytes` took so long; others wait, or not.
    pub(super) fn sent(&mut self, now: Duration, bytes: u64, took: Duration, waits: bool) {
        self.typical = (self.typical * (SMOOTHING - 1) + took) / SMOOTHING;
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let rate = bytes.saturating_mul(1_000_000) / micros;
        let smoothing = u64::from(SMOOTHING);
        self.rate = (self.rate / smoothing) * (smoothing - 1) + rate / smoothing;
        self.measure(now, bytes, waits);
    }

    /// Climbs: one slot more for a while, kept if it brings more bytes. Only while others wait does
    /// the number of slots decide anything.
    fn measure(&mut self, now: Duration, bytes: u64, waits: bool) {
        if !waits {
            self.window = Window::default();
            return;
        }
        let began_at = *self.window.began_at.get_or_insert(now);
        self.window.bytes += bytes;
        self.window.runs += 1;
        let lasted = now.saturating_sub(began_at);
        if lasted < WINDOW || self.window.runs < WINDOW_RUNS {
            return;
        }
        let millis = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = self.window.bytes.saturating_mul(1000) / millis;
        self.window = Window::default();
        self.decide(rate);
    }

    fn decide(&mut self, rate: u64) {
        match self.before.take() {
            Some(before) if rate < before.saturating_add(before / 100 * WORTHWHILE) => {
                self.slots -= 1;
                self.rest = REST;
            }
            // Of use: the next one is tried at once.
            Some(_) => self.try_more(rate),
            None if self.rest > 0 => self.rest -= 1,
            None => self.try_more(rate),
        }
    }

    fn try_more(&mut self, rate: u64) {
        if self.slots < self.most {
            self.slots += 1;
            self.before = Some(rate);
        }
    }
}
