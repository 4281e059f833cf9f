//! The child's side of a piece transfer: an availability stream of a parent, and one request for a
//! run of pieces. Every byte is checked against the piece map before it is written.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darner_proto::file::Supply;
use darner_proto::id::{Host, Role};
use darner_proto::peer::Wait;
use darner_proto::piece_map::{self, PieceRun};
use darner_proto::scheduler::FailureKind;
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout_at};

use super::buffers::Buffers;
use super::driver::Context;
use super::shared::Shared;
use super::state::{Event, RequestEnd};
use super::{Ended, ServedFrom};
use crate::bandwidth::Limit;
use crate::swarm::PeerError;
use crate::swarm::peers::PieceBody;
use crate::swarm::sessions::Input;

/// A parent that sends less than this in a window is slow: one at 1 KiB/s must not hold a pull up.
const MIN_BYTES: usize = 64 << 10;
const WINDOW: Duration = Duration::from_secs(2);

/// Statements whose signatures are checked before the first pieces are asked for, about a
/// millisecond's worth.
const JUDGED_AT_ONCE: usize = 16;

/// Follows what `parent` has until it has told everything or breaks off.
pub(super) async fn subscribe(context: Context, parent: Host, sources: Vec<Supply>) {
    let failure = match follow(&context, &parent, &sources).await {
        Ok(()) => None,
        Err(error) => {
            tracing::debug!(task = %context.shared.task, parent = %parent.id, %error, "an availability stream ended");
            Some(failure_of(&error))
        }
    };
    context
        .tell(Event::LinkClosed {
            parent: parent.id,
            failure,
        })
        .await;
}

async fn follow(context: &Context, parent: &Host, sources: &[Supply]) -> Result<(), PeerError> {
    let size = context.shared.geometry.size();
    let task = &context.shared.task;
    let frames = context
        .peers
        .availability(parent, task, size, sources)
        .await?;
    let mut frames = std::pin::pin!(frames);
    while let Some(frame) = frames.next().await {
        let frame = frame?;
        if frame.size != size {
            return Err(darner_proto::invalid::Invalid::new("size", "is not the content's").into());
        }
        let mut available = frame.available;
        let mut runs = frame.runs.into_iter().peekable();
        loop {
            let some = runs.by_ref().take(JUDGED_AT_ONCE);
            let offered = Event::Offered {
                parent: parent.id.clone(),
                available: std::mem::take(&mut available),
                runs: some.map(|run| judged(context, run)).collect(),
                received_bytes: frame.received_bytes,
            };
            context.tell(offered).await;
            if runs.peek().is_none() {
                break;
            }
        }
        if frame.complete {
            return Ok(());
        }
    }
    Err(PeerError::Silent)
}

/// A statement that says what a trusted one has said before needs no second look at its signature.
fn judged(context: &Context, run: PieceRun) -> (Arc<PieceRun>, bool) {
    if let Some(known) = context.known(&run) {
        return (known, true);
    }
    let size = context.shared.geometry.size();
    let trusted = context
        .signers()
        .vouch_for(&context.shared.task, size, &run);
    let run = Arc::new(run);
    if trusted {
        context.remember(&run);
    }
    (run, trusted)
}

/// Asks `parent` for a run of `want`, to be sent at once or in its turn, and takes it in.
pub(super) async fn fetch(
    context: Context,
    (request, at_once): (u64, bool),
    parent: Arc<Host>,
    want: BTreeMap<u32, Arc<PieceRun>>,
) {
    let end = match run_of_pieces(&context, (request, at_once), &parent, &want).await {
        Ok(()) => RequestEnd::Done,
        Err(FetchError::Peer(PeerError::Busy { again })) => RequestEnd::Busy { again },
        Err(FetchError::Store) => return context.stop(Ended::Store).await,
        Err(error) => {
            let kind = error.kind();
            context.metrics.piece_failed(kind);
            tracing::debug!(task = %context.shared.task, parent = %parent.id, ?kind, "a parent failed");
            RequestEnd::Failed(kind)
        }
    };
    context.tell(Event::RequestEnded { request, end }).await;
}

#[derive(Debug)]
enum FetchError {
    Peer(PeerError),
    WrongBytes,
    WrongLength,
    Slow,
    Store,
}

impl FetchError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Peer(error) => failure_of(error),
            Self::WrongBytes => FailureKind::WrongBytes,
            Self::WrongLength => FailureKind::WrongLength,
            Self::Slow => FailureKind::Slow,
            Self::Store => FailureKind::Unreachable,
        }
    }
}

impl From<PeerError> for FetchError {
    fn from(error: PeerError) -> Self {
        Self::Peer(error)
    }
}

fn failure_of(error: &PeerError) -> FailureKind {
    match error {
        PeerError::NotHeld => FailureKind::NotHeld,
        PeerError::Silent => FailureKind::Slow,
        PeerError::Invalid(_) => FailureKind::WrongLength,
        PeerError::Unreachable(_)
        | PeerError::Broken(_)
        | PeerError::Another(_)
        | PeerError::Busy { .. }
        | PeerError::Status(_) => FailureKind::Unreachable,
    }
}

