//! Who is alive, as far as one process knows, and which of them keep the table: pure.
//!
//! The protocol is SWIM, by the library `foca`. Every second each member pings another, first
//! directly, then by way of three more; who answers neither is *suspect*, and *down* unless it says
//! otherwise in time. News travels with these messages, and on its own while there is any.
//!
//! ```text
//! alive --(no answer, or word of it)--> suspect --(its own word)--> alive
//!                                          +-----(nothing for a while)--> down --(a new life)--> alive
//! ```
//! What one member says of another is believed only so far. Whoever sends has been proved, and
//! speaks for itself. Word that another is *down* makes it suspect here, so that it always has the
//! time to object; only its own farewell counts at once. Who is said to have a life that this process
//! knows better about (its own) is outdone. Unknown members beyond a bound are not taken in.
//!
//! News goes along a ring, in that order: every other time to the next, so that it reaches all, and in
//! between to members two, four and so on places further, so that it does soon. The connections that
//! carry it stay open however many members there are. Only pings go to anybody.
//!
//! The table's *keepers* are the first [`KEEPERS`] members in one fixed rendezvous order. Every
//! member attends them as it would attend schedulers, so what a member costs the others does not grow
//! with their number; and all choose the same, since the order is the same everywhere.

mod pace;
mod packet;
mod ring;
mod wishes;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use darner_proto::gossip::{MAX_MEMBERS, Member};
use darner_proto::id::HostId;
use foca::{Codec as _, Foca, Header, Message, NoCustomBroadcast, State, Timer};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::node::{Node, Wire};
use pace::{FEW, config, foca, suspicion};
use packet::Packet;
use wishes::{Change, Due, Wake, Wishes};

/// Members that keep the table at one time, each as a scheduler does. Enough that several can be lost
/// at once, few enough that every member can attend all of them.
pub const KEEPERS: usize = 5;

/// A process whose own timers are this late has too little of its machine to judge others by theirs.
const LATE: Duration = Duration::from_millis(250);
/// For so long after that it gives suspects more time, this much once for each.
const LENIENT: Duration = Duration::from_secs(5);
/// The next of the ring hears from a member this often, news or not: if its port is closed, that is
/// known at once.
const CALL: Duration = Duration::from_secs(1);
/// A member asks another whom it knows, soon after it began and then less and less often: what news
/// has missed is found in the end.
const COMPARE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The generation of a life is the time it began at. Nobody is from further in the future.
const CLOCKS_APART: Duration = Duration::from_secs(3600);

/// What happens to a member.
#[derive(Debug, Clone)]
pub enum Event {
    /// A packet came. `from` is who sent it, where that was proved.
    Packet {
        /// The sender, by its certificate.
        from: Option<HostId>,
        /// As it came.
        packet: Bytes,
    },
    /// Somebody has said whom it knows; itself first.
    Introduced(Vec<Arc<Member>>),
    /// Nobody listens where this member should be.
    Unreachable(Arc<Member>),
    /// Time has passed.
    Tick,
    /// This process is going away.
    Leave,
}

/// What is to be done.
#[derive(Debug, Clone)]
pub enum Action {
    /// Send this packet; whether it arrives does not matter.
    Send {
        /// To whom. It has a place.
        to: Arc<Member>,
        /// What.
        packet: Bytes,
    },
    /// The table's keepers are now these, by id.
    Keepers(Vec<Arc<Member>>),
}

/// What one process knows of the others.
pub struct Members {
    me: Node,
    foca: Foca<Node, Wire, SmallRng, NoCustomBroadcast>,
    /// Milliseconds since 1970 when the clock of `apply` stood at zero.
    epoch: u64,
    timers: BinaryHeap<Reverse<Due>>,
    scheduled: u64,
    keepers: Vec<Arc<Member>>,
    /// Everybody who is alive, in the order of the ring, and this process's place there.
    ring: Vec<Node>,
    place: usize,
    turn: usize,
    compare: Duration,
    random: SmallRng,
    live: Arc<AtomicU32>,
    /// Until when this process takes itself for slow.
    lenient: Duration,
    refused: u64,
}

