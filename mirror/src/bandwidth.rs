//! How many bytes a second go in and out: one [`Limit`] for each direction, shared by all transfers
//! of the node.
//!
//! A limit is a schedule of when the next byte is due. Who moves bytes takes a place in it and waits
//! for that, so transfers are served in the order in which they ask; each asks for a little at a
//! time, so all get the same share. What has not come yet is not read from the socket meanwhile: the
//! sender waits too, and nothing piles up here.
//!
//! Where a limit is tight, what nobody waits for leaves it to what somebody does: see [`Urgency`].
//!
//! A limit may change: who waits then takes a new place by the new one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use darner_service::metrics::Metrics;
use darner_service::settings;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A timer that fires late by less than this costs no bandwidth; by so much a second may hold more
/// than its share after a pause.
const CREDIT: Duration = Duration::from_millis(20);
/// One place in the schedule is worth this much time, so that a transfer never waits long for others.
const TURNS_PER_SECOND: u64 = 50;
/// Nobody takes less: a call per packet would cost more than the packet.
const LEAST_TURN: u64 = 16 << 10;

/// What somebody waits for has a limit nearly for itself for so long after it last had to wait.
const TIGHT: Duration = Duration::from_secs(1);
/// What nobody waits for has this part of it meanwhile, so that it does not stand still.
const LEFT_OVER: u32 = 10;

/// Seconds that transfers have waited.
type Waited = Counter<f64, AtomicU64>;

/// The limits of a node. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Bandwidth {
    /// Pieces to other nodes.
    pub upload: Limit,
    /// Everything that comes to the node, from other nodes and from registries.
    pub download: Limit,
    /// What comes from registries.
    pub upstream: Limit,
    limits: Family<Label, Gauge>,
}

/// So many bytes a second, or as many as there are. Clones share the schedule.
#[derive(Debug, Clone, Default)]
pub struct Limit {
    shared: Arc<Shared>,
    urgency: Urgency,
}

/// Whether somebody waits for a transfer, or it brings what may be wanted later. Clones share it, and
/// it may change while the transfer runs.
#[derive(Debug, Clone)]
pub struct Urgency(Arc<AtomicBool>);

impl Default for Urgency {
    fn default() -> Self {
        Self::new(true)
    }
}

impl Urgency {
    /// `awaited` is whether somebody waits.
    pub fn new(awaited: bool) -> Self {
        Self(Arc::new(AtomicBool::new(awaited)))
    }

    /// Whether somebody waits.
    pub fn is_awaited(&self) -> bool {
        // It orders nothing else.
        self.0.load(Ordering::Relaxed)
    }

    /// Somebody waits from now on, or nobody does any more.
    pub fn set(&self, awaited: bool) {
        self.0.store(awaited, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Shared {
    /// 0 for as many as there are.
    rate: AtomicU64,
    /// The rate is another now.
    changed: Notify,
    began: Instant,
    schedule: Mutex<Schedule>,
    waited: Waited,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            rate: AtomicU64::new(0),
            changed: Notify::new(),
            began: Instant::now(),
            schedule: Mutex::default(),
            waited: Waited::default(),
        }
    }
}

/// When the next byte is due. Pure.
#[derive(Debug, Default)]
struct Schedule {
    free_at: Duration,
    /// What somebody waits for has had to wait, not long before this.
    tight_until: Duration,
    /// What nobody waits for is not due earlier than this while that holds.
    left_over_at: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    direction: &'static str,
}

impl Bandwidth {
    /// As set; what is not set is not limited.
    pub fn new(settings: &settings::Limits, metrics: &Metrics) -> Self {
        let limits: Family<Label, Gauge> = Family::default();
        let waits: Family<Label, Counter<f64, AtomicU64>> = Family::default();
        metrics.register(|registry| {
            registry.register(
                "bandwidth_limit_bytes_per_second",
                "Bytes a second that are let through at most, where that is limited",
                limits.clone(),
            );
            registry.register(
                "bandwidth_waited_seconds",
                "Time that transfers have waited for a limited bandwidth, added up",
                waits.clone(),
            );
        });
        let limit = |direction| Limit::new(0, waits.get_or_create_owned(&Label { direction }));
        let bandwidth = Self {
            upload: limit("upload"),
            download: limit("download"),
            upstream: limit("upstream"),
            limits,
        };
        bandwidth.set(settings);
        bandwidth
    }

    /// These are the limits from now on.
    pub fn set(&self, settings: &settings::Limits) {
        let set = |direction, limit: &Limit, rate: Option<u64>| {
            limit.set(rate.map_or(0, |rate| rate.max(1)));
            let label = Label { direction };
            match rate {
                Some(rate) => {
                    let gauge = self.limits.get_or_create(&label);
                    gauge.set(i64::try_from(rate).unwrap_or(i64::MAX));
                }
                None => drop(self.limits.remove(&label)),
            }
        };
        set("upload", &self.upload, settings.upload);
        set("download", &self.download, settings.download);
        set("upstream", &self.upstream, settings.upstream);
    }

