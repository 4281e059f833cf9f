//! The model network: every host has an uplink and a downlink of a certain rate, the transfers on a
//! link take turns chunk by chunk, and no transfer has more than a window of chunks on its way.
//!
//! Nothing is lost and the core is never full: what is measured is how well the rates are used.

use std::collections::VecDeque;

use super::queue::{Queue, Time};

/// Transfers take turns on a link by chunks of this size.
const CHUNK: u64 = 256 << 10;
/// Chunks of one transfer that are sent and have not been taken in: a TCP window of 1.5 MiB.
const WINDOW: u32 = 6;

/// A transfer: its place, and which of the transfers that had this place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TransferId {
    place: u32,
    turn: u32,
}

/// What happens on the links.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// An uplink has sent a chunk.
    Sent(u32),
    /// A chunk has reached the receiver's downlink.
    Reached(TransferId, u32),
    /// It has passed it.
    Passed(TransferId, u32),
}

/// What a transfer has come to.
#[derive(Debug, PartialEq)]
pub(super) enum Moved {
    /// The sender has sent the last byte.
    Sent(TransferId),
    /// So many bytes have come to the receiver.
    Brought(TransferId, u32),
}

/// Some bytes on their way from one host to another, in order.
#[derive(Debug)]
struct Transfer {
    turn: u32,
    from: u32,
    to: u32,
    latency: Time,
    left: u64,
    under_way: u32,
    /// It waits for its turn on the uplink.
    queued: bool,
}

#[derive(Debug)]
struct Link {
    /// Bytes a second.
    up: u64,
    down: u64,
    turns: VecDeque<TransferId>,
    sending: Option<(TransferId, u32)>,
    down_free: Time,
}

/// All links and what is on them.
#[derive(Debug, Default)]
pub(super) struct Network {
    links: Vec<Link>,
    transfers: Vec<Transfer>,
    free: Vec<u32>,
    /// The way between most hosts.
    near: Time,
}

impl Network {
    /// No links yet; `near` is how long the way between most hosts takes.
    pub(super) fn new(near: Time) -> Self {
        Self {
            near,
            ..Self::default()
        }
    }

    /// Adds a host with these rates in bytes a second.
    pub(super) fn add(&mut self, up: u64, down: u64) {
        self.links.push(Link {
            up: up.max(1),
            down: down.max(1),
            turns: VecDeque::new(),
            sending: None,
            down_free: 0,
        });
    }

    /// The host sends at another rate.
    pub(super) fn set_up(&mut self, host: u32, up: u64) {
        self.links[host as usize].up = up.max(1);
    }

    /// Begins to send `bytes`.
    pub(super) fn send<E: From<LinkEvent>>(
        &mut self,
        queue: &mut Queue<E>,
        (from, to): (u32, u32),
        bytes: u64,
        latency: Time,
    ) -> TransferId {
        let id = self.place(Transfer {
            turn: 0,
            from,
            to,
            latency,
            left: bytes,
            under_way: 0,
            queued: true,
        });
        self.links[from as usize].turns.push_back(id);
        self.next_chunk(queue, from);
        id
    }

    /// Stops a transfer: what is on its way is for nobody.
    pub(super) fn stop(&mut self, id: TransferId) {
        if self.get(id).is_some() {
            self.transfers[id.place as usize].turn += 1;
            self.free.push(id.place);
        }
    }

    /// The host is gone: its links carry nothing any more.
    pub(super) fn cut(&mut self, host: u32) {
        let link = &mut self.links[host as usize];
        link.turns.clear();
        link.sending = None;
    }

    /// Takes in what happened, and says what that means to a transfer.
    pub(super) fn apply<E: From<LinkEvent>>(
        &mut self,
        queue: &mut Queue<E>,
        event: LinkEvent,
    ) -> Option<Moved> {
        match event {
            LinkEvent::Sent(host) => return self.sent(queue, host),
            LinkEvent::Reached(id, bytes) => self.reached(queue, id, bytes, queue.now),
            LinkEvent::Passed(id, bytes) => {
                self.passed(queue, id)?;
                return Some(Moved::Brought(id, bytes));
            }
        }
        None
    }

    /// A chunk is at the receiver's downlink from `at` on.
    fn reached<E: From<LinkEvent>>(
        &mut self,
        queue: &mut Queue<E>,
        id: TransferId,
        bytes: u32,
        at: Time,
    ) {
        let Some(to) = self.get(id).map(|transfer| transfer.to) else {
            return;
        };
        let link = &mut self.links[to as usize];
        let start = link.down_free.max(at);
        link.down_free = start + time_for(bytes, link.down);
        queue.at(link.down_free, LinkEvent::Passed(id, bytes).into());
    }

    fn sent<E: From<LinkEvent>>(&mut self, queue: &mut Queue<E>, host: u32) -> Option<Moved> {
        let (id, bytes) = self.links[host as usize].sending.take()?;
        let mut moved = None;
        if let Some(transfer) = self.get(id) {
            moved = (transfer.left == 0).then_some(Moved::Sent(id));
            let latency = transfer.latency;
            // Chunks that all have the same way arrive in the order in which they are sent: what the
            // downlink does with them is known already.
            if latency == self.near {
                self.reached(queue, id, bytes, queue.now + latency);
            } else {
                queue.after(latency, LinkEvent::Reached(id, bytes).into());
            }
            self.wait_for_turn(id);
        }
        self.next_chunk(queue, host);
        moved
    }

