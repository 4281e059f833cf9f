//! What happens when, and the only source of chance: a queue of events in the order of their time,
//! and a seeded generator.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Nanoseconds since the model's clock began.
pub(super) type Time = u64;

/// A duration as the model counts it.
pub(super) fn nanos(duration: Duration) -> Time {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Events are put together by slices of time of so many binary digits of nanoseconds: a few dozen
/// fall into one in a busy model.
const SLICE: u32 = 13;
/// Slices that are kept apart, a power of two; what is later than their 0.27 s is rare.
const SLICES: u64 = 1 << 15;

/// Events by time; of the same time, in the order they were put in.
///
/// A wheel of time: only the events of the present slice are sorted, so that the cost of an event does
/// not grow with how many there are. The memory of slices that are over is used for those to come, so
/// that what is in use is little and stays in the processor's cache.
#[derive(Debug)]
pub(super) struct Queue<E> {
    /// Those of the slice in hand, the next one last.
    present: Vec<Entry<E>>,
    /// Those that were put into that slice when it was in hand already.
    sudden: BinaryHeap<Entry<E>>,
    slice: u64,
    /// Memory that no slice uses.
    spare: Vec<Vec<Entry<E>>>,
    /// Those of the slices that follow, each in the place of its slice.
    wheel: Vec<Vec<Entry<E>>>,
    in_wheel: usize,
    /// All others.
    later: BinaryHeap<Entry<E>>,
    next: u64,
    /// When the event taken last happened.
    pub(super) now: Time,
    /// How many were taken.
    pub(super) taken: u64,
}

#[derive(Debug)]
struct Entry<E> {
    at: Time,
    number: u64,
    event: E,
}

impl<E> Queue<E> {
    pub(super) fn new() -> Self {
        Self {
            present: Vec::new(),
            sudden: BinaryHeap::new(),
            slice: 0,
            spare: Vec::new(),
            wheel: (0..SLICES).map(|_| Vec::new()).collect(),
            in_wheel: 0,
            later: BinaryHeap::new(),
            next: 0,
            now: 0,
            taken: 0,
        }
    }

    /// Puts in what happens `after` from now.
    pub(super) fn after(&mut self, after: Time, event: E) {
        self.at(self.now.saturating_add(after), event);
    }

    /// Puts in what happens at a time that is not past.
    pub(super) fn at(&mut self, at: Time, event: E) {
        let number = self.next;
        self.next += 1;
        let at = at.max(self.now);
        let entry = Entry { at, number, event };
        let slice = at >> SLICE;
        if slice <= self.slice {
            self.sudden.push(entry);
        } else if slice - self.slice < SLICES {
            let slice = &mut self.wheel[place(slice)];
            if slice.capacity() == 0
                && let Some(spare) = self.spare.pop()
            {
                *slice = spare;
            }
            slice.push(entry);
            self.in_wheel += 1;
        } else {
            self.later.push(entry);
        }
    }

    /// Takes the next event out; time is then its time.
    pub(super) fn take(&mut self) -> Option<E> {
        loop {
            if let Some(entry) = self.first() {
                self.now = entry.at;
                self.taken += 1;
                return Some(entry.event);
            }
            self.turn()?;
        }
    }

    /// The next one of the slice in hand.
    fn first(&mut self) -> Option<Entry<E>> {
        match (self.present.last(), self.sudden.peek()) {
            (Some(present), Some(sudden)) if present < sudden => self.sudden.pop(),
            (None, _) => self.sudden.pop(),
            (Some(_), _) => self.present.pop(),
        }
    }

    /// Goes on to the next slice, or to the first in which anything happens.
    fn turn(&mut self) -> Option<()> {
        let next_later = self.later.peek().map(|entry| entry.at >> SLICE);
        self.slice = if self.in_wheel > 0 {
            self.slice + 1
        } else {
            next_later?
        };
        let slice = std::mem::take(&mut self.wheel[place(self.slice)]);
        self.in_wheel -= slice.len();
        let spare = std::mem::replace(&mut self.present, slice);
        if spare.capacity() > 0 {
            self.spare.push(spare);
        }
        while let Some(entry) = self.later.peek()
            && entry.at >> SLICE <= self.slice
        {
            self.present.extend(self.later.pop());
        }
        self.present.sort_unstable();
        Some(())
    }
}

/// Where a slice is kept.
fn place(slice: u64) -> usize {
    usize::try_from(slice % SLICES).unwrap_or(0)
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    /// The heap gives the greatest first, and of a list the last is taken, so the earliest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// Splitmix64: small, fast, and the same everywhere.
#[derive(Debug, Clone)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// One of `0..end`, each as likely; 0 when there is none.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(end);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// `count` of `0..of`, in no order.
    pub(super) fn some(&mut self, count: usize, of: usize) -> Vec<usize> {
        let mut all: Vec<_> = (0..of).collect();
        for at in 0..count.min(of) {
            let other = at + usize::try_from(self.below((of - at) as u64)).unwrap_or(0);
            all.swap(at, other);
        }
        all.truncate(count);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_order() {
        let mut queue = Queue::new();
        for (at, name) in [(5, 'c'), (1, 'a'), (5, 'd'), (3, 'b')] {
            queue.at(at, name);
        }
        let order: String = std::iter::from_fn(|| queue.take()).collect();
        assert_eq!((order.as_str(), queue.now), ("abcd", 5));
    }

    #[test]
    fn what_is_put_in_while_time_passes_comes_in_its_place() {
        // Against a sorted list, over distances within a slice, around the wheel and beyond it.
        let mut chance = Chance::new(3);
        let mut queue = Queue::new();
        let mut expected = Vec::new();
        let mut number = 0u64;
        for _ in 0..20_000 {
            let digits = chance.below(34);
            let after = chance.below(1 << digits);
            if chance.below(3) > 0 || expected.is_empty() {
                expected.push((queue.now + after, number));
                queue.after(after, number);
                number += 1;
                continue;
            }
            let least = expected.iter().copied().min().expect("not empty");
            expected.retain(|one| *one != least);
            assert_eq!(queue.take(), Some(least.1));
            assert_eq!(queue.now, least.0);
        }
        expected.sort_unstable();
        let order: Vec<_> = std::iter::from_fn(|| Some((queue.take()?, queue.now))).collect();
        let expected: Vec<_> = expected.into_iter().map(|(at, one)| (one, at)).collect();
        assert_eq!(order, expected);
    }

    #[test]
    fn chance_is_even_and_repeatable() {
        let draw = || {
            let mut chance = Chance::new(7);
            (0..8000).map(move |_| chance.below(8)).collect::<Vec<_>>()
        };
        assert_eq!(draw(), draw());
        for value in 0..8 {
            let count = draw().iter().filter(|one| **one == value).count();
            assert!((850..1150).contains(&count), "{value}: {count}");
        }
        let mut some = Chance::new(1).some(30, 100);
        some.sort_unstable();
        some.dedup();
        assert_eq!(some.len(), 30);
    }
}
