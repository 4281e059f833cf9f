//! Bytes on their way: requests and their answers, pieces as they come, and what goes wrong.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use darner_mirror::pieces::uploads::Event as Upload;
use darner_mirror::swarm::sessions::Input;
use darner_mirror::task::state::{Event as TaskEvent, RequestEnd};
use darner_proto::id::{HostId, Role};
use darner_proto::piece_map::PieceRun;
use darner_proto::scheduler::{FailureKind, ReturnReason};

use super::exchange::{Exchange, ExchangeId};
use super::network::TransferId;
use super::node::{ContentId, Gone, Nature};
use super::queue::Time;
use super::world::{Event, Todo, World};

/// A parent answers within this time, or it has failed.
const ANSWER_TIMEOUT: Time = 3_000_000_000;
/// A parent that sends nothing for this long has failed.
const WINDOW: Time = 2_000_000_000;

impl World {
    pub(super) fn open_exchange(&mut self, exchange: Exchange) -> ExchangeId {
        let (child, content, number) = (exchange.child, exchange.content, exchange.number);
        let id = self.exchanges.add(exchange);
        if let Some(download) = self.nodes[child as usize].downloads.get_mut(&content) {
            download.exchanges.push((number, id));
        }
        id
    }

    /// A request arrives at the parent.
    pub(super) fn asked(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get(id) else {
            return;
        };
        let Some(parent) = exchange.parent else {
            return;
        };
        match self.nodes[parent as usize].gone {
            Some(Gone::Left) => return self.refuse(id, FailureKind::Unreachable),
            Some(Gone::Died) => return,
            None => {}
        }
        if self.nodes[parent as usize].nature == Nature::Boaster {
            return self.refuse(id, FailureKind::NotHeld);
        }
        self.upload_asked(parent, id);
    }

    pub(super) fn refuse(&mut self, id: ExchangeId, kind: FailureKind) {
        self.refuse_with(id, RequestEnd::Failed(kind));
    }

    pub(super) fn refuse_with(&mut self, id: ExchangeId, end: RequestEnd) {
        let Some(exchange) = self.exchanges.get(id) else {
            return;
        };
        let way = exchange
            .parent
            .map_or(0, |parent| self.latency(parent, exchange.child));
        self.queue.after(way, Event::Refused(id, end));
    }

    /// The parent sends these pieces.
    pub(super) fn send_run(&mut self, parent: u32, id: ExchangeId, pieces: Range<u32>) {
        let Some(exchange) = self.exchanges.get_mut(id) else {
            let request = id.number();
            return self.upload_event(parent, Upload::Gone { request });
        };
        exchange.piece = pieces.start;
        exchange.pieces = pieces.clone();
        exchange.holds_slot = true;
        let (child, content) = (exchange.child, exchange.content);
        let geometry = self.contents[usize::from(content)].geometry;
        let bytes = geometry.bytes_of_run(pieces.start, pieces.end - pieces.start);
        let way = self.latency(parent, child);
        self.queue.after(way, Event::Answered(id));
        let bytes = bytes.end - bytes.start;
        let ends = (parent, child);
        let transfer = self.network.send(&mut self.queue, ends, bytes, way);
        self.exchanges.carry(id, transfer);
    }

    /// The answer begins to arrive: the child learns what is sent.
    pub(super) fn answered(&mut self, id: ExchangeId) {
        let now = self.queue.now;
        let Some(exchange) = self.exchanges.get_mut(id) else {
            return;
        };
        exchange.answered = Some(now);
        exchange.heard = now;
        let (child, content) = (exchange.child, exchange.content);
        let chosen = TaskEvent::Chosen {
            request: exchange.number,
            pieces: exchange.pieces.clone(),
        };
        self.task_event(child, content, chosen);
    }

    /// The sender has sent everything.
    pub(super) fn sent(&mut self, transfer: TransferId) {
        let Some(id) = self.exchanges.of(transfer) else {
            return;
        };
        if let Some(exchange) = self.exchanges.get_mut(id)
            && let Some(parent) = exchange.parent
            && std::mem::take(&mut exchange.holds_slot)
        {
            let (content, pieces) = (exchange.content, exchange.pieces.clone());
            let request = id.number();
            self.task_event(parent, content, TaskEvent::Copied { pieces });
            self.upload_event(parent, Upload::Sent { request });
        }
    }

