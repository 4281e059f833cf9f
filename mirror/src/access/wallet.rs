//! Credentials that upstream has just accepted, in memory and for minutes: what a private repository
//! or a caller's own file is read with for those who showed them.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use darner_proto::digest::Digest;
use darner_proto::name::Source;
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

/// Repositories with a credential at once, and files; of more, the one whose credential ends first goes.
const MAX_HELD: usize = 10_000;

/// The credentials, one for each repository and for each file. Clones share them. Its `Debug` shows
/// none.
#[derive(Clone, Default)]
pub struct Wallet {
    repositories: Kept<Source, HeaderValue>,
    files: Kept<Digest, HeaderMap>,
}

impl std::fmt::Debug for Wallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wallet")
    }
}

impl Wallet {
    /// Keeps what opens `source` for as long as that may count, unless one that lasts longer is held.
    pub fn put(&self, source: &Source, shown: &HeaderValue, life: Duration) {
        let mut shown = shown.clone();
        shown.set_sensitive(true);
        self.repositories.put(source.clone(), shown, life);
    }

    /// What opens `source`, if that still counts.
    pub fn get(&self, source: &Source) -> Option<HeaderValue> {
        self.repositories.get(source)
    }

    /// Upstream does not take this any more.
    pub fn drop_refused(&self, source: &Source, shown: &HeaderValue) {
        let mut all = self.repositories.lock();
        if all.get(source).is_some_and(|(held, _)| held == shown) {
            all.remove(source);
        }
    }

    /// Keeps the headers that a version of a file, known by its key, can be read with for so long.
    pub fn put_file(&self, key: Digest, shown: HeaderMap, life: Duration) {
        self.files.put(key, shown, life);
    }

    /// What a version of a file can be read with.
    pub fn file(&self, key: &Digest) -> Option<HeaderMap> {
        self.files.get(key)
    }
}

/// What is held until a time.
struct Kept<K, V>(Arc<Mutex<HashMap<K, (V, Instant)>>>);

impl<K, V> Clone for Kept<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Kept<K, V> {
    fn put(&self, key: K, value: V, life: Duration) {
        let now = Instant::now();
        let until = now + life;
        let mut all = self.lock();
        if all.len() >= MAX_HELD && !all.contains_key(&key) {
            all.retain(|_, (_, until)| *until > now);
            let first = all.iter().min_by_key(|(_, (_, until))| *until);
            let first = first.map(|(key, _)| key.clone());
            if let Some(first) = first.filter(|_| all.len() >= MAX_HELD) {
                all.remove(&first);
            }
        }
        match all.get(&key) {
            Some((_, known)) if *known > until => {}
            _ => {
                all.insert(key, (value, until));
            }
        }
    }

    fn get(&self, key: &K) -> Option<V> {
        let mut all = self.lock();
        let (value, until) = all.get(key)?;
        if *until <= Instant::now() {
            all.remove(key);
            return None;
        }
        Some(value.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, (V, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(repository: &str) -> Source {
        Source {
            registry: "a.test".parse().unwrap(),
            repository: repository.parse().unwrap(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_credential_is_held_as_long_as_it_counts_and_no_longer() {
        let wallet = Wallet::default();
        let [long, short] = ["Bearer long", "Bearer short"].map(HeaderValue::from_static);
        wallet.put(&source("b"), &long, Duration::from_secs(60));
        wallet.put(&source("b"), &short, Duration::from_secs(5));
        assert_eq!(wallet.get(&source("b")), Some(long.clone()));
        assert_eq!(wallet.get(&source("c")), None);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(wallet.get(&source("b")), None);
        wallet.put(&source("b"), &short, Duration::from_secs(5));
        wallet.drop_refused(&source("b"), &long);
        assert_eq!(wallet.get(&source("b")), Some(short.clone()));
        wallet.drop_refused(&source("b"), &short);
        assert_eq!(wallet.get(&source("b")), None);
        assert_eq!(format!("{wallet:?}"), "Wallet");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_a_bound_is_held() {
        let wallet = Wallet::default();
        let shown = HeaderValue::from_static("Bearer a");
        for number in 0..MAX_HELD as u64 + 5 {
            let life = Duration::from_secs(100 + number);
            wallet.put(&source(&format!("r{number}")), &shown, life);
        }
        assert_eq!(wallet.repositories.lock().len(), MAX_HELD);
        assert_eq!(wallet.get(&source("r4")), None);
        assert!(wallet.get(&source("r5")).is_some());
    }
}
