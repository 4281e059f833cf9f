//! Requests under way: for pieces of a parent, or for a range of upstream.

use std::ops::Range;
use std::sync::Arc;

use darner_proto::piece_map::PieceRun;

use super::network::TransferId;
use super::node::ContentId;
use super::queue::Time;

/// A request: its place, and which of the requests that had this place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ExchangeId {
    place: u32,
    turn: u32,
}

impl ExchangeId {
    /// As a number that no other request ever has.
    pub(super) fn number(self) -> u64 {
        (u64::from(self.turn) << 32) | u64::from(self.place)
    }

    /// The request of this number.
    pub(super) fn numbered(number: u64) -> Self {
        Self {
            place: (number & u64::from(u32::MAX)) as u32,
            turn: (number >> 32) as u32,
        }
    }
}

/// A request and what came of it so far.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) child: u32,
    pub(super) content: ContentId,
    /// The number the child's task gave it.
    pub(super) number: u64,
    /// `None` is upstream.
    pub(super) parent: Option<u32>,
    pub(super) want: Vec<(u32, Arc<PieceRun>)>,
    /// It is sent at once or not at all.
    pub(super) at_once: bool,
    /// What is sent.
    pub(super) pieces: Range<u32>,
    /// When the answer began.
    pub(super) answered: Option<Time>,
    /// How many bytes have come.
    pub(super) received: u64,
    /// The piece that comes now, and how many of its bytes there are.
    pub(super) piece: u32,
    pub(super) got: u64,
    pub(super) transfer: Option<TransferId>,
    /// It has one of the parent's upload slots.
    pub(super) holds_slot: bool,
    /// When anything was last heard of it.
    pub(super) heard: Time,
}

/// All requests.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    places: Vec<(u32, Option<Exchange>)>,
    free: Vec<u32>,
    /// Whose each transfer is, by the transfer's place.
    owners: Vec<Option<(TransferId, ExchangeId)>>,
}

impl Exchanges {
    pub(super) fn add(&mut self, exchange: Exchange) -> ExchangeId {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
        });
        let (turn, held) = &mut self.places[place as usize];
        *held = Some(exchange);
        ExchangeId { place, turn: *turn }
    }

    pub(super) fn get(&self, id: ExchangeId) -> Option<&Exchange> {
        let (turn, exchange) = self.places.get(id.place as usize)?;
        exchange.as_ref().filter(|_| *turn == id.turn)
    }

    pub(super) fn get_mut(&mut self, id: ExchangeId) -> Option<&mut Exchange> {
        let (turn, exchange) = self.places.get_mut(id.place as usize)?;
        exchange.as_mut().filter(|_| *turn == id.turn)
    }

    pub(super) fn remove(&mut self, id: ExchangeId) -> Option<Exchange> {
        let (turn, exchange) = self.places.get_mut(id.place as usize)?;
        if *turn != id.turn {
            return None;
        }
        let exchange = exchange.take()?;
        *turn += 1;
        self.free.push(id.place);
        Some(exchange)
    }

    /// Those that `host` is the parent of.
    pub(super) fn from(&self, host: u32) -> Vec<ExchangeId> {
        let places = (0u32..).zip(&self.places);
        let theirs = places.filter(|(_, (_, exchange))| {
            exchange
                .as_ref()
                .is_some_and(|one| one.parent == Some(host))
        });
        theirs
            .map(|(place, (turn, _))| ExchangeId { place, turn: *turn })
            .collect()
    }

    /// Reads of upstream.
    pub(super) fn reads(&self) -> Vec<ExchangeId> {
        let places = (0u32..).zip(&self.places);
        let reads = places
            .filter(|(_, (_, exchange))| exchange.as_ref().is_some_and(|one| one.parent.is_none()));
        reads
            .map(|(place, (turn, _))| ExchangeId { place, turn: *turn })
            .collect()
    }

    /// The transfer carries the exchange's bytes.
    pub(super) fn carry(&mut self, id: ExchangeId, transfer: TransferId) {
        if self.owners.len() <= transfer.place() {
            self.owners.resize(transfer.place() + 1, None);
        }
        self.owners[transfer.place()] = Some((transfer, id));
        if let Some(exchange) = self.get_mut(id) {
            exchange.transfer = Some(transfer);
        }
    }

    pub(super) fn of(&self, transfer: TransferId) -> Option<ExchangeId> {
        let (carries, id) = (*self.owners.get(transfer.place())?)?;
        (carries == transfer).then_some(id)
    }
}
