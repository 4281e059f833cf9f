//! What everybody may see of one download: its readers, the children that follow it, and its driver.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use darner_proto::geometry::Geometry;
use darner_proto::id::TaskId;
use darner_proto::piece_map::PieceRun;
use darner_proto::piece_set::PieceSet;
use tokio::sync::watch;

use super::ServedFrom;
use super::pace::Pace;
use super::state::Failure;
use crate::store::{Content, Partial};

/// The visible side of one download.
#[derive(Debug)]
pub struct Shared {
    /// The content's digest.
    pub task: TaskId,
    /// How it is cut.
    pub geometry: Geometry,
    /// Where it is written.
    pub partial: Partial,
    view: Mutex<View>,
    /// How fast it may come beside the node's own limits.
    pub(super) pace: Pace,
    version: watch::Sender<u64>,
}

/// A moment of the download.
#[derive(Debug)]
pub struct View {
    /// Verified pieces.
    pub held: PieceSet,
    /// The signed statement about each held piece.
    pub runs: Vec<Option<Arc<PieceRun>>>,
    /// Where each held piece came from.
    pub from: Vec<ServedFrom>,
    /// Pieces that somebody waits for who has had nothing yet.
    pub awaited: BTreeSet<u32>,
    /// Of pieces that are being read from upstream, up to which byte of the content they may be shown.
    pub early: BTreeMap<u32, u64>,
    /// Whether this node reads some of it from upstream.
    pub reads: bool,
    /// Bytes received, whole pieces or not.
    pub received_bytes: u64,
    /// Bytes are shown to nobody before the whole digest has matched.
    pub unvouched: bool,
    /// How far it is.
    pub phase: Phase,
}

/// How far a download is.
#[derive(Debug, Clone)]
pub enum Phase {
    /// Pieces are coming.
    Arriving,
    /// The whole digest has matched.
    Verified,
    /// It is in the store.
    Stored(Content),
    /// It has ended without the content.
    Failed(Ended),
}

/// Why a download ended without the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// See [`Failure`].
    Source(Failure),
    /// What came does not have the digest.
    Mismatch,
    /// The store cannot take it.
    Store,
    /// The process is stopping.
    Stopping,
}

impl Shared {
    /// A download into `partial`, with what that already holds.
    pub fn new(task: TaskId, partial: Partial) -> Self {
        let geometry = partial.geometry();
        let (held, runs) = partial.restored();
        let pieces = geometry.pieces() as usize;
        let mut by_piece = vec![None; pieces];
        for run in runs.into_iter().map(Arc::new) {
            for index in run.indexes() {
                by_piece[index as usize] = Some(run.clone());
            }
        }
        Self {
            task,
            geometry,
            view: Mutex::new(View {
                received_bytes: held
                    .iter()
                    .map(|index| length(&geometry.bytes_of(index)))
                    .sum(),
                held,
                runs: by_piece,
                from: vec![ServedFrom::Store; pieces],
                awaited: BTreeSet::new(),
                early: BTreeMap::new(),
                reads: false,
                unvouched: false,
                phase: Phase::Arriving,
            }),
            partial,
            pace: Pace::default(),
            version: watch::channel(0).0,
        }
    }

    /// The view as it is now.
    pub fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of the verified pieces.
    pub fn held_bytes(&self) -> u64 {
        let view = self.view();
        let pieces = view.held.iter();
        pieces
            .map(|index| length(&self.geometry.bytes_of(index)))
            .sum()
    }

    /// Changes the view and wakes whoever watches.
    pub fn change<T>(&self, change: impl FnOnce(&mut View) -> T) -> T {
        let changed = change(&mut self.view());
        self.version.send_modify(|version| *version += 1);
        changed
    }

    /// Wakes at every change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// A piece is verified and written.
    pub fn gain(&self, index: u32, run: Arc<PieceRun>, from: ServedFrom) {
        self.change(|view| {
            view.awaited.remove(&index);
            view.early.remove(&index);
            if view.held.insert(index) {
                view.runs[index as usize] = Some(run);
                view.from[index as usize] = from;
                view.reads |= from == ServedFrom::Upstream;
            }
        });
    }

    /// The statements about the pieces of `set`, each once.
    pub fn runs_of(&self, set: &PieceSet) -> Vec<PieceRun> {
        let view = self.view();
        let mut runs: Vec<PieceRun> = Vec::new();
        for index in set.iter() {
            if let Some(run) = &view.runs[index as usize]
                && runs
                    .last()
                    .is_none_or(|last| !last.indexes().contains(&index))
            {
                runs.push(run.as_ref().clone());
            }
        }
        runs
    }
}

fn length(range: &Range<u64>) -> u64 {
    range.end - range.start
}
