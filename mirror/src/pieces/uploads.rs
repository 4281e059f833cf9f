//! What this node sends to whom next: pure. [`Uploads::apply`] takes in what children ask and what
//! has been sent, and says what is to be done; the driver in the pieces listener waits and sends.
//!
//! ```text
//! asked --(nothing of it is held)------------------> NotHeld
//!   |-----(the queue is full)----------------------> Busy
//!   |-----(it does not wait, and is not sent at once)--> Busy
//!   v
//! waiting --(a slot and a piece for it)--> sending --(Sent, Gone)--> over
//!   |-----(ask again: what is wanted is free now, or the wait was long)--> Busy
//!   +-----(Gone)--> over
//! ```
//!
//! Three rules make a swarm come near the limit of its links. The piece is chosen when a slot frees,
//! not when it is asked for. The queue is short and first come, first served: a long one holds
//! children's requests that would be of use elsewhere, and whoever is refused at once leaves the
//! uplink idle in between; what nobody waits for at its child, such as an image that is brought there
//! ahead of time, gives way in it. And a *source*, which is where pieces enter the swarm, sends each piece
//! once before it sends any twice: see [`spread`]. Where it is the source's uplink that everybody waits for,
//! each second copy makes the whole swarm later by as much.

mod event;
mod pace;
mod spread;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use darner_proto::id::TaskId;
use darner_proto::peer::Wait;

pub use event::{Action, Child, Event, Holding, Withheld};
use pace::Pace;
use spread::{Choice, Spread};

/// Requests that wait beside one for each slot, if all are served in good time: with the
/// slots as many as a child has under way in all. So there is a place for every request when all have as
/// many; fewer places make chance decide who is served, and more only hold requests that would be of
/// use elsewhere. A link on which that would take long has [`LEAST_WAITING`].
const WAITING_BESIDE_SLOTS: usize = 28;
/// A slot that frees finds the next one here, however slow the link.
const LEAST_WAITING: usize = 8;
/// Nobody is to wait for much longer than this, as far as can be known when he comes: half of what
/// makes a child look elsewhere.
const WAIT: Duration = Duration::from_millis(500);
/// Requests of one child for one content that wait: the second is there when the first is served.
const WAITING_PER_CHILD: usize = 2;
/// A request that has waited this long is answered "busy": well before the child gives up by itself.
const PATIENCE: Duration = Duration::from_secs(2);
/// A child that has waited this long is served in its turn, even where nobody waits for what it wants,
const WAITED: Duration = Duration::from_secs(1);
/// and after so many turns also where a source has sent it before: that is twice the queue of a slow link.
/// There all wait long, and a source that served them in turn would send everything twice before all had left
/// it once.
const WAITED_TURNS: u32 = 24;
/// A child that is to ask anew is told of the piece in the same moment, over another connection: it asks after this
/// time, or when it has heard,
const ANEW: Duration = Duration::from_millis(5);
/// and for so long nobody else is called for that piece.
const CALLED: Duration = Duration::from_millis(100);
/// With fewer runs than these under way the uplink may be idle: then even what is another child's for
/// a time is sent, to whoever waits for it. An idle uplink costs the swarm more than a second copy.
const KEEP_SENDING: usize = 2;
/// Pieces named by one request that are looked at.
const MAX_WANTED: usize = 64;
/// Contents whose spread is remembered. The one that was idle longest is forgotten first.
const MAX_TASKS: usize = 256;

/// The uploads of one node.
#[derive(Debug)]
pub struct Uploads {
    pace: Pace,
    tasks: BTreeMap<TaskId, Spread>,
    waiting: VecDeque<Waiting>,
    sending: BTreeMap<u64, Sending>,
}

#[derive(Debug)]
struct Waiting {
    request: u64,
    child: Child,
    /// Somebody waits for it at the child.
    awaited: bool,
    task: TaskId,
    want: Vec<u32>,
    asked_at: Duration,
    /// Something of it had not been sent when it was asked for.
    first: bool,
}

