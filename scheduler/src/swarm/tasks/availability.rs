//! How many copies of each piece there are.

use darner_proto::piece_set::PieceSet;

use super::super::MAX_HOSTS;

/// A piece has no more copies than there are hosts.
const _: () = assert!(MAX_HOSTS <= u16::MAX as usize);

/// Copies of each piece among the participants that count.
#[derive(Debug)]
pub(super) struct Availability {
    copies: Box<[u16]>,
    /// Pieces that nobody who counts holds.
    pub(super) unheld: PieceSet,
}

impl Availability {
    pub(super) fn new(pieces: u32) -> Self {
        Self {
            copies: vec![0; pieces as usize].into(),
            unheld: PieceSet::full(pieces),
        }
    }

    pub(super) fn add(&mut self, index: u32) {
        if let Some(copies) = self.copies.get_mut(index as usize) {
            *copies += 1;
            self.unheld.remove(index);
        }
    }

    pub(super) fn remove(&mut self, pieces: &PieceSet) {
        for index in pieces.iter() {
            let Some(copies) = self.copies.get_mut(index as usize) else {
                continue;
            };
            *copies = copies.saturating_sub(1);
            if *copies == 0 {
                self.unheld.insert(index);
            }
        }
    }
}
