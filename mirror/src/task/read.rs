//! The lease holder's side: reads a range of the content from an upstream registry, cuts it into
//! pieces, hashes and signs each, and writes it. A connection that breaks is taken up again at the
//! very byte it broke at.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use darner_proto::file::Supply;
use darner_proto::piece_map;
use darner_proto::scheduler::ReturnReason;
use darner_service::telemetry::with_causes;
use futures_util::StreamExt as _;
use tokio::task::JoinHandle;

use super::buffers::Buffer;
use super::driver::Context;
use super::state::Event;
use super::{Ended, ServedFrom};
use crate::store::StoreError;
use crate::upstream::{BlobBody, UpstreamError, UpstreamErrorKind};

/// A read tells how much has come each time it is so much, or so long ago that it last did: a fast
/// one has thousands of chunks each second, and everybody who waits for the content wakes.
const TELL_EVERY: u64 = 1 << 20;
const TELL_AFTER: Duration = Duration::from_millis(100);
/// Resumes without a single new byte before a source is given up.
const MAX_BARREN_RESUMES: u32 = 5;

/// Reads `pieces`, trying each source in turn.
pub(super) async fn read(context: Context, read: u64, pieces: Range<u32>, sources: Vec<Supply>) {
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
            Err(ReadError::NoCredential) => Err(ReturnReason::Refused),
            Err(ReadError::Barren) => {
                tracing::warn!(task = %reader.context.shared.task, %source, "upstream breaks off again and again");
                Err(ReturnReason::Unavailable)
            }
        };
        if result.is_ok() {
            break;
        }
    }
    if reader.settled().await.is_err() {
        return reader.context.stop(Ended::Store).await;
    }
    let context = reader.context;
    context.received(reader.untold).await;
    context.tell(Event::ReadEnded { read, result }).await;
}

