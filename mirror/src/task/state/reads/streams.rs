//! How many reads of one content at once pay: pure.
//!
//! One read brings bytes in the order in which clients and the hash of the whole want them. Several are
//! faster where a registry, or the way to it, limits each connection; where the limit is another they
//! only bring later bytes before earlier ones. So one more is tried for a while, and stays if all
//! together have become so much faster.
//!
//! ```text
//! gets up to speed --> measured --(one more pays, or none was tried yet)--> one more, gets up to speed
//!        ^                 '------(it does not)--> one less, rests -----------------------.
//!        '--------------------------------------------------------------------------------'
//! ```

use std::time::Duration;

/// Reads at once at most: enough that a limit for each connection hardly counts.
pub(in super::super) const MOST: usize = 4;
/// A connection gets up to speed meanwhile: what comes is not counted.
const WARM_UP: Duration = Duration::from_millis(250);
/// What comes in this time is counted.
const MEASURED: Duration = Duration::from_millis(250);
/// One more is tried again after this long, and then after twice as long each time.
const FIRST_REST: Duration = Duration::from_secs(2);
const LONGEST_REST: Duration = Duration::from_secs(30);

/// What is known of it for one content.
#[derive(Debug)]
pub(in super::super) struct Streams {
    allowed: usize,
    /// Bytes a second with one less, while one more is tried.
    before: Option<f64>,
    phase: Phase,
    rest: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Nothing has come yet.
    Idle,
    /// Bytes count from a moment on.
    Measuring { from: Duration, bytes: u64 },
    /// No more than are allowed are tried until then.
    Resting { until: Duration },
}

impl Streams {
    pub(in super::super) fn new() -> Self {
        Self {
            allowed: 1,
            before: None,
            phase: Phase::Idle,
            rest: FIRST_REST,
        }
    }

    /// Reads that may be under way at once.
    pub(in super::super) fn allowed(&self) -> usize {
        self.allowed
    }

    /// So many bytes have come; `all` is whether as many reads as are allowed are under way.
    pub(in super::super) fn received(&mut self, now: Duration, bytes: u64, all: bool) {
        match &mut self.phase {
            Phase::Idle => self.measure(now),
            Phase::Resting { until } if now < *until => {}
            Phase::Resting { .. } => self.measure(now),
            // With fewer the rate would say nothing of as many.
            Phase::Measuring { .. } if !all => self.measure(now),
            Phase::Measuring { from, .. } if now < *from => {}
            Phase::Measuring { from, bytes: sum } => {
                *sum += bytes;
                let took = now.saturating_sub(*from);
                if took >= MEASURED {
                    let rate = *sum as f64 / took.as_secs_f64();
                    self.measured(now, rate);
                }
            }
        }
    }

    fn measure(&mut self, now: Duration) {
        let (from, bytes) = (now + WARM_UP, 0);
        self.phase = Phase::Measuring { from, bytes };
    }

    fn measured(&mut self, now: Duration, rate: f64) {
        let paid = self.before.is_none_or(|before| self.pays(before, rate));
        if !paid {
            self.before = None;
            self.allowed -= 1;
            return self.pause(now);
        }
        if self.allowed == MOST {
            self.before = None;
            return self.pause(now);
        }
        self.before = Some(rate);
        self.allowed += 1;
        self.measure(now);
    }

    /// Whether the last one has brought at least half of what it would where nothing but the
    /// connections limited the rate.
    fn pays(&self, before: f64, rate: f64) -> bool {
        let others = (self.allowed - 1).max(1) as f64;
        rate >= before * (1.0 + 0.5 / others)
    }

    fn pause(&mut self, now: Duration) {
        let until = now + self.rest;
        self.phase = Phase::Resting { until };
        self.rest = (self.rest * 2).min(LONGEST_REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes come every 10 ms at a rate that depends on how many are under way. Says how many are
    /// allowed after so many milliseconds, and for how much of that time there were more than one.
    fn run(streams: &mut Streams, from: u64, ms: u64, rate: impl Fn(usize) -> u64) -> (usize, u64) {
        let mut several = 0;
        for now in (from..from + ms).step_by(10) {
            let allowed = streams.allowed();
            several += if allowed > 1 { 10 } else { 0 };
            streams.received(Duration::from_millis(now), rate(allowed) / 100, true);
        }
        (streams.allowed(), several)
    }

    #[test]
    fn where_the_link_is_the_limit_there_is_one() {
        let mut streams = Streams::new();
        let (allowed, several) = run(&mut streams, 0, 20_000, |_| 125_000_000);
        assert_eq!(allowed, 1);
        assert!(several < 2500, "{several} ms of trying");
    }

    #[test]
    fn where_each_connection_is_limited_there_are_as_many_as_may_be() {
        let mut streams = Streams::new();
        let (allowed, _) = run(&mut streams, 0, 2500, |open| 10_000_000 * open as u64);
        assert_eq!(allowed, MOST);
    }

    #[test]
    fn there_are_as_many_as_pay() {
        let mut streams = Streams::new();
        let most = |open: usize| 10_000_000 * open.min(2) as u64;
        assert_eq!(run(&mut streams, 0, 3000, most).0, 2);
    }

    #[test]
    fn a_limit_that_comes_later_is_found() {
        let mut streams = Streams::new();
        assert_eq!(run(&mut streams, 0, 3000, |_| 50_000_000).0, 1);
        let limited = |open: usize| 5_000_000 * open as u64;
        assert_eq!(run(&mut streams, 3000, 12_000, limited).0, MOST);
    }

    #[test]
    fn a_rate_of_fewer_reads_than_allowed_says_nothing() {
        let mut streams = Streams::new();
        for now in (0..5000).step_by(10) {
            streams.received(Duration::from_millis(now), 1 << 20, false);
        }
        assert_eq!(streams.allowed(), 1);
    }

    proptest! {
        #[test]
        fn there_is_always_one_and_never_too_many(
            came in prop::collection::vec((0u64..400, 0u64..1 << 24, any::<bool>()), 1..200)
        ) {
            let mut streams = Streams::new();
            let mut now = Duration::ZERO;
            for (pause, bytes, all) in came {
                now += Duration::from_millis(pause);
                streams.received(now, bytes, all);
                prop_assert!((1..=MOST).contains(&streams.allowed()));
            }
        }
    }
}
