//! The members that are alive, in one fixed rendezvous order: who keeps the table, and the ring that
//! news goes along.

use std::time::Duration;

use bytes::Bytes;
use foca::State;

use super::wishes::Change;
use super::{Action, KEEPERS, Members};
use crate::gossip::node::Node;

impl Members {
    pub(super) fn choose_keepers(&mut self, out: &mut Vec<Action>) {
        let me = self.me.rank;
        let place = self.ring.binary_search_by(|other| me.cmp(&other.rank));
        self.place = place.unwrap_or(0);
        let keepers = self.ring.iter().take(KEEPERS);
        let mut keepers: Vec<_> = keepers.map(|node| node.member.clone()).collect();
        keepers.sort_by(|left, right| left.id.cmp(&right.id));
        if keepers != self.keepers {
            self.keepers.clone_from(&keepers);
            out.push(Action::Keepers(keepers));
        }
    }

    pub(super) fn place_on_ring(&mut self, change: Change) {
        let (Change::Up(node) | Change::Down(node) | Change::Renewed(node)) = &change;
        let found = self
            .ring
            .binary_search_by(|other| node.rank.cmp(&other.rank));
        match (change, found) {
            (Change::Up(node) | Change::Renewed(node), Ok(place)) => self.ring[place] = node,
            (Change::Up(node), Err(place)) => self.ring.insert(place, node),
            (Change::Down(_), Ok(place)) => drop(self.ring.remove(place)),
            (Change::Down(_) | Change::Renewed(_), Err(_)) => {}
        }
    }

    /// A packet of news goes to a member of the ring in place of anybody.
    pub(super) fn along_the_ring(&mut self, now: Duration, packet: &[u8]) -> Option<(Node, Bytes)> {
        let steps = self.ring.len().checked_ilog2()?.max(1);
        let to = match self.turn % 2 {
            0 => self.next_alive()?,
            // Whoever it is: a suspect has to hear that it is one.
            _ => self.after(1 << (u32::try_from(self.turn / 2).unwrap_or(0) % steps))?,
        };
        let redirected = to.redirected(packet)?;
        let to = to.clone();
        if self.after(1) == Some(&to) {
            self.called = now;
        }
        self.turn = (self.turn + 1) % (1 << 16);
        Some((to, redirected))
    }

    /// Who is so many steps further on the ring.
    pub(super) fn after(&self, steps: usize) -> Option<&Node> {
        let place = (self.place + steps).checked_rem(self.ring.len())?;
        self.ring.get(place).filter(|node| **node != self.me)
    }

    /// The next of the ring who is no suspect.
    fn next_alive(&self) -> Option<&Node> {
        let mut after = (1..self.ring.len()).filter_map(|steps| self.after(steps));
        after.find(|node| matches!(self.state_of(node), Some((State::Alive, _))))
    }
}
