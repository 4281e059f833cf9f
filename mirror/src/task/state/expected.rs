//! What missing pieces must hash to, by the word of somebody who counts.

use std::sync::Arc;

use darner_proto::piece_map::PieceRun;
use darner_proto::piece_set::PieceSet;

/// The statement that counts about each missing piece, where there is one.
#[derive(Debug)]
pub(super) struct Expected {
    runs: Vec<Option<Arc<PieceRun>>>,
    /// Which of them there are: most questions are only about that, and this is small.
    known: PieceSet,
}

impl Expected {
    pub(super) fn new(pieces: u32) -> Self {
        Self {
            runs: vec![None; pieces as usize],
            known: PieceSet::empty(pieces),
        }
    }

    pub(super) fn contains(&self, index: u32) -> bool {
        self.known.contains(index)
    }

    pub(super) fn get(&self, index: u32) -> Option<&Arc<PieceRun>> {
        self.runs.get(index as usize)?.as_ref()
    }

    /// The first statement about a piece stands.
    pub(super) fn learn(&mut self, index: u32, run: &Arc<PieceRun>) {
        if let Some(expected) = self.runs.get_mut(index as usize)
            && self.known.insert(index)
        {
            *expected = Some(run.clone());
        }
    }

    /// The piece is held.
    pub(super) fn forget(&mut self, index: u32) {
        if let Some(expected) = self.runs.get_mut(index as usize) {
            *expected = None;
            self.known.remove(index);
        }
    }
}
