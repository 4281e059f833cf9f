//! The scheduler: knows which node holds what, tells nodes whom to fetch from, and gives exactly one
//! of them the right to read a piece from upstream.
//!
//! [`swarm`] decides: a pure state machine without clock, socket or randomness. [`driver`] waits: it
//! moves messages between the state and the nodes' streams. [`server`] puts the role together.
//!
//! Nothing here dials a node, touches content or sees a credential. All state is soft: a scheduler
//! that was started anew is told everything again by the nodes that attend it.

pub mod driver;
mod metrics;
pub mod server;
pub mod swarm;
