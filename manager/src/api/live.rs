//! Answers that go on: server-sent events.
//!
//! What is sent is a level. A stream tells how things are when it begins and whenever that has changed,
//! so one that breaks off and comes again has missed nothing that still counts. Each ends after
//! [`LIFE`] at the latest: whoever comes again shows anew that it may.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use darner_service::shutdown::Shutdown;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::problem::Problem;

/// Streams at once. Each takes a connection of [`super::MAX_CONNECTIONS`], and half are for others.
const MAX_STREAMS: usize = super::MAX_CONNECTIONS / 2;
/// Between looks at what is followed.
const LOOK: Duration = Duration::from_millis(500);
/// A stream ends after this long, and its reader comes again: so long does one go on that is not
/// allowed any more.
const LIFE: Duration = Duration::from_secs(60);
/// How soon a reader comes again.
const RETRY: Duration = Duration::from_secs(1);
/// A stream that has nothing to tell shows that it lives.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// The streams there are. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    places: Arc<Semaphore>,
    shutdown: Shutdown,
}

/// How things are, in parts: a part is sent when it has changed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Now {
    /// By the name of their event.
    pub(crate) parts: BTreeMap<&'static str, String>,
    /// Nothing will change any more.
    pub(crate) ended: bool,
}

impl Now {
    /// One part.
    pub(crate) fn of(name: &'static str, data: String) -> Self {
        Self {
            parts: [(name, data)].into(),
            ended: false,
        }
    }

    /// One part, as JSON.
    pub(crate) fn json(name: &'static str, told: &impl Serialize) -> Self {
        Self::of(name, serde_json::to_string(told).unwrap_or_default())
    }
}

impl Streams {
    pub(crate) fn new(shutdown: Shutdown) -> Self {
        Self {
            places: Arc::new(Semaphore::new(MAX_STREAMS)),
            shutdown,
        }
    }

    /// Answers with what `look` finds, again and again. The first look decides whether there is an
    /// answer at all; a later one that fails ends the stream.
    pub(crate) async fn follow<F>(
        &self,
        mut look: impl FnMut() -> F + Send + 'static,
    ) -> Result<Response, Problem>
    where
        F: Future<Output = Result<Now, Problem>> + Send,
    {
        let place =
            self.places.clone().try_acquire_owned().map_err(|_| {
                Problem::unavailable(format!("{MAX_STREAMS} streams are open already"))
            })?;
        let first = look().await?;
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stream = Stream {
            look,
            ticks,
            pending: Vec::new(),
            told: BTreeMap::new(),
            ended: false,
            until: Instant::now() + LIFE,
            shutdown: self.shutdown.clone(),
            _place: place,
        };
        let events = stream::unfold(stream.with(first), |mut stream| async move {
            let event = stream.next().await?;
            Some((Ok::<_, std::convert::Infallible>(event), stream))
        });
        let alive = KeepAlive::new().interval(SIGN_OF_LIFE);
        Ok(Sse::new(events).keep_alive(alive).into_response())
    }
}

struct Stream<L> {
    look: L,
    ticks: tokio::time::Interval,
    /// To be sent, the next one last.
    pending: Vec<Event>,
    told: BTreeMap<&'static str, String>,
    ended: bool,
    until: Instant,
    shutdown: Shutdown,
    _place: OwnedSemaphorePermit,
}

impl<L: FnMut() -> F, F: Future<Output = Result<Now, Problem>>> Stream<L> {
    fn with(mut self, now: Now) -> Self {
        self.take(now);
        self
    }

    fn take(&mut self, now: Now) {
        self.ended |= now.ended;
        for (name, data) in now.parts {
            if self.told.get(name) != Some(&data) {
                // A lone carriage return would end the line.
                let lines = data.replace('\r', " ");
                let event = Event::default().event(name).data(lines).retry(RETRY);
                self.pending.push(event);
                self.told.insert(name, data);
            }
        }
        if now.ended {
            self.pending.push(Event::default().event("end").data(""));
        }
        self.pending.reverse();
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.pending.pop() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            tokio::select! {
                _ = self.ticks.tick() => {}
                () = self.shutdown.draining() => return None,
                () = tokio::time::sleep_until(self.until) => return None,
            }
            let now = (self.look)().await.ok()?;
            self.take(now);
        }
    }
}
