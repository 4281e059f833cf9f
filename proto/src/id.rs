//! Who and what messages are about: hosts, roles, and the keys the swarm is organised by.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::digest::Digest;
use crate::invalid::Invalid;
use crate::name::Source;
use crate::wire;

/// A task is the transfer of one content: its id *is* the content's digest, so the same layer in
/// two repositories or registries is one task.
pub type TaskId = Digest;

/// The longest host id, that of a DNS name.
const MAX_HOST_ID: usize = 253;
/// More labels than this on one host are refused.
pub(crate) const MAX_LABELS: usize = 32;

/// A process of the cluster, by the name its operator gave it. Clones share the name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostId(Arc<str>);

/// What a process does in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Holds what its node's clients asked for.
    Mirror,
    /// Reads upstream for everybody.
    Seed,
    /// Keeps track of who holds what.
    Scheduler,
}

/// An Ed25519 public key that piece maps are signed with.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SigningKey(pub [u8; 32]);

/// A process as others know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub id: HostId,
    /// `host:port` of the listener other processes reach it at.
    pub address: String,
    /// What it does.
    pub role: Role,
    /// Where it is: `zone`, `rack` and whatever else the operator tells.
    pub labels: BTreeMap<String, String>,
    /// What it signs piece maps with; `None` for a scheduler.
    pub signing_key: Option<SigningKey>,
    /// How many pieces it sends at once.
    pub upload_slots: u32,
}

/// The label that carries a seed's weight.
pub const WEIGHT_LABEL: &str = "weight";
/// The weight of a host that tells none, and the bounds of what one can tell: a seed of the least
/// weight reads a hundredth of what a usual one does, one of the greatest a hundred times as much.
pub const DEFAULT_WEIGHT: u32 = 100;
/// See [`DEFAULT_WEIGHT`].
pub const MAX_WEIGHT: u32 = 10_000;

impl Host {
    /// Its share of what is divided among hosts, in relation to the others' weights. It travels as a
    /// label, so that every part that knows labels passes it on.
    pub fn weight(&self) -> u32 {
        let told = self.labels.get(WEIGHT_LABEL);
        let told = told.and_then(|weight| weight.parse::<u32>().ok());
        told.map_or(DEFAULT_WEIGHT, |weight| weight.clamp(1, MAX_WEIGHT))
    }
}

impl HostId {
    /// The id as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether one was cloned from the other. Where ids are mostly clones, this finds the right one
    /// among several without a look at their bytes; `false` says nothing.
    pub fn is_clone_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl FromStr for HostId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > MAX_HOST_ID || !text.bytes().all(fits) {
            return Err(Invalid::new(
                "host id",
                "is not 1 to 253 letters, digits, '.', '-' and '_'",
            ));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Digest::Sha256(self.0).hex())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mirror => "mirror",
            Self::Seed => "seed",
            Self::Scheduler => "scheduler",
        })
    }
}

/// The key under which the holders of a repository's records (tags, public verdict, links) are
/// found. It shares the key space of tasks without ever being the digest of content anyone asks
/// for: its preimage begins with a byte sequence no registry content has a reason to begin with.
pub fn repository_key(source: &Source) -> Digest {
    Digest::sha256(format!("darner repository record\0{source}").as_bytes())
}

impl From<Role> for wire::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Mirror => Self::Mirror,
            Role::Seed => Self::Seed,
            Role::Scheduler => Self::Scheduler,
        }
    }
}

impl TryFrom<wire::Role> for Role {
    type Error = Invalid;

    fn try_from(role: wire::Role) -> Result<Self, Invalid> {
        match role {
            wire::Role::Mirror => Ok(Self::Mirror),
            wire::Role::Seed => Ok(Self::Seed),
            wire::Role::Scheduler => Ok(Self::Scheduler),
            wire::Role::Unspecified => Err(Invalid::new("role", "is missing")),
        }
    }
}

impl From<&Host> for wire::Host {
    fn from(host: &Host) -> Self {
        Self {
            id: host.id.0.to_string(),
            address: host.address.clone(),
            role: wire::Role::from(host.role).into(),
            labels: host.labels.clone().into_iter().collect(),
            signing_key: host
                .signing_key
                .map(|key| key.0.to_vec())
                .unwrap_or_default()
                .into(),
            upload_slots: host.upload_slots,
        }
    }
}

impl TryFrom<wire::Host> for Host {
    type Error = Invalid;

    fn try_from(host: wire::Host) -> Result<Self, Invalid> {
        if host.labels.len() > MAX_LABELS {
            return Err(Invalid::new("labels", "are more than 32"));
        }
        Ok(Self {
            id: host.id.parse()?,
            role: host.role().try_into()?,
            address: parse_address(host.address)?,
            signing_key: parse_key(&host.signing_key)?,
            labels: host.labels.into_iter().collect(),
            upload_slots: host.upload_slots,
        })
    }
}

fn parse_key(bytes: &[u8]) -> Result<Option<SigningKey>, Invalid> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let key = bytes
        .try_into()
        .map_err(|_| Invalid::new("signing key", "is not 32 bytes"))?;
    Ok(Some(SigningKey(key)))
}

/// `host:port` with a host that can stand in a URL.
pub fn parse_address(address: String) -> Result<String, Invalid> {
    let bad = || Invalid::new("address", "is not host:port");
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    let bare = host
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'));
    let host_fits = match bare {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
        }
    };
    if !host_fits || port.parse::<u16>().is_err() || address.len() > 300 {
        return Err(bad());
    }
    Ok(address)
}
