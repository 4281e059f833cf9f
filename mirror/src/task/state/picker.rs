//! Which pieces to ask which parent for.
//!
//! The parent chooses among what it is asked for (it knows what it has sent to whom), so a request
//! that waits names several pieces, its *reservation*. Reservations do not overlap, but they are
//! soft: a parent with nothing else to do is asked for what waits at another, and what is chosen
//! first counts. Pieces near a reader come first, in order; else those that the fewest parents have.
//!
//! Whoever reads upstream for the others asks nobody meanwhile, unless it has clients of its own: what
//! comes from peers takes its downlink from what everybody waits for.
//!
//! A seed is the swarm's only source of what nobody has yet. What a peer has too, a seed is asked
//! for only when the peers have more than they can be asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use darner_proto::id::HostId;
use darner_proto::piece_set::PieceSet;

use super::links::Link;
use super::requests::{Manner, Request, Stage};
use super::{Action, Task};

/// Pieces reserved by one request: room for the parent to choose.
const WIDEST: usize = 16;
/// Requests to one parent at once: one being sent and one waiting keep its uplink busy.
pub(super) const PER_PARENT: u32 = 2;
/// Requests of a node at once, shared evenly among its downloads: about as many as a node has places
/// for the requests of others, sent to and waiting. With more, parents say "busy" all the time, and
/// chance decides who is served and who waits. As it is fewer than the parents would take, and every
/// node has as many, all get about as much, whether they have many parents or few.
const MAX_REQUESTS: u32 = 32;
/// Of one download at least: one being sent and one waiting.
const LEAST_REQUESTS: u32 = 2;
/// Pieces so near to a reader are asked for in order.
const NEAR: u32 = 16;
/// Of the others so many are weighed by how rare they are.
const WEIGHED: usize = 48;

impl Task {
    /// Asks parents for pieces until nothing more can usefully be asked for.
    pub(super) fn ask_parents(&mut self, now: Duration, out: &mut Vec<Action>) {
        let reads_for_others = !self.reads.is_empty() && self.cursors.is_empty();
        if reads_for_others {
            return;
        }
        self.ask_in_turn(now, out);
        self.look_elsewhere(now, out);
    }

    fn ask_in_turn(&mut self, now: Duration, out: &mut Vec<Action>) {
        if self.requests.len() >= self.at_once() {
            return;
        }
        // Often every parent has its requests already: nothing is worked out then.
        if !self.links.values().any(|link| link.can_be_asked(now)) {
            return;
        }
        let mut taken = self.taken();
        // Bounded by itself too: a request made here may give another one up.
        for _ in self.requests.len()..self.at_once() {
            let Some((parent, wanted, hedge)) = self.next_request(now, &taken) else {
                return;
            };
            for index in &wanted {
                taken.insert(*index);
            }
            if hedge && let Some(index) = wanted.first() {
                self.hedged(*index, out);
            } else {
                self.pass_over(now, &wanted);
                self.give_up_reservations(&wanted, out);
            }
            let manner = if hedge { Manner::Hedge } else { Manner::InTurn };
            self.ask(now, parent, wanted, manner, out);
        }
    }

    /// Requests at once, over all parents: this download's part of the node's.
    fn at_once(&self) -> usize {
        if self.gives_way {
            return 1;
        }
        let part = MAX_REQUESTS / self.beside.max(1);
        part.max(LEAST_REQUESTS) as usize
    }

    pub(super) fn ask(
        &mut self,
        now: Duration,
        parent: HostId,
        wanted: Vec<u32>,
        manner: Manner,
        out: &mut Vec<Action>,
    ) {
        let request = self.number();
        let known = |index: &u32| Some((*index, self.expected.get(*index)?.clone()));
        let want: BTreeMap<_, _> = wanted.iter().filter_map(known).collect();
        let Some(link) = self.links.get_mut(&parent) else {
            return;
        };
        link.in_flight += 1;
        out.push(Action::Fetch {
            request,
            parent: link.host.clone(),
            want,
            at_once: manner == Manner::AtOnce,
        });
        let stage = Stage::Waiting(wanted);
        self.requests.add(
            request,
            Request {
                parent,
                stage,
                manner,
                moved_at: now,
            },
        );
    }

    /// What is on its way already, from upstream or from a parent, or waits at one.
    fn taken(&self) -> PieceSet {
        let mut taken = self.held.clone();
        if let Some(lease) = &self.lease {
            for range in &lease.ranges {
                taken.insert_range(range.clone());
            }
        }
        for index in self.requests.values().flat_map(Request::pieces) {
            taken.insert(index);
        }
        taken
    }

    fn next_request(&self, now: Duration, taken: &PieceSet) -> Option<(HostId, Vec<u32>, bool)> {
        let usable = |link: &&Link| link.can_be_asked(now);
        let mut links: Vec<_> = self.links.values().filter(usable).collect();
        links.sort_by_key(|link| link.rank());
        let fresh = links.iter().find_map(|link| {
            if link.has.len_beyond(taken) == 0 {
                return None;
            }
            let mut useful = link.has.clone();
            useful.subtract(taken);
            if link.is_seed {
                self.leave_to_peers(&mut useful);
            }
            self.pick(&useful, link.is_seed)
                .map(|wanted| (*link, wanted, false))
        });
        // Those that let it lie before come last: two that do would have it in turns for ever.
        let mut idle: Vec<_> = links.iter().filter(|link| link.in_flight == 0).collect();
        idle.sort_by_key(|link| link.passed_over);
        let stolen = || {
            let waits = self.waits(now);
            let mut idle = idle.iter();
            idle.find_map(|link| Some((**link, steal(&waits, link)?, false)))
        };
        let hedged = || {
            let mut idle = idle.iter();
            idle.find_map(|link| Some((**link, vec![self.hedge(now, link)?], true)))
        };
        let (link, wanted, hedge) = fresh.or_else(stolen).or_else(hedged)?;
        Some((link.host.id.clone(), wanted, hedge))
    }