#[derive(Debug)]
struct Sending {
    child: Child,
    bytes: u64,
    begun_at: Duration,
}

impl Uploads {
    /// Nothing asked yet; at most `slots` runs are sent at once.
    pub fn new(slots: u32) -> Self {
        Self {
            pace: Pace::new(slots.max(1)),
            tasks: BTreeMap::new(),
            waiting: VecDeque::new(),
            sending: BTreeMap::new(),
        }
    }

    /// Takes in what happened and says what is to be done about it. Time never runs backwards.
    pub fn apply(&mut self, now: Duration, event: Event<'_>) -> Vec<Action> {
        let mut out = Vec::new();
        match event {
            Event::Watched { child, holding } => self.spread(now, &holding).watched(child),
            Event::Has(holding) => {
                self.spread(now, &holding);
            }
            Event::Unwatched { child, task } => {
                if let Some(spread) = self.tasks.get_mut(&task) {
                    spread.unwatched(child);
                }
            }
            Event::Asked {
                request,
                child,
                wait,
                holding,
                want,
            } => self.asked(now, (request, child, wait), &holding, want, &mut out),
            Event::Gained { task, piece } => {
                let exclusive = self.pace.exclusive();
                if let Some(spread) = self.tasks.get_mut(&task) {
                    spread.gained(now, piece, exclusive);
                }
            }
            Event::Lost { task } => self.lost(&task, &mut out),
            Event::Sent { request } => self.over(now, request, true),
            Event::Gone { request } => self.over(now, request, false),
            Event::Tick => self.tick(now, &mut out),
        }
        self.serve(now, &mut out);
        self.call(now, &mut out);
        out
    }

    /// When [`Event::Tick`] is due, if nothing else happens.
    pub fn next(&self) -> Option<Duration> {
        // Who asked first has waited longest; what is one child's alone may come before that.
        let first = self.waiting.front()?.asked_at + PATIENCE;
        if self.tasks.values().all(Spread::is_open_to_all) {
            return Some(first);
        }
        let due = self.waiting.iter().map(|one| self.due(one));
        Some(due.fold(first, Duration::min))
    }

    /// What `child` is not to be told of yet: pieces that another child is getting, and will pass
    /// on. `None` when it may be told of everything.
    pub fn withheld(&self, now: Duration, task: &TaskId, child: Child) -> Option<Withheld> {
        self.tasks.get(task)?.withheld(now, child)
    }

    /// Children that follow a content.
    pub fn children(&self, task: &TaskId) -> u32 {
        self.tasks.get(task).map_or(0, Spread::children)
    }

