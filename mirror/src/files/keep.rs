//! A file that a client of this node puts here: written and hashed as it comes, in order.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Bytes;
use bytes::BytesMut;
use darner_proto::digest::Digest;
use darner_proto::piece_map::{self, PieceRun, PieceSigner};

use crate::store::{Partial, Store, StoreError};

/// Content that is being written.
pub(super) struct Writing {
    partial: Partial,
    digest: Digest,
    signer: Arc<PieceSigner>,
    piece: BytesMut,
    index: u32,
}

impl Writing {
    /// Begins to write content that has a size.
    ///
    /// # Errors
    /// As [`Store::begin`].
    pub(super) async fn begin(
        store: &Store,
        signer: Arc<PieceSigner>,
        digest: Digest,
        size: u64,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            partial: store.begin(&digest, size).await?,
            digest,
            signer,
            piece: BytesMut::new(),
            index: 0,
        })
    }

    /// Takes the bytes that come next.
    pub(super) async fn push(&mut self, mut bytes: Bytes) -> Result<(), StoreError> {
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
        let (signer, digest, index) = (self.signer.clone(), self.digest, self.index);
        let sign = move |piece: &[u8]| {
            let hashes = vec![piece_map::hash(piece)];
            let run = signer.sign(&digest, size, index, hashes);
            Ok::<_, Infallible>(Arc::new(run))
        };
        let piece = self.piece.split().freeze();
        let Ok(_) = self.partial.write(index, piece, sign).await?;
        self.index += 1;
        Ok(())
    }

    /// Everything has come. Says what this node has stated about the pieces.
    pub(super) async fn finish(self) -> Result<Vec<PieceRun>, StoreError> {
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
