//! Requests to parents under way: what becomes of them, and which are late.
//!
//! ```text
//! Waiting (names a reservation) --chosen--> Receiving (exactly these) --> ended
//!    |--(asked for elsewhere, or chosen there first)--> given up
//!    +--(busy, failed)--> ended
//! ```

mod table;

use std::ops::Range;
use std::time::Duration;

use darner_proto::id::HostId;
use darner_proto::scheduler::FailureKind;

use super::links::Link;
use super::{Action, Input, RequestEnd, Task};
pub(super) use table::Requests;

/// One piece in so many may be hedged, so 5 % of the bytes; of small content these at least.
const HEDGED_PART: u32 = 20;
const LEAST_HEDGED: u32 = 2;
/// A piece is hedged after four times what pieces take, within these bounds.
const HEDGE_SOONEST: Duration = Duration::from_millis(250);
const HEDGE_LATEST: Duration = Duration::from_secs(10);
/// Before any piece has come.
const HEDGE_UNKNOWN: Duration = Duration::from_secs(2);
/// A parent that said "busy" is left alone this long, unless it says how long: about the time one run
/// takes. Doubles while it goes on saying so.
const BUSY_PAUSE: Duration = Duration::from_millis(5);
/// Whatever it says of how long.
const LONGEST_BUSY: Duration = Duration::from_millis(500);
/// Newer measurements count one part in this many.
pub(super) const SMOOTHING: u32 = 4;

/// A request to a parent.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) parent: HostId,
    pub(super) stage: Stage,
    pub(super) manner: Manner,
    /// When it was asked, was answered, or a piece of it last came.
    pub(super) moved_at: Duration,
}

/// How a request is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// It takes its place in the parent's queue.
    InTurn,
    /// So does it; it is about a piece that is late elsewhere.
    Hedge,
    /// It is served at once or not: what it names waits elsewhere.
    AtOnce,
}

/// How far a request is.
#[derive(Debug)]
pub(super) enum Stage {
    /// The parent may choose among these, in this order of preference.
    Waiting(Vec<u32>),
    /// The parent sends these; what has come is taken out.
    Receiving(Vec<u32>),
}

impl Request {
    /// Whether it asks whether what waits elsewhere can be sent at once.
    pub(super) fn asks_elsewhere(&self) -> bool {
        self.manner == Manner::AtOnce && matches!(self.stage, Stage::Waiting(_))
    }

    /// The pieces that may come of it.
    pub(super) fn pieces(&self) -> impl Iterator<Item = u32> + '_ {
        let (Stage::Waiting(pieces) | Stage::Receiving(pieces)) = &self.stage;
        pieces.iter().copied()
    }
}

impl Task {
    /// The parent sends these; the others it was asked for are free again, and nobody else need
    /// send these.
    pub(super) fn chosen(
        &mut self,
        now: Duration,
        number: u64,
        pieces: &Range<u32>,
        out: &mut Vec<Action>,
    ) {
        let on_its_way = |index: u32| {
            let receiving = |request: &&Request| matches!(request.stage, Stage::Receiving(_));
            let mut others = self.requests.values().filter(receiving);
            self.held.contains(index) || others.any(|one| one.pieces().any(|at| at == index))
        };
        let needed: Vec<_> = pieces.clone().filter(|at| !on_its_way(*at)).collect();
        let Some(request) = self.requests.get_mut(number) else {
            return;
        };
        // It waited while another was faster: better to ask again than to receive it twice.
        let manner = request.manner;
        if needed.is_empty() && manner != Manner::Hedge {
            return self.give_up(number, out);
        }
        let left = pieces.clone().filter(|at| !self.held.contains(*at));
        request.stage = Stage::Receiving(left.collect());
        let waited = now.saturating_sub(request.moved_at);
        request.moved_at = now;
        if manner == Manner::AtOnce {
            self.elsewhere.found();
        }
        if let Some(link) = self.links.get_mut(&request.parent) {
            link.answered(waited);
        }
        let all: Vec<_> = pieces.clone().collect();
        self.give_up_reservations(&all, out);
    }

    /// A piece has come: whoever else was to send it need not.
    pub(super) fn arrived(&mut self, now: Duration, index: u32, out: &mut Vec<Action>) {
        let mut took = None;
        for request in self.requests.values_mut() {
            if let Stage::Receiving(pieces) = &mut request.stage
                && pieces.contains(&index)
            {
                pieces.retain(|one| *one != index);
                let time = now.saturating_sub(request.moved_at);
                took = Some(took.map_or(time, |least: Duration| least.min(time)));
                request.moved_at = now;
            }
        }
        if let Some(took) = took {
            let before = self.piece_time.unwrap_or(took);
            self.piece_time = Some((before * (SMOOTHING - 1) + took) / SMOOTHING);
        }
        self.give_up_reservations(&[index], out);
    }

