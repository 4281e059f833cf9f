//! How much of what has been written is kept in memory until it has been hashed as part of the whole.
//! Reading it back would cost a quarter of hashing it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

/// Memory for all downloads together: below what pieces may take while they come in, so that pieces
/// that wait here for their turn never keep the one that is due from coming.
const MAX_HOT: u64 = 12 << 20;

/// Pieces this far ahead of the hash of the whole are kept in memory for it: one that comes in order
/// from several connections is at most so far ahead, also where the hash is the slowest part.
const HOT_WINDOW: u32 = 16;

/// The room there is. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct HotRoom(Arc<AtomicU64>);

/// HotRoom that is taken, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    room: HotRoom,
    bytes: u64,
}

impl HotRoom {
    /// HotRoom for `bytes`, if there is so much.
    pub(super) fn take(&self, bytes: usize) -> Option<Place> {
        let bytes = bytes as u64;
        let fits = |taken: u64| taken.checked_add(bytes).filter(|sum| *sum <= MAX_HOT);
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        let room = self.clone();
        taken.is_ok().then(|| Place { room, bytes })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Written pieces that are still in memory, for the hash of the whole.
#[derive(Debug, Default)]
pub(super) struct HotPieces {
    /// The piece that is hashed next.
    due: u32,
    pieces: HashMap<u32, Hot>,
}

/// A piece in memory.
#[derive(Debug)]
pub(super) struct Hot {
    piece: Bytes,
    _place: Place,
}

impl Hot {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.piece
    }
}

impl HotPieces {
    /// Keeps a piece that the hash of the whole comes to soon, if there is memory for it.
    pub(super) fn keep(&mut self, room: &HotRoom, index: u32, piece: Bytes) {
        let due = self.due;
        if !(due..due.saturating_add(HOT_WINDOW)).contains(&index) {
            return;
        }
        if let Some(place) = room.take(piece.len()) {
            let hot = Hot {
                piece,
                _place: place,
            };
            self.pieces.insert(index, hot);
        }
    }

    /// Piece `index` is being hashed: those before it are not needed any more.
    pub(super) fn take(&mut self, index: u32) -> Option<Hot> {
        self.due = index + 1;
        self.pieces.remove(&index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_only_so_much_room() {
        let room = HotRoom::default();
        let most = usize::try_from(MAX_HOT).unwrap();
        let all = room.take(most);
        assert!(all.is_some() && room.take(1).is_none());
        drop(all);
        assert!(room.take(most + 1).is_none());
        assert!(room.take(1).is_some());
    }
}
