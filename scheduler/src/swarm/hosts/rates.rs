//! How fast hosts send: by their own word, and as the children see who fetch from them.
//!
//! Both are compared with what is usual in this cluster, and only who is slower is set apart: what a
//! fast host has to spare shows in its free slots, and a host preferred by name would be overrun.

use std::time::Duration;

use darner_proto::scheduler::Load;

/// A new measurement of a host's own counts a quarter, so that one bad second is not held against it
/// and four are.
const OWN_SHARE: u64 = 4;
/// A child's counts an eighth: a host has some dozens of children, who each tell twice a second.
const SEEN_SHARE: u64 = 8;
/// In what is usual each counts for little, as one of very many.
const USUAL_SHARE: u64 = 64;
/// What children saw counts this long: who is avoided for it is not measured again.
const SEEN_MEMORY: Duration = Duration::from_secs(60);
/// More than any link gives: what is claimed beyond does not move the averages further.
const FASTEST: u64 = 50_000_000_000;

/// What is known of a host's sending.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::swarm) struct Rates {
    /// Upload slots taken when it last told.
    pub(in crate::swarm) busy: u32,
    told: Option<Duration>,
    /// Bytes a second that it sends when all its slots are taken: what its link gives.
    own: Option<u64>,
    /// Bytes a second that one transfer from it gives.
    seen: Option<u64>,
    seen_at: Duration,
}

/// What hosts usually send: slow averages over all that tell.
#[derive(Debug, Default)]
pub(super) struct Usual {
    own: Option<u64>,
    seen: Option<u64>,
}

impl Rates {
    /// Takes down how busy the host says it is, and what that tells of its link.
    pub(super) fn loaded(&mut self, now: Duration, load: Load, slots: u32, usual: &mut Usual) {
        let passed = self.told.map_or(0, |told| {
            let passed = now.saturating_sub(told).as_millis();
            u64::try_from(passed).unwrap_or(u64::MAX)
        });
        if passed > 0 && load.busy >= slots {
            let rate = load.sent_bytes.saturating_mul(1000) / passed;
            let own = blend(&mut self.own, rate, OWN_SHARE);
            blend(&mut usual.own, own, USUAL_SHARE);
        }
        self.busy = load.busy;
        self.told = Some(now);
    }

    /// Takes down how fast it sent to a child.
    pub(super) fn seen(&mut self, now: Duration, rate: u64, usual: &mut Usual) {
        if now >= self.seen_at + SEEN_MEMORY {
            self.seen = None;
        }
        blend(&mut self.seen, rate, SEEN_SHARE);
        blend(&mut usual.seen, rate, USUAL_SHARE);
        self.seen_at = now;
    }

    /// Whether its link gives less than half of what is usual, by its own word.
    pub(super) fn is_slow(&self, usual: &Usual) -> bool {
        let known = self.own.zip(usual.own);
        known.is_some_and(|(rate, usual)| rate < usual / 2)
    }

    /// How fast children see it send, in percent of what is usual: 100 where that is not known.
    pub(super) fn pace(&self, now: Duration, usual: &Usual) -> u32 {
        let fresh = now < self.seen_at + SEEN_MEMORY;
        match self.seen.zip(usual.seen).filter(|_| fresh) {
            Some((rate, usual)) if rate < usual => {
                u32::try_from(rate.saturating_mul(100) / usual).unwrap_or(100)
            }
            _ => 100,
        }
    }
}

/// Moves an average by its share towards a new value, which alone is the first.
fn blend(average: &mut Option<u64>, new: u64, share: u64) -> u64 {
    let new = new.min(FASTEST);
    let old = average.unwrap_or(new);
    let blended = old - old / share + new / share;
    *average = Some(blended);
    blended
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_host_that_children_see_sending_slowly_is_told_from_the_usual_for_a_minute() {
        let (mut usual, mut fast, mut slow) =
            (Usual::default(), Rates::default(), Rates::default());
        assert_eq!(slow.pace(at(1), &usual), 100, "nothing is known");
        for _ in 0..200 {
            for _ in 0..9 {
                fast.seen(at(1), 100 * MB, &mut usual);
            }
            slow.seen(at(1), 25 * MB, &mut usual);
        }
        assert_eq!(fast.pace(at(2), &usual), 100);
        assert!((20..40).contains(&slow.pace(at(2), &usual)));
        assert_eq!(slow.pace(at(61), &usual), 100, "that was long ago");
    }

    #[test]
    fn only_a_host_with_all_slots_taken_shows_what_its_link_gives() {
        let (mut usual, mut fast, mut slow) =
            (Usual::default(), Rates::default(), Rates::default());
        let load = |busy, sent_bytes| Load { busy, sent_bytes };
        for second in 0..100 {
            fast.loaded(at(second), load(8, 100 * MB), 8, &mut usual);
            slow.loaded(at(second), load(3, MB), 8, &mut usual);
        }
        assert!(!slow.is_slow(&usual), "it has little to do");
        for second in 100..110 {
            slow.loaded(at(second), load(8, 10 * MB), 8, &mut usual);
        }
        assert!(slow.is_slow(&usual));
        assert!(!fast.is_slow(&usual));
    }
}
