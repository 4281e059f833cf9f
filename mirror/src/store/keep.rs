//! Content that stays for as long as somebody has said, and goes then.

use darner_proto::digest::Digest;

use super::index::Change;
use super::terms::Term;
use super::{Inner, Store, StoreError, lock, now_ms};

impl Store {
    /// Keeps content of `size` bytes for a term, held by now or not. A term is never shortened.
    ///
    /// # Errors
    /// [`StoreError::Pinned`] when too much is pinned; see also [`Store::set_tag`].
    pub fn set_term(&self, digest: &Digest, size: u64, term: Term) -> Result<(), StoreError> {
        let mut ledger = lock(&self.inner.ledger);
        let fits = !term.pinned || ledger.may_pin(digest, size);
        if !fits || !ledger.terms().takes(digest) {
            return Err(self.inner.counted(StoreError::Pinned(*digest)));
        }
        let change = ledger.terms().set(*digest, term);
        // Under the lock, so that the index sees changes in their order.
        self.inner.submit(vec![change])
    }

    /// For how long content stays, where somebody has said.
    pub fn term(&self, digest: &Digest) -> Option<Term> {
        lock(&self.inner.ledger).terms().get(digest)
    }
}

impl Inner {
    /// Forgets the terms that have ended. Says what goes with them: what is part of a repository does
    /// not, it stays for as long as there is room.
    pub(super) fn ended_terms(&self) -> Vec<Digest> {
        let mut ledger = lock(&self.ledger);
        let ended = ledger.terms().ended(now_ms());
        let terms = ended.iter().map(|digest| ledger.terms().forget(digest));
        let changes: Vec<Change> = terms.collect();
        drop(ledger);
        if !changes.is_empty() {
            self.submit_or_lag(changes);
        }
        let records = lock(&self.records);
        let alone = |digest: &Digest| records.links_to(digest).is_empty();
        ended.into_iter().filter(alone).collect()
    }
}
