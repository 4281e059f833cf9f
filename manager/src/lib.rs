//! The manager: knows who belongs to the cluster and tells everybody who schedules and who seeds.
//!
//! Goals: members find each other without being configured one by one; what was once told is never
//! taken back by a restart, a lost database or a clock set back. Non-goals: pulls do not pass here.
//! With the manager away everything goes on with what its members last heard
//! ([`darner_service::directory`]).
//!
//! [`membership`] decides, as a pure state machine; [`members`] gives it the clock and carries out
//! what it decides; [`database`] remembers across restarts; [`authority`] issues certificates;
//! [`jobs`] has members hold images ahead of time; [`figures`] adds up what they count;
//! [`images`] knows which of them hold what,
//! [`removals`] has them remove it, [`swarms`] asks schedulers what is on its way; [`rpc`] and
//! [`api`] are two faces; `console` shows the API's answers as pages.

pub mod api;
pub mod authority;
pub mod clusters;
mod console;
pub mod database;
pub mod figures;
pub mod hooks;
pub mod images;
pub mod jobs;
pub mod members;
pub mod membership;
pub mod metrics;
pub mod oidc;
pub mod random;
pub mod removals;
pub mod rpc;
pub mod server;
pub mod swarms;
pub mod users;
