//! What a download is told, and what it wants done: the language between [`super::Task`], which
//! decides, and the driver, which waits.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use darner_proto::file::Supply;
use darner_proto::id::{Host, HostId};
use darner_proto::piece_map::PieceRun;
use darner_proto::scheduler::{FailureKind, ReturnReason};

use crate::swarm::sessions::{Input, TaskEvent};

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The scheduler, or its absence, said something.
    Scheduler(TaskEvent),
    /// A parent has these pieces.
    Offered {
        /// The parent.
        parent: HostId,
        /// What it has now that it had not before.
        available: Vec<Range<u32>>,
        /// Statements about pieces, and whether somebody who counts has signed them.
        runs: Vec<(Arc<PieceRun>, bool)>,
        /// What it has received so far.
        received_bytes: u64,
    },
    /// A parent's availability stream has ended.
    LinkClosed {
        /// The parent.
        parent: HostId,
        /// What was wrong; `None` when it had told everything there is.
        failure: Option<FailureKind>,
    },
    /// A piece of a request has been verified and written.
    Arrived {
        /// The piece.
        index: u32,
    },
    /// The parent has chosen which of the wanted pieces it sends.
    Chosen {
        /// The request.
        request: u64,
        /// The pieces.
        pieces: Range<u32>,
    },
    /// A request has ended.
    RequestEnded {
        /// The request.
        request: u64,
        /// How.
        end: RequestEnd,
    },
    /// A piece has been read from upstream and written.
    ReadPiece {
        /// The piece.
        index: u32,
    },
    /// Upstream has answered: by the range asked for, or with the whole content.
    ReadBegun {
        /// The read.
        read: u64,
        /// Whether the range was honoured.
        ranged: bool,
    },
    /// Bytes came from upstream.
    ReadBytes {
        /// How many.
        bytes: u64,
    },
    /// A read has ended.
    ReadEnded {
        /// The read.
        read: u64,
        /// Whether everything came.
        result: Result<(), ReturnReason>,
    },
    /// Children have had these pieces from here: there is a second copy.
    Copied {
        /// The pieces.
        pieces: Range<u32>,
    },
    /// So many children follow what is here.
    Followed {
        /// How many.
        children: u32,
    },
    /// A child has asked for pieces that somebody there waits for.
    Wanted,
    /// A client reads from here on, or no longer.
    Cursor {
        /// The client.
        reader: u64,
        /// The piece it needs next; `None` when it is done.
        piece: Option<u32>,
    },
    /// So many downloads are under way on this node, this one included.
    Beside {
        /// How many.
        downloads: u32,
    },
    /// Somebody knows where the content can be read.
    Supplied(Supply),
    /// Time has passed.
    Tick,
}

/// How a request for pieces ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestEnd {
    /// Everything chosen came.
    Done,
    /// The parent is busy.
    Busy {
        /// When to ask again, if it said.
        again: Option<Duration>,
    },
    /// The parent failed.
    Failed(FailureKind),
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Open the availability stream of a parent.
    Subscribe(Host),
    /// Close it.
    Unsubscribe(HostId),
    /// Ask a parent for a run of these pieces.
    Fetch {
        /// The request.
        request: u64,
        /// The parent.
        parent: Arc<Host>,
        /// Which pieces would do, and what they must hash to.
        want: BTreeMap<u32, Arc<PieceRun>>,
        /// It is sent at once or not at all: it waits elsewhere already.
        at_once: bool,
    },
    /// Stop a request.
    CancelFetch(u64),
    /// Read these pieces from upstream.
    Read {
        /// The read.
        read: u64,
        /// The pieces.
        pieces: Range<u32>,
        /// Where from, best first.
        sources: Vec<Supply>,
    },
    /// Stop a read.
    CancelRead(u64),
    /// Tell the scheduler.
    Tell(Input),
    /// Tell a parent that its copy is in doubt.
    Doubt(Host),
    /// From now on nothing is shown to readers before the whole digest has matched.
    Unvouch,
    /// Every piece is held.
    Complete,
    /// The content cannot be had.
    Fail(Failure),
}

/// Why a task failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No reader could get it.
    NoSource(ReturnReason),
    /// Nothing has moved for too long.
    Stalled,
}
