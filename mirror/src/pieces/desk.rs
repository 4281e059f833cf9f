//! The asynchronous half of [`super::uploads`]: requests wait here for what it decides.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use darner_proto::digest::Digest;
use darner_proto::id::TaskId;
use darner_proto::peer::Wait;
use darner_proto::piece_set::PieceSet;
use darner_service::shutdown::Shutdown;
use tokio::sync::{Notify, oneshot};

use super::uploads::{Action, Child, Event, Holding, Uploads};

/// The timer of the desk is looked at again after this, whatever it was set to.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Where requests of children wait for their slot. Clones share it.
#[derive(Debug, Clone)]
pub struct Desk {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    began: Instant,
    state: Mutex<State>,
    /// What was decided may have moved the timer.
    changed: Arc<Notify>,
}

impl Drop for Inner {
    /// The timer sees that there is nobody left to keep it for.
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

#[derive(Debug)]
struct State {
    uploads: Uploads,
    answers: HashMap<u64, oneshot::Sender<Answer>>,
    last_request: u64,
}

#[derive(Debug)]
enum Answer {
    Send(Range<u32>),
    Busy(Duration),
    NotHeld,
}

/// Why nothing is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turned {
    /// Ask again after that time.
    Busy(Duration),
    /// Nothing of it is here.
    NotHeld,
}

/// The right to send one run; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    desk: Desk,
    request: u64,
    pieces: Range<u32>,
    left: u64,
}

/// A child that follows a content; it does no longer when this is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    desk: Desk,
    child: Child,
    task: TaskId,
}

impl Child {
    /// The number of the child that calls itself `id`.
    pub(super) fn named(id: &[u8]) -> Self {
        let Digest::Sha256(hash) = Digest::sha256(id) else {
            return Self(0);
        };
        Self(
            hash.iter()
                .take(8)
                .fold(0, |number, byte| (number << 8) | u64::from(*byte)),
        )
    }
}

impl Desk {
    /// A desk with at most `slots` slots.
    pub fn open(slots: u32, shutdown: &Shutdown) -> Self {
        let desk = Self {
            inner: Arc::new(Inner {
                began: Instant::now(),
                state: Mutex::new(State {
                    uploads: Uploads::new(slots),
                    answers: HashMap::new(),
                    last_request: 0,
                }),
                changed: Arc::default(),
            }),
        };
        let ticking = tick(Arc::downgrade(&desk.inner), desk.inner.changed.clone());
        shutdown.spawn(ticking);
        desk
    }

    /// Waits for a slot and a piece of `want`, as the child says it waits.
    pub(super) async fn ask(
        &self,
        (child, wait): (Child, Wait),
        holding: Holding<'_>,
        want: &[Range<u32>],
    ) -> Result<Slot, Turned> {
        let bytes_of = |run: &Range<u32>| {
            let bytes = holding
                .geometry
                .bytes_of_run(run.start, run.end - run.start);
            bytes.end - bytes.start
        };
        let (answer, answered) = oneshot::channel();
        let mut slot = {
            let mut state = self.state();
            state.last_request += 1;
            let request = state.last_request;
            state.answers.insert(request, answer);
            // From here on the request is given up when the child hangs up.
            Slot {
                desk: self.clone(),
                request,
                pieces: 0..0,
                left: u64::MAX,
            }
        };
        self.apply(Event::Asked {
            request: slot.request,
            child,
            wait,
            holding,
            want,
        });
        match answered.await {
            Ok(Answer::Send(pieces)) => {
                slot.left = bytes_of(&pieces);
                slot.pieces = pieces;
                Ok(slot)
            }
            Ok(Answer::Busy(again)) => Err(Turned::Busy(again)),
            Ok(Answer::NotHeld) => Err(Turned::NotHeld),
            Err(_) => Err(Turned::Busy(Duration::ZERO)),
        }
    }

    /// `child` follows a content.
    pub(super) fn watch(&self, child: Child, holding: Holding<'_>) -> Watch {
        self.apply(Event::Watched { child, holding });
        Watch {
            desk: self.clone(),
            child,
            task: holding.task,
        }
    }

    fn apply(&self, event: Event<'_>) {
        self.state().apply(self.now(), event);
        self.inner.changed.notify_one();
    }

    fn now(&self) -> Duration {
        self.inner.began.elapsed()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.inner.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a desk's timer for as long as there is a handle to it.
async fn tick(desk: Weak<Inner>, changed: Arc<Notify>) {
    while let Some(inner) = desk.upgrade() {
        let desk = Desk { inner };
        let next = desk.state().uploads.next();
        let sleep = next.map_or(LONGEST_SLEEP, |next| next.saturating_sub(desk.now()));
        let (weak, notified) = (Arc::downgrade(&desk.inner), changed.notified());
        drop(desk);
        tokio::select! {
            () = tokio::time::sleep(sleep.min(LONGEST_SLEEP)) => {
                if let Some(inner) = weak.upgrade() {
                    let desk = Desk { inner };
                    desk.state().apply(desk.now(), Event::Tick);
                }
            }
            () = notified => {}
        }
    }
}

impl State {
    fn apply(&mut self, now: Duration, event: Event<'_>) {
        for action in self.uploads.apply(now, event) {
            let (request, answer) = match action {
                Action::Send { request, pieces } => (request, Answer::Send(pieces)),
                Action::Busy { request, again } => (request, Answer::Busy(again)),
                Action::NotHeld { request } => (request, Answer::NotHeld),
            };
            if let Some(waits) = self.answers.remove(&request) {
                // A child that has hung up gives its slot back when its request is dropped.
                let _ = waits.send(answer);
            }
        }
    }
}

impl Slot {
    /// What is to be sent.
    pub(super) fn pieces(&self) -> Range<u32> {
        self.pieces.clone()
    }

    /// Whether all of it has been handed on.
    pub(super) fn is_sent(&self) -> bool {
        self.left == 0
    }

    /// So many bytes of it have been handed on.
    pub(super) fn took(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let request = self.request;
        self.desk.state().answers.remove(&request);
        self.desk.apply(if self.is_sent() {
            Event::Sent { request }
        } else {
            Event::Gone { request }
        });
    }
}

impl Watch {
    /// How many children follow the content.
    pub(super) fn children(&self) -> u32 {
        self.desk.state().uploads.children(&self.task)
    }

    /// Of what is here, what the child may be told of, and when there will be more without anything
    /// new having come.
    pub(super) fn tellable(&self, holding: Holding<'_>) -> (PieceSet, Option<Duration>) {
        let now = self.desk.now();
        let mut state = self.desk.state();
        state.apply(now, Event::Has(holding));
        let mut pieces = holding.held.clone();
        let withheld = state.uploads.withheld(now, &self.task, self.child);
        let more = withheld.map(|withheld| {
            pieces.subtract(&withheld.pieces);
            withheld.until.saturating_sub(now)
        });
        (pieces, more)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let (child, task) = (self.child, self.task);
        self.desk.apply(Event::Unwatched { child, task });
    }
}