    /// Bytes have come.
    pub(super) fn brought(&mut self, transfer: TransferId, bytes: u32) {
        let now = self.queue.now;
        let Some(id) = self.exchanges.of(transfer) else {
            return;
        };
        let Some(exchange) = self.exchanges.get_mut(id) else {
            return;
        };
        exchange.heard = now;
        exchange.got += u64::from(bytes);
        exchange.received += u64::from(bytes);
        let (child, content, parent) = (exchange.child, exchange.content, exchange.parent);
        let geometry = self.contents[usize::from(content)].geometry;
        let mut whole = Vec::new();
        while exchange.piece < exchange.pieces.end {
            let piece = geometry.bytes_of(exchange.piece);
            let length = piece.end - piece.start;
            if exchange.got < length {
                break;
            }
            exchange.got -= length;
            whole.push((exchange.piece, length));
            exchange.piece += 1;
        }
        if let Some(download) = self.nodes[child as usize].downloads.get_mut(&content) {
            download.received += u64::from(bytes);
        }
        self.count(child, parent, u64::from(bytes));
        if parent.is_none() {
            let bytes = u64::from(bytes);
            self.task_event(child, content, TaskEvent::ReadBytes { bytes });
        }
        for (piece, length) in whole {
            self.process(id, child, piece, length);
        }
    }

    /// Verifying and writing take their time, one piece after the other.
    fn process(&mut self, id: ExchangeId, host: u32, piece: u32, length: u64) {
        let Some(rate) = self.plan.store_rate else {
            return self.written(id, piece);
        };
        let node = &mut self.nodes[host as usize];
        let takes = length.saturating_mul(1_000_000_000) / rate.max(1);
        node.busy_until = node.busy_until.max(self.queue.now) + takes;
        self.queue.at(node.busy_until, Event::Written(id, piece));
    }

    fn count(&mut self, child: u32, parent: Option<u32>, bytes: u64) {
        let Some(parent) = parent else {
            self.counts.from_upstream += bytes;
            return;
        };
        if self.nodes[parent as usize].host.role == Role::Seed {
            self.counts.from_seeds += bytes;
        } else {
            self.counts.from_peers += bytes;
        }
        if self.nodes[parent as usize].zone != self.nodes[child as usize].zone {
            self.counts.cross_zone += bytes;
        }
    }

    /// A piece of an exchange is there whole: it is checked, and then it is held.
    pub(super) fn written(&mut self, id: ExchangeId, piece: u32) {
        let Some(exchange) = self.exchanges.get(id) else {
            return;
        };
        let (child, content, number) = (exchange.child, exchange.content, exchange.number);
        let last = piece + 1 == exchange.pieces.end;
        let Some(parent) = exchange.parent else {
            self.state(child, content, piece);
            if let Some(offer) = self.nodes[child as usize].offers.get_mut(&content) {
                offer.source = true;
            }
            self.gained(child, content, piece);
            self.task_event(child, content, TaskEvent::ReadPiece { index: piece });
            if last {
                self.end_read(id, Ok(()));
            }
            return;
        };
        let wanted = exchange.want.iter().find(|(index, _)| *index == piece);
        let Some(expected) = wanted.map(|(_, run)| run.hashes[0]) else {
            return self.end_exchange(id, RequestEnd::Failed(FailureKind::WrongLength));
        };
        let liar = self.nodes[parent as usize].nature == Nature::Liar;
        let sent = if liar {
            wrong(parent, piece)
        } else {
            right(content, piece)
        };
        if sent != expected {
            self.counts.wrong_pieces += 1;
            return self.end_exchange(id, RequestEnd::Failed(FailureKind::WrongBytes));
        }
        self.counts.pieces += 1;
        if liar && let Some(download) = self.nodes[child as usize].downloads.get_mut(&content) {
            self.counts.wrong_accepted += 1;
            download.tainted = true;
        }
        self.gained(child, content, piece);
        self.task_event(child, content, TaskEvent::Arrived { index: piece });
        if last {
            debug_assert!(
                self.exchanges
                    .get(id)
                    .is_none_or(|one| one.number == number)
            );
            self.end_exchange(id, RequestEnd::Done);
        }
    }

    /// The reader states what the piece hashes to. The first statement stands for all: the model's
    /// upstream always sends the same bytes.
    fn state(&mut self, reader: u32, content: ContentId, piece: u32) {
        let signer: &HostId = &self.nodes[reader as usize].host.id;
        let statement = &mut self.contents[usize::from(content)].statements[piece as usize];
        if statement.is_none() {
            let run = PieceRun {
                first: piece,
                hashes: vec![right(content, piece)],
                signer: signer.clone(),
                signature: Vec::new(),
            };
            *statement = Some((reader, Arc::new(run)));
        }
    }

