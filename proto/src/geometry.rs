//! How content is cut into pieces: a pure function of its size, so that every node cuts alike.

use std::ops::Range;

/// The smallest piece: 1 MiB. Smaller pieces start a swarm faster, larger ones cost fewer requests;
/// simulation puts the best of both at 1 to 2 MiB.
pub const MIN_PIECE_LENGTH: u64 = 1 << 20;

/// Content has at most this many pieces; above 4 GiB pieces double until it does.
pub const MAX_PIECES: u64 = 4096;

/// The largest content that is taken: 64 GiB.
pub const MAX_SIZE: u64 = 64 << 30;

/// The pieces of content of a known size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    size: u64,
    piece_length: u64,
}

impl Geometry {
    /// The pieces of `size` bytes. Empty content has no piece.
    pub fn of(size: u64) -> Self {
        let mut piece_length = MIN_PIECE_LENGTH;
        while size.div_ceil(piece_length) > MAX_PIECES {
            piece_length *= 2;
        }
        Self { size, piece_length }
    }

    /// Bytes in all.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes in every piece but the last.
    pub fn piece_length(&self) -> u64 {
        self.piece_length
    }

    /// How many pieces there are.
    pub fn pieces(&self) -> u32 {
        // At most MAX_PIECES by construction for any size up to MAX_SIZE and far beyond.
        u32::try_from(self.size.div_ceil(self.piece_length)).unwrap_or(u32::MAX)
    }

    /// The bytes of piece `index`; empty past the end.
    pub fn bytes_of(&self, index: u32) -> Range<u64> {
        let start = (u64::from(index) * self.piece_length).min(self.size);
        start..(start + self.piece_length).min(self.size)
    }

    /// The bytes of the pieces `first .. first + count`.
    pub fn bytes_of_run(&self, first: u32, count: u32) -> Range<u64> {
        if count == 0 {
            let start = self.bytes_of(first).start;
            return start..start;
        }
        self.bytes_of(first).start..self.bytes_of(first.saturating_add(count - 1)).end
    }

    /// The piece that holds byte `offset`.
    pub fn piece_at(&self, offset: u64) -> u32 {
        u32::try_from(offset / self.piece_length).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pieces_double_only_past_four_gib() {
        assert_eq!(Geometry::of(0).pieces(), 0);
        assert_eq!(Geometry::of(1).pieces(), 1);
        assert_eq!(Geometry::of(4 << 30).piece_length(), 1 << 20);
        assert_eq!(Geometry::of((4 << 30) + 1).piece_length(), 2 << 20);
        assert_eq!(Geometry::of(MAX_SIZE).pieces(), 4096);
    }

    proptest! {
        #[test]
        fn pieces_tile_the_content(size in 0..=MAX_SIZE) {
            let geometry = Geometry::of(size);
            let mut next = 0;
            for index in 0..geometry.pieces() {
                let bytes = geometry.bytes_of(index);
                prop_assert_eq!(bytes.start, next);
                prop_assert!(bytes.end > bytes.start);
                prop_assert_eq!(geometry.piece_at(bytes.start), index);
                prop_assert_eq!(geometry.piece_at(bytes.end - 1), index);
                next = bytes.end;
            }
            prop_assert_eq!(next, size);
            prop_assert_eq!(geometry.bytes_of_run(0, geometry.pieces()), 0..size);
            prop_assert!(geometry.bytes_of(geometry.pieces()).is_empty());
        }
    }
}
