//! How much of what has been written is kept in memory until it has been hashed as part of the whole.
//! Reading it back would cost a quarter of hashing it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Memory for all downloads together: below what pieces may take while they come in, so that pieces
/// that wait here for their turn never keep the one that is due from coming.
const MAX_HOT: u64 = 24 << 20;

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
