//! The lease holder's side: reads a range of the content from an upstream registry, cuts it into
//! pieces, hashes and signs each, and writes it. A connection that breaks is taken up again at the
//! very byte it broke at.

use std::ops::Range;
use std::sync::Arc;

use bytes::BytesMut;
use darner_proto::name::Source;
use darner_proto::piece_map;
use darner_proto::scheduler::ReturnReason;
use darner_service::telemetry::with_causes;
use futures_util::StreamExt as _;

use super::driver::Context;
use super::state::Event;
use super::{Ended, ServedFrom};
use crate::upstream::{UpstreamError, UpstreamErrorKind};

/// Resumes without a single new byte before a source is given up.
const MAX_BARREN_RESUMES: u32 = 5;

/// Reads `pieces`, trying each source in turn.
pub(super) async fn read(context: Context, read: u64, pieces: Range<u32>, sources: Vec<Source>) {
    let mut reader = Reader::new(context, read, pieces);
    let mut result = Err(ReturnReason::Unavailable);
    for source in &sources {
        result = match reader.read_source(source).await {
            Ok(()) => Ok(()),
            Err(ReadError::Store) => return reader.context.stop(Ended::Store).await,
            Err(ReadError::Upstream(error)) => {
                tracing::warn!(task = %reader.context.shared.task, %source, error = %with_causes(&error), "upstream cannot be read");
                Err(reason_of(&error))
            }
            Err(ReadError::Barren) => {
                tracing::warn!(task = %reader.context.shared.task, %source, "upstream breaks off again and again");
                Err(ReturnReason::Unavailable)
            }
        };
        if result.is_ok() {
            break;
        }
    }
    let context = reader.context;
    context.tell(Event::ReadEnded { read, result }).await;
}

enum ReadError {
    Upstream(UpstreamError),
    /// It breaks off again and again without a byte.
    Barren,
    Store,
}

struct Reader {
    context: Context,
    read: u64,
    /// The next byte needed.
    offset: u64,
    end: u64,
    /// Bytes of the piece that `offset` lies in, from that piece's start.
    piece: BytesMut,
    begun: bool,
}

impl Reader {
    fn new(context: Context, read: u64, pieces: Range<u32>) -> Self {
        let bytes = context
            .shared
            .geometry
            .bytes_of_run(pieces.start, pieces.end - pieces.start);
        Self {
            context,
            read,
            offset: bytes.start,
            end: bytes.end,
            piece: BytesMut::new(),
            begun: false,
        }
    }

    async fn read_source(&mut self, source: &Source) -> Result<(), ReadError> {
        let mut barren = 0;
        while self.offset < self.end {
            let before = self.offset;
            let broke = self.one_connection(source).await?;
            if self.offset >= self.end {
                break;
            }
            barren = if self.offset > before { 0 } else { barren + 1 };
            if barren > MAX_BARREN_RESUMES {
                return Err(ReadError::Barren);
            }
            tracing::debug!(task = %self.context.shared.task, offset = self.offset, broke, "resuming an upstream read");
        }
        Ok(())
    }

    /// Reads until the connection ends; says what broke it.
    async fn one_connection(&mut self, source: &Source) -> Result<String, ReadError> {
        let shared = self.context.shared.clone();
        let upstream = self.context.upstreams.get(&source.registry);
        let upstream = upstream
            .ok_or_else(|| ReadError::Upstream(UpstreamError::unknown(&source.registry)))?;
        let size = shared.geometry.size();
        let body = upstream
            .blob(
                &source.repository,
                &shared.task,
                self.offset..self.end,
                size,
            )
            .await
            .map_err(ReadError::Upstream)?;
        if !self.begun || !body.ranged {
            self.begun = true;
            self.context
                .tell(Event::ReadBegun {
                    read: self.read,
                    ranged: body.ranged,
                })
                .await;
        }
        if !body.ranged && body.range.end > self.end {
            self.end = body.range.end;
        }
        let mut stream = body.stream;
        let mut skip = self.offset.saturating_sub(body.range.start);
        while let Some(chunk) = stream.next().await {
            let mut chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => return Ok(error.to_string()),
            };
            self.context.received(chunk.len() as u64).await;
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            // At most the chunk's length, so it fits.
            let _ = chunk.split_to(usize::try_from(skipped).unwrap_or(chunk.len()));
            self.take(&chunk).await?;
        }
        Ok("end of the body".to_owned())
    }

    async fn take(&mut self, mut bytes: &[u8]) -> Result<(), ReadError> {
        let geometry = self.context.shared.geometry;
        while !bytes.is_empty() && self.offset < self.end {
            let index = geometry.piece_at(self.offset);
            let left = geometry.bytes_of(index).end - self.offset;
            let now = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if self.piece.is_empty() {
                self.piece.reserve(usize::try_from(left).unwrap_or(now));
            }
            self.piece.extend_from_slice(&bytes[..now]);
            bytes = &bytes[now..];
            self.offset += now as u64;
            if now as u64 == left {
                let piece = self.piece.split().freeze();
                self.finish_piece(index, piece).await?;
            }
        }
        Ok(())
    }

    async fn finish_piece(&mut self, index: u32, piece: bytes::Bytes) -> Result<(), ReadError> {
        let shared = &self.context.shared;
        let size = shared.geometry.size();
        let length = piece.len() as u64;
        if shared.view().held.contains(index) {
            return Ok(());
        }
        let run =
            self.context
                .signer
                .sign(&shared.task, size, index, vec![piece_map::hash(&piece)]);
        if shared.partial.write(index, piece, &run).await.is_err() {
            return Err(ReadError::Store);
        }
        self.context
            .gained(index, Arc::new(run), ServedFrom::Upstream, length);
        self.context.tell(Event::ReadPiece { index }).await;
        Ok(())
    }
}

fn reason_of(error: &UpstreamError) -> ReturnReason {
    match error.kind() {
        UpstreamErrorKind::Denied | UpstreamErrorKind::NotFound => ReturnReason::Refused,
        UpstreamErrorKind::Unavailable | UpstreamErrorKind::Invalid => ReturnReason::Unavailable,
    }
}
