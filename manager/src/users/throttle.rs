//! Slows down those who guess passwords: after a few failures for a name, each further one doubles
//! the wait before the next try counts. Pure.
//!
//! A name is slowed, not an address: behind a proxy all have the same. Names that do not exist count
//! too, or their absence would show.

use std::collections::HashMap;
use std::time::Duration;

/// Failures that cost nothing: typing errors.
const FREE: u32 = 5;
/// The first wait.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait: whoever is kept out by somebody else's guessing is so for this long.
const LONGEST: Duration = Duration::from_secs(300);
/// A name that failed is remembered for this long after its wait.
const MEMORY: Duration = Duration::from_secs(900);
/// Names remembered. With more, those whose failure is longest ago are forgotten.
const MAX_NAMES: usize = 10_000;

/// What is remembered of failed tries.
#[derive(Debug, Default)]
pub struct Throttle {
    names: HashMap<String, Failures>,
}

#[derive(Debug)]
struct Failures {
    count: u32,
    until: Duration,
}

impl Throttle {
    /// Whether a try may be made now, since the process began; else how long to wait.
    ///
    /// # Errors
    /// The wait.
    pub fn may_try(&self, now: Duration, name: &str) -> Result<(), Duration> {
        match self.names.get(name) {
            Some(failures) if failures.until > now => Err(failures.until - now),
            _ => Ok(()),
        }
    }

    /// A try is being made. It counts as failed until [`Throttle::succeeded`], so that many at once
    /// count as many.
    pub fn tries(&mut self, now: Duration, name: &str) {
        self.names.retain(|_, past| past.until + MEMORY > now);
        if self.names.len() >= MAX_NAMES && !self.names.contains_key(name) {
            let oldest = self.names.iter().min_by_key(|(_, past)| past.until);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.names.remove(&oldest);
            }
        }
        let failures = self.names.entry(name.to_owned()).or_insert(Failures {
            count: 0,
            until: now,
        });
        failures.count = failures.count.saturating_add(1);
        let beyond = failures.count.saturating_sub(FREE);
        let wait = match beyond {
            0 => Duration::ZERO,
            beyond => FIRST.saturating_mul(1 << (beyond - 1).min(16)).min(LONGEST),
        };
        failures.until = now + wait;
    }

    /// The password was right.
    pub fn succeeded(&mut self, name: &str) {
        self.names.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn guesses_become_slower_and_slower_up_to_a_bound() {
        let mut throttle = Throttle::default();
        for _ in 0..FREE {
            assert_eq!(throttle.may_try(at(0), "a"), Ok(()));
            throttle.tries(at(0), "a");
        }
        let mut now = at(0);
        let mut waits = Vec::new();
        for _ in 0..12 {
            throttle.tries(now, "a");
            let wait = throttle.may_try(now, "a").unwrap_err();
            waits.push(wait.as_secs());
            now += wait;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(throttle.may_try(at(0), "b"), Ok(()), "another name");
        throttle.succeeded("a");
        assert_eq!(throttle.may_try(at(0), "a"), Ok(()));
    }

    #[test]
    fn memory_is_bounded_and_ends() {
        let mut throttle = Throttle::default();
        for name in 0..MAX_NAMES + 10 {
            throttle.tries(at(1), &name.to_string());
        }
        assert_eq!(throttle.names.len(), MAX_NAMES);
        throttle.tries(at(2000), "late");
        assert_eq!(throttle.names.len(), 1);
    }
}
