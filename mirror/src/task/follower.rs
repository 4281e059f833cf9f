//! A client's reader behind a download: bytes in order, as soon as they may be shown.
//!
//! Invariants: a byte is given out only after its piece was verified; the last 64 KiB only after the
//! whole digest matched; an end without all the bytes is an error, which cuts the client's connection.
//! A follower that is dropped takes nothing with it: the download goes on.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::{mpsc, watch};

use super::shared::{Ended, Phase, Shared};
use super::state::Event;
use super::{ServedFrom, TaskError};

/// Held back until the whole digest has matched, so that a client can see a broken connection but
/// never a complete wrong blob.
pub const HELD_BACK: u64 = 64 << 10;
/// Read from the growing file at once.
const CHUNK: u64 = 256 << 10;
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

    /// Waits until the first byte of `range` can be given out, or for a slow source until it is
    /// seen to move, and says where it comes from. The caller bounds the wait.
    pub async fn first_source(&mut self, range: Range<u64>) -> Result<ServedFrom, TaskError> {
        self.cursor
            .move_to(self.shared.geometry.piece_at(range.start));
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

    /// The bytes of `range`. An error item ends the stream.
    pub fn stream(
        self,
        range: Range<u64>,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        futures_util::stream::unfold(Some((self, range)), |state| async move {
            let (mut arriving, range) = state?;
            if range.is_empty() {
                return None;
            }
            match arriving.chunk(range.clone()).await {
                Ok(bytes) => {
                    let rest = range.start + bytes.len() as u64..range.end;
                    Some((Ok(bytes), Some((arriving, rest))))
                }
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn chunk(&mut self, range: Range<u64>) -> io::Result<Bytes> {
        self.cursor
            .move_to(self.shared.geometry.piece_at(range.start));
        loop {
            self.changes.mark_unchanged();
            let read = match self.next(range.clone()) {
                Next::Written(bytes, _) => self.shared.partial.read(bytes).await,
                Next::Stored(content) => content.read(first_chunk(range.clone())).await,
                Next::NotYet { .. } => {
                    let _ = self.changes.changed().await;
                    continue;
                }
                Next::Failed(ended) => return Err(io::Error::other(TaskError::Ended(ended))),
            };
            return match read {
                Ok(bytes) if bytes.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => Ok(bytes),
                Err(error) => Err(io::Error::other(error)),
            };
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
        if range.start >= shown || !view.held.contains(piece) {
            return Next::NotYet {
                moving: view.received_bytes > 0,
            };
        }
        let end = self
            .shared
            .geometry
            .bytes_of(piece)
            .end
            .min(shown)
            .min(range.end);
        let bytes = first_chunk(range.start..end);
        Next::Written(bytes, view.from[piece as usize])
    }
}

fn first_chunk(range: Range<u64>) -> Range<u64> {
    range.start..range.end.min(range.start + CHUNK)
}
