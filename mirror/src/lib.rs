//! The mirror: an OCI registry front end on every node, whose content comes from the node's store,
//! from peers, from seeds, and last from the upstream registry.
//!
//! In the order of a pull: [`registry`] parses a client's request; [`resolve`] finds out what a name
//! means and whether anyone may read it, [`access`] who else may; [`task`] brings one content to
//! this node, however many clients ask, joining [`swarm`] (schedulers and parents), [`upstream`]
//! (the registry itself) and [`store`] (content on disk), none of which knows the others;
//! [`pieces`] serves what is held to other peers. [`listen`] is what both listeners stand on,
//! [`bandwidth`] what all transfers share. [`files`] answers for what is no image, from the same
//! tasks, and [`proxy`] is how other programs ask for either. [`preheat`] brings images here before
//! anybody asks, [`repair`] what a disk has lost, `figures` tells the manager what was counted
//! and `holdings` which images are here, `removal` removes what it says, `rules` follows what it sets,
//! [`server`] puts the parts together, `private` those for what is not public.

pub mod access;
pub mod bandwidth;
mod figures;
pub mod files;
mod holdings;
pub mod listen;
pub mod pieces;
pub mod preheat;
mod private;
pub mod proxy;
pub mod registry;
mod removal;
pub mod repair;
pub mod resolve;
mod rules;
pub mod server;
pub mod store;
pub mod swarm;
pub mod task;
pub mod upstream;
