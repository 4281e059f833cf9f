//! The decision about one request for what is not public: pure. `begin` says what to do first; if
//! that is to ask upstream with the caller's own credential, `proved` says what follows from its
//! answer.
//!
//! - Nobody gets anything without having shown a credential that upstream accepted for that very
//!   repository, at most [`GRANT_FOR`] ago.
//! - A tag is asked for every time; a digest only if it is not linked to the repository yet, or
//!   there is no live grant.
//! - A refusal ends the grant at once.
//! - While upstream cannot be asked, a grant goes on until [`STRETCH_FOR`] after it was given, for
//!   what is known already. New callers are sent to the registry itself. Where upstream could not be
//!   asked a moment ago, `without_upstream` stands in for `begin`.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::Duration;

/// A yes of upstream counts for this long at most.
pub const GRANT_FOR: Duration = Duration::from_secs(5 * 60);
/// While upstream cannot be asked, a yes goes on until this long after it was given.
pub const STRETCH_FOR: Duration = Duration::from_secs(60 * 60);
/// Grants held; of more, those given first go. About a hundred bytes each.
const MAX_GRANTS: usize = 100_000;

/// A caller's credential for one repository: an HMAC, of which nothing can be learnt.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct GrantKey(pub [u8; 32]);

impl fmt::Debug for GrantKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GrantKey")
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Caller {
    /// Shows no credential.
    Nobody,
    /// Shows a password where others can listen.
    Exposed,
    /// Shows this.
    Shown(GrantKey),
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// A tag; `known` when what it last meant is known here and not too old.
    Tag {
        /// Whether it could be served without upstream.
        known: bool,
    },
    /// A digest that upstream has shown to be part of the repository.
    Linked,
    /// Any other digest. That it is held here says nothing.
    Unlinked,
}

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ask {
    /// By whom.
    pub caller: Caller,
    /// For what.
    pub target: Target,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Upstream answers the request itself, with its challenge or refusal.
    Relay,
    /// The client is sent to the registry itself.
    StepAside,
    /// Upstream is asked, with the caller's credential, whether it may read this.
    Prove,
    /// It is served.
    Serve {
        /// On the word of an earlier time: upstream cannot be asked.
        stale: bool,
    },
}

/// What upstream said of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proof {
    /// Yes, and for how long that may count.
    Granted {
        /// The credential's own life, if shorter than a grant's.
        life: Duration,
    },
    /// No: 401, 403 or 404.
    Refused,
    /// Nothing: no connection, 5xx, 429.
    Unreachable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Grant {
    given: Duration,
    ends: Duration,
}

/// All grants. Times are since any fixed moment.
#[derive(Debug, Default)]
pub struct Grants {
    live: HashMap<GrantKey, Grant>,
    /// As they were given; what has been given anew since counts no more.
    order: VecDeque<(Duration, GrantKey)>,
}

impl Grants {
    /// What is to be done first.
    pub fn begin(&self, now: Duration, ask: &Ask) -> Step {
        match (ask.caller, ask.target) {
            (Caller::Nobody, _) => Step::Relay,
            (Caller::Exposed, _) => Step::StepAside,
            (Caller::Shown(key), Target::Linked) if self.is_live(&key, now) => {
                Step::Serve { stale: false }
            }
            (Caller::Shown(_), _) => Step::Prove,
        }
    }

    /// What follows from upstream's answer.
    pub fn proved(&mut self, now: Duration, ask: &Ask, proof: Proof) -> Step {
        let key = match ask.caller {
            Caller::Shown(key) => key,
            Caller::Nobody => return Step::Relay,
            Caller::Exposed => return Step::StepAside,
        };
        match proof {
            Proof::Granted { life } => {
                self.give(key, now, life.min(GRANT_FOR));
                Step::Serve { stale: false }
            }
            Proof::Refused => {
                self.live.remove(&key);
                Step::Relay
            }
            Proof::Unreachable if self.goes_on(&key, now, ask.target) => {
                Step::Serve { stale: true }
            }
            Proof::Unreachable => Step::StepAside,
        }
    }

    /// What is to be done first when upstream could not be asked a moment ago: whoever has a grant does
    /// not wait for it. All others do, for they may be let in after all.
    pub fn without_upstream(&self, now: Duration, ask: &Ask) -> Step {
        match (self.begin(now, ask), ask.caller) {
            (Step::Prove, Caller::Shown(key)) if self.goes_on(&key, now, ask.target) => {
                Step::Serve { stale: true }
            }
            (step, _) => step,
        }
    }

    /// Whether a grant goes on for this without upstream.
    fn goes_on(&self, key: &GrantKey, now: Duration, target: Target) -> bool {
        let known = matches!(target, Target::Linked | Target::Tag { known: true });
        let grant = self.live.get(key);
        known && grant.is_some_and(|grant| now < grant.given + STRETCH_FOR)
    }

    /// For how long this one still counts.
    pub fn left(&self, key: &GrantKey, now: Duration) -> Duration {
        let grant = self.live.get(key);
        grant.map_or(Duration::ZERO, |grant| grant.ends.saturating_sub(now))
    }

    /// How many are held.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    fn is_live(&self, key: &GrantKey, now: Duration) -> bool {
        self.live.get(key).is_some_and(|grant| now < grant.ends)
    }

    fn give(&mut self, key: GrantKey, now: Duration, life: Duration) {
        let grant = Grant {
            given: now,
            ends: now + life,
        };
        self.live.insert(key, grant);
        self.order.push_back((now, key));
        while let Some((given, key)) = self.order.front().copied() {
            let is_it = self
                .live
                .get(&key)
                .is_some_and(|grant| grant.given == given);
            let over = given + STRETCH_FOR <= now;
            let crowded = self.live.len() > MAX_GRANTS || self.order.len() > 2 * MAX_GRANTS;
            if is_it && !over && !crowded {
                break;
            }
            if is_it {
                self.live.remove(&key);
            }
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
