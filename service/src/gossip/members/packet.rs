//! A packet of the protocol, taken apart.

use bytes::{Buf as _, Bytes};
use darner_proto::gossip::MAX_PACKET;
use foca::{Codec as _, Header};

use crate::gossip::node::{self, Node, Wire};

/// A packet, taken apart.
pub(super) struct Packet {
    pub(super) header: Header<Node>,
    /// The header as it came.
    pub(super) head: Bytes,
    /// How many members the sender takes for alive.
    pub(super) live: u32,
    pub(super) updates: Vec<foca::Member<Node>>,
}

impl Packet {
    pub(super) fn parse(packet: Bytes) -> Option<Self> {
        if packet.len() > MAX_PACKET {
            return None;
        }
        let mut rest = packet.clone();
        let (header, live) = node::head(&mut rest).ok()?;
        let head = packet.slice(..packet.len() - rest.len());
        let count = if rest.len() >= 2 { rest.get_u16() } else { 0 };
        let mut wire = Wire::default();
        let updates = (0..count).map(|_| wire.decode_member(&mut rest).ok());
        Some(Self {
            header,
            head,
            live,
            updates: updates.collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use darner_proto::wire;
    use prost::Message as _;

    use super::*;

    #[test]
    fn packets_as_no_member_sends_them_are_dropped_or_read_whole() {
        let member = wire::GossipMember {
            id: "mirror-1".to_owned(),
            generation: 3,
            address: "10.0.0.1:7421".to_owned(),
            scheduler_port: 7422,
            role: wire::Role::Mirror.into(),
            labels: [("zone".to_owned(), "a".to_owned())].into(),
        };
        let name = wire::GossipMember {
            id: "mirror-2".to_owned(),
            generation: 1,
            ..wire::GossipMember::default()
        };
        let head = |kind: wire::GossipKind, about| wire::GossipHead {
            from: Some(member.clone()),
            incarnation: 1,
            to: Some(name.clone()),
            kind: kind.into(),
            probe: 7,
            about,
            live: 2,
        };
        let update = |state: wire::GossipState| wire::GossipUpdate {
            member: Some(member.clone()),
            incarnation: 2,
            state: state.into(),
        };
        let ping = head(wire::GossipKind::Ping, None).encode_length_delimited_to_vec();
        let mut news = head(wire::GossipKind::PingRequest, Some(name.clone()))
            .encode_length_delimited_to_vec();
        news.extend(2u16.to_be_bytes());
        for state in [wire::GossipState::Alive, wire::GossipState::Down] {
            news.extend(update(state).encode_length_delimited_to_vec());
        }
        assert_eq!(Packet::parse(news.clone().into()).unwrap().updates.len(), 2);
        assert!(Packet::parse(ping.clone().into()).is_some());
        darner_mutate::each(&[&ping, &news], |bytes| {
            let packet = Bytes::copy_from_slice(bytes);
            if let Some(read) = Packet::parse(packet.clone()) {
                assert!(packet.starts_with(&read.head) && read.header.src.member.place.is_some());
                assert!(read.updates.len() <= bytes.len() / 2);
            }
        });
    }
}
