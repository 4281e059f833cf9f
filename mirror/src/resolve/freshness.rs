//! How long a statement of the upstream registry counts: pure arithmetic over unix milliseconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A repository counts as public for this long after an anonymous request to it was answered.
pub(super) const PUBLIC_FOR: Duration = Duration::from_secs(10 * 60);
/// While upstream cannot be asked, what it last said about access goes on for this long; about
/// tags, at most.
pub(crate) const STRETCHED_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether a statement still counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// It counts.
    Fresh,
    /// It counts while upstream cannot be asked.
    Stretched,
    /// It does not count.
    Expired,
}

/// How old a statement is, and what follows from that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) age_ms: u64,
    pub(super) standing: Standing,
}

/// Judges what upstream said at `said_ms`. A statement from the future, which a clock that was set
/// back leaves behind, has an unknown age and does not count.
pub(super) fn judge(
    said_ms: u64,
    now_ms: u64,
    (fresh_for, stretched_for): (Duration, Duration),
) -> Statement {
    let Some(age_ms) = now_ms.checked_sub(said_ms) else {
        return Statement {
            age_ms: 0,
            standing: Standing::Expired,
        };
    };
    let standing = if age_ms < millis(fresh_for) {
        Standing::Fresh
    } else if age_ms < millis(stretched_for) {
        Standing::Stretched
    } else {
        Standing::Expired
    };
    Statement { age_ms, standing }
}

/// For how long a verdict of this age goes on: within its own time, or for a stale answer within
/// the stretch.
pub(super) fn public_left(age_ms: u64, stale: bool) -> u64 {
    verdict_life(stale).saturating_sub(age_ms)
}

/// The inverse of [`public_left`] at the node that was told: when the verdict was given, going by
/// `asked_ms`, the moment before the answer was made, so that it never counts longer than meant.
pub(super) fn public_since(asked_ms: u64, left_ms: u64, stale: bool) -> u64 {
    let life = verdict_life(stale);
    (asked_ms + left_ms.min(life)).saturating_sub(life)
}

fn verdict_life(stale: bool) -> u64 {
    millis(if stale { STRETCHED_FOR } else { PUBLIC_FOR })
}

/// The time of day.
pub(crate) fn now_ms() -> u64 {
    // A clock before 1970 makes every statement one from the future: nothing counts, nothing fails.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, millis)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000_000;
    const TTL: Duration = Duration::from_secs(60);

    #[test]
    fn a_statement_ages_from_fresh_through_stretched_to_expired() {
        let standing = |age: u64| judge(NOW - age, NOW, (TTL, STRETCHED_FOR)).standing;
        assert_eq!(standing(0), Standing::Fresh);
        assert_eq!(standing(59_999), Standing::Fresh);
        assert_eq!(standing(60_000), Standing::Stretched);
        assert_eq!(standing(24 * 3_600_000 - 1), Standing::Stretched);
        assert_eq!(standing(24 * 3_600_000), Standing::Expired);
    }

    #[test]
    fn a_time_to_live_of_zero_is_never_fresh() {
        let standing = |lives| judge(NOW, NOW, lives).standing;
        assert_eq!(standing((Duration::ZERO, TTL)), Standing::Stretched);
        assert_eq!(
            standing((Duration::ZERO, Duration::ZERO)),
            Standing::Expired
        );
    }

    #[test]
    fn a_statement_from_the_future_does_not_count() {
        assert_eq!(judge(NOW + 1, NOW, (TTL, TTL)).standing, Standing::Expired);
    }

    proptest! {
        #[test]
        fn a_verdict_that_is_passed_on_never_lives_longer(
            age in 0u64..30 * 3_600_000,
            transit in 0u64..10_000,
            stale: bool,
        ) {
            let said = NOW - age;
            let left = public_left(age, stale);
            let told = public_since(NOW - transit, left, stale);
            prop_assert!(left == 0 || told <= said);
            let life = if stale { STRETCHED_FOR } else { PUBLIC_FOR };
            prop_assert!(left > 0 || NOW - told >= millis(life));
        }
    }
}
