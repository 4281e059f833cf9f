//! Look-ups under way, so that any number of callers who want to know the same thing at the same
//! time cost one.
//!
//! A look-up lives as long as one of its callers does, and is driven by whichever of them is polled:
//! a caller that goes away stops nothing for the others, and there are never more look-ups than
//! callers, whose number the listeners bound.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};

/// One look-up, waited for by everybody who asked.
pub(super) type Flight<T> = Shared<BoxFuture<'static, T>>;

/// Look-ups under way by what they are about. Clones share them.
#[derive(Debug)]
pub(super) struct Flights<K, T: Clone> {
    live: Arc<Mutex<Live<K, T>>>,
}

#[derive(Debug)]
struct Live<K, T: Clone> {
    next: u64,
    flights: HashMap<K, (u64, WeakShared<BoxFuture<'static, T>>)>,
}

impl<K, T: Clone> Default for Flights<K, T> {
    fn default() -> Self {
        Self {
            live: Arc::new(Mutex::new(Live {
                next: 0,
                flights: HashMap::new(),
            })),
        }
    }
}

impl<K, T> Flights<K, T>
where
    K: Hash + Eq + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Joins the look-up about `key`, or begins it.
    pub(super) fn join<F>(&self, key: K, begin: impl FnOnce() -> F) -> Flight<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut live = lock(&self.live);
        let known = live.flights.get(&key);
        if let Some(flight) = known.and_then(|(_, flight)| flight.upgrade()) {
            return flight;
        }
        live.next += 1;
        let number = live.next;
        let landing = Landing {
            live: self.live.clone(),
            key: key.clone(),
            number,
        };
        let lookup = begin();
        let flight = async move {
            let _landing = landing;
            lookup.await
        }
        .boxed()
        .shared();
        if let Some(weak) = flight.downgrade() {
            live.flights.insert(key, (number, weak));
        }
        flight
    }
}

/// Takes a look-up off the list when it has ended, or when nobody waits for it any more.
struct Landing<K: Hash + Eq, T: Clone> {
    live: Arc<Mutex<Live<K, T>>>,
    key: K,
    number: u64,
}

impl<K: Hash + Eq, T: Clone> Drop for Landing<K, T> {
    fn drop(&mut self) {
        let mut live = lock(&self.live);
        let Live { flights, .. } = &mut *live;
        // Another may have begun between the last caller's leaving and this.
        if flights
            .get(&self.key)
            .is_some_and(|(number, _)| *number == self.number)
        {
            flights.remove(&self.key);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn callers_at_the_same_time_share_one_look_up_and_later_ones_begin_anew() {
        let flights = Flights::<u8, u32>::default();
        let begun = AtomicU32::new(0);
        let (release, released) = oneshot::channel::<()>();
        let first = flights.join(1, || {
            begun.fetch_add(1, Ordering::Relaxed);
            async move {
                let _ = released.await;
                7
            }
        });
        let others: Vec<_> = (0..100)
            .map(|_| flights.join(1, || async { unreachable!("a second look-up") }))
            .collect();
        release.send(()).unwrap();
        assert_eq!(first.await, 7);
        for other in others {
            assert_eq!(other.await, 7);
        }
        assert_eq!(flights.join(1, || async { 8 }).await, 8);
        assert!(lock(&flights.live).flights.is_empty());
    }

    #[tokio::test]
    async fn a_caller_that_leaves_stops_nothing_for_the_others() {
        let flights = Flights::<u8, u32>::default();
        let (release, released) = oneshot::channel::<()>();
        let mut first = flights.join(1, || async move {
            let _ = released.await;
            7
        });
        let second = flights.join(1, || async { 8 });
        assert!(futures_util::poll!(&mut first).is_pending());
        drop(first);
        release.send(()).unwrap();
        assert_eq!(second.await, 7);
    }

    #[tokio::test]
    async fn a_look_up_that_nobody_waits_for_is_gone() {
        let flights = Flights::<u8, u32>::default();
        let first = flights.join(1, std::future::pending);
        drop(first);
        assert!(lock(&flights.live).flights.is_empty());
        assert_eq!(flights.join(1, || async { 8 }).await, 8);
    }
}
