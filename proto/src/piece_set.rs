//! A set of piece indexes: what a node holds, wants or is told about.

use std::ops::Range;

use crate::geometry::MAX_PIECES;
use crate::invalid::Invalid;
use crate::wire;

const WORD: u32 = u64::BITS;

/// A set of piece indexes below a fixed count.
#[derive(Clone, PartialEq, Eq)]
pub struct PieceSet {
    words: Vec<u64>,
    pieces: u32,
    len: u32,
}

impl PieceSet {
    /// The empty set over `pieces` pieces.
    pub fn empty(pieces: u32) -> Self {
        Self {
            words: vec![0; pieces.div_ceil(WORD) as usize],
            pieces,
            len: 0,
        }
    }

    /// The set of all `pieces` pieces.
    pub fn full(pieces: u32) -> Self {
        let mut set = Self::empty(pieces);
        set.insert_range(0..pieces);
        set
    }

    /// How many pieces there could be.
    pub fn pieces(&self) -> u32 {
        self.pieces
    }

    /// How many are in the set.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether all are.
    pub fn is_full(&self) -> bool {
        self.len == self.pieces
    }

    /// Whether `index` is in the set.
    pub fn contains(&self, index: u32) -> bool {
        index < self.pieces && self.words[(index / WORD) as usize] & bit(index) != 0
    }

    /// Adds `index`; says whether it was new. An index past the end is ignored.
    pub fn insert(&mut self, index: u32) -> bool {
        if index >= self.pieces || self.contains(index) {
            return false;
        }
        self.words[(index / WORD) as usize] |= bit(index);
        self.len += 1;
        true
    }

    /// Removes `index`; says whether it was there.
    pub fn remove(&mut self, index: u32) -> bool {
        if !self.contains(index) {
            return false;
        }
        self.words[(index / WORD) as usize] &= !bit(index);
        self.len -= 1;
        true
    }

    /// Adds every index of `range`.
    pub fn insert_range(&mut self, range: Range<u32>) {
        let end = range.end.min(self.pieces);
        let mut at = range.start;
        while at < end {
            let stop = (at / WORD + 1).saturating_mul(WORD).min(end);
            let ones = u64::MAX >> (WORD - (stop - at)) << (at % WORD);
            let word = &mut self.words[(at / WORD) as usize];
            self.len += (ones & !*word).count_ones();
            *word |= ones;
            at = stop;
        }
    }

    /// Adds everything in `other`.
    pub fn union(&mut self, other: &Self) {
        self.combine(other, |mine, theirs| mine | theirs);
    }

    /// Removes everything in `other`.
    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, |mine, theirs| mine & !theirs);
    }

    /// Keeps only what is in `other` too.
    pub fn intersect(&mut self, other: &Self) {
        for index in other.words.len()..self.words.len() {
            self.words[index] = 0;
        }
        self.combine(other, |mine, theirs| mine & theirs);
    }

    fn combine(&mut self, other: &Self, with: impl Fn(u64, u64) -> u64) {
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine = with(*mine, *theirs);
        }
        self.mask_tail();
        self.len = self.words.iter().map(|word| word.count_ones()).sum();
    }

    fn mask_tail(&mut self) {
        let used = self.pieces % WORD;
        if used != 0
            && let Some(last) = self.words.last_mut()
        {
            *last &= bit(used) - 1;
        }
    }

    /// How many of its indexes are not in `other`, and so what one who has `other` would gain.
    pub fn len_beyond(&self, other: &Self) -> u32 {
        let mut others = other.words.iter();
        let beyond = self.words.iter().map(|word| {
            let known = others.next().copied().unwrap_or(0);
            (word & !known).count_ones()
        });
        beyond.sum()
    }

    /// What is not in the set.
    pub fn complement(&self) -> Self {
        let mut rest = Self::full(self.pieces);
        rest.subtract(self);
        rest
    }

    /// The first index at or after `from` that is not in the set, at most the count of pieces.
    pub fn end_of_run(&self, from: u32) -> u32 {
        let mut index = from;
        while index < self.pieces && self.contains(index) {
            index += 1;
        }
        index
    }

    /// The indexes, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.iter_words(0)
    }

    /// The indexes from this word on.
    fn iter_words(&self, first: usize) -> impl Iterator<Item = u32> + '_ {
        let words = self.words.iter().zip(0u32..).skip(first);
        words.flat_map(|(word, at)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                if left == 0 {
                    return None;
                }
                let lowest = left.trailing_zeros();
                left &= left - 1;
                Some(at * WORD + lowest)
            })
        })
    }

    /// The indexes, ascending, without the first `rank` of them.
    pub fn iter_from(&self, rank: usize) -> impl Iterator<Item = u32> + '_ {
        let mut left = rank;
        let mut first = 0;
        for word in &self.words {
            let ones = word.count_ones() as usize;
            if left < ones {
                break;
            }
            left -= ones;
            first += 1;
        }
        self.iter_words(first).skip(left)
    }

    /// The indexes within `range`, ascending.
    pub fn range(&self, range: Range<u32>) -> impl Iterator<Item = u32> + '_ {
        let first = (range.start / WORD) as usize;
        let words = self.words.iter().zip(0u32..).skip(first);
        let words = words.take_while(move |(_, at)| at * WORD < range.end);
        words
            .flat_map(|(word, at)| {
                let mut left = *word;
                std::iter::from_fn(move || {
                    let lowest = (left != 0).then(|| left.trailing_zeros())?;
                    left &= left - 1;
                    Some(at * WORD + lowest)
                })
            })
            .filter(move |index| range.contains(index))
    }

    /// The maximal runs of consecutive indexes, ascending.
    pub fn runs(&self) -> Vec<Range<u32>> {
        let mut runs: Vec<Range<u32>> = Vec::new();
        for index in self.iter() {
            match runs.last_mut() {
                Some(run) if run.end == index => run.end += 1,
                _ => runs.push(index..index + 1),
            }
        }
        runs
    }

    /// The set as ranges on the wire.
    pub fn to_wire(&self) -> Vec<wire::PieceRange> {
        ranges_to_wire(&self.runs())
    }

    /// The set a message describes, over `pieces` pieces.
    pub fn from_wire(ranges: &[wire::PieceRange], pieces: u32) -> Result<Self, Invalid> {
        let mut set = Self::empty(pieces);
        for range in ranges_from_wire(ranges)? {
            if range.end > pieces {
                return Err(Invalid::new("piece range", "ends past the last piece"));
            }
            set.insert_range(range);
        }
        Ok(set)
    }
}