impl Members {
    /// What `me`, which begins `now`, knows at first: itself. `epoch` is milliseconds since 1970 at
    /// time zero, `seed` makes this process choose otherwise than others.
    pub fn new(now: Duration, me: Member, epoch: u64, seed: u64) -> Self {
        let me = Node::new(me);
        let live = Arc::new(AtomicU32::new(1));
        let ring = vec![me.clone()];
        let begin = |after, what| {
            Reverse(Due {
                at: now + after,
                number: 0,
                what,
            })
        };
        Self {
            foca: foca(&me, seed, &live),
            keepers: vec![me.member.clone()],
            live,
            me,
            epoch,
            timers: [begin(CALL, Wake::Call), begin(COMPARE.0, Wake::Compare)].into(),
            scheduled: 0,
            ring,
            place: 0,
            turn: 0,
            compare: COMPARE.0,
            random: SmallRng::seed_from_u64(!seed),
            lenient: Duration::ZERO,
            refused: 0,
        }
    }

    /// Takes in what happened and says what is to be done.
    pub fn apply(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let mut wishes = Wishes::default();
        match event {
            Event::Packet { from, packet } => self.packet(now, from.as_ref(), packet, &mut wishes),
            Event::Introduced(members) => self.introduced(now, members, &mut wishes),
            Event::Unreachable(member) => self.unreachable(&member, &mut wishes),
            Event::Tick => self.tick(now, &mut wishes),
            // What cannot be sent on leaving, a crash would not have sent either.
            Event::Leave => drop(self.foca.leave_cluster(&mut wishes)),
        }
        self.finish(now, wishes)
    }

    /// When the next [`Event::Tick`] is due.
    pub fn next_due(&self) -> Option<Duration> {
        self.timers.peek().map(|Reverse(due)| due.at)
    }

    /// This process.
    pub fn me(&self) -> &Arc<Member> {
        &self.me.member
    }

    /// Everybody who is not known to be down, this process first.
    pub fn live(&self) -> impl Iterator<Item = &Arc<Member>> {
        let others = self.foca.iter_members().map(|one| &one.id().member);
        std::iter::once(&self.me.member).chain(others)
    }

    /// How many those are.
    pub fn count(&self) -> usize {
        self.foca.num_members() + 1
    }

    /// Who keeps the table, by id.
    pub fn keepers(&self) -> &[Arc<Member>] {
        &self.keepers
    }

