//! What others say, and how far it is believed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darner_proto::gossip::{MAX_MEMBERS, Member};
use darner_proto::id::HostId;
use foca::{Message, State};

use super::pace::suspicion;
use super::packet::Packet;
use super::wishes::{Change, Wake, Wishes};
use super::{CLOCKS_APART, Members};
use crate::gossip::node::Node;

impl Members {
    pub(super) fn packet(
        &mut self,
        now: Duration,
        from: Option<&HostId>,
        packet: Bytes,
        wishes: &mut Wishes,
    ) {
        let parsed = Packet::parse(packet);
        let parsed = parsed.filter(|packet| {
            let src = &packet.header.src.member;
            let is_its_own = from.is_none_or(|from| *from == src.id);
            is_its_own && self.is_of_a_time(now, src.generation)
        });
        let Some(mut packet) = parsed else {
            self.refused += 1;
            return;
        };
        self.settle_who_is_dead(&mut packet, wishes);
        let Packet {
            header,
            head,
            updates,
            ..
        } = packet;
        if header.src.rank == self.me.rank || !self.has_room_for(&header.src) {
            self.refused += 1;
            return;
        }
        if self.foca.handle_data(&head, &mut *wishes).is_err() {
            self.refused += 1;
            return;
        }
        // The dead are not listened to.
        if !self.is_live(&header.src) {
            return;
        }
        // Whom another knows is no news, but that one of them is suspect is: who hears it so and kept it
        // to itself would leave everybody further on the ring without it.
        let is_feed = header.message == Message::Feed;
        for update in updates {
            let is_news = !is_feed || update.state() == State::Suspect;
            self.heard(now, &header.src, update, is_news, wishes);
        }
    }

    /// Of two that take each other for dead, the one that knows fewer begins a new life. Who knows
    /// nobody any more believes whoever turns up.
    pub(super) fn settle_who_is_dead(&mut self, packet: &mut Packet, wishes: &mut Wishes) {
        let src = &packet.header.src;
        if !matches!(self.state_of(src), Some((State::Down, _))) {
            return;
        }
        if self.count() == 1 {
            return self.begin_again(wishes);
        }
        if packet.header.message != Message::TurnUndead {
            return;
        }
        let live = u32::try_from(self.count()).unwrap_or(u32::MAX);
        let gives_in = (live, self.me.rank) < (packet.live, src.rank);
        if !gives_in {
            // As news it makes this process tell the sender in turn.
            packet.header.message = Message::Gossip;
            if let Some(head) = self.encoded(&packet.header) {
                packet.head = head;
            }
        }
    }

    /// Takes in what `src` says of a member, as far as it is believed.
    pub(super) fn heard(
        &mut self,
        now: Duration,
        src: &Node,
        update: foca::Member<Node>,
        is_news: bool,
        wishes: &mut Wishes,
    ) {
        let (node, said) = (update.id(), update.state());
        if !self.is_of_a_time(now, node.member.generation) {
            return;
        }
        if node.rank == self.me.rank {
            return self.heard_of_me(update, wishes);
        }
        let known = self.state_of(node);
        let is_known =
            matches!(known, Some((State::Down, _))) || known == Some((said, update.incarnation()));
        if is_known {
            return;
        }
        let update = match (said, known) {
            (State::Down, _) if node == src => update,
            (State::Down, Some((State::Alive, incarnation))) => {
                foca::Member::new(node.clone(), incarnation, State::Suspect)
            }
            // Nobody needs to hear of the dead that never lived here; and a suspect has its time.
            (State::Down, _) => return,
            (State::Alive | State::Suspect, None) if node.member.place.is_none() => return,
            (State::Alive | State::Suspect, _) if !self.has_room_for(node) => return,
            (State::Alive | State::Suspect, _) => update,
        };
        self.believe(update, is_news, wishes);
    }

    /// Somebody says that this process is suspect, down, or has another life.
    pub(super) fn heard_of_me(&mut self, update: foca::Member<Node>, wishes: &mut Wishes) {
        let generation = update.id().member.generation;
        if generation > self.me.member.generation {
            return self.outdo(generation, wishes);
        }
        if *update.id() == self.me && update.state() != State::Alive {
            let me = self.me.clone();
            self.believe(
                foca::Member::new(me, update.incarnation(), State::Suspect),
                true,
                wishes,
            );
        }
    }

    /// Begins a life after one that others believe in.
    pub(super) fn outdo(&mut self, generation: u64, wishes: &mut Wishes) {
        let me = self.me.reborn(generation.saturating_add(1));
        if self.foca.change_identity(me.clone(), &mut *wishes).is_ok() {
            wishes.changed.push(Change::Up(me));
        }
    }

    pub(super) fn believe(
        &mut self,
        update: foca::Member<Node>,
        is_news: bool,
        wishes: &mut Wishes,
    ) {
        let suspect = (update.state() == State::Suspect).then(|| update.id().clone());
        let before = suspect.as_ref().map(|node| self.state_of(node));
        // It fails only where a member cannot be written, and then its news does not travel.
        let _ = self
            .foca
            .apply_many(std::iter::once(update), is_news, &mut *wishes);
        let Some(node) = suspect else { return };
        let after = self.state_of(&node);
        if let Some((State::Suspect, incarnation)) = after
            && before != Some(after)
        {
            self.suspected(&node, incarnation, wishes);
            let patience = suspicion(self.count());
            wishes
                .timers
                .push((patience, Wake::Objected(node, incarnation)));
        }
    }

    pub(super) fn introduced(
        &mut self,
        now: Duration,
        members: Vec<Arc<Member>>,
        wishes: &mut Wishes,
    ) {
        let mut nodes = members.into_iter().map(Node::of);
        let Some(host) = nodes.next() else { return };
        // Known before anything is asked of it, so that its own answer is expected.
        for node in std::iter::once(host.clone()).chain(nodes) {
            if node.rank == self.me.rank {
                let generation = node.member.generation;
                // Of an earlier life of this process, whose clock was ahead.
                if generation > self.me.member.generation && self.is_of_a_time(now, generation) {
                    self.outdo(generation, wishes);
                }
                continue;
            }
            let fits =
                node.member.place.is_some() && self.is_of_a_time(now, node.member.generation);
            if fits && self.has_room_for(&node) {
                self.believe(foca::Member::alive(node), false, wishes);
            }
        }
        if host.rank != self.me.rank && host.member.place.is_some() {
            let _ = self.foca.announce(host, &mut *wishes);
        }
    }

    pub(super) fn has_room_for(&self, node: &Node) -> bool {
        let mut known = self.foca.iter_membership_state();
        known.len() < MAX_MEMBERS || known.any(|known| known.id().rank == node.rank)
    }

    pub(super) fn is_of_a_time(&self, now: Duration, generation: u64) -> bool {
        let latest = (now + CLOCKS_APART).as_millis();
        let latest = u64::try_from(latest).unwrap_or(u64::MAX);
        generation <= self.epoch.saturating_add(latest)
    }
}