    /// Takes from what a seed could be asked for what the peers will soon have been asked for.
    fn leave_to_peers(&self, useful: &mut PieceSet) {
        let mut at_peers = PieceSet::empty(useful.pieces());
        let mut peers = 0;
        let helpful = |link: &&Link| !link.is_seed && !link.is_dropped() && !link.slow;
        for link in self.links.values().filter(helpful) {
            at_peers.union(&link.has);
            peers += u32::from(!link.has.is_empty());
        }
        at_peers.intersect(useful);
        // What only the seed has it may have for this node alone: that first, whatever is plentiful.
        let only_here = useful.len() > at_peers.len();
        if only_here || at_peers.len() <= peers * PER_PARENT * 2 {
            useful.subtract(&at_peers);
        }
    }

    /// A reservation out of `useful`.
    fn pick(&self, useful: &PieceSet, to_seed: bool) -> Option<Vec<u32>> {
        if useful.is_empty() {
            return None;
        }
        // The fewer there are, the fewer one parent may keep from the others. But what a seed alone has nobody
        // else could be asked for, and only the seed knows what of it has gone to nobody.
        let parents = u32::try_from(self.links.len()).unwrap_or(u32::MAX);
        let share = useful.len() / parents.saturating_mul(PER_PARENT).max(1);
        let width = if to_seed {
            WIDEST
        } else {
            (share as usize).clamp(1, WIDEST)
        };
        let known = |index: &u32| self.expected.contains(*index);
        let mut wanted = Vec::with_capacity(width);
        for cursor in self.cursors.values() {
            let near = useful.range(*cursor..cursor.saturating_add(NEAR));
            for index in near.filter(known) {
                if wanted.len() < width && !wanted.contains(&index) {
                    wanted.push(index);
                }
            }
        }
        if wanted.len() < width {
            let mut some = self.some_of(useful);
            some.retain(|index| known(index) && !wanted.contains(index));
            self.add_rarest(&mut wanted, &some, width);
        }
        (!wanted.is_empty()).then_some(wanted)
    }

    /// Some of `useful`, from a place on that is another one at every node, so that neighbours do
    /// not all ask for the same. The place is counted among the useful pieces, not among all: what a
    /// source has and others have not is a narrow part of the whole, and most places lie outside it.
    fn some_of(&self, useful: &PieceSet) -> Vec<u32> {
        let rank = self.place % u64::from(useful.len().max(1));
        let rank = usize::try_from(rank).unwrap_or(0);
        let after = useful.iter_from(rank);
        after
            .chain(useful.iter().take(rank))
            .take(WEIGHED)
            .collect()
    }

    /// Adds those of `some` that the fewest parents have, until there are `width`; of equals the first.
    fn add_rarest(&self, wanted: &mut Vec<u32>, some: &[u32], width: usize) {
        let mut copies = vec![0u32; some.len()];
        for link in self.links.values() {
            for (index, copies) in some.iter().zip(&mut copies) {
                *copies += u32::from(link.has.contains(*index));
            }
        }
        let most = copies.iter().copied().max().unwrap_or(0);
        for count in 0..=most {
            for (index, _) in some.iter().zip(&copies).filter(|(_, one)| **one == count) {
                if wanted.len() == width {
                    return;
                }
                wanted.push(*index);
            }
        }
    }

    /// What waits at parents.
    fn waits(&self, now: Duration) -> Vec<Waits<'_>> {
        let late_after = self.hedge_after();
        let waiting = self.requests.values().filter_map(|request| {
            let Stage::Waiting(want) = &request.stage else {
                return None;
            };
            if request.asks_elsewhere() {
                return None;
            }
            let parent = self.links.get(&request.parent);
            Some(Waits {
                parent: &request.parent,
                want,
                slow: parent.is_some_and(|parent| parent.slow),
                at_seed: parent.is_some_and(|parent| parent.is_seed),
                late: now.saturating_sub(request.moved_at) >= late_after,
            })
        });
        waiting.collect()
    }
}

/// A reservation that waits at a parent.
struct Waits<'a> {
    parent: &'a HostId,
    want: &'a [u32],
    /// That parent is slow.
    slow: bool,
    /// It is a seed.
    at_seed: bool,
    /// It has waited long.
    late: bool,
}

impl Waits<'_> {
    /// The part of it that may go to `link`.
    fn tail_for(&self, link: &Link) -> &[u32] {
        let to_seed = link.is_seed;
        // What was taken from a seed or a slow parent does not go back there.
        let back = link.slow || (to_seed && !self.at_seed);
        if *self.parent == link.host.id || (back && !self.late) {
            return &[];
        }
        let slow = self.slow && !link.slow;
        let all = slow || self.late || (self.at_seed && !to_seed);
        let keeps = if all { 0 } else { self.want.len().div_ceil(2) };
        &self.want[keeps..]
    }
}

/// What waits elsewhere and could come from this idle parent: half of the longest reservation,
/// from its end; all of it when it waits at a seed and this is a peer, or has waited long.
fn steal(waits: &[Waits<'_>], link: &Link) -> Option<Vec<u32>> {
    let of = |one: &Waits<'_>| {
        let has = |index: &&u32| link.has.contains(**index);
        one.tail_for(link).iter().filter(has).count()
    };
    let best = waits.iter().max_by_key(|one| of(one))?;
    let tail = best.tail_for(link).iter().copied();
    let best: Vec<_> = tail.filter(|index| link.has.contains(*index)).collect();
    (!best.is_empty()).then_some(best)
}
