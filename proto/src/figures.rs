//! What a node has done, in numbers: they travel in keep-alives (`manager.proto`), whole each time.
//!
//! Counters begin at 0 with the node's process, so whoever adds them up has to notice when one became
//! less.

use crate::invalid::Invalid;
use crate::name::RegistryName;
use crate::wire;

/// Registries a node tells of: with [`MAX_REGISTRY`] as many as fit a keep-alive beside its reports.
pub const MAX_UPSTREAMS: usize = 16;
/// Of a registry with a longer name nothing is told.
const MAX_REGISTRY: usize = 128;
/// Of a version, so many bytes are told.
const MAX_VERSION: usize = 64;

/// A node's numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Figures {
    /// Bytes sent to clients.
    pub served: Served,
    /// Requests of clients.
    pub requests: u64,
    /// Those that went wrong.
    pub errors: u64,
    /// Bytes of pieces sent to peers.
    pub uploaded_bytes: u64,
    /// Downloads in progress now.
    pub running: u64,
    /// Bytes the store takes now.
    pub held_bytes: u64,
    /// Bytes it may take.
    pub capacity_bytes: u64,
    /// By registry, those asked for anything.
    pub upstreams: Vec<UpstreamFigures>,
    /// Of the program.
    pub version: String,
}

/// Bytes sent to clients, by where the first of each answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Served {
    /// The node's store.
    pub store: u64,
    /// Other nodes.
    pub peer: u64,
    /// Seeds.
    pub seed: u64,
    /// The registry.
    pub upstream: u64,
}

/// A node's numbers about one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamFigures {
    /// Which.
    pub registry: RegistryName,
    /// Requests sent to it.
    pub requests: u64,
    /// Bytes of bodies received.
    pub bytes: u64,
    /// Reads that failed.
    pub errors: u64,
    /// Requests it allows in its window, where it says so.
    pub limit: Option<u64>,
    /// Requests left of them.
    pub remaining: Option<u64>,
    /// Unix time in seconds until which it has asked to be left alone, or 0.
    pub quiet_until: u64,
}

impl Served {
    /// All of it.
    pub fn total(&self) -> u64 {
        let parts = [self.store, self.peer, self.seed, self.upstream];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}

impl From<&Figures> for wire::Figures {
    fn from(figures: &Figures) -> Self {
        let upstreams = figures.upstreams.iter();
        let told = upstreams.filter(|one| one.registry.as_str().len() <= MAX_REGISTRY);
        let upstreams = told
            .take(MAX_UPSTREAMS)
            .map(|upstream| wire::UpstreamFigures {
                registry: upstream.registry.to_string(),
                requests: upstream.requests,
                bytes: upstream.bytes,
                errors: upstream.errors,
                limit: upstream.limit,
                remaining: upstream.remaining,
                quiet_until: upstream.quiet_until,
            });
        Self {
            store_bytes: figures.served.store,
            peer_bytes: figures.served.peer,
            seed_bytes: figures.served.seed,
            upstream_bytes: figures.served.upstream,
            requests: figures.requests,
            errors: figures.errors,
            uploaded_bytes: figures.uploaded_bytes,
            running: figures.running,
            held_bytes: figures.held_bytes,
            capacity_bytes: figures.capacity_bytes,
            upstreams: upstreams.collect(),
            version: shortened(&figures.version),
        }
    }
}

impl TryFrom<wire::Figures> for Figures {
    type Error = Invalid;

    fn try_from(figures: wire::Figures) -> Result<Self, Invalid> {
        let upstreams = figures.upstreams.into_iter().take(MAX_UPSTREAMS);
        let upstreams = upstreams.map(|upstream| {
            Ok(UpstreamFigures {
                registry: upstream.registry.parse()?,
                requests: upstream.requests,
                bytes: upstream.bytes,
                errors: upstream.errors,
                limit: upstream.limit,
                remaining: upstream.remaining,
                quiet_until: upstream.quiet_until,
            })
        });
        Ok(Self {
            served: Served {
                store: figures.store_bytes,
                peer: figures.peer_bytes,
                seed: figures.seed_bytes,
                upstream: figures.upstream_bytes,
            },
            requests: figures.requests,
            errors: figures.errors,
            uploaded_bytes: figures.uploaded_bytes,
            running: figures.running,
            held_bytes: figures.held_bytes,
            capacity_bytes: figures.capacity_bytes,
            upstreams: upstreams.collect::<Result<_, Invalid>>()?,
            version: shortened(&figures.version),
        })
    }
}

fn shortened(version: &str) -> String {
    version[..version.floor_char_boundary(MAX_VERSION)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_survive_the_wire() {
        let figures = Figures {
            served: Served {
                store: 1,
                peer: 2,
                seed: 3,
                upstream: u64::MAX,
            },
            requests: 5,
            errors: 6,
            uploaded_bytes: 7,
            running: 8,
            held_bytes: 9,
            capacity_bytes: 10,
            upstreams: vec![UpstreamFigures {
                registry: "docker.io".parse().unwrap(),
                requests: 11,
                bytes: 12,
                errors: 13,
                limit: Some(100),
                remaining: None,
                quiet_until: 14,
            }],
            version: "0.1.0".to_owned(),
        };
        let told = Figures::try_from(wire::Figures::from(&figures)).unwrap();
        assert_eq!(told, figures);
        assert_eq!(told.served.total(), u64::MAX);
    }

    #[test]
    fn what_is_told_is_bounded() {
        let upstream = wire::UpstreamFigures {
            registry: "r.test".to_owned(),
            ..Default::default()
        };
        let long = wire::Figures {
            upstreams: vec![upstream; 2 * MAX_UPSTREAMS],
            version: "é".repeat(MAX_VERSION),
            ..Default::default()
        };
        let told = Figures::try_from(long).unwrap();
        assert_eq!(told.upstreams.len(), MAX_UPSTREAMS);
        assert_eq!(told.version, "é".repeat(MAX_VERSION / 2));
        let nameless = wire::Figures {
            upstreams: vec![wire::UpstreamFigures::default()],
            ..Default::default()
        };
        assert!(Figures::try_from(nameless).is_err());
    }
}
