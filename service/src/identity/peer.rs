//! Who a process is, as its certificate says: one URI name,
//! `spiffe://<trust domain>/darner/<role>/<node id>`. Nothing else in a certificate is looked at.
//!
//! The trust domain is the authority's business: certificates of any are taken, as long as an
//! authority of this cluster signed them.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use darner_proto::id::{HostId, Role};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The trust domain of certificates that the manager issues.
const TRUST_DOMAIN: &str = "cluster";

/// What a certificate lets its holder be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerRole {
    /// Says who belongs to the cluster.
    Manager,
    /// A member's own role.
    Member(Role),
}

/// The process at the other end of a connection, by its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its node id.
    pub id: HostId,
    /// What it may act as.
    pub role: PeerRole,
    /// The certificate counts from this second since 1970.
    pub not_before: u64,
    /// It counts no longer after this one.
    pub not_after: u64,
}

/// A certificate does not say who holds it.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// It is no X.509 certificate.
    #[error("it is not an X.509 certificate: {0}")]
    Parse(String),
    /// It has no name of ours, or several.
    #[error(
        "it must have exactly one URI name, spiffe://<trust domain>/darner/<manager|scheduler|seed|mirror>/<node id>, and has {found}"
    )]
    Name {
        /// What it has.
        found: String,
    },
}

impl PeerRole {
    /// Seeds and mirrors.
    pub const NODES: &'static [Self] = &[Self::Member(Role::Mirror), Self::Member(Role::Seed)];
    /// Whoever schedules.
    pub const SCHEDULER: &'static [Self] = &[Self::Member(Role::Scheduler)];
    /// Whoever manages.
    pub const MANAGER: &'static [Self] = &[Self::Manager];

    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "manager" => Self::Manager,
            "scheduler" => Self::Member(Role::Scheduler),
            "seed" => Self::Member(Role::Seed),
            "mirror" => Self::Member(Role::Mirror),
            _ => return None,
        })
    }
}

impl fmt::Display for PeerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manager => f.write_str("manager"),
            Self::Member(role) => role.fmt(f),
        }
    }
}

impl From<Role> for PeerRole {
    fn from(role: Role) -> Self {
        Self::Member(role)
    }
}

/// The name that a certificate of the manager's authority gives its holder.
pub fn uri(role: PeerRole, id: &HostId) -> String {
    format!("spiffe://{TRUST_DOMAIN}/darner/{role}/{id}")
}

impl Peer {
    /// Who `certificate` (DER) names. Who signed it, and whether it counts now, is not looked at.
    ///
    /// # Errors
    /// It cannot be read, or has no name of ours, or more than one.
    pub fn of(certificate: &[u8]) -> Result<Self, PeerError> {
        let (_, certificate) = X509Certificate::from_der(certificate)
            .map_err(|error| PeerError::Parse(error.to_string()))?;
        let names = uri_names(&certificate);
        let parsed = match names.as_slice() {
            [name] => parse_uri(name),
            _ => None,
        };
        let (role, id) = parsed.ok_or_else(|| PeerError::Name {
            found: match names.is_empty() {
                true => "none".to_owned(),
                false => names.join(", "),
            },
        })?;
        let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp());
        Ok(Self {
            id,
            role,
            not_before: seconds(certificate.validity().not_before).unwrap_or(0),
            not_after: seconds(certificate.validity().not_after).unwrap_or(0),
        })
    }

    /// When its certificate is over.
    pub fn expiry(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.not_after)
    }
}

fn uri_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let extensions = certificate.extensions().iter();
    let names = extensions.filter_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
        _ => None,
    });
    let uris = names.flatten().filter_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    uris.collect()
}

fn parse_uri(uri: &str) -> Option<(PeerRole, HostId)> {
    let (domain, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
    let (role, id) = path.strip_prefix("darner/")?.split_once('/')?;
    if domain.is_empty() {
        return None;
    }
    Some((PeerRole::parse(role)?, id.parse().ok()?))
}

/// Seconds since 1970 now.
pub(super) fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let id: HostId = "node-1.example_2".parse().unwrap();
        for role in [
            PeerRole::Manager,
            Role::Scheduler.into(),
            Role::Seed.into(),
            Role::Mirror.into(),
        ] {
            assert_eq!(parse_uri(&uri(role, &id)), Some((role, id.clone())));
        }
    }

    #[test]
    fn names_of_others_are_none_of_ours() {
        for uri in [
            "",
            "https://cluster/darner/seed/a",
            "spiffe://cluster/seed/a",
            "spiffe://cluster/ns/darner/seed/a",
            "spiffe:///darner/seed/a",
            "spiffe://cluster/darner/seed/",
            "spiffe://cluster/darner/seed/a/b",
            "spiffe://cluster/darner/Seed/a",
            "spiffe://cluster/darner/admin/a",
            "spiffe://cluster/darner/seed/a?b",
        ] {
            assert_eq!(parse_uri(uri), None, "{uri}");
        }
    }
}
