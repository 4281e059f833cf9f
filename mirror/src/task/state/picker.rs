//! Which pieces to ask which parent for.
//!
//! The parent chooses among what it is asked for (it knows what it has sent to whom), so a request
//! names several pieces that no other request names. Readers are served in order: pieces near a
//! reader come first. Ordinary peers are asked before seeds, whose slots are the swarm's only source
//! of what nobody has yet.

use std::collections::BTreeMap;
use std::time::Duration;

use darner_proto::id::{HostId, Role};
use darner_proto::piece_set::PieceSet;

use super::{Action, MAX_IN_FLIGHT, Request, Task};

/// Pieces named in one request: room for the parent to choose.
const WANT: usize = 8;
/// Requests to one parent at once: one being sent and one waiting keep its uplink busy.
const PER_PARENT: u32 = 2;
/// A request that takes longer is asked for at another parent too.
const HEDGE_AFTER: Duration = Duration::from_secs(2);

impl Task {
    /// Asks parents for pieces until nothing more can usefully be asked for.
    pub(super) fn ask_parents(&mut self, now: Duration, out: &mut Vec<Action>) {
        while self.in_flight() < MAX_IN_FLIGHT {
            let claimed = self.claimed(now);
            let Some((parent, wanted)) = self.next_request(now, &claimed) else {
                return;
            };
            let request = self.number();
            let want: BTreeMap<_, _> = wanted
                .iter()
                .filter_map(|index| Some((*index, self.expected.get(index)?.clone())))
                .collect();
            let Some(link) = self.links.get_mut(&parent) else {
                return;
            };
            link.in_flight += 1;
            let asked = Action::Fetch {
                request,
                parent: link.host.clone(),
                want,
            };
            let pieces = wanted.into_iter().collect();
            self.requests.insert(
                request,
                Request {
                    parent,
                    pieces,
                    asked_at: now,
                },
            );
            out.push(asked);
        }
    }

    fn in_flight(&self) -> u32 {
        let pieces: usize = self
            .requests
            .values()
            .map(|request| request.pieces.len().min(4))
            .sum();
        u32::try_from(pieces).unwrap_or(u32::MAX)
    }

    /// What is on its way already, from upstream or from a parent that is not late.
    fn claimed(&self, now: Duration) -> PieceSet {
        let mut claimed = self.held.clone();
        if let Some(lease) = &self.lease {
            for range in &lease.ranges {
                claimed.insert_range(range.clone());
            }
        }
        let mut late = PieceSet::empty(self.geometry.pieces());
        for request in self.requests.values() {
            let is_late = now.saturating_sub(request.asked_at) >= HEDGE_AFTER;
            for index in &request.pieces {
                // A piece that is late at one parent is hedged once, not at everybody.
                if !is_late || !late.insert(*index) {
                    claimed.insert(*index);
                }
            }
        }
        claimed
    }

    fn next_request(&self, now: Duration, claimed: &PieceSet) -> Option<(HostId, Vec<u32>)> {
        let mut links: Vec<_> = self
            .links
            .values()
            .filter(|link| link.usable(now) && link.in_flight < PER_PARENT)
            .collect();
        links.sort_by_key(|link| {
            (
                link.in_flight,
                link.host.role == Role::Seed,
                link.strikes,
                link.order,
            )
        });
        links.into_iter().find_map(|link| {
            let mut useful = link.has.clone();
            useful.subtract(claimed);
            for request in self
                .requests
                .values()
                .filter(|request| request.parent == link.host.id)
            {
                for index in &request.pieces {
                    useful.remove(*index);
                }
            }
            let wanted = self.nearest(&useful);
            (!wanted.is_empty()).then(|| (link.host.id.clone(), wanted))
        })
    }

    /// The first of `useful` at or after a reader's place, then the first of all.
    fn nearest(&self, useful: &PieceSet) -> Vec<u32> {
        let known = |index: &u32| self.expected.contains_key(index);
        let mut wanted = Vec::with_capacity(WANT);
        let mut cursors: Vec<_> = self.cursors.values().copied().collect();
        cursors.push(0);
        for cursor in cursors {
            let after = useful.iter().filter(|index| *index >= cursor).filter(known);
            for index in after.take(WANT) {
                if wanted.len() < WANT && !wanted.contains(&index) {
                    wanted.push(index);
                }
            }
        }
        wanted
    }
}
