//! What waits long at one parent is looked for at another that may be able to send it at once.
//!
//! A parent's queue is first come, first served, and a child does not see it. Of two parents that have
//! the same piece one may have thirty requests to serve and the other none: whoever had it first was asked
//! by everybody, whoever has it since by nobody. So a parent that this node asks for nothing is asked for what
//! waits elsewhere, on the condition that it sends it at once or says no. Its place in the other queue is
//! kept until then. Where everybody's uplink is full the answer is no, and the next question comes later and
//! later: a place that is given up costs more than it brings there.

use std::time::Duration;

use darner_proto::id::HostId;

use super::links::Link;
use super::requests::{Manner, Request, Stage};
use super::{Action, Task};

/// A reservation has waited long after this, and after this many times what a piece takes to come.
const LONG: Duration = Duration::from_millis(30);
const LONG_IN_PIECES: u32 = 2;
/// After a "no" nobody else is asked for this long, doubling.
const SOONEST: Duration = Duration::from_millis(20);
const LATEST: Duration = Duration::from_secs(1);
/// Where nobody has what waits, it is looked again after this long.
const GLANCE: Duration = Duration::from_millis(5);

/// How the search stands.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    pause: Duration,
    not_before: Duration,
}

impl Elsewhere {
    /// Whoever was asked sends.
    pub(super) fn found(&mut self) {
        self.pause = Duration::ZERO;
    }

    /// Whoever was asked does not send at once.
    pub(super) fn refused(&mut self, now: Duration) {
        self.pause = (self.pause * 2).clamp(SOONEST, LATEST);
        self.not_before = now + self.pause;
    }
}

impl Task {
    /// Asks for what has waited longest, if another parent may have time for it.
    pub(super) fn look_elsewhere(&mut self, now: Duration, out: &mut Vec<Action>) {
        if self.gives_way || now < self.elsewhere.not_before {
            return;
        }
        let long = LONG.max(self.piece_time.unwrap_or(LATEST) * LONG_IN_PIECES);
        let waiting = |request: &&Request| matches!(request.stage, Stage::Waiting(_));
        let waiting = self.requests.values().filter(waiting);
        let first = waiting.map(|request| request.moved_at).min();
        let due = first.unwrap_or(now) + long;
        if due > now {
            // What is asked for from now on has not waited long before that; how long pieces take may change.
            self.elsewhere.not_before = due.min(now + LONG);
            return;
        }
        let Some((parent, wanted)) = self.at_another(now, long) else {
            self.elsewhere.not_before = now + GLANCE;
            return;
        };
        self.ask(now, parent, wanted, Manner::AtOnce, out);
    }

    fn at_another(&self, now: Duration, long: Duration) -> Option<(HostId, Vec<u32>)> {
        if self.requests.values().any(Request::asks_elsewhere) {
            return None;
        }
        let waits = |request: &&Request| {
            matches!(request.stage, Stage::Waiting(_))
                && now.saturating_sub(request.moved_at) >= long
        };
        let mut waiting = self.requests.values().filter(waits);
        let free = |link: &&Link| {
            link.in_flight == 0 && link.can_be_asked(now) && !link.slow && !link.is_seed
        };
        let mut free: Vec<_> = self.links.values().filter(free).collect();
        free.sort_by_key(|link| (link.refused_at, link.rank()));
        waiting.find_map(|request| {
            free.iter().find_map(|link| {
                let has = request.pieces().filter(|index| link.has.contains(*index));
                let has: Vec<_> = has.collect();
                (!has.is_empty()).then(|| (link.host.id.clone(), has))
            })
        })
    }
}
