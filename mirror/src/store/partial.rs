//! A download on disk: pieces in any order, in a file that has its full size from the start.
//!
//! ```text
//! begin --> open --(verify)--> verified --(commit)--> committed: the file is a blob
//!             |  '--(verify)--> wrong digest --.
//!             '------------------(discard)------+--> discarded: the file is gone
//! ```
//! A piece that is held is never written again, so what has been hashed is what is on disk. A
//! partial that is dropped while open stays on disk, for a later download to go on with.

mod early;
mod whole;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use darner_proto::digest::Digest;
use darner_proto::geometry::Geometry;
use darner_proto::piece_map::PieceRun;
use darner_proto::piece_set::PieceSet;
use futures_util::Stream;
use tokio::sync::oneshot;
use whole::Hashing;

use super::content::Content;
use super::error::StoreError;
use super::hot::HotPieces;
use super::index::{Change, Table};
use super::journal::{Journal, Noted};
use super::span::{self, Span};
use super::write_back::WriteBack;
use super::{Durability, Inner, blocking, disk, done, lock};

/// A download that is kept on disk while it grows. Clones share it.
#[derive(Clone)]
pub struct Partial {
    pub(super) shared: Arc<Shared>,
}

/// What clones share.
pub(super) struct Shared {
    store: Arc<Inner>,
    digest: Digest,
    geometry: Geometry,
    file: Arc<File>,
    state: Mutex<State>,
    /// A piece has been written, or could not be.
    settled: Condvar,
    write_back: Arc<WriteBack>,
    journal: Mutex<Journal>,
    hashing: Mutex<Hashing>,
    hot: Mutex<HotPieces>,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    held: PieceSet,
    writing: HashSet<u32>,
    /// Of pieces that are still coming, how many bytes have been given out.
    early: HashMap<u32, u64>,
    /// The statement about each held piece.
    runs: HashMap<u32, Arc<PieceRun>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    Verified,
    Committed,
    Discarded,
}