    pub(super) fn request_ended(
        &mut self,
        now: Duration,
        request: u64,
        end: RequestEnd,
        out: &mut Vec<Action>,
    ) {
        let Some(request) = self.requests.remove(request) else {
            return;
        };
        if request.asks_elsewhere() {
            self.elsewhere.refused(now);
        }
        let Request {
            parent,
            stage,
            manner,
            ..
        } = request;
        if let Some(link) = self.links.get_mut(&parent) {
            link.in_flight = link.in_flight.saturating_sub(1);
            match end {
                RequestEnd::Done => {
                    link.strikes = 0;
                    link.slow = false;
                }
                RequestEnd::Busy { .. } if manner == Manner::AtOnce => link.refused_at = now,
                RequestEnd::Busy { again } => {
                    link.passed_over = 0;
                    let pause = BUSY_PAUSE * 2u32.pow(link.busy.min(6));
                    // The first time its own word counts, then it must not be an endless one.
                    let least = if link.busy == 0 {
                        Duration::ZERO
                    } else {
                        pause
                    };
                    link.busy += 1;
                    let pause = again.unwrap_or(pause).max(least).min(LONGEST_BUSY);
                    link.busy_until = now + pause;
                    self.busy_until = self.busy_until.max(link.busy_until);
                }
                RequestEnd::Failed(FailureKind::NotHeld) => {
                    let (Stage::Waiting(pieces) | Stage::Receiving(pieces)) = stage;
                    for index in pieces {
                        link.has.remove(index);
                    }
                }
                RequestEnd::Failed(_) => {}
            }
        }
        if let RequestEnd::Failed(kind) = end {
            self.strike(now, &parent, kind, out);
        }
    }

    /// These are about to be asked for elsewhere: where they have waited too long without a word, that is noted.
    pub(super) fn pass_over(&mut self, now: Duration, pieces: &[u32]) {
        let deadline = self.hedge_after();
        for request in self.requests.values() {
            let Stage::Waiting(want) = &request.stage else {
                continue;
            };
            let late = now.saturating_sub(request.moved_at) >= deadline;
            if late
                && want.iter().any(|index| pieces.contains(index))
                && let Some(link) = self.links.get_mut(&request.parent)
            {
                link.passed_over = link.passed_over.saturating_add(1);
            }
        }
    }

    /// A parent from which a piece is late is asked last from now on, and the scheduler may name a
    /// better one in its place.
    pub(super) fn hedged(&mut self, index: u32, out: &mut Vec<Action>) {
        self.hedges += 1;
        let late = self.requests.values().find(|request| {
            matches!(request.stage, Stage::Receiving(_)) && request.pieces().any(|at| at == index)
        });
        let Some(parent) = late.map(|late| late.parent.clone()) else {
            return;
        };
        if let Some(link) = self.links.get_mut(&parent)
            && !std::mem::replace(&mut link.slow, true)
        {
            let slow = Input::ParentFailed(self.id, parent, FailureKind::Slow);
            out.push(Action::Tell(slow));
        }
    }

    /// A piece that is late at its parent and that this idle one has. Late is what takes much longer
    /// than pieces have taken so far; and only a small part of the content may come twice.
    pub(super) fn hedge(&self, now: Duration, link: &Link) -> Option<u32> {
        let budget = (self.geometry.pieces() / HEDGED_PART).max(LEAST_HEDGED);
        if self.hedges >= budget {
            return None;
        }
        let deadline = self.hedge_after();
        let late = |request: &&Request| {
            request.manner != Manner::Hedge
                && request.parent != link.host.id
                && matches!(request.stage, Stage::Receiving(_))
                && now.saturating_sub(request.moved_at) >= deadline
        };
        let twice = |index: &u32| {
            let with = |request: &&Request| request.pieces().any(|one| one == *index);
            self.requests.values().filter(with).count() > 1
        };
        let late = self.requests.values().filter(late);
        late.flat_map(Request::pieces)
            .find(|index| link.has.contains(*index) && !twice(index))
    }

    /// How long a piece may be on its way before it is asked for elsewhere too.
    pub(super) fn hedge_after(&self) -> Duration {
        let observed = self.piece_time.map_or(HEDGE_UNKNOWN, |time| time * 4);
        observed.clamp(HEDGE_SOONEST, HEDGE_LATEST)
    }

    /// These are asked for elsewhere now: a request that waits for nothing else is given up.
    pub(super) fn give_up_reservations(&mut self, pieces: &[u32], out: &mut Vec<Action>) {
        let mut empty = Vec::new();
        for (number, request) in self.requests.iter_mut() {
            if let Stage::Waiting(want) = &mut request.stage {
                want.retain(|index| !pieces.contains(index));
                if want.is_empty() {
                    empty.push(number);
                }
            }
        }
        for number in empty {
            self.give_up(number, out);
        }
    }

    /// Stops a request without a word about its parent.
    pub(super) fn give_up(&mut self, number: u64, out: &mut Vec<Action>) {
        if let Some(request) = self.requests.remove(number) {
            if let Some(link) = self.links.get_mut(&request.parent) {
                link.in_flight = link.in_flight.saturating_sub(1);
            }
            out.push(Action::CancelFetch(number));
        }
    }
}
