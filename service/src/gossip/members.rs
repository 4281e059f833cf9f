//! Who is alive, as far as one process knows, and which of them keep the table: pure.
//!
//! The protocol is SWIM, by the library `foca`. Every second each member pings another, first
//! directly, then by way of three more; who answers neither is *suspect*, and *down* unless it says
//! otherwise in time ([`doubt`]). Between pings it has a word for the next of the ring, and where
//! nobody takes a connection for that there is a suspect at once. News travels with these messages, and on its own while
//! there is any.
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

mod again;
mod calls;
mod doubt;
mod hearing;
mod known;
mod pace;
mod packet;
mod ring;
mod wishes;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use darner_proto::gossip::Member;
use darner_proto::id::HostId;
use foca::{Foca, NoCustomBroadcast, Timer};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

pub use super::node::rank;
use super::node::{Node, Wire};
use calls::{CALL, COMPARE};
use doubt::Suspicion;
use pace::{config, foca, news, paused};
use wishes::{Due, Wake, Wishes};

/// Members that keep the table at one time, each as a scheduler does. Enough that several can be lost
/// at once, few enough that every member can attend all of them.
pub const KEEPERS: usize = 5;

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
    /// Nobody listens where this member should be, or a packet has gone without an answer and nobody
    /// takes connections there.
    Unreachable(Arc<Member>),
    /// It has answered one, if only that it came.
    Answered(Arc<Member>),
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
    /// The library's timer for news, while there is none.
    no_news: Option<Timer<Node>>,
    keepers: Vec<Arc<Member>>,
    /// Everybody who is alive, in the order of the ring, and this process's place there.
    ring: Vec<Node>,
    place: usize,
    turn: usize,
    compare: Duration,
    random: SmallRng,
    live: Arc<AtomicU32>,
    /// When the next of the ring was last sent anything.
    called: Duration,
    /// Until when this process takes itself for slow.
    lenient: Duration,
    /// Of suspects, by rank.
    suspicions: BTreeMap<u64, Suspicion>,
    /// Who was suspected of late because it could not be reached, by rank and generation.
    doubted: BTreeMap<(u64, u64), Duration>,
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
            no_news: None,
            ring,
            place: 0,
            turn: 0,
            compare: COMPARE.0,
            random: SmallRng::seed_from_u64(!seed),
            called: Duration::ZERO,
            lenient: Duration::ZERO,
            suspicions: BTreeMap::new(),
            doubted: BTreeMap::new(),
            refused: 0,
        }
    }

    /// Takes in what happened and says what is to be done.
    pub fn apply(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let mut wishes = Wishes::default();
        match event {
            Event::Packet { from, packet } => self.packet(now, from.as_ref(), packet, &mut wishes),
            Event::Introduced(members) => self.introduced(now, members, &mut wishes),
            Event::Unreachable(member) => self.unreachable(now, &member, &mut wishes),
            Event::Answered(member) => self.answered(&member),
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

    fn tick(&mut self, now: Duration, wishes: &mut Wishes) {
        while self.next_due().is_some_and(|due| due <= now) {
            let Some(Reverse(due)) = self.timers.pop() else {
                return;
            };
            let Some(what) = self.due(now, due.at, due.what, wishes) else {
                continue;
            };
            match what {
                // Timers of an earlier life are none any more.
                Wake::Protocol(timer) => drop(self.foca.handle_timer(timer, &mut *wishes)),
                Wake::Objected(node, incarnation) => self.bury(node, incarnation, wishes),
                // Taken by `due`.
                Wake::PutOff(..) => {}
                Wake::Call => self.call(now, wishes),
                Wake::Compare => self.compare(wishes),
            }
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
            match what {
                Wake::Protocol(timer @ Timer::PeriodicGossip(_)) => self.no_news = Some(timer),
                what => self.schedule(now + paused(self.count(), &what, after), what),
            }
        }
        let mut out = Vec::new();
        if changed {
            self.adjust();
            self.choose_keepers(&mut out);
        }
        // A process that has nothing to tell need not wake for it.
        if self.foca.updates_backlog() > 0
            && let Some(timer) = self.no_news.take()
        {
            self.schedule(now + news(self.count()), Wake::Protocol(timer));
        }
        for (to, packet) in wishes.sends {
            let redirected = self.along_the_ring(now, &packet);
            wishes.calls.push(redirected.unwrap_or((to, packet)));
        }
        for (to, packet) in wishes.calls {
            if let Some(to) = self.placed(to) {
                out.push(Action::Send { to, packet });
            }
        }
        out
    }

    fn schedule(&mut self, at: Duration, what: Wake) {
        self.scheduled += 1;
        let number = self.scheduled;
        self.timers.push(Reverse(Due { at, number, what }));
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
