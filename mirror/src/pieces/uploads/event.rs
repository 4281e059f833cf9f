//! What [`super::Uploads`] is told, and what it says.

use std::ops::Range;
use std::time::Duration;

use darner_proto::geometry::Geometry;
use darner_proto::id::TaskId;
use darner_proto::peer::Wait;
use darner_proto::piece_set::PieceSet;

/// A child, by a number that stands for its host id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Child(pub u64);

/// What this node has of a content.
#[derive(Debug, Clone, Copy)]
pub struct Holding<'a> {
    /// The content.
    pub task: TaskId,
    /// How it is cut.
    pub geometry: Geometry,
    /// The pieces that are here.
    pub held: &'a PieceSet,
    /// Whether pieces enter the swarm here: a seed, or a node that reads upstream under a lease.
    pub source: bool,
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A child follows what this node has.
    Watched {
        /// The child.
        child: Child,
        /// What it follows.
        holding: Holding<'a>,
    },
    /// It no longer does.
    Unwatched {
        /// The child.
        child: Child,
        /// The content.
        task: TaskId,
    },
    /// A child asks for a run of some of these pieces.
    Asked {
        /// Chosen by the driver, not used before.
        request: u64,
        /// The child.
        child: Child,
        /// How the child waits.
        wait: Wait,
        /// What is here of the content.
        holding: Holding<'a>,
        /// Which pieces would do, in the child's order of preference.
        want: &'a [Range<u32>],
    },
    /// This is here now.
    Has(Holding<'a>),
    /// A further piece is here.
    Gained {
        /// The content.
        task: TaskId,
        /// The piece.
        piece: u32,
    },
    /// The content is no longer here.
    Lost {
        /// The content.
        task: TaskId,
    },
    /// A run has been sent.
    Sent {
        /// The request it answered.
        request: u64,
    },
    /// The child has hung up, waiting or receiving.
    Gone {
        /// The request.
        request: u64,
    },
    /// Time has passed: see [`super::Uploads::next`].
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send these pieces.
    Send {
        /// The request they answer.
        request: u64,
        /// The pieces.
        pieces: Range<u32>,
    },
    /// Say "busy".
    Busy {
        /// The request.
        request: u64,
        /// When to ask again; zero for at once, with what is wanted by then.
        again: Duration,
    },
    /// Say that nothing of it is here.
    NotHeld {
        /// The request.
        request: u64,
    },
}

/// Pieces that a child is not to be told of yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withheld {
    /// The pieces.
    pub pieces: PieceSet,
    /// When the first of them is to be told.
    pub until: Duration,
}
