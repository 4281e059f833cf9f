//! What nodes and schedulers say to each other, checked: the domain form of `scheduler.proto`.

use std::ops::Range;

use crate::digest::Digest;
use crate::geometry::{Geometry, MAX_SIZE};
use crate::id::{Host, HostId, SigningKey, TaskId};
use crate::invalid::Invalid;
use crate::name::Source;
use crate::piece_set::{PieceSet, ranges_from_wire, ranges_to_wire};
use crate::wire;

/// More keys than this in one message are refused; longer lists are sent in parts.
pub const MAX_KEYS_PER_MESSAGE: usize = 4096;
/// More sources than this for one task are refused.
pub const MAX_SOURCES: usize = 16;
/// Rates of more parents than this in one report are refused: as many as a scheduler names.
pub const MAX_RATES: usize = 8;

/// From a node to a scheduler.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeMessage {
    /// The first message of a session.
    Hello(Host),
    /// The node lives.
    Heartbeat,
    /// The node lives, and sends pieces to others.
    Load(Load),
    /// The node holds these complete. `listed` once everything it holds has been told.
    Inventory {
        /// Digests of content, and keys of repository records.
        keys: Vec<Digest>,
        /// Whether the full listing is done.
        listed: bool,
    },
    /// The node no longer holds these.
    Withdraw(Vec<Digest>),
    /// The node takes part in a task.
    Join(Join),
    /// The node has more of a task than it last said.
    Progress(Progress),
    /// The node takes no further part.
    Leave {
        /// The task.
        task: TaskId,
        /// How it ended for this node.
        outcome: Outcome,
    },
    /// A parent did not do what was expected of it.
    ParentFailed {
        /// The task.
        task: TaskId,
        /// The parent.
        parent: HostId,
        /// What was wrong.
        kind: FailureKind,
    },
    /// The lease holder cannot read.
    LeaseReturn {
        /// The task.
        task: TaskId,
        /// The lease.
        lease: u64,
        /// Why.
        reason: ReturnReason,
    },
    /// Who holds this? Answered with [`SchedulerMessage::Found`].
    Find {
        /// Chosen by the node, repeated in the answer.
        request: u64,
        /// What is looked for.
        key: Digest,
    },
}

/// A node's part in a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Join {
    /// The task.
    pub task: TaskId,
    /// Bytes of the content.
    pub size: u64,
    /// Where it may be read from.
    pub sources: Vec<Source>,
    /// What the node already holds of it.
    pub held: PieceSet,
    /// The lease the node reads under, from before a reconnect.
    pub lease: Option<LeaseClaim>,
}

/// A lease that a node says it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseClaim {
    /// Its number.
    pub lease: u64,
    /// The pieces it is about.
    pub ranges: Vec<Range<u32>>,
}

/// What a node has gained since it last told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The task.
    pub task: TaskId,
    /// Pieces that are now held.
    pub gained: Vec<Range<u32>>,
    /// Bytes read from upstream under the lease since the last report.
    pub upstream_bytes: u64,
    /// Whether the upstream takes ranges, once that is known.
    pub upstream_ranges: Option<bool>,
    /// How fast parents have sent since the last report, [`MAX_RATES`] at most.
    pub rates: Vec<ParentRate>,
}

/// How fast a parent sends to this child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentRate {
    /// The parent.
    pub parent: HostId,
    /// Bytes a second while it was sending.
    pub bytes_per_second: u64,
}

/// How busy a node is with sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Upload slots taken at this moment.
    pub busy: u32,
    /// Bytes of pieces sent since this was last told.
    pub sent_bytes: u64,
}

/// How a task ended for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The node holds the whole content, verified.
    Complete,
    /// It could not be had.
    Failed,
    /// Nobody wants it any more.
    Abandoned,
}

/// What was wrong with a parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureKind {
    /// It cannot be connected to, or hung up.
    Unreachable,
    /// It trickles.
    Slow,
    /// Its bytes do not match the piece map.
    WrongBytes,
    /// It sent too few or too many.
    WrongLength,
    /// It does not hold what it said it holds.
    NotHeld,
}

/// Why a lease is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnReason {
    /// Upstream cannot be reached or fails.
    Unavailable,
    /// Upstream denies it, or does not have it.
    Refused,
    /// The reader itself cannot go on.
    Reader,
}

/// From a scheduler to a node.
#[derive(Debug, Clone, PartialEq)]
pub enum SchedulerMessage {
    /// The first message of a session.
    Welcome {
        /// The scheduler's id.
        scheduler: HostId,
    },
    /// Among whom repositories find their owner.
    Members(Vec<Host>),
    /// The parents of a task, in place of those named before.
    Parents {
        /// The task.
        task: TaskId,
        /// Best first.
        parents: Vec<Parent>,
        /// Whose piece map entries count.
        signers: Vec<(HostId, SigningKey)>,
    },
    /// The right and duty to read from upstream.
    Lease(Lease),
    /// The lease has passed to another.
    LeaseRevoked {
        /// The task.
        task: TaskId,
        /// The lease.
        lease: u64,
    },
    /// Do you hold this?
    Ask(Digest),
    /// The answer to [`NodeMessage::Find`].
    Found {
        /// The request it answers.
        request: u64,
        /// Who holds it.
        holders: Vec<Host>,
    },
    /// Nobody holds what is missing and no reader could get it.
    NoSource {
        /// The task.
        task: TaskId,
        /// What the last reader said.
        reason: ReturnReason,
    },
}

/// A host to fetch pieces of a task from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// The host.
    pub host: Host,
    /// Whether it holds all of it.
    pub complete: bool,
}

/// A lease, as granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The task.
    pub task: TaskId,
    /// Bytes of the content: the holder may hear of the task for the first time.
    pub size: u64,
    /// Its number: grows with every lease of a task, so that an old holder is told from a new one.
    pub lease: u64,
    /// The pieces to read. None at all makes it an invitation: the node is to become a further
    /// holder, from its peers.
    pub ranges: Vec<Range<u32>>,
    /// The lease lapses when this long passes without progress.
    pub expires_ms: u32,
    /// Where to read from.
    pub sources: Vec<Source>,
}

mod from_wire;
pub use from_wire::check_protocol;
mod to_wire;

#[cfg(test)]
mod tests;
