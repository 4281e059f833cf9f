//! The language the parts of Darner share: what travels between processes, and the types it is
//! checked into on arrival.
//!
//! Participants: *nodes* (mirrors, and seeds among them) hold content; a *scheduler* says who holds
//! what and who may read upstream; a *manager* says who belongs to the cluster.
//!
//! Goals: a message that passed its parser needs no second check; version N talks to N-1 (unknown
//! fields are ignored, numbers never reused, [`PROTOCOL`] told at the start of every session).
//! Non-goals: transport, retries, decisions. Everything here is pure.

pub mod digest;
pub mod figures;
pub mod file;
pub mod geometry;
pub mod gossip;
pub mod holdings;
pub mod id;
pub mod invalid;
pub mod manager;
pub mod name;
pub mod pattern;
pub mod peer;
pub mod piece_map;
pub mod piece_set;
pub mod preheat;
pub mod removal;
pub mod rendezvous;
pub mod rules;
pub mod scheduler;
pub mod swarms;
pub mod trust;

/// The generated messages and services, as they are on the wire.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::excessive_nesting,
    clippy::too_many_lines,
    clippy::unwrap_used,
    clippy::unused_async,
    clippy::allow_attributes_without_reason,
    reason = "generated code; the .proto files carry the documentation"
)]
pub mod wire {
    tonic::include_proto!("darner.v1");
}

/// The version of the wire protocol this build speaks. A peer that announces another major number
/// is refused with a message that names both.
pub const PROTOCOL: u32 = 1;