async fn run_of_pieces(
    context: &Context,
    (request, at_once): (u64, bool),
    parent: &Host,
    want: &BTreeMap<u32, Arc<PieceRun>>,
) -> Result<(), FetchError> {
    let shared = &context.shared;
    let ranges = ranges_of(want);
    let peers = &context.peers;
    let wait = match context.urgency.is_awaited() {
        true if at_once => Wait::Not,
        true => Wait::InTurn,
        false => Wait::Idly,
    };
    let asked = peers.pieces(parent, &shared.task, &ranges, wait);
    let body = asked.await?;
    if body.size != shared.geometry.size() {
        return Err(FetchError::WrongLength);
    }
    let pieces = body.pieces.clone();
    context
        .tell(Event::Chosen {
            request,
            pieces: pieces.clone(),
        })
        .await;
    let from = match parent.role {
        Role::Seed => ServedFrom::Seed,
        Role::Mirror | Role::Scheduler => ServedFrom::Peer,
    };
    let mut incoming = Incoming {
        body,
        buffers: context.buffers.clone(),
        limit: context.bandwidth.download.clone(),
        shared: shared.clone(),
        rest: Bytes::new(),
        received: 0,
    };
    let began = Instant::now();
    let taken = take_in(context, &mut incoming, pieces, want, from).await;
    let fetched = Input::Fetched {
        task: shared.task,
        parent: parent.id.clone(),
        bytes: incoming.received,
        took: began.elapsed(),
    };
    context.swarm.tell(fetched).await;
    taken?;
    incoming.end().await
}

/// Takes in these pieces, one after the other.
async fn take_in(
    context: &Context,
    incoming: &mut Incoming,
    pieces: Range<u32>,
    want: &BTreeMap<u32, Arc<PieceRun>>,
    from: ServedFrom,
) -> Result<(), FetchError> {
    let mut settling = None;
    for index in pieces {
        let run = want.get(&index).ok_or(FetchError::WrongLength)?;
        let bytes = context.shared.geometry.bytes_of(index);
        let length =
            usize::try_from(bytes.end - bytes.start).map_err(|_| FetchError::WrongLength)?;
        // While one piece comes in, the one before it is hashed and written.
        let (piece, settled) = tokio::join!(
            incoming.take(length),
            settle(context, settling.take(), from)
        );
        settled?;
        settling = Some((index, piece?, run.clone()));
    }
    settle(context, settling, from).await
}

/// Checks a piece, writes it and tells everybody.
async fn settle(
    context: &Context,
    piece: Option<(u32, Bytes, Arc<PieceRun>)>,
    from: ServedFrom,
) -> Result<(), FetchError> {
    let Some((index, piece, run)) = piece else {
        return Ok(());
    };
    let length = piece.len() as u64;
    let check = move |piece: &[u8]| {
        let hash = run.hashes.get((index - run.first) as usize);
        if hash == Some(&piece_map::hash(piece)) {
            Ok(run)
        } else {
            Err(FetchError::WrongBytes)
        }
    };
    let written = context.shared.partial.write(index, piece, check);
    let run = written.await.map_err(|_| FetchError::Store)??;
    context.gained(index, run, from, length);
    context.tell(Event::Arrived { index }).await;
    Ok(())
}

/// The body of an answer, cut into pieces.
struct Incoming {
    body: PieceBody,
    buffers: Buffers,
    limit: Limit,
    shared: Arc<Shared>,
    /// What came with the end of the last piece.
    rest: Bytes,
    /// Bytes that have come in all.
    received: u64,
}

impl Incoming {
    /// The next `length` bytes, unless they come slower than a parent may be.
    async fn take(&mut self, length: usize) -> Result<Bytes, FetchError> {
        let mut piece = self.buffers.take(length).await;
        let mut deadline = Instant::now() + WINDOW;
        let mut in_window = 0;
        loop {
            let now = self.rest.len().min(length - piece.len());
            piece.extend(&self.rest.split_to(now));
            if piece.len() == length {
                return Ok(piece.freeze());
            }
            let chunk = timeout_at(deadline, self.body.chunk()).await;
            self.rest = chunk
                .map_err(|_| FetchError::Slow)??
                .ok_or(FetchError::WrongLength)?;
            self.received += self.rest.len() as u64;
            in_window += self.rest.len();
            // Waiting for our own limit is not the parent's fault.
            let came = Instant::now();
            self.limit.take(self.rest.len() as u64).await;
            self.shared.pace.take(self.rest.len() as u64).await;
            deadline += came.elapsed();
            if in_window >= MIN_BYTES {
                in_window = 0;
                deadline = Instant::now() + WINDOW;
            }
        }
    }

    /// Nothing may follow the last piece.
    async fn end(mut self) -> Result<(), FetchError> {
        if !self.rest.is_empty() {
            return Err(FetchError::WrongLength);
        }
        match timeout_at(Instant::now() + WINDOW, self.body.chunk()).await {
            Ok(Ok(None)) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(Some(_))) | Err(_) => Err(FetchError::WrongLength),
        }
    }
}

fn ranges_of(want: &BTreeMap<u32, Arc<PieceRun>>) -> Vec<Range<u32>> {
    let mut ranges: Vec<Range<u32>> = Vec::new();
    for index in want.keys() {
        match ranges.last_mut() {
            Some(last) if last.end == *index => last.end += 1,
            _ => ranges.push(*index..index + 1),
        }
    }
    ranges
}