    /// The same limits, for a transfer of this urgency.
    pub fn for_urgency(&self, urgency: &Urgency) -> Self {
        Self {
            upload: self.upload.for_urgency(urgency),
            download: self.download.for_urgency(urgency),
            upstream: self.upstream.for_urgency(urgency),
            limits: self.limits.clone(),
        }
    }
}

impl Limit {
    /// `rate` bytes a second, counted nowhere.
    pub(crate) fn of(rate: u64) -> Self {
        Self::new(rate.max(1), Waited::default())
    }

    /// Lets `rate` bytes a second through from now on; 0 for as many as there are.
    fn set(&self, rate: u64) {
        let shared = &self.shared;
        if shared.rate.swap(rate, Ordering::AcqRel) == rate {
            return;
        }
        // What was planned by the old rate does not count.
        *shared.schedule() = Schedule {
            free_at: shared.began.elapsed(),
            ..Schedule::default()
        };
        shared.changed.notify_waiters();
    }

    fn new(rate: u64, waited: Waited) -> Self {
        Self {
            shared: Arc::new(Shared {
                rate: AtomicU64::new(rate),
                waited,
                ..Shared::default()
            }),
            urgency: Urgency::default(),
        }
    }

    /// The same limit, for a transfer of this urgency.
    pub fn for_urgency(&self, urgency: &Urgency) -> Self {
        Self {
            shared: self.shared.clone(),
            urgency: urgency.clone(),
        }
    }

    /// How many bytes are to be moved between two calls of [`Limit::take`], of `most`.
    pub fn turn(&self, most: u64) -> u64 {
        match self.shared.rate() {
            0 => most,
            rate => (rate / TURNS_PER_SECOND).max(LEAST_TURN).min(most),
        }
    }

