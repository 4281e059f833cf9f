//! Who holds what complete: content, and records of repositories.

use std::collections::{BTreeSet, HashMap, HashSet};

use darner_proto::digest::Digest;

use super::{SessionId, Swarm};

/// Keys kept for one host. What a host holds beyond them is still served, only not found through
/// the scheduler except by asking.
const MAX_KEYS_PER_HOST: usize = 50_000;
/// Pairs of key and holder in all, at some 200 bytes each.
const MAX_ENTRIES: usize = 2_000_000;

/// Holders by key, and the other way round.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    holders: HashMap<Digest, BTreeSet<SessionId>>,
    keys: HashMap<SessionId, HashSet<Digest>>,
    entries: usize,
}

impl Inventory {
    /// The sessions whose hosts hold `key`, by number.
    pub(super) fn holders(&self, key: &Digest) -> impl Iterator<Item = SessionId> + '_ {
        self.holders.get(key).into_iter().flatten().copied()
    }

    pub(super) fn count(&self, key: &Digest) -> usize {
        self.holders.get(key).map_or(0, BTreeSet::len)
    }

    pub(super) fn holds(&self, session: SessionId, key: &Digest) -> bool {
        self.holders
            .get(key)
            .is_some_and(|holders| holders.contains(&session))
    }

    /// Says whether it was news.
    pub(super) fn add(&mut self, session: SessionId, key: Digest) -> bool {
        let keys = self.keys.entry(session).or_default();
        if keys.len() >= MAX_KEYS_PER_HOST || self.entries >= MAX_ENTRIES || !keys.insert(key) {
            return false;
        }
        self.entries += 1;
        self.holders.entry(key).or_default().insert(session);
        true
    }

    /// Says whether it was held.
    pub(super) fn remove(&mut self, session: SessionId, key: &Digest) -> bool {
        let known = self
            .keys
            .get_mut(&session)
            .is_some_and(|keys| keys.remove(key));
        if known {
            self.remove_holder(session, key);
        }
        known
    }

    /// The session is gone; what its host held.
    pub(super) fn forget(&mut self, session: SessionId) -> HashSet<Digest> {
        let keys = self.keys.remove(&session).unwrap_or_default();
        for key in &keys {
            self.remove_holder(session, key);
        }
        keys
    }

    fn remove_holder(&mut self, session: SessionId, key: &Digest) {
        self.entries -= 1;
        if let Some(holders) = self.holders.get_mut(key) {
            holders.remove(&session);
            if holders.is_empty() {
                self.holders.remove(key);
            }
        }
    }
}

impl Swarm {
    pub(super) fn holds(&mut self, session: SessionId, keys: &[Digest], listed: bool) {
        for key in keys {
            self.holder_found(session, key);
        }
        if listed && self.hosts.unlisted().contains(&session) {
            self.hosts.set_listed(session);
            self.searches.forget(session);
            self.close_searches();
        }
    }

    /// The host of `session` holds `key`: whoever looks for it is told.
    pub(super) fn holder_found(&mut self, session: SessionId, key: &Digest) {
        if !self.inventory.add(session, *key) {
            return;
        }
        self.answer_finds(key);
        if self.tasks.contains_key(key) {
            self.lease_needless(key, session);
            self.source_appeared(key, session);
            self.look_after(key);
        }
    }

    pub(super) fn withdrawn(&mut self, session: SessionId, keys: &[Digest]) {
        for key in keys {
            if self.inventory.remove(session, key) && self.tasks.contains_key(key) {
                if !self.takes_part(session, key) {
                    self.parent_lost(key, session);
                }
                self.look_after(key);
            }
        }
    }
}
