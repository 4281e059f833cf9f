//! Content that is kept as it comes, in order: private content on its way from upstream to a client,
//! and what a client of this node puts here.
//!
//! The client gets it as through a mirror that keeps nothing: the tail only once the digest has
//! matched. What cannot be kept does not hold it up.

use std::collections::HashSet;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use bytes::BytesMut;
use darner_proto::digest::Digest;
use darner_proto::piece_map::{self, PieceRun, PieceSigner};
use futures_util::{Stream, StreamExt as _};

use super::through;
use crate::store::{Partial, Store, StoreError};
use crate::upstream::ByteStream;

/// What is being kept now: of several readers of the same content one writes it.
#[derive(Debug, Clone)]
pub(crate) struct Keeping {
    live: Arc<Mutex<HashSet<Digest>>>,
    signer: Arc<PieceSigner>,
}

/// Content that is being written, by this one.
pub(crate) struct Writing {
    partial: Partial,
    turn: Turn,
    piece: BytesMut,
    index: u32,
}

impl Keeping {
    pub(crate) fn new(signer: Arc<PieceSigner>) -> Self {
        Self {
            live: Arc::default(),
            signer,
        }
    }

    /// `None` when another writes it, or there is no room, or nothing to write.
    pub(super) async fn begin(&self, store: &Store, digest: &Digest, size: u64) -> Option<Writing> {
        if size == 0 {
            return None;
        }
        let writing = self.write(store, digest, size).await;
        writing
            .inspect_err(|error| {
                tracing::debug!(%error, "private content passes without being kept");
            })
            .ok()
    }

    /// Begins to write content that has a size.
    ///
    /// # Errors
    /// As [`Store::begin`]; [`StoreError::Held`] also while another writes it.
    pub(crate) async fn write(
        &self,
        store: &Store,
        digest: &Digest,
        size: u64,
    ) -> Result<Writing, StoreError> {
        let turn = self.turn(digest).ok_or(StoreError::Held(*digest))?;
        Ok(Writing {
            partial: store.begin(digest, size).await?,
            turn,
            piece: BytesMut::new(),
            index: 0,
        })
    }

    fn turn(&self, digest: &Digest) -> Option<Turn> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let free = live.insert(*digest);
        free.then(|| Turn(self.clone(), *digest))
    }

    fn end(&self, digest: &Digest) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.remove(digest);
    }
}

/// The right to write one content.
struct Turn(Keeping, Digest);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.end(&self.1);
    }
}

impl Writing {
    /// Takes the bytes that come next.
    pub(crate) async fn push(&mut self, mut bytes: Bytes) -> Result<(), StoreError> {
        let geometry = self.partial.geometry();
        while !bytes.is_empty() && self.index < geometry.pieces() {
            let range = geometry.bytes_of(self.index);
            let due = (range.end - range.start) as usize - self.piece.len();
            let part = bytes.split_to(due.min(bytes.len()));
            self.piece.extend_from_slice(&part);
            if part.len() == due {
                self.write(geometry.size()).await?;
            }
        }
        Ok(())
    }

    async fn write(&mut self, size: u64) -> Result<(), StoreError> {
        let Turn(keeping, digest) = &self.turn;
        let (signer, digest, index) = (keeping.signer.clone(), *digest, self.index);
        let sign = move |piece: &[u8]| {
            let hashes = vec![piece_map::hash(piece)];
            let run = signer.sign(&digest, size, index, hashes);
            Ok::<_, Infallible>(Arc::new(run))
        };
        let piece = self.piece.split().freeze();
        let Ok(_) = self.partial.write(index, piece, sign).await?;
        self.partial.hash_to(index + 1).await?;
        self.index += 1;
        Ok(())
    }

    /// Everything has come. Says what this node has stated about the pieces.
    pub(crate) async fn finish(self) -> Result<Vec<PieceRun>, StoreError> {
        match self.partial.verify().await {
            Ok(()) => {
                let (_, runs) = self.partial.restored();
                self.partial.clone().commit().await?;
                Ok(runs)
            }
            Err(error) => {
                self.partial.clone().discard().await;
                Err(error)
            }
        }
    }
}

/// All of a body that has `digest`, written to `writing` on its way.
pub(super) fn through(
    body: ByteStream,
    writing: Option<Writing>,
    (digest, size): (Digest, u64),
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let chunks = body.map(|chunk| chunk.map_err(io::Error::other));
    let cut = through::cut(chunks, 0, 0..size);
    let kept = futures_util::stream::try_unfold((cut, writing), |(mut cut, writing)| async move {
        let Some(chunk) = cut.next().await.transpose()? else {
            if let Some(writing) = writing {
                done(writing.finish().await.map(drop));
            }
            return Ok(None);
        };
        let writing = match writing {
            Some(mut writing) => done(writing.push(chunk.clone()).await).map(|()| writing),
            None => None,
        };
        Ok(Some((chunk, (cut, writing))))
    });
    through::checked(Box::pin(kept), digest)
}

fn done(result: Result<(), StoreError>) -> Option<()> {
    result
        .inspect_err(|error| tracing::warn!(%error, "private content is not kept"))
        .ok()
}