enum ReadError {
    Upstream(UpstreamError),
    /// Nobody has shown what opens it of late.
    NoCredential,
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
    piece: Option<Buffer>,
    /// Bytes of that piece that have been shown to readers.
    shown: u64,
    /// The piece before, being hashed and written while this one comes in.
    settling: Option<JoinHandle<Result<(), StoreError>>>,
    begun: bool,
    /// Bytes that have come and of which nobody has been told.
    untold: u64,
    told: Option<Instant>,
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
            piece: None,
            shown: 0,
            settling: None,
            begun: false,
            untold: 0,
            told: None,
        }
    }

    async fn read_source(&mut self, source: &Supply) -> Result<(), ReadError> {
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
    async fn one_connection(&mut self, source: &Supply) -> Result<String, ReadError> {
        let body = self.open(source).await?;
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
            self.received(chunk.len() as u64).await;
            self.context.shared.pace.take(chunk.len() as u64).await;
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            // At most the chunk's length, so it fits.
            let _ = chunk.split_to(usize::try_from(skipped).unwrap_or(chunk.len()));
            self.take(chunk).await?;
        }
        Ok("end of the body".to_owned())
    }

    /// What is left of the read, from upstream: in the operator's name, or for what is not public in
    /// the name of a caller whose credential upstream has just accepted.
    async fn open(&self, source: &Supply) -> Result<BlobBody, ReadError> {
        let Context {
            upstreams,
            shared,
            wallet,
            ..
        } = &self.context;
        let (range, size) = (self.offset..self.end, shared.geometry.size());
        let opened = match source {
            Supply::File(located) => match wallet {
                None => upstreams.files().read(located, range, size).await,
                Some(wallet) => {
                    let shown = wallet.file(&shared.task).ok_or(ReadError::NoCredential)?;
                    let part = (range, size);
                    upstreams.files().read_as(located, part, &shown).await
                }
            },
            Supply::Repository(source) => {
                let upstream = upstreams.get(&source.registry);
                let upstream = upstream
                    .ok_or_else(|| ReadError::Upstream(UpstreamError::unknown(&source.registry)))?;
                let (repository, digest) = (&source.repository, &shared.task);
                match wallet {
                    None => upstream.blob(repository, digest, range, size).await,
                    Some(wallet) => {
                        let shown = wallet.get(source).ok_or(ReadError::NoCredential)?;
                        let caller = upstream.as_caller(shown);
                        caller.blob(repository, digest, range, size).await
                    }
                }
            }
        };
        opened.map_err(ReadError::Upstream)
    }

    /// Tells how much has come, now and then.
    async fn received(&mut self, bytes: u64) {
        self.untold += bytes;
        let due = self.told.is_none_or(|told| told.elapsed() >= TELL_AFTER);
        if due || self.untold >= TELL_EVERY {
            self.told = Some(Instant::now());
            let untold = std::mem::take(&mut self.untold);
            self.context.received(untold).await;
        }
    }

    async fn take(&mut self, mut bytes: Bytes) -> Result<(), ReadError> {
        let geometry = self.context.shared.geometry;
        while !bytes.is_empty() && self.offset < self.end {
            let index = geometry.piece_at(self.offset);
            let left = geometry.bytes_of(index).end - self.offset;
            let now = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let mut piece = match self.piece.take() {
                Some(piece) => piece,
                None => {
                    let length = usize::try_from(left).unwrap_or(now);
                    self.context.buffers.take(length).await
                }
            };
            piece.extend(&bytes.split_to(now));
            self.offset += now as u64;
            if now as u64 == left {
                self.shown = 0;
                self.settled().await?;
                self.settle(index, piece.freeze());
            } else {
                self.show(index, &piece).await?;
                self.piece = Some(piece);
            }
        }
        Ok(())
    }

    /// Shows what has come of a piece to readers that wait for their first byte: soon, and then each
    /// time there is twice as much.
    async fn show(&mut self, index: u32, piece: &Buffer) -> Result<(), ReadError> {
        let shared = &self.context.shared;
        let came = piece.len() as u64;
        if came < 2 * self.shown || !shared.view().awaited.contains(&index) {
            return Ok(());
        }
        // It is less than the piece's length.
        let old = usize::try_from(self.shown).unwrap_or(usize::MAX);
        let new = Bytes::copy_from_slice(&piece.as_ref()[old..]);
        let written = shared.partial.write_part(index, self.shown, new).await;
        let shown = written.map_err(|_| ReadError::Store)?;
        self.shown = came;
        let end = shared.geometry.bytes_of(index).start + shown;
        shared.change(|view| view.early.insert(index, end));
        Ok(())
    }

    /// Begins to hash, sign and write a piece. Being a task of its own it goes on when the read is
    /// cancelled: the bytes are here.
    fn settle(&mut self, index: u32, piece: Bytes) {
        if self.context.shared.view().held.contains(index) {
            return;
        }
        let settling = settle(self.context.clone(), index, piece);
        self.settling = Some(self.context.shutdown.spawn(settling));
    }

    /// Waits until the last piece is settled.
    async fn settled(&mut self) -> Result<(), ReadError> {
        let Some(settling) = self.settling.take() else {
            return Ok(());
        };
        match settling.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(ReadError::Store),
        }
    }
}

async fn settle(context: Context, index: u32, piece: Bytes) -> Result<(), StoreError> {
    let (length, size) = (piece.len() as u64, context.shared.geometry.size());
    let (signer, task) = (context.signer.clone(), context.shared.task);
    let sign = move |piece: &[u8]| {
        let run = signer.sign(&task, size, index, vec![piece_map::hash(piece)]);
        Ok::<_, std::convert::Infallible>(Arc::new(run))
    };
    let written = context.shared.partial.write(index, piece, sign);
    let Ok(run) = written.await?;
    context.gained(index, run, ServedFrom::Upstream, length);
    context.tell(Event::ReadPiece { index }).await;
    Ok(())
}

fn reason_of(error: &UpstreamError) -> ReturnReason {
    match error.kind() {
        UpstreamErrorKind::Denied | UpstreamErrorKind::NotFound => ReturnReason::Refused,
        UpstreamErrorKind::Unavailable | UpstreamErrorKind::Invalid => ReturnReason::Unavailable,
    }
}