/// Ranges in the form messages carry.
pub fn ranges_to_wire(ranges: &[Range<u32>]) -> Vec<wire::PieceRange> {
    ranges
        .iter()
        .map(|range| wire::PieceRange {
            first: range.start,
            count: range.end.saturating_sub(range.start),
        })
        .collect()
}

/// The ranges a message carries: none empty, none past the most pieces any content has.
pub fn ranges_from_wire(ranges: &[wire::PieceRange]) -> Result<Vec<Range<u32>>, Invalid> {
    if ranges.len() as u64 > MAX_PIECES {
        return Err(Invalid::new(
            "piece ranges",
            "are more than there can be pieces",
        ));
    }
    ranges
        .iter()
        .map(|range| {
            let end = range.first.checked_add(range.count);
            match end {
                Some(end) if range.count > 0 && u64::from(end) <= MAX_PIECES => {
                    Ok(range.first..end)
                }
                _ => Err(Invalid::new(
                    "piece range",
                    "is empty or past the last possible piece",
                )),
            }
        })
        .collect()
}

fn bit(index: u32) -> u64 {
    1 << (index % WORD)
}

impl std::fmt::Debug for PieceSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} {:?}", self.len, self.pieces, self.runs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn set(pieces: u32, indexes: &BTreeSet<u32>) -> PieceSet {
        let mut set = PieceSet::empty(pieces);
        for index in indexes {
            set.insert(*index);
        }
        set
    }

    proptest! {
        #[test]
        fn behaves_as_a_set_of_integers(
            pieces in 1u32..200,
            left in prop::collection::btree_set(0u32..200, 0..100),
            right in prop::collection::btree_set(0u32..200, 0..100),
        ) {
            let left: BTreeSet<_> = left.into_iter().filter(|n| *n < pieces).collect();
            let right: BTreeSet<_> = right.into_iter().filter(|n| *n < pieces).collect();
            let (a, b) = (set(pieces, &left), set(pieces, &right));
            let check = |set: &PieceSet, model: Vec<u32>| {
                assert_eq!(set.iter().collect::<Vec<_>>(), model);
                assert_eq!(set.len() as usize, model.len());
            };
            check(&a, left.iter().copied().collect());
            let mut union = a.clone();
            union.union(&b);
            check(&union, left.union(&right).copied().collect());
            let mut difference = a.clone();
            difference.subtract(&b);
            check(&difference, left.difference(&right).copied().collect());
            prop_assert_eq!(a.len_beyond(&b) as usize, left.difference(&right).count());
            let mut both = a.clone();
            both.intersect(&b);
            check(&both, left.intersection(&right).copied().collect());
            for rank in 0..=left.len() + 1 {
                prop_assert_eq!(
                    a.iter_from(rank).collect::<Vec<_>>(),
                    left.iter().copied().skip(rank).collect::<Vec<_>>()
                );
            }
            check(&a.complement(), (0..pieces).filter(|n| !left.contains(n)).collect());
            prop_assert_eq!(PieceSet::from_wire(&a.to_wire(), pieces), Ok(a.clone()));
            prop_assert_eq!(
                a.range(60..130).collect::<Vec<_>>(),
                left.range(60..130).copied().collect::<Vec<_>>()
            );
            prop_assert_eq!(a.end_of_run(0), (0..pieces).find(|n| !left.contains(n)).unwrap_or(pieces));
        }

        #[test]
        fn a_range_is_its_indexes(pieces in 1u32..300, first in 0u32..300, count in 0u32..300, odd in any::<bool>()) {
            let mut by_range = PieceSet::empty(pieces);
            let mut one_by_one = PieceSet::empty(pieces);
            for index in (0..pieces).step_by(3).filter(|_| odd) {
                by_range.insert(index);
                one_by_one.insert(index);
            }
            by_range.insert_range(first..first + count);
            for index in first..first + count {
                one_by_one.insert(index);
            }
            prop_assert_eq!(by_range, one_by_one);
        }

        #[test]
        fn hostile_ranges_are_refused(first in any::<u32>(), count in any::<u32>()) {
            if let Ok(set) = PieceSet::from_wire(&[wire::PieceRange { first, count }], 100) {
                prop_assert!(first + count <= 100 && set.len() == count && count > 0);
            }
        }
    }
}
