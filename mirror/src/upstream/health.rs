//! Which of several places to ask, and in which order: those before the registry itself are left out
//! for a while after a failure, longer each time. The registry itself always comes last, and what it
//! says counts; that it has been away a moment ago is for those to heed who can do without it.

use std::collections::VecDeque;
use std::time::Duration;

use darner_service::telemetry::with_causes;
use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::error::{Fault, UpstreamErrorKind};
use super::{Inner, Upstream};

const FIRST_REST: Duration = Duration::from_secs(5);
const LONGEST_REST: Duration = Duration::from_secs(60);
/// A registry that nobody waits for any longer is away if it was silent for this long.
const SILENCE: Duration = Duration::from_secs(2);

/// Whether a place has answered lately: pure.
#[derive(Debug, Default)]
pub(super) struct Health {
    failures: u32,
    rests_until: Option<Instant>,
    answered: Option<Instant>,
}

impl Health {
    pub(super) fn is_up(&self, now: Instant) -> bool {
        self.rests_until.is_none_or(|until| until <= now)
    }

    pub(super) fn note(&mut self, now: Instant, failed: bool) {
        if !failed {
            *self = Self {
                answered: Some(now),
                ..Self::default()
            };
            return;
        }
        // Several requests at once that fail are one failure.
        if !self.is_up(now) {
            return;
        }
        let rest = FIRST_REST * 2u32.pow(self.failures.min(4));
        self.failures = self.failures.saturating_add(1);
        self.rests_until = Some(now + rest.min(LONGEST_REST));
    }

    /// Whether an answer has come since then.
    pub(super) fn has_answered_since(&self, when: Instant) -> bool {
        self.answered.is_some_and(|answered| answered >= when)
    }
}

/// The places one request is sent to, one after the other.
pub(super) struct Turns<'a> {
    inner: &'a Inner,
    mirrors: VecDeque<&'a Endpoint>,
}

impl<'a> Turns<'a> {
    pub(super) fn new(inner: &'a Inner) -> Self {
        let mirrors = inner.mirrors.iter().filter(|mirror| mirror.is_up());
        Self {
            inner,
            mirrors: mirrors.collect(),
        }
    }

    /// Whom to ask now.
    pub(super) fn next(&mut self) -> &'a Endpoint {
        self.mirrors.pop_front().unwrap_or(&self.inner.registry)
    }

    /// What came of it, when that is the answer; `None` to ask the next.
    pub(super) fn settle<T>(
        &self,
        asked: &Endpoint,
        result: Result<T, Fault>,
    ) -> Option<Result<T, Fault>> {
        if std::ptr::eq(asked, &self.inner.registry) {
            asked.heard(&result);
            return Some(result);
        }
        let fault = match result {
            Ok(found) => {
                asked.note(false);
                return Some(Ok(found));
            }
            Err(Fault::Stopping) => return Some(Err(Fault::Stopping)),
            Err(fault) => fault,
        };
        // A mirror need not have everything, nor for everybody: that is no failure of its own.
        let failed = matches!(
            fault.kind(),
            UpstreamErrorKind::Unavailable | UpstreamErrorKind::Invalid
        );
        let (registry, mirror) = (&self.inner.name, asked.asker.wire.origin.host_and_port());
        let fault = with_causes(&fault);
        if failed {
            asked.note(true);
            tracing::warn!(%registry, mirror, fault, "a mirror of the registry does not answer; the next is asked");
        } else {
            tracing::debug!(%registry, mirror, fault, "a mirror of the registry does not have it; the next is asked");
        }
        None
    }
}

impl Upstream {
    /// Whether the registry could not be asked a moment ago, and has not answered since: who can do
    /// without it need not wait for it.
    pub fn is_away(&self) -> bool {
        !self.inner.registry.is_up()
    }

    /// Whether nobody is there to ask: it is away, and so is every mirror of it.
    pub fn is_out_of_reach(&self) -> bool {
        let mut mirrors = self.inner.mirrors.iter();
        self.is_away() && mirrors.all(|mirror| !mirror.is_up())
    }

    /// Nobody waits any longer for what it was asked then.
    pub fn given_up(&self, then: Instant) {
        if then.elapsed() >= SILENCE {
            self.inner.registry.given_up(then);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_rests_longer_each_time_and_a_success_ends_it() {
        let mut now = Instant::now();
        let mut health = Health::default();
        assert!(health.is_up(now));
        for seconds in [5, 10, 20, 40, 60, 60].map(Duration::from_secs) {
            for _ in 0..3 {
                health.note(now, true);
            }
            assert!(!health.is_up(now + seconds - Duration::from_secs(1)));
            now += seconds;
            assert!(health.is_up(now));
        }
        assert!(!health.has_answered_since(now));
        health.note(now, true);
        health.note(now, false);
        assert!(health.is_up(now) && health.has_answered_since(now));
        assert!(!health.has_answered_since(now + Duration::from_secs(1)));
    }
}
