//! The rig of the end-to-end tests: real `darner` processes, a real registry with a proxy in front
//! of it that counts and breaks things on demand, real container runtimes and a real browser, guests of a
//! cluster and strangers to it, and peers that lie.
//!
//! Every test runs in a [`scene`]: a directory and a time limit of its own, and on failure the logs
//! of everything that ran in it. Whatever a scene starts ends with it. Tests wait on conditions
//! ([`wait`]), never on the clock.

pub mod alone;
pub mod attendant;
pub mod authority;
pub mod balancer;
pub mod browser;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod containerd;
pub mod darner;
pub mod docker;
pub mod getting;
pub mod guest;
pub mod hostile;
pub mod image;
pub mod lookup;
pub mod members;
pub mod midway;
pub mod nginx;
pub mod objects;
pub mod operator;
pub mod place;
pub mod podman;
pub mod postgres;
pub mod preheating;
pub mod process;
pub mod raw;
pub mod registry;
pub mod runtime;
pub mod scene;
pub mod skopeo;
pub mod strict;
pub mod system;
pub mod tokens;
pub mod tree;
pub mod tunnel;
pub mod upstream;
pub mod wait;
pub mod web;
