//! What of the ledger must not be evicted.

use darner_proto::digest::Digest;

use super::{Ledger, footprint};
use crate::store::terms::Terms;

/// Of the store, so much may be pinned: the rest is for what is pulled.
const PINNED_SHARE: u64 = 2;

impl Ledger {
    pub(in crate::store) fn terms(&mut self) -> &mut Terms {
        &mut self.terms
    }

    /// Bytes on disk that are pinned.
    pub(in crate::store) fn pinned_bytes(&self) -> u64 {
        let pinned = self
            .terms
            .pinned()
            .filter_map(|digest| self.size_of(digest));
        pinned.map(footprint).sum()
    }

    /// Whether `size` bytes more may be pinned, of `digest`.
    pub(in crate::store) fn may_pin(&self, digest: &Digest, size: u64) -> bool {
        let more = match self.terms.is_pinned(digest) && self.size_of(digest).is_some() {
            true => 0,
            false => footprint(size),
        };
        self.pinned_bytes() + more <= self.limits.capacity / PINNED_SHARE
    }

    /// The blob that was not used for longest, of those that may go. What is pinned is passed over
    /// once, and looked at again after all others.
    pub(super) fn longest_unused(&mut self) -> Option<Digest> {
        for _ in 0..self.by_use.len() {
            let (_, digest) = *self.by_use.first()?;
            if !self.terms.is_pinned(&digest) {
                return Some(digest);
            }
            self.touch(&digest, 0);
        }
        None
    }
}
