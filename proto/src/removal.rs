//! Removals that the manager orders of every node, and how far a node is: they travel in keep-alives
//! (`manager.proto`).
//!
//! Removals are numbered; a node says up to which number it has carried them out, and is told those
//! beyond. One that begins again says 0 and is told all that still stand: a removal is about what
//! was held when it was asked for, so carrying it out again removes nothing that came later.

use std::time::Duration;

use crate::digest::Digest;
use crate::invalid::Invalid;
use crate::wire;

/// Removals in one answer: some kilobytes at most.
pub const MAX_REMOVALS: usize = 16;

/// Content that is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal {
    /// Which removal; they are carried out in this order.
    pub number: u64,
    /// A manifest, with the blobs that no other image needs; or any one content.
    pub key: Digest,
    /// How long ago it was asked for. What has come since stays.
    pub age: Duration,
}

impl From<&Removal> for wire::Removal {
    fn from(removal: &Removal) -> Self {
        Self {
            number: removal.number,
            key: removal.key.to_wire().into(),
            age_ms: u64::try_from(removal.age.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl TryFrom<wire::Removal> for Removal {
    type Error = Invalid;

    fn try_from(removal: wire::Removal) -> Result<Self, Invalid> {
        if removal.number == 0 {
            return Err(Invalid::new("removal", "has no number"));
        }
        Ok(Self {
            number: removal.number,
            key: Digest::from_wire(&removal.key)?,
            age: Duration::from_millis(removal.age_ms),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_survives_the_wire() {
        let removal = Removal {
            number: 7,
            key: Digest::sha256(b"x"),
            age: Duration::from_millis(1500),
        };
        let told = Removal::try_from(wire::Removal::from(&removal));
        assert_eq!(told, Ok(removal));
        assert!(Removal::try_from(wire::Removal::default()).is_err());
    }
}
