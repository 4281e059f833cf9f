//! Members as the protocol's library sees them, and packets on the wire.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use darner_proto::digest::Digest;
use darner_proto::gossip::Member;
use darner_proto::id::HostId;
use darner_proto::invalid::Invalid;
use darner_proto::{rendezvous, wire};
use foca::{Header, Message, State};
use prost::Message as _;

/// A member of one life. Clones share what is known of it.
#[derive(Clone)]
pub(super) struct Node {
    /// Where it is in the order that the table's keepers are chosen by; also its name in short.
    pub(super) rank: u64,
    pub(super) member: Arc<Member>,
}

/// What goes on the wire.
#[derive(Debug, Clone, Default)]
pub(super) struct Wire {
    /// How many members are alive, as every packet says.
    pub(super) live: Arc<AtomicU32>,
}

/// A packet that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("the packet is full")]
    Full(#[from] prost::EncodeError),
    #[error("the packet is no message")]
    Decode(#[from] prost::DecodeError),
    #[error("the packet is not valid")]
    Invalid(#[from] Invalid),
}

impl Node {
    pub(super) fn new(member: Member) -> Self {
        Self::of(Arc::new(member))
    }

    pub(super) fn of(member: Arc<Member>) -> Self {
        Self {
            rank: rank(&member.id),
            member,
        }
    }

    /// The same process in a life of this generation.
    pub(super) fn reborn(&self, generation: u64) -> Self {
        Self::new(Member {
            generation,
            ..self.member.as_ref().clone()
        })
    }

    /// A packet of news as it is for this member; `None` for a packet of another kind.
    pub(super) fn redirected(&self, packet: &[u8]) -> Option<Bytes> {
        let mut rest = packet;
        let mut head = wire::GossipHead::decode_length_delimited(&mut rest).ok()?;
        if head.kind() != wire::GossipKind::Gossip {
            return None;
        }
        head.to = Some(self.name());
        let mut redirected = BytesMut::with_capacity(packet.len());
        head.encode_length_delimited(&mut redirected).ok()?;
        redirected.extend_from_slice(rest);
        Some(redirected.freeze())
    }

    fn name(&self) -> wire::GossipMember {
        wire::GossipMember {
            id: self.member.id.to_string(),
            generation: self.member.generation,
            ..wire::GossipMember::default()
        }
    }
}

/// Where a member is in the order in which the first keep the table: the greatest is first.
pub fn rank(id: &HostId) -> u64 {
    // Any fixed key will do; this one is nobody's content.
    rendezvous::rank(&Digest::Sha256([0; 32]), id)
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank && self.member.generation == other.member.generation
    }
}

impl Eq for Node {}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.member.id, self.member.generation)
    }
}

impl foca::Identity for Node {
    type Addr = u64;

    fn renew(&self) -> Option<Self> {
        Some(self.reborn(self.member.generation.saturating_add(1)))
    }

    fn addr(&self) -> u64 {
        self.rank
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.member.generation > adversary.member.generation
    }
}

impl foca::Codec<Node> for Wire {
    type Error = WireError;

