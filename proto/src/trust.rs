//! Whose certificates count, as the manager says: the domain form of `Trust` in `identity.proto`.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::id::HostId;
use crate::invalid::Invalid;
use crate::wire;

/// More authorities than this at once are refused: each rotation adds one for as long as the
/// certificates of the one before it last.
pub const MAX_AUTHORITIES: usize = 8;
/// The longest certificate of an authority. Ours take some 400 bytes.
pub const MAX_CERTIFICATE: usize = 8 << 10;
/// More revocations than this are refused: the list travels whole, to every process, on every change.
pub const MAX_REVOCATIONS: usize = 4096;

/// Whose certificates count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trust {
    /// Self-signed certificates, DER. Empty where the manager issues none.
    pub authorities: Vec<Bytes>,
    /// By process: certificates that are valid from this second (since 1970) or an earlier one do
    /// not count any more.
    pub revoked: BTreeMap<HostId, u64>,
}

impl Trust {
    /// Whether a certificate of `id` that is valid from the second `not_before` on was revoked.
    pub fn is_revoked(&self, id: &HostId, not_before: u64) -> bool {
        let until = self.revoked.get(id);
        until.is_some_and(|until| not_before <= *until)
    }
}

impl From<&Trust> for wire::Trust {
    fn from(trust: &Trust) -> Self {
        let revoked = trust.revoked.iter().map(|(id, until)| wire::Revocation {
            id: id.to_string(),
            until: *until,
        });
        Self {
            authorities: trust.authorities.clone(),
            revoked: revoked.collect(),
        }
    }
}

impl TryFrom<wire::Trust> for Trust {
    type Error = Invalid;

    fn try_from(trust: wire::Trust) -> Result<Self, Invalid> {
        if trust.revoked.len() > MAX_REVOCATIONS {
            return Err(Invalid::new("revocations", "are more than 4096"));
        }
        let revoked = trust.revoked.into_iter();
        Ok(Self {
            authorities: authorities(trust.authorities)?,
            revoked: revoked
                .map(|revocation| Ok((revocation.id.parse()?, revocation.until)))
                .collect::<Result<_, Invalid>>()?,
        })
    }
}

/// Certificates of authorities, within bounds. What they say is not looked at.
pub fn authorities(certificates: Vec<Bytes>) -> Result<Vec<Bytes>, Invalid> {
    let fits = |certificate: &Bytes| (1..=MAX_CERTIFICATE).contains(&certificate.len());
    if certificates.len() > MAX_AUTHORITIES || !certificates.iter().all(fits) {
        let why = "are more than 8, or one is empty or longer than 8 KiB";
        return Err(Invalid::new("authorities", why));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust() -> Trust {
        Trust {
            authorities: vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")],
            revoked: [("node-1".parse().expect("valid"), 1000)].into(),
        }
    }

    #[test]
    fn trust_survives_the_wire() {
        let wire = wire::Trust::from(&trust());
        assert_eq!(Trust::try_from(wire), Ok(trust()));
    }

    #[test]
    fn what_was_issued_before_a_revocation_does_not_count_and_what_comes_later_does() {
        let id: HostId = "node-1".parse().expect("valid");
        let other: HostId = "node-2".parse().expect("valid");
        assert!(trust().is_revoked(&id, 999));
        assert!(trust().is_revoked(&id, 1000));
        assert!(!trust().is_revoked(&id, 1001));
        assert!(!trust().is_revoked(&other, 999));
    }

    #[test]
    fn lists_without_end_are_refused() {
        let one = wire::Revocation {
            id: "n".to_owned(),
            until: 1,
        };
        let revoked = wire::Trust {
            authorities: Vec::new(),
            revoked: vec![one; MAX_REVOCATIONS + 1],
        };
        assert!(Trust::try_from(revoked).is_err());
        assert!(authorities(vec![Bytes::from_static(b"a"); MAX_AUTHORITIES + 1]).is_err());
        assert!(authorities(vec![Bytes::new()]).is_err());
    }
}
