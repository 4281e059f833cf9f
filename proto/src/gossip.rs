//! Who belongs to a cluster without servers, checked: the domain form of `gossip.proto`.

use std::collections::BTreeMap;

use crate::id::{HostId, MAX_LABELS, Role, parse_address};
use crate::invalid::Invalid;
use crate::wire;

/// `POST /v1/gossip`: a packet in, packets for whoever asked out, each with its length (32 bits, big
/// endian) before it. `GET /v1/gossip`: whom the asked knows, as `GossipMembers`.
pub const PATH: &str = "/v1/gossip";
/// The longest packet. One that is full tells of some hundred members.
pub const MAX_PACKET: usize = 8 << 10;
/// Members that one process remembers, those that are gone for a while included. Several times as
/// many as a cluster without servers is meant for.
pub const MAX_MEMBERS: usize = 10_000;
/// Bytes of names and values of a member's labels: they travel with every word on it.
pub const MAX_LABEL_BYTES: usize = 512;

/// A member, or only its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its node id.
    pub id: HostId,
    /// Of this life of the process: milliseconds since 1970 at its start, and above any before it.
    pub generation: u64,
    /// `None`: only the name is meant.
    pub place: Option<Place>,
}

/// Where a member is and what it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `host:port` of its pieces listener.
    pub address: String,
    /// The port on that host at which it schedules.
    pub scheduler_port: u16,
    /// Mirror or seed.
    pub role: Role,
    /// Where it is: `zone`, `rack` and whatever else the operator tells.
    pub labels: BTreeMap<String, String>,
}

impl Place {
    /// `host:port` at which it schedules.
    pub fn scheduler(&self) -> String {
        let host = self.address.rsplit_once(':').map(|(host, _)| host);
        format!("{}:{}", host.unwrap_or_default(), self.scheduler_port)
    }
}

/// Whether labels are short enough to travel.
pub fn labels_fit(labels: &BTreeMap<String, String>) -> bool {
    let bytes: usize = labels
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    labels.len() <= MAX_LABELS && bytes <= MAX_LABEL_BYTES
}

impl From<&Member> for wire::GossipMember {
    fn from(member: &Member) -> Self {
        let mut wire = Self {
            id: member.id.to_string(),
            generation: member.generation,
            ..Self::default()
        };
        if let Some(place) = &member.place {
            wire.address.clone_from(&place.address);
            wire.scheduler_port = place.scheduler_port.into();
            wire.role = wire::Role::from(place.role).into();
            wire.labels = place.labels.clone().into_iter().collect();
        }
        wire
    }
}

impl TryFrom<wire::GossipMember> for Member {
    type Error = Invalid;

    fn try_from(wire: wire::GossipMember) -> Result<Self, Invalid> {
        let role = wire.role();
        let id = wire.id.parse()?;
        let place = match wire.address.is_empty() {
            true => None,
            false => Some(place(wire.address, wire.scheduler_port, role, wire.labels)?),
        };
        Ok(Self {
            id,
            generation: wire.generation,
            place,
        })
    }
}

fn place(
    address: String,
    scheduler_port: u32,
    role: wire::Role,
    labels: std::collections::HashMap<String, String>,
) -> Result<Place, Invalid> {
    let labels = labels.into_iter().collect();
    if !labels_fit(&labels) {
        return Err(Invalid::new(
            "labels",
            "are more than 32, or longer than 512 bytes",
        ));
    }
    let role = role.try_into()?;
    if role == Role::Scheduler {
        return Err(Invalid::new("member", "is neither mirror nor seed"));
    }
    let scheduler_port = u16::try_from(scheduler_port).ok().filter(|port| *port != 0);
    let scheduler_port = scheduler_port.ok_or_else(|| Invalid::new("scheduler port", "is none"))?;
    Ok(Place {
        address: parse_address(address)?,
        scheduler_port,
        role,
        labels,
    })
}

/// Whom somebody knows, in the order of the message.
///
/// # Errors
/// One of them is not valid, or they are too many.
pub fn members(wire: wire::GossipMembers) -> Result<Vec<Member>, Invalid> {
    if wire.members.len() > MAX_MEMBERS {
        return Err(Invalid::new("members", "are more than 10000"));
    }
    wire.members.into_iter().map(Member::try_from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message as _;

    fn member() -> Member {
        Member {
            id: "node-1".parse().expect("valid"),
            generation: 1_764_000_000_000,
            place: Some(Place {
                address: "10.0.0.1:7421".to_owned(),
                scheduler_port: 7422,
                role: Role::Mirror,
                labels: [("zone".to_owned(), "a".to_owned())].into(),
            }),
        }
    }

    #[test]
    fn members_survive_the_wire() {
        let named = Member {
            place: None,
            ..member()
        };
        for member in [member(), named] {
            let wire = wire::GossipMember::from(&member);
            assert_eq!(Member::try_from(wire), Ok(member));
        }
    }

    #[test]
    fn a_scheduler_is_at_the_host_of_the_pieces() {
        let mut place = member().place.expect("has one");
        assert_eq!(place.scheduler(), "10.0.0.1:7422");
        place.address = "[fd00::1]:7421".to_owned();
        assert_eq!(place.scheduler(), "[fd00::1]:7422");
    }

    #[test]
    fn what_no_member_can_be_is_refused() {
        let wire = || wire::GossipMember::from(&member());
        let long = ("zone".to_owned(), "a".repeat(MAX_LABEL_BYTES));
        for bad in [
            wire::GossipMember {
                id: "../x".to_owned(),
                ..wire()
            },
            wire::GossipMember {
                address: "nowhere".to_owned(),
                ..wire()
            },
            wire::GossipMember {
                scheduler_port: 0,
                ..wire()
            },
            wire::GossipMember {
                scheduler_port: 70_000,
                ..wire()
            },
            wire::GossipMember {
                role: wire::Role::Scheduler.into(),
                ..wire()
            },
            wire::GossipMember { role: 99, ..wire() },
            wire::GossipMember {
                labels: [long].into(),
                ..wire()
            },
        ] {
            assert!(Member::try_from(bad.clone()).is_err(), "{bad:?}");
        }
        let many = vec![wire(); MAX_MEMBERS + 1];
        assert!(members(wire::GossipMembers { members: many }).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_errors_not_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(wire) = wire::GossipMember::decode(&bytes[..]) {
                let _ = Member::try_from(wire);
            }
        }
    }
}