    fn encode_header(
        &mut self,
        header: &Header<Node>,
        mut buf: impl BufMut,
    ) -> Result<(), WireError> {
        let (kind, probe, about) = of_message(&header.message);
        let head = wire::GossipHead {
            from: Some(header.src.member.as_ref().into()),
            incarnation: header.src_incarnation.into(),
            to: Some(header.dst.name()),
            kind: kind.into(),
            probe,
            about,
            live: self.live.load(Ordering::Relaxed),
        };
        Ok(head.encode_length_delimited(&mut buf)?)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Node>, WireError> {
        Ok(head(buf)?.0)
    }

    fn encode_member(
        &mut self,
        member: &foca::Member<Node>,
        mut buf: impl BufMut,
    ) -> Result<(), WireError> {
        let update = wire::GossipUpdate {
            // Who does not know it yet has no need to hear that it may be gone.
            member: Some(match member.state() {
                State::Down | State::Suspect => member.id().name(),
                State::Alive => member.id().member.as_ref().into(),
            }),
            incarnation: member.incarnation().into(),
            state: match member.state() {
                State::Alive => wire::GossipState::Alive,
                State::Suspect => wire::GossipState::Suspect,
                State::Down => wire::GossipState::Down,
            }
            .into(),
        };
        Ok(update.encode_length_delimited(&mut buf)?)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<foca::Member<Node>, WireError> {
        let update = wire::GossipUpdate::decode_length_delimited(buf)?;
        let state = match update.state() {
            wire::GossipState::Alive => State::Alive,
            wire::GossipState::Suspect => State::Suspect,
            wire::GossipState::Down => State::Down,
            wire::GossipState::Unspecified => {
                return Err(Invalid::new("state of a member", "is unknown").into());
            }
        };
        let node = node(update.member)?;
        Ok(foca::Member::new(
            node,
            incarnation(update.incarnation)?,
            state,
        ))
    }
}

/// A packet's head, and how many members its sender takes for alive.
pub(super) fn head(buf: impl Buf) -> Result<(Header<Node>, u32), WireError> {
    let head = wire::GossipHead::decode_length_delimited(buf)?;
    let message = message(&head)?;
    let src = node(head.from)?;
    if src.member.place.is_none() {
        return Err(Invalid::new("sender", "does not say where it is").into());
    }
    let header = Header {
        src,
        src_incarnation: incarnation(head.incarnation)?,
        dst: node(head.to)?,
        message,
    };
    Ok((header, head.live))
}

fn node(member: Option<wire::GossipMember>) -> Result<Node, Invalid> {
    let member = member.ok_or_else(|| Invalid::new("member", "is missing"))?;
    Ok(Node::new(member.try_into()?))
}

fn incarnation(number: u32) -> Result<u16, Invalid> {
    u16::try_from(number).map_err(|_| Invalid::new("incarnation", "is above 65535"))
}

/// Kind, probe and third party of a message.
fn of_message(message: &Message<Node>) -> (wire::GossipKind, u32, Option<wire::GossipMember>) {
    use wire::GossipKind as Kind;
    let (kind, probe, about) = match message {
        Message::Ping(probe) => (Kind::Ping, *probe, None),
        Message::Ack(probe) => (Kind::Ack, *probe, None),
        Message::PingReq {
            target,
            probe_number,
        } => (Kind::PingRequest, *probe_number, Some(target)),
        Message::IndirectPing {
            origin,
            probe_number,
        } => (Kind::IndirectPing, *probe_number, Some(origin)),
        Message::IndirectAck {
            target,
            probe_number,
        } => (Kind::IndirectAck, *probe_number, Some(target)),
        Message::ForwardedAck {
            origin,
            probe_number,
        } => (Kind::ForwardedAck, *probe_number, Some(origin)),
        Message::Announce => (Kind::Announce, 0, None),
        Message::Feed => (Kind::Feed, 0, None),
        // We have no broadcasts of our own.
        Message::Gossip | Message::Broadcast => (Kind::Gossip, 0, None),
        Message::TurnUndead => (Kind::TurnUndead, 0, None),
    };
    (kind, probe.into(), about.map(Node::name))
}

fn message(head: &wire::GossipHead) -> Result<Message<Node>, Invalid> {
    use wire::GossipKind as Kind;
    let probe_number =
        u8::try_from(head.probe).map_err(|_| Invalid::new("probe", "is above 255"))?;
    let about = || node(head.about.clone());
    Ok(match head.kind() {
        Kind::Ping => Message::Ping(probe_number),
        Kind::Ack => Message::Ack(probe_number),
        Kind::PingRequest => Message::PingReq {
            target: about()?,
            probe_number,
        },
        Kind::IndirectPing => Message::IndirectPing {
            origin: about()?,
            probe_number,
        },
        Kind::IndirectAck => Message::IndirectAck {
            target: about()?,
            probe_number,
        },
        Kind::ForwardedAck => Message::ForwardedAck {
            origin: about()?,
            probe_number,
        },
        Kind::Announce => Message::Announce,
        Kind::Feed => Message::Feed,
        Kind::Gossip => Message::Gossip,
        Kind::TurnUndead => Message::TurnUndead,
        Kind::Unspecified => return Err(Invalid::new("kind of a packet", "is unknown")),
    })
}