    /// Packets that were not taken in: not valid, or not of whom they say.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn packet(&mut self, now: Duration, from: Option<&HostId>, packet: Bytes, wishes: &mut Wishes) {
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
        let is_news = header.message != Message::Feed;
        for update in updates {
            self.heard(now, &header.src, update, is_news, wishes);
        }
    }

    /// Of two that take each other for dead, the one that knows fewer begins a new life. Who knows
    /// nobody any more believes whoever turns up.
    fn settle_who_is_dead(&mut self, packet: &mut Packet, wishes: &mut Wishes) {
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
    fn heard(
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
        let update = match (said, self.state_of(node)) {
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
    fn heard_of_me(&mut self, update: foca::Member<Node>, wishes: &mut Wishes) {
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
    fn outdo(&mut self, generation: u64, wishes: &mut Wishes) {
        let me = self.me.reborn(generation.saturating_add(1));
        if self.foca.change_identity(me.clone(), &mut *wishes).is_ok() {
            wishes.changed.push(Change::Up(me));
        }
    }

    fn believe(&mut self, update: foca::Member<Node>, is_news: bool, wishes: &mut Wishes) {
        let (node, said) = (update.id().clone(), update.state());
        let before = (said == State::Suspect).then(|| self.state_of(&node));
        // It fails only where a member cannot be written, and then its news does not travel.
        let _ = self
            .foca
            .apply_many(std::iter::once(update), is_news, &mut *wishes);
        let after = self.state_of(&node);
        if let Some((State::Suspect, incarnation)) = after
            && before.is_some_and(|before| before != after)
        {
            let patience = suspicion(self.count());
            wishes
                .timers
                .push((patience, Wake::Objected(node, incarnation)));
        }
    }

    fn introduced(&mut self, now: Duration, members: Vec<Arc<Member>>, wishes: &mut Wishes) {
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

    /// A closed port says at once what a ping would say after a while.
    fn unreachable(&mut self, member: &Arc<Member>, wishes: &mut Wishes) {
        let node = Node::of(member.clone());
        if let Some((State::Alive, incarnation)) = self.state_of(&node) {
            self.believe(
                foca::Member::new(node, incarnation, State::Suspect),
                true,
                wishes,
            );
        }
    }

    fn tick(&mut self, now: Duration, wishes: &mut Wishes) {
        while self.next_due().is_some_and(|due| due <= now) {
            let Some(Reverse(due)) = self.timers.pop() else {
                return;
            };
            if now.saturating_sub(due.at) >= LATE {
                self.lenient = now + LENIENT;
            }
            let what = match due.what {
                verdict @ (Wake::Objected(..)
                | Wake::Protocol(Timer::ChangeSuspectToDown { .. }))
                    if now < self.lenient =>
                {
                    wishes
                        .timers
                        .push((LENIENT, Wake::PutOff(Box::new(verdict))));
                    continue;
                }
                Wake::PutOff(verdict) => *verdict,
                what => what,
            };
            match what {
                // Timers of an earlier life are none any more.
                Wake::Protocol(timer) => drop(self.foca.handle_timer(timer, &mut *wishes)),
                Wake::Objected(node, incarnation) => self.objected(node, incarnation, wishes),
                Wake::PutOff(_) => {}
                Wake::Call => self.call(wishes),
                Wake::Compare => self.compare(wishes),
            }
        }
    }

    fn call(&mut self, wishes: &mut Wishes) {
        wishes.timers.push((CALL, Wake::Call));
        // Where there is always news, it calls.
        if self.count() > FEW {
            return;
        }
        // A suspect too: the call may find it gone.
        if let Some(next) = self.after(1) {
            let packet = self.nothing_new(next);
            wishes
                .calls
                .extend(packet.map(|packet| (next.clone(), packet)));
        }
    }

    fn compare(&mut self, wishes: &mut Wishes) {
        wishes.timers.push((self.compare, Wake::Compare));
        self.compare = COMPARE.1.min(self.compare * 2);
        let others = self.foca.num_members();
        if others == 0 {
            return;
        }
        let chosen = self.random.random_range(0..others);
        let chosen = self
            .foca
            .iter_members()
            .nth(chosen)
            .map(|one| one.id().clone());
        if let Some(chosen) = chosen {
            let _ = self.foca.announce(chosen, &mut *wishes);
        }
    }

    /// A packet without news for `to`.
    fn nothing_new(&self, to: &Node) -> Option<Bytes> {
        let header = Header {
            src: self.me.clone(),
            // What others know of is never above.
            src_incarnation: 0,
            dst: to.clone(),
            message: Message::Gossip,
        };
        self.encoded(&header)
    }

    fn encoded(&self, header: &Header<Node>) -> Option<Bytes> {
        let mut wire = Wire {
            live: self.live.clone(),
        };
        let mut packet = BytesMut::new();
        wire.encode_header(header, &mut packet).ok()?;
        Some(packet.freeze())
    }

    /// Whoever has heard of the suspicion counts for itself: this is no news.
    fn objected(&mut self, node: Node, incarnation: u16, wishes: &mut Wishes) {
        if self.state_of(&node) == Some((State::Suspect, incarnation)) {
            self.believe(
                foca::Member::new(node, incarnation, State::Down),
                false,
                wishes,
            );
        }
    }

    fn finish(&mut self, now: Duration, mut wishes: Wishes) -> Vec<Action> {
        if wishes.reborn {
            self.begin_again(&mut wishes);
        }
        self.me = self.foca.identity().clone();
        let changed = !wishes.changed.is_empty();
        for change in wishes.changed.drain(..) {
            self.place_on_ring(change);
        }
        for (after, what) in wishes.timers {
            self.scheduled += 1;
            self.timers.push(Reverse(Due {
                at: now + after,
                number: self.scheduled,
                what,
            }));
        }
        let mut out = Vec::new();
        if changed {
            self.adjust();
            self.choose_keepers(&mut out);
        }
        for (to, packet) in wishes.sends {
            let redirected = self.along_the_ring(&packet);
            wishes.calls.push(redirected.unwrap_or((to, packet)));
        }
        for (to, packet) in wishes.calls {
            if let Some(to) = self.placed(to) {
                out.push(Action::Send { to, packet });
            }
        }
        out
    }

    /// This process was down for the others, mostly because it was cut off. What it believed of them
    /// in that time is not worth telling.
    fn begin_again(&mut self, wishes: &mut Wishes) {
        let me = self.foca.identity().clone();
        let others = self.foca.iter_membership_state().map(|one| one.id());
        let others = others.filter(|one| one.member.place.is_some());
        let others: Vec<_> = others.cloned().collect();
        self.timers.clear();
        wishes.timers.clear();
        self.compare = COMPARE.0;
        wishes
            .timers
            .extend([(CALL, Wake::Call), (COMPARE.0, Wake::Compare)]);
        self.foca = foca(&me, me.member.generation ^ me.rank, &self.live);
        let others = others.into_iter().map(foca::Member::alive);
        let _ = self.foca.apply_many(others, false, &mut *wishes);
        let _ = self.foca.gossip(&mut *wishes);
        self.ring = vec![me];
        let lives = self
            .foca
            .iter_members()
            .map(|one| Change::Up(one.id().clone()));
        wishes.changed = lives.collect();
    }

    /// With the place that is known of it.
    fn placed(&self, node: Node) -> Option<Arc<Member>> {
        if node.member.place.is_some() {
            return Some(node.member);
        }
        let known = self.foca.iter_membership_state().map(|one| one.id());
        let mut known = known.filter(|known| known.rank == node.rank);
        let known = known.next()?.member.clone();
        known.place.is_some().then_some(known)
    }

    fn state_of(&self, node: &Node) -> Option<(State, u16)> {
        let mut known = self.foca.iter_membership_state();
        let known = known.find(|known| known.id() == node)?;
        Some((known.state(), known.incarnation()))
    }

    fn is_live(&self, node: &Node) -> bool {
        matches!(
            self.state_of(node),
            Some((State::Alive | State::Suspect, _))
        )
    }

    fn has_room_for(&self, node: &Node) -> bool {
        let mut known = self.foca.iter_membership_state();
        known.len() < MAX_MEMBERS || known.any(|known| known.id().rank == node.rank)
    }

    fn is_of_a_time(&self, now: Duration, generation: u64) -> bool {
        let latest = (now + CLOCKS_APART).as_millis();
        let latest = u64::try_from(latest).unwrap_or(u64::MAX);
        generation <= self.epoch.saturating_add(latest)
    }

    /// News of more members needs more telling, and more time to come round.
    fn adjust(&mut self) {
        // The library refuses changes that ours are not among.
        let _ = self.foca.set_config(config(self.count()));
        let live = u32::try_from(self.count()).unwrap_or(u32::MAX);
        self.live.store(live, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Members")
            .field("me", &self.me)
            .field("live", &self.count())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