    fn passed<E: From<LinkEvent>>(&mut self, queue: &mut Queue<E>, id: TransferId) -> Option<()> {
        let transfer = self.get_mut(id)?;
        transfer.under_way -= 1;
        let from = transfer.from;
        if transfer.left == 0 && transfer.under_way == 0 {
            self.stop(id);
        } else if self.wait_for_turn(id) {
            self.next_chunk(queue, from);
        }
        Some(())
    }

    /// The transfer waits for its next turn, if it has one to wait for. Says whether it began to.
    fn wait_for_turn(&mut self, id: TransferId) -> bool {
        let Some(transfer) = self.get_mut(id) else {
            return false;
        };
        if transfer.left == 0 || transfer.queued || transfer.under_way >= WINDOW {
            return false;
        }
        transfer.queued = true;
        let from = transfer.from;
        self.links[from as usize].turns.push_back(id);
        true
    }

    /// The uplink sends a chunk of whoever's turn it is.
    fn next_chunk<E: From<LinkEvent>>(&mut self, queue: &mut Queue<E>, host: u32) {
        if self.links[host as usize].sending.is_some() {
            return;
        }
        while let Some(id) = self.links[host as usize].turns.pop_front() {
            let Some(transfer) = self.get_mut(id) else {
                continue;
            };
            let bytes = transfer.left.min(CHUNK);
            transfer.left -= bytes;
            transfer.under_way += 1;
            transfer.queued = false;
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            let link = &mut self.links[host as usize];
            link.sending = Some((id, bytes));
            queue.after(time_for(bytes, link.up), LinkEvent::Sent(host).into());
            return;
        }
    }

    fn place(&mut self, mut transfer: Transfer) -> TransferId {
        if let Some(place) = self.free.pop() {
            let turn = self.transfers[place as usize].turn;
            transfer.turn = turn;
            self.transfers[place as usize] = transfer;
            return TransferId { place, turn };
        }
        let place = u32::try_from(self.transfers.len()).unwrap_or(u32::MAX);
        self.transfers.push(transfer);
        TransferId { place, turn: 0 }
    }

    fn get(&self, id: TransferId) -> Option<&Transfer> {
        let transfer = self.transfers.get(id.place as usize)?;
        (transfer.turn == id.turn).then_some(transfer)
    }

    fn get_mut(&mut self, id: TransferId) -> Option<&mut Transfer> {
        let transfer = self.transfers.get_mut(id.place as usize)?;
        (transfer.turn == id.turn).then_some(transfer)
    }
}

impl TransferId {
    /// A number below the most transfers there ever were at once.
    pub(super) fn place(self) -> usize {
        self.place as usize
    }
}

fn time_for(bytes: u32, rate: u64) -> Time {
    u64::from(bytes) * 1_000_000_000 / rate
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finish(network: &mut Network, queue: &mut Queue<LinkEvent>) -> Vec<(TransferId, Time)> {
        let mut last: Vec<(TransferId, Time)> = Vec::new();
        while let Some(event) = queue.take() {
            if let Some(Moved::Brought(id, _)) = network.apply(queue, event) {
                last.retain(|(other, _)| *other != id);
                last.push((id, queue.now));
            }
        }
        last
    }

    #[test]
    fn an_uplink_is_shared_and_fully_used() {
        let (mut network, mut queue) = (Network::default(), Queue::new());
        network.add(1_000_000, 1_000_000);
        network.add(1_000_000, 10_000_000);
        network.add(1_000_000, 10_000_000);
        let long = network.send(&mut queue, (0, 1), 8 << 20, 0);
        let short = network.send(&mut queue, (0, 2), 1 << 20, 0);
        let ends = finish(&mut network, &mut queue);
        assert_eq!(
            ends.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
            [short, long]
        );
        let (short, long) = (ends[0].1 as f64 / 1e9, ends[1].1 as f64 / 1e9);
        assert!((2.0..2.2).contains(&short), "{short}");
        assert!((9.4..9.5).contains(&long), "{long}");
    }

    #[test]
    fn a_slow_downlink_holds_up_its_own_transfer_only() {
        let (mut network, mut queue) = (Network::default(), Queue::new());
        network.add(10_000_000, 1);
        network.add(1, 1_000_000);
        network.add(1, 10_000_000);
        let slow = network.send(&mut queue, (0, 1), 4 << 20, 1000);
        let fast = network.send(&mut queue, (0, 2), 4 << 20, 1000);
        let ends = finish(&mut network, &mut queue);
        assert_eq!(
            ends.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
            [fast, slow]
        );
        assert!(ends[0].1 < 1_000_000_000 && ends[1].1 > 4_000_000_000);
    }

    #[test]
    fn what_is_stopped_or_cut_brings_nothing_more() {
        let (mut network, mut queue) = (Network::default(), Queue::new());
        network.add(1_000_000, 1_000_000);
        network.add(1_000_000, 1_000_000);
        let stopped = network.send(&mut queue, (0, 1), 1 << 20, 5);
        network.stop(stopped);
        let again = network.send(&mut queue, (0, 1), 1 << 20, 5);
        assert_ne!(stopped, again);
        let ends = finish(&mut network, &mut queue);
        assert_eq!(ends.len(), 1);
        assert_eq!(ends[0].0, again);
        network.send(&mut queue, (0, 1), 1 << 20, 5);
        network.cut(0);
        assert!(finish(&mut network, &mut queue).is_empty());
    }
}
