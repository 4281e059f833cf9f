//! A client's reader behind a download: bytes in order, as soon as they may be shown.
//!
//! Invariants: a byte is given out only after its piece was verified, or when this node reads it from
//! upstream itself and the reader waits for its first; the last 64 KiB only after the whole digest
//! matched; an end without all the bytes is an error, which cuts the client's connection. A
//! follower that is dropped takes nothing with it: the download goes on.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::{mpsc, watch};

use super::shared::{Ended, Phase, Shared};
use super::state::Event;
use super::{ServedFrom, TaskError};
use crate::store::{MAX_SPAN, Span};

/// Held back until the whole digest has matched, so that a client can see a broken connection but
/// never a complete wrong blob.
pub const HELD_BACK: u64 = 64 << 10;
/// Headers may go out before the first byte once a reader is seen to move and this much time is
/// gone: a slow upstream is not a dead one.
const PATIENCE: Duration = Duration::from_secs(6);

/// Content on its way to this node.
#[derive(Debug)]
pub struct Arriving {
    shared: Arc<Shared>,
    changes: watch::Receiver<u64>,
    cursor: Cursor,
}

/// Tells the task where a reader is, and when it is gone.
#[derive(Debug)]
struct Cursor {
    reader: u64,
    piece: Option<u32>,
    events: mpsc::Sender<Event>,
}

impl Cursor {
    fn move_to(&mut self, piece: u32) {
        // A cursor only orders requests: one that is not heard of costs nothing but order.
        if self.piece != Some(piece) {
            self.piece = Some(piece);
            let _ = self.events.try_send(Event::Cursor {
                reader: self.reader,
                piece: Some(piece),
            });
        }
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        let _ = self.events.try_send(Event::Cursor {
            reader: self.reader,
            piece: None,
        });
    }
}

/// What can be given out at a place.
enum Next {
    Written(Range<u64>, ServedFrom),
    Stored(crate::store::Content),
    NotYet { moving: bool },
    Failed(Ended),
}

impl Arriving {
    pub(super) fn new(shared: Arc<Shared>, events: mpsc::Sender<Event>, reader: u64) -> Self {
        Self {
            changes: shared.watch(),
            shared,
            cursor: Cursor {
                reader,
                piece: None,
                events,
            },
        }
    }

    /// Bytes in all.
    pub fn size(&self) -> u64 {
        self.shared.geometry.size()
    }

    /// Waits until the store holds all of it.
    ///
    /// # Errors
    /// The download has ended without the content.
    pub async fn stored(mut self) -> Result<(), TaskError> {
        loop {
            self.changes.mark_unchanged();
            match &self.shared.view().phase {
                Phase::Stored(_) => return Ok(()),
                Phase::Failed(ended) => return Err(TaskError::Ended(*ended)),
                Phase::Arriving | Phase::Verified => {}
            }
            let _ = self.changes.changed().await;
        }
    }

    /// Waits until the first byte of `range` can be given out, or for a slow source until it is
    /// seen to move, and says where it comes from. The caller bounds the wait.
    pub async fn first_source(&mut self, range: Range<u64>) -> Result<ServedFrom, TaskError> {
        let piece = self.shared.geometry.piece_at(range.start);
        self.cursor.move_to(piece);
        self.shared.view().awaited.insert(piece);
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        let mut patient = true;
        loop {
            self.changes.mark_unchanged();
            match self.next(range.clone()) {
                Next::Written(_, from) => return Ok(from),
                Next::Stored(_) => return Ok(ServedFrom::Store),
                Next::NotYet { moving: true } if !patient => return Ok(ServedFrom::Upstream),
                Next::NotYet { .. } => {}
                Next::Failed(ended) => return Err(TaskError::Ended(ended)),
            }
            tokio::select! {
                _ = self.changes.changed() => {}
                () = &mut patience, if patient => patient = false,
            }
        }
    }

    /// The bytes of `range`, as parts of the open file. An error item ends the stream.
    pub fn spans(self, range: Range<u64>) -> impl Stream<Item = io::Result<Span>> + Send + 'static {
        futures_util::stream::unfold(Some((self, range)), |state| async move {
            let (mut arriving, range) = state?;
            if range.is_empty() {
                return None;
            }
            match arriving.span(range.clone()).await {
                Ok(span) => {
                    let rest = range.start + span.len()..range.end;
                    Some((Ok(span), Some((arriving, rest))))
                }
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn span(&mut self, range: Range<u64>) -> io::Result<Span> {
        self.cursor
            .move_to(self.shared.geometry.piece_at(range.start));
        loop {
            self.changes.mark_unchanged();
            let span = match self.next(range.clone()) {
                Next::Written(bytes, _) => self.shared.partial.span(bytes),
                Next::Stored(content) => content.span(first_span(range.clone())),
                Next::NotYet { .. } => {
                    let _ = self.changes.changed().await;
                    continue;
                }
                Next::Failed(ended) => return Err(io::Error::other(TaskError::Ended(ended))),
            };
            let span = span.map_err(io::Error::other)?;
            span.warm().await.map_err(io::Error::other)?;
            return Ok(span);
        }
    }

    fn next(&self, range: Range<u64>) -> Next {
        let view = self.shared.view();
        let size = self.shared.geometry.size();
        let shown = match &view.phase {
            Phase::Stored(content) => return Next::Stored(content.clone()),
            Phase::Failed(ended) => return Next::Failed(*ended),
            Phase::Verified => size,
            Phase::Arriving if view.unvouched => 0,
            Phase::Arriving => size.saturating_sub(HELD_BACK),
        };
        let piece = self.shared.geometry.piece_at(range.start);
        let (end, from) = match view.held.contains(piece) {
            true => (
                self.shared.geometry.bytes_of(piece).end,
                view.from[piece as usize],
            ),
            false => {
                let end = view.early.get(&piece).copied().unwrap_or(0);
                (end, ServedFrom::Upstream)
            }
        };
        let end = end.min(shown).min(range.end);
        if range.start >= end {
            return Next::NotYet {
                moving: view.received_bytes > 0,
            };
        }
        Next::Written(first_span(range.start..end), from)
    }
}

fn first_span(range: Range<u64>) -> Range<u64> {
    range.start..range.end.min(range.start + MAX_SPAN)
}
