//! Who holds what complete: content, and records of repositories.
//!
//! A holding costs two numbers of four bytes: the session's, in the key's list, and the key's, in
//! the session's list.

use std::collections::HashMap;

use darner_proto::digest::Digest;

use super::numbers::NumberMap;
use super::{SessionId, Swarm};

/// Keys kept for one host. What a host holds beyond them is still served, only not found through
/// the scheduler except by asking.
const MAX_KEYS_PER_HOST: usize = 50_000;
/// Pairs of key and holder in all, at 8 to 16 bytes each.
const MAX_ENTRIES: usize = 20_000_000;
/// Different keys, at some 200 bytes each.
const MAX_KEYS: usize = 1_000_000;

/// Holders by key, and the other way round.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    numbers: HashMap<Digest, u32>,
    keys: Vec<Key>,
    free_keys: Vec<u32>,
    slots: NumberMap<SessionId, u32>,
    sessions: Vec<Session>,
    free_slots: Vec<u32>,
    entries: usize,
}

/// A key and the slots of the sessions that hold it, ascending.
#[derive(Debug)]
struct Key {
    digest: Digest,
    holders: Vec<u32>,
}

/// A session and the numbers of the keys it holds, in no order.
#[derive(Debug)]
struct Session {
    id: SessionId,
    keys: Vec<u32>,
}

/// The holders of one key, in an order that is the same in every run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holders<'a> {
    slots: &'a [u32],
    inventory: &'a Inventory,
}

impl<'a> Holders<'a> {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn contains(&self, session: SessionId) -> bool {
        !self.slots.is_empty()
            && self
                .inventory
                .slots
                .get(&session)
                .is_some_and(|slot| self.slots.binary_search(slot).is_ok())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = SessionId> + use<'a> {
        let sessions = &self.inventory.sessions;
        self.slots.iter().map(|slot| sessions[*slot as usize].id)
    }

    /// At most `count` of them, from the place `start` on.
    pub(super) fn window(
        &self,
        start: usize,
        count: usize,
    ) -> impl Iterator<Item = SessionId> + use<'a> {
        let sessions = &self.inventory.sessions;
        let from = &self.slots[start.min(self.slots.len())..];
        let window = &from[..count.min(from.len())];
        window.iter().map(|slot| sessions[*slot as usize].id)
    }
}

