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
