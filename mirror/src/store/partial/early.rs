//! The beginning of a piece that is still coming from upstream, for readers that wait for their
//! first byte. There is nothing yet that it could be checked against, and nothing that a piece read
//! from upstream is checked against but the whole digest, before which no reader has everything.
//!
//! What has been given out is not changed: should the piece come with other bytes in the end, from
//! whomever, the download fails.

use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use darner_proto::geometry::Geometry;

use super::super::blocking;
use super::super::error::StoreError;
use super::{Partial, Shared, State};

impl Shared {
    /// Writes of `part`, which follows the first `from` bytes of a piece, what has not been written
    /// before. Says how much of the piece can be given out: all of it, when it is there.
    fn write_part(&self, index: u32, from: u64, part: &[u8]) -> Result<u64, StoreError> {
        let bytes = self.geometry.bytes_of(index);
        let end = from + part.len() as u64;
        if end > bytes.end - bytes.start {
            return Err(self.missing(bytes.start + from..bytes.start + end));
        }
        if !self.claim(index)? {
            return Ok(bytes.end - bytes.start);
        }
        let shown = self.state().early.get(&index).copied().unwrap_or(0);
        // Another read may have come further before it broke off.
        let is_next = from <= shown && shown < end;
        let new = usize::try_from(shown.saturating_sub(from)).unwrap_or(usize::MAX);
        let written = match part.get(new..).filter(|_| is_next) {
            Some(new) => self.file.write_all_at(new, bytes.start + shown),
            None => Ok(()),
        };
        let shown = if is_next { end } else { shown };
        let mut state = self.state();
        state.writing.remove(&index);
        if written.is_ok() {
            state.early.insert(index, shown);
        }
        drop(state);
        self.settled.notify_all();
        written.map_err(|error| self.failed("write to", error))?;
        Ok(shown)
    }

    /// Whether a piece begins with what was given out of it. Its writer has claimed it.
    pub(super) fn agrees(&self, index: u32, piece: &[u8]) -> bool {
        let shown = self.state().early.get(&index).copied();
        let Some(shown) = shown.and_then(|shown| usize::try_from(shown).ok()) else {
            return true;
        };
        let mut before = vec![0; shown];
        let start = self.geometry.bytes_of(index).start;
        let read = self.file.read_exact_at(&mut before, start);
        read.is_ok() && piece.starts_with(&before)
    }
}

impl State {
    /// Whether `range` lies within the beginning of one piece that has been written.
    pub(super) fn is_early(&self, geometry: &Geometry, range: &Range<u64>) -> bool {
        let index = geometry.piece_at(range.start);
        let start = geometry.bytes_of(index).start;
        let shown = self.early.get(&index);
        shown.is_some_and(|shown| range.end <= start + shown)
    }
}

impl Partial {
    /// Writes a part of a piece that is still coming, behind its first `from` bytes. Says up to which
    /// byte of the piece spans can be had now.
    ///
    /// # Errors
    /// As [`Partial::write`].
    pub async fn write_part(&self, index: u32, from: u64, part: Bytes) -> Result<u64, StoreError> {
        let shared = self.shared.clone();
        blocking(move || shared.write_part(index, from, &part)).await?
    }
}
