//! The digest of the whole, carried on as pieces come: by the thread that has just written one, while it is
//! in that one's cache, from memory where those before it are still there, else read back from the file.

use darner_proto::digest::{Digest, Hasher};

use super::super::{StoreError, disk, lock, try_lock};
use super::Shared;

/// The digest of the pieces before `next`.
#[derive(Debug)]
pub(super) struct Hashing {
    hasher: Hasher,
    next: u32,
    /// For pieces that are read back.
    buffer: Vec<u8>,
}

impl Hashing {
    /// Nothing yet.
    pub(super) fn new(digest: &Digest) -> Self {
        Self {
            hasher: digest.hasher(),
            next: 0,
            buffer: Vec::new(),
        }
    }

    /// The digest of what there was so far.
    pub(super) fn found(&self) -> Digest {
        self.hasher.clone().finish()
    }
}

impl Shared {
    /// Pieces that the digest of the whole has come to.
    #[cfg(test)]
    pub(in crate::store) fn hashed(&self) -> u32 {
        lock(&self.hashing).next
    }

    /// Carries the digest of the whole on to the pieces before `piece`, all of which must be held.
    pub(in crate::store) fn hash_to(&self, piece: u32) -> Result<(), StoreError> {
        let mut hashing = lock(&self.hashing);
        let first = hashing.next;
        let piece = piece.min(self.geometry.pieces());
        if piece <= first {
            return Ok(());
        }
        let range = self.geometry.bytes_of_run(first, piece - first);
        if self.state().held.end_of_run(first) < piece {
            return Err(self.missing(range));
        }
        self.carry_on(&mut hashing, piece)
    }

    /// Carries the digest of the whole on, as far as pieces are held without a gap, unless another thread is at
    /// it: that one comes to what has been written meanwhile.
    pub(super) fn hash_along(&self) {
        loop {
            let Some(mut hashing) = try_lock(&self.hashing) else {
                return;
            };
            let reach = self.state().held.end_of_run(hashing.next);
            // What cannot be read back is said when the whole is verified.
            if self.carry_on(&mut hashing, reach).is_err() {
                return;
            }
            let next = hashing.next;
            drop(hashing);
            // Whoever wrote it before this moment may have found us at it.
            if !self.state().held.contains(next) {
                return;
            }
        }
    }

    fn carry_on(&self, hashing: &mut Hashing, piece: u32) -> Result<(), StoreError> {
        for index in hashing.next..piece {
            let hot = lock(&self.hot).take(index);
            match hot {
                Some(hot) => hashing.hasher.update(hot.bytes()),
                None => self.hash_from_disk(hashing, index)?,
            }
            hashing.next = index + 1;
        }
        Ok(())
    }

    fn hash_from_disk(&self, hashing: &mut Hashing, index: u32) -> Result<(), StoreError> {
        let mut hasher = hashing.hasher.clone();
        let range = self.geometry.bytes_of(index);
        let take = |bytes: &[u8]| hasher.update(bytes);
        disk::feed(&self.file, range, &mut hashing.buffer, take, || false)
            .map_err(|error| self.failed("read from", error))?;
        hashing.hasher = hasher;
        Ok(())
    }
}
