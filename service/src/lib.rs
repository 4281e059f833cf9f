//! What every process of Darner needs and nothing else: settings and where they come from, logs and
//! metrics, health, ordered shutdown, the node's identity, and the way to the manager.
//!
//! Nothing here knows what a mirror, a scheduler or a manager does.

pub mod admin;
pub mod config;
pub mod directory;
pub mod gossip;
pub mod health;
pub mod identity;
pub mod listener;
pub mod metrics;
mod replace;
pub mod secret;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