    /// Waits until what was taken before is through, and takes `bytes` more.
    pub async fn take(&self, bytes: u64) {
        let shared = &self.shared;
        let awaited = self.urgency.is_awaited();
        if !awaited {
            let until = |schedule: &mut Schedule, now, cost| {
                let until = schedule.stand_back(now, cost);
                until.unwrap_or(now)
            };
            shared.wait(bytes, until).await;
        }
        let due = |schedule: &mut Schedule, now, cost| schedule.take(now, cost, awaited);
        shared.wait(bytes, due).await;
    }
}

impl Shared {
    fn rate(&self) -> u64 {
        self.rate.load(Ordering::Acquire)
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the moment that `find` finds in the schedule for `bytes`, which cost so much time;
    /// when the rate changes meanwhile, until the one it finds then.
    async fn wait(
        &self,
        bytes: u64,
        mut find: impl FnMut(&mut Schedule, Duration, Duration) -> Duration,
    ) {
        loop {
            // Before the rate is looked at, so that no change is missed.
            let changed = self.changed.notified();
            let rate = self.rate();
            if rate == 0 {
                return;
            }
            let now = self.began.elapsed();
            let due = find(&mut self.schedule(), now, cost(bytes, rate));
            let wait = due.saturating_sub(now);
            if wait.is_zero() {
                return;
            }
            let waiting = tokio::time::timeout(wait, changed).await;
            let waited = self.began.elapsed().saturating_sub(now);
            self.waited.inc_by(waited.as_secs_f64());
            // It is due.
            if waiting.is_err() {
                return;
            }
        }
    }
}

fn cost(bytes: u64, rate: u64) -> Duration {
    let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

impl Schedule {
    /// When what takes `cost` is due; `awaited` is whether somebody waits for it.
    fn take(&mut self, now: Duration, cost: Duration, awaited: bool) -> Duration {
        let due = self.free_at.max(now.saturating_sub(CREDIT));
        self.free_at = due.saturating_add(cost);
        if awaited && due > now {
            self.tight_until = due + TIGHT;
        }
        due
    }

    /// Until when what nobody waits for, and takes `cost`, leaves its place to what somebody does.
    fn stand_back(&mut self, now: Duration, cost: Duration) -> Option<Duration> {
        if now >= self.tight_until {
            return None;
        }
        let at = self.left_over_at.max(now);
        self.left_over_at = at.saturating_add(cost * LEFT_OVER);
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    #[tokio::test(start_paused = true)]
    async fn every_second_has_its_bytes_and_no_more() {
        let limit = Limit::of(10 * MIB);
        let begun = Instant::now();
        let turn = limit.turn(MIB);
        let mut seconds = vec![0; 4];
        while begun.elapsed() < Duration::from_secs(4) {
            seconds[usize::try_from(begun.elapsed().as_secs()).unwrap()] += turn;
            limit.take(turn).await;
        }
        for bytes in seconds {
            let off = (bytes as f64 / (10 * MIB) as f64 - 1.0).abs();
            assert!(off <= 0.03, "{bytes}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn transfers_get_equal_shares() {
        let limit = Limit::of(8 * MIB);
        let transfer = |limit: Limit| async move {
            let begun = Instant::now();
            let mut moved = 0;
            while begun.elapsed() < Duration::from_secs(3) {
                let turn = limit.turn(MIB);
                limit.take(turn).await;
                moved += turn;
            }
            moved
        };
        let moved = futures_util::future::join_all((0..7).map(|_| transfer(limit.clone()))).await;
        let (least, most) = (moved.iter().min().unwrap(), moved.iter().max().unwrap());
        // One was the first, and had what a pause leaves.
        assert!(most - least <= 2 * limit.turn(MIB), "{moved:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_leaves_a_tight_limit_to_the_rest() {
        let limit = Limit::of(8 * MIB);
        let ahead = Urgency::new(false);
        let begun = Instant::now();
        let transfer = |limit: Limit| async move {
            let mut moved = 0;
            while begun.elapsed() < Duration::from_secs(4) {
                let turn = limit.turn(MIB);
                limit.take(turn).await;
                moved += turn;
            }
            moved
        };
        let (pull, preheat) = (limit.clone(), limit.for_urgency(&ahead));
        let (pull, preheat) = tokio::join!(transfer(pull), transfer(preheat));
        let all = 4 * 8 * MIB;
        assert!(pull > all * 8 / 10, "{pull} of {all}");
        assert!((all / 20..all * 2 / 10).contains(&preheat), "{preheat}");

        // Alone it has everything, after a moment.
        tokio::time::sleep(TIGHT).await;
        let begun = Instant::now();
        let alone = limit.for_urgency(&ahead);
        for _ in 0..2 * TURNS_PER_SECOND {
            alone.take(limit.turn(MIB)).await;
        }
        let took = begun.elapsed();
        assert!((1900..2100).contains(&took.as_millis()), "{took:?}");
        // A client has come for it.
        ahead.set(true);
        assert!(alone.urgency.is_awaited());
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_counts_for_who_waits_already() {
        let limit = Limit::of(MIB);
        limit.take(100 * MIB).await;
        let begun = Instant::now();
        let waiting = async {
            limit.take(MIB).await;
            begun.elapsed()
        };
        let changing = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            limit.set(10 * MIB);
        };
        let (waited, ()) = tokio::join!(waiting, changing);
        assert_eq!(waited, Duration::from_secs(1));
        assert_eq!(limit.turn(MIB), 10 * MIB / TURNS_PER_SECOND);
        let begun = Instant::now();
        limit.take(MIB).await;
        assert!(begun.elapsed().as_millis().abs_diff(100) < 5);

        limit.take(1000 * MIB).await;
        let begun = Instant::now();
        tokio::join!(limit.take(MIB), async { limit.set(0) });
        assert!(begun.elapsed().is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn limits_that_are_gone_are_not_shown() {
        let metrics = Metrics::default();
        let shown = || {
            let mut text = String::new();
            metrics
                .register(|registry| prometheus_client::encoding::text::encode(&mut text, registry))
                .unwrap();
            text.contains("bandwidth_limit_bytes_per_second{direction=\"upload\"} 7")
        };
        let some = settings::Limits {
            upload: Some(7),
            ..settings::Limits::default()
        };
        let bandwidth = Bandwidth::new(&some, &metrics);
        assert!(shown());
        bandwidth.set(&settings::Limits::default());
        assert!(!shown());
        assert_eq!(bandwidth.upload.turn(MIB), MIB);
        bandwidth.set(&some);
        assert!(shown());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_waits() {
        let limit = Limit::default();
        let begun = Instant::now();
        limit.take(u64::MAX).await;
        assert!(begun.elapsed().is_zero());
        assert_eq!(limit.turn(MIB), MIB);
    }

    proptest! {
        /// Whatever is taken when: between any two moments no more goes through than the rate, the
        /// credit and one turn allow.
        #[test]
        fn no_burst_is_longer_than_the_credit(
            takes in prop::collection::vec((0u64..200, 1u64..40, any::<bool>()), 1..60)
        ) {
            let mut schedule = Schedule::default();
            let mut now = Duration::from_secs(1);
            let mut let_through = Vec::new();
            for (pause, cost, awaited) in takes {
                now += Duration::from_millis(pause);
                let cost = Duration::from_millis(cost);
                let_through.push((schedule.take(now, cost, awaited).max(now), cost));
            }
            for (at, (from, _)) in let_through.iter().enumerate() {
                let mut sum = Duration::ZERO;
                for (to, cost) in &let_through[at..] {
                    prop_assert!(sum <= *to - *from + CREDIT, "{let_through:?}");
                    sum += *cost;
                }
            }
        }
    }
}