    /// Upstream answers a read.
    pub(super) fn read_answered(&mut self, id: ExchangeId) {
        if self.upstream_off {
            return self.end_read(id, Err(ReturnReason::Unavailable));
        }
        let now = self.queue.now;
        let Some(exchange) = self.exchanges.get_mut(id) else {
            return;
        };
        let (child, content, read) = (exchange.child, exchange.content, exchange.number);
        let geometry = self.contents[usize::from(content)].geometry;
        let ranged = self.plan.ranges;
        if !ranged {
            exchange.pieces = 0..geometry.pieces();
            exchange.piece = 0;
        }
        let pieces = exchange.pieces.clone();
        exchange.answered = Some(now);
        let bytes = geometry.bytes_of_run(pieces.start, pieces.end - pieces.start);
        let ends = (self.upstream(), child);
        let bytes = bytes.end - bytes.start;
        let transfer = self.network.send(&mut self.queue, ends, bytes, 0);
        self.exchanges.carry(id, transfer);
        self.counts.upstream_requests += 1;
        self.task_event(child, content, TaskEvent::ReadBegun { read, ranged });
    }

    /// The link of upstream comes after those of the hosts.
    pub(super) fn upstream(&self) -> u32 {
        u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn end_read(&mut self, id: ExchangeId, result: Result<(), ReturnReason>) {
        if let Some(exchange) = self.close(id) {
            let read = exchange.number;
            let ended = TaskEvent::ReadEnded { read, result };
            self.task_event(exchange.child, exchange.content, ended);
        }
    }

    pub(super) fn end_exchange(&mut self, id: ExchangeId, end: RequestEnd) {
        if let Some(exchange) = self.close(id) {
            let request = exchange.number;
            let ended = TaskEvent::RequestEnded { request, end };
            self.task_event(exchange.child, exchange.content, ended);
        }
    }

    pub(super) fn cancel(&mut self, host: u32, content: ContentId, number: u64) {
        let download = self.nodes[host as usize].downloads.get(&content);
        if let Some(id) = download.and_then(|one| one.exchange(number)) {
            self.close(id);
        }
    }

    /// Nothing more comes of it: its bytes stop, its slot is free.
    pub(super) fn close(&mut self, id: ExchangeId) -> Option<Exchange> {
        let exchange = self.exchanges.remove(id)?;
        let node = &mut self.nodes[exchange.child as usize];
        if let Some(download) = node.downloads.get_mut(&exchange.content) {
            download.forget_exchange(exchange.number);
        }
        if let Some(transfer) = exchange.transfer {
            self.network.stop(transfer);
        }
        if let Some(parent) = exchange.parent
            && (exchange.holds_slot || exchange.answered.is_none())
        {
            let request = id.number();
            self.upload_event(parent, Upload::Gone { request });
        }
        self.tell_rate(&exchange);
        Some(exchange)
    }

    /// The scheduler is told how fast a parent was, as a node does.
    fn tell_rate(&mut self, exchange: &Exchange) {
        let (Some(parent), Some(began)) = (exchange.parent, exchange.answered) else {
            return;
        };
        let fetched = Input::Fetched {
            task: self.contents[usize::from(exchange.content)].task,
            parent: self.nodes[parent as usize].host.id.clone(),
            bytes: exchange.received,
            took: Duration::from_nanos(self.queue.now - began),
        };
        self.todo.push_back(Todo::Input(exchange.child, fetched));
    }

    /// Parents that do not answer, or send nothing.
    pub(super) fn tick_exchanges(&mut self, host: u32) {
        let now = self.queue.now;
        let downloads = self.nodes[host as usize].downloads.values();
        let open = downloads.flat_map(|download| &download.exchanges);
        let open = open.map(|(_, id)| id);
        let late = open.filter(|id| {
            self.exchanges.get(**id).is_some_and(|one| {
                let patience = if one.answered.is_some() {
                    WINDOW
                } else {
                    ANSWER_TIMEOUT
                };
                one.parent.is_some() && now - one.heard >= patience
            })
        });
        for id in late.copied().collect::<Vec<_>>() {
            self.counts.timeouts += 1;
            self.end_exchange(id, RequestEnd::Failed(FailureKind::Slow));
        }
    }
}

/// What a piece hashes to.
fn right(content: ContentId, piece: u32) -> [u8; 32] {
    let mut hash = [1; 32];
    hash[..2].copy_from_slice(&content.to_be_bytes());
    hash[2..6].copy_from_slice(&piece.to_be_bytes());
    hash
}

/// What a liar sends instead.
fn wrong(liar: u32, piece: u32) -> [u8; 32] {
    let mut hash = [2; 32];
    hash[..4].copy_from_slice(&liar.to_be_bytes());
    hash[4..8].copy_from_slice(&piece.to_be_bytes());
    hash
}