    /// Runs being sent.
    pub fn sending(&self) -> usize {
        self.sending.len()
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Runs that may be sent at once, as measured so far.
    pub fn slots(&self) -> u32 {
        self.pace.slots()
    }

    fn asked(
        &mut self,
        now: Duration,
        (request, child, wait): (u64, Child, Wait),
        holding: &Holding<'_>,
        want: &[Range<u32>],
        out: &mut Vec<Action>,
    ) {
        let spread = self.spread(now, holding);
        let wanted = want.iter().cloned().flatten().take(MAX_WANTED);
        let want: Vec<_> = wanted.filter(|index| spread.holds(*index)).collect();
        let first = want.iter().any(|index| spread.is_fresh(*index));
        if want.is_empty() {
            out.push(Action::NotHeld { request });
            return;
        }
        let awaited = wait != Wait::Idly;
        let same = |one: &&Waiting| one.child == child && one.task == holding.task;
        let of_child = self.waiting.iter().filter(same).count();
        let places = self.places();
        // What can be sent at once does not wait, however long the queue; and nobody makes place for who does not stay.
        let stays = wait == Wait::InTurn;
        let full = self.waiting.len() >= places && !(stays && self.make_place(out));
        if of_child >= WAITING_PER_CHILD || full {
            let again = self.pace.turn();
            out.push(Action::Busy { request, again });
            return;
        }
        self.waiting.push_back(Waiting {
            request,
            child,
            awaited,
            task: holding.task,
            want,
            asked_at: now,
            first,
        });
        if wait == Wait::Not {
            self.serve(now, out);
            self.turn_away(request, out);
        }
    }

    /// Says "busy" to a request that is not served at once and does not wait.
    fn turn_away(&mut self, request: u64, out: &mut Vec<Action>) {
        let before = self.waiting.len();
        self.waiting.retain(|one| one.request != request);
        if self.waiting.len() < before {
            let again = self.pace.turn();
            out.push(Action::Busy { request, again });
        }
    }

    /// Sends away who came last of those that nobody waits for.
    fn make_place(&mut self, out: &mut Vec<Action>) -> bool {
        let last = self.waiting.iter().rposition(|one| !one.awaited);
        let Some(gone) = last.and_then(|at| self.waiting.remove(at)) else {
            return false;
        };
        let (request, again) = (gone.request, self.pace.turn());
        out.push(Action::Busy { request, again });
        true
    }

    /// How many may wait.
    fn places(&self) -> usize {
        let served = WAIT.as_micros() / self.pace.turn().as_micros().max(1);
        let served = usize::try_from(served).unwrap_or(WAITING_BESIDE_SLOTS);
        let beside = served.clamp(LEAST_WAITING, WAITING_BESIDE_SLOTS);
        self.pace.slots() as usize + beside
    }

    /// What is known of the spread of a content, brought up to date.
    fn spread(&mut self, now: Duration, holding: &Holding<'_>) -> &mut Spread {
        if !self.tasks.contains_key(&holding.task) && self.tasks.len() >= MAX_TASKS {
            // There are fewer requests than tasks.
            let waits = |task: &TaskId| self.waiting.iter().any(|one| one.task == *task);
            let idle = self.tasks.iter().filter(|(task, _)| !waits(task));
            let idlest = idle.min_by_key(|(_, spread)| spread.used_at());
            if let Some(idlest) = idlest.map(|(task, _)| *task) {
                self.tasks.remove(&idlest);
            }
        }
        let exclusive = self.pace.exclusive();
        let spread = self
            .tasks
            .entry(holding.task)
            .or_insert_with(|| Spread::new(holding.geometry, holding.held.clone()));
        spread.update(now, holding, exclusive);
        spread
    }

    fn lost(&mut self, task: &TaskId, out: &mut Vec<Action>) {
        self.tasks.remove(task);
        self.waiting.retain(|one| {
            if one.task == *task {
                let request = one.request;
                out.push(Action::NotHeld { request });
            }
            one.task != *task
        });
    }

    fn over(&mut self, now: Duration, request: u64, sent: bool) {
        match self.sending.remove(&request) {
            Some(run) if sent => {
                let took = now.saturating_sub(run.begun_at);
                let waits = !self.waiting.is_empty();
                self.pace.sent(now, run.bytes, took, waits);
            }
            Some(_) => {}
            None => self.waiting.retain(|one| one.request != request),
        }
    }

    fn tick(&mut self, now: Duration, out: &mut Vec<Action>) {
        let due: Vec<_> = self
            .waiting
            .iter()
            .filter(|one| now >= self.due(one))
            .map(|one| (one.request, now >= one.asked_at + PATIENCE))
            .collect();
        for (request, long) in due {
            self.waiting.retain(|one| one.request != request);
            let again = if long {
                self.pace.turn()
            } else {
                Duration::ZERO
            };
            out.push(Action::Busy { request, again });
        }
    }

    /// When a waiting request is answered in any case.
    fn due(&self, one: &Waiting) -> Duration {
        let patience = one.asked_at + PATIENCE;
        match self.tasks.get(&one.task) {
            Some(spread) => spread
                .frees_at(one.child, &one.want, one.asked_at)
                .map_or(patience, |frees| frees.min(patience)),
            // That of a task for which requests wait is not forgotten.
            None => one.asked_at,
        }
    }

    /// Sends for as long as there is a slot and a request that it can be used for.
    fn serve(&mut self, now: Duration, out: &mut Vec<Action>) {
        while self.sending.len() < self.pace.slots() as usize {
            let Some((at, choice)) = self.next_to_serve(now) else {
                return;
            };
            let Some(one) = self.waiting.remove(at) else {
                return;
            };
            let Some(spread) = self.tasks.get_mut(&one.task) else {
                return;
            };
            let pieces = choice.pieces;
            let reaction = spread.begun(now, one.child, pieces.clone(), self.pace.relay());
            if let Some(reaction) = reaction {
                self.pace.reacted(reaction);
            }
            self.sending.insert(
                one.request,
                Sending {
                    child: one.child,
                    bytes: spread.bytes(&pieces),
                    begun_at: now,
                },
            );
            out.push(Action::Send {
                request: one.request,
                pieces,
            });
        }
    }

    /// A slot is free, and at a source lies what nobody who waits has asked for, as it has come since: who can have
    /// it is to ask anew.
    fn call(&mut self, now: Duration, out: &mut Vec<Action>) {
        let free = (self.pace.slots() as usize).saturating_sub(self.sending.len());
        if free == 0 {
            return;
        }
        let mut called = 0;
        let (tasks, until) = (&mut self.tasks, now + CALLED);
        self.waiting.retain(|one| {
            let spread = tasks.get_mut(&one.task).filter(|_| called < free);
            // Who asked for nothing of the kind, when there was some, has it from others.
            let since = (!one.first).then_some(one.asked_at);
            let asked = (one.child, &one.want[..], since);
            let calls = spread.is_some_and(|spread| spread.call(now, asked, until));
            if calls {
                called += 1;
                let (request, again) = (one.request, ANEW);
                out.push(Action::Busy { request, again });
            }
            !calls
        });
    }

    /// How long a child waits at a source for what has been sent before.
    fn long(&self) -> Duration {
        WAITED.max(self.pace.turn() * WAITED_TURNS)
    }

    /// First come, first served; but what somebody waits for comes before what nobody does, and what a
    /// source has not sent yet before what it has.
    fn next_to_serve(&self, now: Duration) -> Option<(usize, Choice)> {
        let idle = self.sending.len() < KEEP_SENDING;
        let open = self.first_of(now, false);
        open.or_else(|| idle.then(|| self.first_of(now, true)).flatten())
    }

    /// `shut` is whether pieces that are another child's for a time count too.
    fn first_of(&self, now: Duration, shut: bool) -> Option<(usize, Choice)> {
        let per_child = (self.pace.slots() / 2).max(2) as usize;
        let mut best: Option<((bool, u32), usize, Choice)> = None;
        for (at, one) in self.waiting.iter().enumerate() {
            let spread = self.tasks.get(&one.task);
            let of_child = self.sending.values().filter(|run| run.child == one.child);
            if of_child.count() >= per_child {
                continue;
            }
            let run = self.pace.run();
            let choice = spread.and_then(|spread| {
                let asked_at = if shut { Duration::MAX } else { one.asked_at };
                let choice = spread.choose(one.child, &one.want, asked_at, run)?;
                Some((spread.is_source(), choice))
            });
            let Some((source, choice)) = choice else {
                continue;
            };
            let waited = now.saturating_sub(one.asked_at);
            let in_turn = !source || waited >= self.long();
            let sent = if in_turn { 0 } else { choice.sent };
            let rank = (!one.awaited && waited < WAITED, sent);
            if best.as_ref().is_none_or(|(least, ..)| rank < *least) {
                best = Some((rank, at, choice));
            }
            if rank == (false, 0) {
                break;
            }
        }
        best.map(|(_, at, choice)| (at, choice))
    }
}

#[cfg(test)]
mod schedules;
#[cfg(test)]
mod tests;
