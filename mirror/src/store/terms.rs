//! How long content is to stay, where somebody has said.
//!
//! Until its term ends, what is *pinned* is not evicted; then it goes, pinned or not, unless it is
//! part of a repository too. A term may be known before its content comes.

use std::collections::HashMap;
use std::time::Duration;

use darner_proto::digest::Digest;

use super::index::{Change, Loaded, Table};
use super::now_ms;

/// Terms that are kept: what is put by hand or by jobs, not by pulls.
pub(super) const MAX_TERMS: usize = 4096;

/// For how long content stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Unix time in ms at which it ends.
    pub until_ms: u64,
    /// Whether it must not be evicted before.
    pub pinned: bool,
}

impl Term {
    /// From now on.
    pub fn lasting(time: Duration, pinned: bool) -> Self {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            until_ms: now_ms().saturating_add(ms),
            pinned,
        }
    }

    /// What is left of it.
    pub fn left(&self) -> Duration {
        Duration::from_millis(self.until_ms.saturating_sub(now_ms()))
    }

    /// The later of two ends, and pinned if either is.
    fn joined(self, other: Self) -> Self {
        Self {
            until_ms: self.until_ms.max(other.until_ms),
            pinned: self.pinned || other.pinned,
        }
    }

    fn encode(self) -> Vec<u8> {
        let mut value = self.until_ms.to_be_bytes().to_vec();
        value.push(u8::from(self.pinned));
        value
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let (until, pinned) = value.split_first_chunk()?;
        Some(Self {
            until_ms: u64::from_be_bytes(*until),
            pinned: pinned == [1],
        })
    }
}

/// Every term.
#[derive(Debug, Default)]
pub(super) struct Terms(HashMap<Digest, Term>);

impl Terms {
    pub(super) fn load(loaded: &Loaded) -> Self {
        let terms = loaded.terms.iter().filter_map(|(key, value)| {
            let digest = Digest::from_wire(key).ok()?;
            Some((digest, Term::decode(value)?))
        });
        Self(terms.take(MAX_TERMS).collect())
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Term> {
        self.0.get(digest).copied()
    }

    pub(super) fn is_pinned(&self, digest: &Digest) -> bool {
        self.get(digest).is_some_and(|term| term.pinned)
    }

    pub(super) fn pinned(&self) -> impl Iterator<Item = &Digest> {
        let pinned = self.0.iter().filter(|(_, term)| term.pinned);
        pinned.map(|(digest, _)| digest)
    }

    /// Whether there is room for one more.
    pub(super) fn takes(&self, digest: &Digest) -> bool {
        self.0.len() < MAX_TERMS || self.0.contains_key(digest)
    }

    /// Takes a term, which never shortens one.
    pub(super) fn set(&mut self, digest: Digest, term: Term) -> Change {
        let known = self.get(&digest);
        let term = known.map_or(term, |known| known.joined(term));
        self.0.insert(digest, term);
        Change::set(Table::Terms, digest.to_wire(), term.encode())
    }

    /// Forgets a term.
    pub(super) fn forget(&mut self, digest: &Digest) -> Change {
        self.0.remove(digest);
        Change::remove(Table::Terms, digest.to_wire())
    }

    /// Those that have ended by `now_ms`.
    pub(super) fn ended(&self, now_ms: u64) -> Vec<Digest> {
        let ended = self.0.iter().filter(|(_, term)| term.until_ms <= now_ms);
        ended.map(|(digest, _)| *digest).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_is_never_shortened_and_survives_a_restart() {
        let digest = Digest::sha256(b"a");
        let mut terms = Terms::default();
        let term = |until_ms, pinned| Term { until_ms, pinned };
        terms.set(digest, term(10, true));
        let change = terms.set(digest, term(5, false));
        assert_eq!(terms.get(&digest), Some(term(10, true)));
        assert_eq!((terms.ended(9).len(), terms.ended(10).len()), (0, 1));
        let loaded = Loaded {
            terms: vec![(change.key, change.value.unwrap())],
            ..Loaded::default()
        };
        assert_eq!(Terms::load(&loaded).get(&digest), Some(term(10, true)));
        terms.forget(&digest);
        assert!(!terms.is_pinned(&digest));
    }
}