impl Inventory {
    /// The sessions whose hosts hold `key`.
    pub(super) fn holders(&self, key: &Digest) -> Holders<'_> {
        let number = self.numbers.get(key);
        Holders {
            slots: number.map_or(&[], |number| &self.keys[*number as usize].holders),
            inventory: self,
        }
    }

    /// Pairs of key and holder.
    pub(super) fn len(&self) -> usize {
        self.entries
    }

    pub(super) fn count(&self, key: &Digest) -> usize {
        self.holders(key).len()
    }

    pub(super) fn holds(&self, session: SessionId, key: &Digest) -> bool {
        self.holders(key).contains(session)
    }

    /// Says whether it was news.
    pub(super) fn add(&mut self, session: SessionId, digest: Digest) -> bool {
        if self.entries >= MAX_ENTRIES {
            return false;
        }
        let Some(number) = self.key(digest) else {
            return false;
        };
        let slot = self.slot(session);
        let keys = &mut self.sessions[slot as usize].keys;
        let holders = &mut self.keys[number as usize].holders;
        let Err(at) = holders.binary_search(&slot) else {
            return false;
        };
        if keys.len() >= MAX_KEYS_PER_HOST {
            self.drop_key_if_unheld(number);
            return false;
        }
        holders.insert(at, slot);
        keys.push(number);
        self.entries += 1;
        true
    }

    /// Says whether it was held.
    pub(super) fn remove(&mut self, session: SessionId, digest: &Digest) -> bool {
        let (Some(number), Some(slot)) = (self.numbers.get(digest), self.slots.get(&session))
        else {
            return false;
        };
        let (number, slot) = (*number, *slot);
        if !self.remove_holder(number, slot) {
            return false;
        }
        let keys = &mut self.sessions[slot as usize].keys;
        if let Some(at) = keys.iter().position(|key| *key == number) {
            keys.swap_remove(at);
        }
        true
    }

    /// The session is gone; those of its keys that `is_asked_about`.
    pub(super) fn forget(
        &mut self,
        session: SessionId,
        is_asked_about: impl Fn(&Digest) -> bool,
    ) -> Vec<Digest> {
        let Some(slot) = self.slots.remove(&session) else {
            return Vec::new();
        };
        let keys = std::mem::take(&mut self.sessions[slot as usize].keys);
        let digests = keys.iter().map(|number| self.keys[*number as usize].digest);
        let asked_about = digests.filter(is_asked_about).collect();
        for number in keys {
            self.remove_holder(number, slot);
        }
        self.free_slots.push(slot);
        asked_about
    }

    fn key(&mut self, digest: Digest) -> Option<u32> {
        if let Some(number) = self.numbers.get(&digest) {
            return Some(*number);
        }
        if self.numbers.len() >= MAX_KEYS {
            return None;
        }
        let holders = Vec::new();
        let key = Key { digest, holders };
        let number = match self.free_keys.pop() {
            Some(number) => {
                self.keys[number as usize] = key;
                number
            }
            None => {
                self.keys.push(key);
                u32::try_from(self.keys.len() - 1).ok()?
            }
        };
        self.numbers.insert(digest, number);
        Some(number)
    }

    fn slot(&mut self, session: SessionId) -> u32 {
        if let Some(slot) = self.slots.get(&session) {
            return *slot;
        }
        let keys = Vec::new();
        let new = Session { id: session, keys };
        let slot = match self.free_slots.pop() {
            Some(slot) => {
                self.sessions[slot as usize] = new;
                slot
            }
            None => {
                self.sessions.push(new);
                u32::try_from(self.sessions.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.slots.insert(session, slot);
        slot
    }

    fn remove_holder(&mut self, number: u32, slot: u32) -> bool {
        let holders = &mut self.keys[number as usize].holders;
        let Ok(at) = holders.binary_search(&slot) else {
            return false;
        };
        holders.remove(at);
        self.entries -= 1;
        self.drop_key_if_unheld(number);
        true
    }

    fn drop_key_if_unheld(&mut self, number: u32) {
        let key = &mut self.keys[number as usize];
        if key.holders.is_empty() && self.numbers.remove(&key.digest).is_some() {
            key.holders = Vec::new();
            self.free_keys.push(number);
        }
    }
}

impl Swarm {
    pub(super) fn holds(&mut self, session: SessionId, keys: &[Digest], listed: bool) {
        for key in keys {
            self.holder_found(session, key);
            self.searches.answered(session, key);
        }
        if listed && self.hosts.unlisted().contains(&session) {
            self.hosts.set_listed(session);
            self.searches.forget(session);
            self.close_searches();
        } else if !listed {
            self.close_answered(keys);
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

    /// The host of `session` does not hold these: not any more, or, when it was asked, not at all.
    pub(super) fn withdrawn(&mut self, session: SessionId, keys: &[Digest]) {
        let Some(number) = self.hosts.get(session).map(|node| node.number) else {
            return;
        };
        for key in keys {
            self.searches.answered(session, key);
            if self.inventory.remove(session, key) && self.tasks.contains_key(key) {
                if !self.takes_part(session, key) {
                    self.parent_lost(key, number);
                }
                self.look_after(key);
            }
        }
        self.close_answered(keys);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::mix;
    use std::collections::BTreeSet;

    fn key(n: u64) -> Digest {
        Digest::sha256(&n.to_be_bytes())
    }

    #[test]
    fn behaves_as_a_set_of_pairs() {
        let mut inventory = Inventory::default();
        let mut model: BTreeSet<(SessionId, u64)> = BTreeSet::new();
        for step in 0..5000 {
            let chance = mix(7, step);
            let (session, n) = (SessionId(chance % 13), chance / 13 % 40);
            match chance >> 32 & 7 {
                0 => assert_eq!(
                    inventory.remove(session, &key(n)),
                    model.remove(&(session, n))
                ),
                1 if chance >> 40 & 7 == 0 => {
                    let gone = inventory.forget(session, |_| true);
                    let before = model.len();
                    model.retain(|(one, _)| *one != session);
                    assert_eq!(gone.len(), before - model.len());
                }
                _ => assert_eq!(inventory.add(session, key(n)), model.insert((session, n))),
            }
            assert_eq!(inventory.entries, model.len());
        }
        for n in 0..40 {
            let holders: BTreeSet<_> = inventory.holders(&key(n)).iter().collect();
            let expected = model.iter().filter(|(_, one)| *one == n);
            assert_eq!(holders, expected.map(|(session, _)| *session).collect());
        }
    }
}