impl Shared {
    /// A download into `file`, of which `noted` has been read back and found right.
    pub(super) fn new(
        store: Arc<Inner>,
        digest: Digest,
        size: u64,
        (file, journal): (File, Journal),
        noted: Noted,
    ) -> Self {
        let geometry = Geometry::of(size);
        let statements: Vec<_> = noted.runs.into_iter().map(Arc::new).collect();
        let mut held = PieceSet::empty(geometry.pieces());
        let mut runs = HashMap::new();
        for (index, number) in noted.held {
            held.insert(index);
            let run = usize::try_from(number).ok();
            if let Some(run) = run.and_then(|number| statements.get(number)) {
                runs.insert(index, run.clone());
            }
        }
        Self {
            store,
            digest,
            geometry,
            file: Arc::new(file),
            state: Mutex::new(State {
                stage: Stage::Open,
                held,
                writing: HashSet::new(),
                early: HashMap::new(),
                runs,
            }),
            settled: Condvar::new(),
            write_back: Arc::default(),
            journal: Mutex::new(journal),
            hashing: Mutex::new(Hashing::new(&digest)),
            hot: Mutex::default(),
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.geometry.size()
    }

    #[cfg(test)]
    pub(super) fn store(&self) -> &Arc<Inner> {
        &self.store
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn missing(&self, range: Range<u64>) -> StoreError {
        StoreError::Missing {
            digest: self.digest,
            start: range.start,
            end: range.end,
        }
    }

    fn failed(&self, doing: &'static str, source: std::io::Error) -> StoreError {
        self.store.write_failed(
            StoreError::io(doing, &self.store.layout.partial(&self.digest), source),
            self.size(),
        )
    }

    fn write(&self, index: u32, piece: Bytes, run: &Arc<PieceRun>) -> Result<(), StoreError> {
        let bytes = self.geometry.bytes_of(index);
        let fits = piece.len() as u64 == bytes.end - bytes.start && !piece.is_empty();
        if !fits || !run.indexes().contains(&index) {
            return Err(self.missing(bytes));
        }
        if !self.claim(index)? {
            return Ok(());
        }
        if !self.agrees(index, &piece) {
            self.state().writing.remove(&index);
            self.settled.notify_all();
            return Err(self.store.counted(StoreError::Changed(self.digest)));
        }
        let written = self.file.write_all_at(&piece, bytes.start);
        if written.is_ok()
            && let Err(error) = lock(&self.journal).note(index, run)
        {
            // The download does not need it: it costs a piece after a restart.
            tracing::debug!(digest = %self.digest, index, %error, "a piece is not noted");
        }
        let mut state = self.state();
        state.writing.remove(&index);
        if written.is_ok() {
            // Before it is held: whoever hashes takes it from there.
            lock(&self.hot).keep(&self.store.hot, index, piece);
            state.early.remove(&index);
            state.held.insert(index);
            state.runs.insert(index, run.clone());
        }
        drop(state);
        self.settled.notify_all();
        self.write_back.wrote(&self.file, bytes.end - bytes.start);
        written.map_err(|error| self.failed("write to", error))
    }

    /// Takes the right to write a piece. `false` when it is there already.
    fn claim(&self, index: u32) -> Result<bool, StoreError> {
        let mut state = self.state();
        loop {
            if state.stage == Stage::Discarded {
                return Err(StoreError::Gone(self.digest));
            }
            if state.held.contains(index) {
                return Ok(false);
            }
            if state.writing.insert(index) {
                return Ok(true);
            }
            state = self
                .settled
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether every piece of the range is held.
    fn check(&self, range: &Range<u64>) -> Result<(), StoreError> {
        if range.start > range.end || range.end > self.size() {
            return Err(self.missing(range.clone()));
        }
        if range.is_empty() {
            return Ok(());
        }
        let first = self.geometry.piece_at(range.start);
        let last = self.geometry.piece_at(range.end - 1);
        // Looked at in one moment: a piece that is written whole ceases to be early as it becomes held.
        let state = self.state();
        if state.held.end_of_run(first) <= last && !state.is_early(&self.geometry, range) {
            drop(state);
            return Err(self.missing(range.clone()));
        }
        Ok(())
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.check(&range)?;
        disk::read(&self.file, range)
            .map(Bytes::from)
            .map_err(|error| self.failed("read from", error))
    }

    fn verify(self: &Arc<Self>) -> Result<(), StoreError> {
        match self.state().stage {
            Stage::Open => {}
            Stage::Verified | Stage::Committed => return Ok(()),
            Stage::Discarded => return Err(StoreError::Gone(self.digest)),
        }
        self.hash_to(self.geometry.pieces())?;
        let found = lock(&self.hashing).found();
        if !self.digest.admits(&found) {
            self.discard();
            return Err(StoreError::Mismatch(self.digest));
        }
        self.state().stage = Stage::Verified;
        Ok(())
    }

    fn commit(self: &Arc<Self>) -> Result<Content, StoreError> {
        self.verify()?;
        {
            let mut state = self.state();
            if state.stage == Stage::Committed {
                drop(state);
                let content = self.store.open_content(&self.digest);
                return content.ok_or(StoreError::Gone(self.digest));
            }
            state.stage = Stage::Committed;
        }
        let from = self.store.layout.partial(&self.digest);
        let written = self.write_back.settled();
        let written = written.map_err(|error| self.failed("sync", error));
        let published = written.and_then(|()| {
            let file = (&self.file, from.as_path());
            let durability = Durability::Awaited;
            self.note_content();
            self.store
                .publish(&self.digest, file, self.size(), durability)
        });
        self.store.finish_partial(&self.digest, published.is_ok());
        // The file may be damaged in a way that reading does not show: it is not tried again.
        published.inspect_err(|_| self.state().stage = Stage::Discarded)?;
        Ok(Content::new(
            self.digest,
            self.size(),
            self.file.clone(),
            Arc::downgrade(&self.store),
        ))
    }

    /// The digest of a file is known now. A check of it later goes by that.
    fn note_content(&self) {
        if self.digest.is_of_content() {
            return;
        }
        let found = lock(&self.hashing).found();
        let change = Change::set(Table::Contents, self.digest.to_wire(), found.to_wire());
        if let Err(error) = self.store.submit(vec![change]) {
            tracing::debug!(key = %self.digest, %error, "the index does not know a file's digest");
        }
    }

    fn discard(&self) {
        {
            let mut state = self.state();
            if matches!(state.stage, Stage::Committed | Stage::Discarded) {
                return;
            }
            state.stage = Stage::Discarded;
        }
        self.store.finish_partial(&self.digest, false);
    }

    /// Makes what is written durable, so that a power cut does not take it.
    pub(super) fn sync(&self) {
        let synced = self
            .file
            .sync_data()
            .and_then(|()| lock(&self.journal).sync());
        if let Err(error) = synced {
            tracing::warn!(digest = %self.digest, %error, "a download cannot be made durable");
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let stage = self.state().stage;
        if matches!(stage, Stage::Open | Stage::Verified) {
            self.store.rest_partial(&self.digest);
        }
    }
}

impl Partial {
    /// How the content is cut.
    pub fn geometry(&self) -> Geometry {
        self.shared.geometry
    }

    /// The pieces that are on disk and what was stated about them: after a restart those that still
    /// have the hash they were stated to have.
    pub fn restored(&self) -> (PieceSet, Vec<PieceRun>) {
        let state = self.shared.state();
        let mut runs: Vec<PieceRun> = Vec::new();
        for index in state.held.iter() {
            if let Some(run) = state.runs.get(&index)
                && runs.last().is_none_or(|last| last != run.as_ref())
            {
                runs.push(run.as_ref().clone());
            }
        }
        (state.held.clone(), runs)
    }

    /// Writes piece `index` once `state` has given the statement about it: by checking the piece
    /// against one, or by making one. It runs where it may take its time, just before the bytes are
    /// written; a piece that it refuses is not. The statement is kept beside the piece, so that a
    /// restart can tell whether the piece is still what it was. A piece that is there already is
    /// left as it is. The same thread then carries the digest of the whole on, while the piece is still in its
    /// cache; that is not waited for.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when the piece has not the length it must have or the statement is
    /// not about it; [`StoreError::Changed`] when it does not begin with what has been given out of
    /// it; [`StoreError::Gone`] after [`Partial::discard`]; [`StoreError::Full`] and
    /// [`StoreError::Io`] from the disk.
    pub async fn write<E: Send + 'static>(
        &self,
        index: u32,
        piece: Bytes,
        state: impl FnOnce(&[u8]) -> Result<Arc<PieceRun>, E> + Send + 'static,
    ) -> Result<Result<Arc<PieceRun>, E>, StoreError> {
        let shared = self.shared.clone();
        let (tell, told) = oneshot::channel();
        let writing = tokio::task::spawn_blocking(move || {
            let written = match state(&piece) {
                Ok(run) => shared.write(index, piece, &run).map(|()| Ok(run)),
                Err(refused) => Ok(Err(refused)),
            };
            let is_written = matches!(written, Ok(Ok(_)));
            // Nobody may wait for it any more.
            let _ = tell.send(written);
            if is_written {
                shared.hash_along();
            }
        });
        match told.await {
            Ok(written) => written,
            // It has panicked, or never ran.
            Err(_) => done(writing.await).and(Err(StoreError::Stopping)),
        }
    }

    /// The bytes of `range`, all of them.
    ///
    /// # Errors
    /// [`StoreError::Missing`] unless every piece of the range is held.
    pub async fn read(&self, range: Range<u64>) -> Result<Bytes, StoreError> {
        let shared = self.shared.clone();
        blocking(move || shared.read(range)).await?
    }

    /// The bytes of `range` as a part of the open file.
    ///
    /// # Errors
    /// [`StoreError::Missing`] unless every piece of the range is held.
    pub fn span(&self, range: Range<u64>) -> Result<Span, StoreError> {
        self.shared.check(&range)?;
        Ok(Span::of_partial(self.clone(), range))
    }

    /// The bytes of `range` in spans of at most [`super::MAX_SPAN`], each in memory when it is given
    /// out. One with a piece that is not held is an error.
    pub fn spans(
        self,
        range: Range<u64>,
    ) -> impl Stream<Item = std::io::Result<Span>> + Send + 'static {
        span::in_order(range, move |range| self.span(range))
    }

    pub(super) fn file(&self) -> &File {
        &self.shared.file
    }

    pub(super) fn unreadable(&self, error: std::io::Error) -> StoreError {
        self.shared.failed("read from", error)
    }

    /// Whether the whole has its digest; a file has whatever digest comes out.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] when it has not; what was downloaded is then discarded.
    pub async fn verify(&self) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        blocking(move || shared.verify()).await?
    }

    /// Makes the content durable and visible, in the order: verified, synced, renamed, directory
    /// synced, indexed, told.
    pub async fn commit(self) -> Result<Content, StoreError> {
        blocking(move || self.shared.commit()).await?
    }

    /// Removes the download. Clones can still read what they hold.
    pub async fn discard(self) {
        if let Err(error) = blocking(move || self.shared.discard()).await {
            tracing::debug!(%error, "a download is not discarded");
        }
    }
}

impl std::fmt::Debug for Partial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&*self.shared, f)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state();
        write!(
            f,
            "Partial({}, {:?}, {:?})",
            self.digest, state.stage, state.held
        )
    }
}
