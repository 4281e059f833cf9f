//! When a child's parents are weighed: in bounded portions, so that no event has to wait for a
//! crowd.
//!
//! ```text
//! joins, reports a parent ---------------------------------> weighed at once
//! loses a parent, starves when a source appears --(hurry)--> queued: some after every event
//! starves -------------------------------------------------> seen by a round of its own
//! has been given a parent that chose it -------------------> told by a round of its own
//! anything else -------------------------------------------> seen by the round that goes on and
//!                                                             on over all children
//! ```
//! Rounds go on with every event; where there is none, with turns that the driver gives while a round
//! for those in need is not over. So nobody waits for others to have something to say.
//!
//! A child is told at most twice a second, a new one more often at first, and only what has changed.

use std::collections::VecDeque;
use std::ops::Bound;
use std::time::Duration;

use darner_proto::id::TaskId;

use super::numbers::HostNumber;
use super::parents::most_children;
use super::tasks::{Participant, Task};
use super::{SessionId, Swarm, mix};

/// A child whose picture has changed is told no sooner than this after the last time.
pub(super) const RETELL: Duration = Duration::from_millis(500);
/// The first times it may be sooner: while a crowd gathers, much changes.
pub(super) const EARLY: Duration = Duration::from_millis(50);
/// How many times are the first; twice as many for one that has nothing yet.
pub(super) const YOUNG: u32 = 4;
/// A child with fewer parents is offered more as they come.
pub(super) const ENOUGH_PARENTS: usize = 4;
/// Every child's parents are weighed again at least this often: what was good may have become slow,
/// and better ones may have come.
const REVIEW: Duration = Duration::from_secs(4);
/// Children weighed after one event because it is urgent: a quarter of a millisecond's work.
const URGENT_PER_EVENT: usize = 16;
/// A portion of the round: children looked at, and of these weighed.
const PORTION: Portion = Portion {
    looks: 64,
    weighed: 4,
    told: 6,
};
/// The portion that a tick takes, when nothing else happens.
const TICK_PORTION: Portion = Portion {
    looks: 1000,
    weighed: 40,
    told: 60,
};
/// Of those weighed in a portion, so many in four may be children that starve: they come before those
/// that could only do better, and do not keep them waiting for good.
const STARVING: usize = 3;
/// Portions follow each other no sooner: ten thousand children are weighed in a second at most.
const PAUSE: Duration = Duration::from_micros(400);
/// Rounds begin no sooner after each other, however few children there are.
const ROUND: Duration = EARLY;

/// The first holders of a content are news for everybody who waits.
const FEW_HOLDERS: usize = 4;

/// Who downloads a content.
type Child = (TaskId, SessionId);

/// How much is done at once.
#[derive(Debug, Clone, Copy)]
struct Portion {
    looks: usize,
    weighed: usize,
    /// Of those that have been given a parent which chose them, so many are told; that costs a fifth
    /// of weighing.
    told: usize,
}

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Turns {
    urgent: VecDeque<Child>,
    starving: Round,
    offered: Round,
    all: Round,
    next_portion: Duration,
}

/// A walk over all children.
#[derive(Debug, Default)]
struct Round {
    /// Who was looked at last; `None` before its beginning.
    cursor: Option<Child>,
    /// When the next one may begin.
    next: Duration,
}

/// Whom a round is for.
#[derive(Debug, Clone, Copy)]
enum Whom {
    Starving,
    Offered,
    All,
}

impl Turns {
    /// Whether somebody waits who is in need: a round for these is not over, or the queue is not empty.
    pub(super) fn is_behind(&self) -> bool {
        let rounds = [&self.starving, &self.offered];
        !self.urgent.is_empty() || rounds.iter().any(|round| round.cursor.is_some())
    }

    fn round(&mut self, whom: Whom) -> &mut Round {
        match whom {
            Whom::Starving => &mut self.starving,
            Whom::Offered => &mut self.offered,
            Whom::All => &mut self.all,
        }
    }
}

impl Swarm {
    /// Somebody has something of the task: those who have nobody useful are next, as many as it may
    /// have children, and if it is the whole, the others when it is their turn.
    pub(super) fn source_appeared(&mut self, id: &TaskId, session: SessionId) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        let Some(node) = self.hosts.get(session) else {
            return;
        };
        let complete = self.inventory.holds(session, id);
        let reading = self.is_reading(id, session);
        let part = task.participants.get(&session);
        if !complete && !reading && part.is_none_or(|one| one.held.is_empty()) {
            return;
        }
        // In a large swarm a further holder is no event; whoever starves is seen at its turn.
        let few = reading || (complete && self.inventory.count(id) <= FEW_HOLDERS);
        let children = node.children_in(task.number);
        let room = most_children(node.host.upload_slots).saturating_sub(children);
        let places = task.order.len();
        let first = usize::try_from(mix(session.0, 0) % (places as u64 + 1)).unwrap_or(0);
        let order = task.order[first..].iter().chain(&task.order[..first]);
        let starving: Vec<_> = order
            .copied()
            .filter(|child| *child != session)
            .filter(|child| {
                task.participants.get(child).is_some_and(|me| {
                    !me.held.is_full()
                        && (me.parents().is_empty() || (few && self.starves(id, task, me)))
                })
            })
            .take(room as usize)
            .collect();
        for child in starving {
            self.hurry(id, child);
        }
        if complete {
            self.mark_due(id);
        }
    }

    /// Every child's parents are weighed anew when it is their turn.
    pub(super) fn mark_due(&mut self, id: &TaskId) {
        if let Some(task) = self.tasks.get_mut(id) {
            task.news = task.news.wrapping_add(1);
        }
    }

    /// Whether none of its parents has anything for it.
    pub(super) fn starves(&self, id: &TaskId, task: &Task, me: &Participant) -> bool {
        let holders = self.inventory.holders(id);
        self.parents_of(me).all(|parent| {
            !holders.contains(parent)
                && task
                    .participants
                    .get(&parent)
                    .is_none_or(|one| one.held.len_beyond(&me.held) == 0)
        })
    }

    /// The child is to be weighed as soon as may be.
    pub(super) fn hurry(&mut self, id: &TaskId, child: SessionId) {
        let task = self.tasks.get_mut(id);
        if let Some(me) = task.and_then(|task| task.participants.get_mut(&child))
            && !me.queued
        {
            me.queued = true;
            self.turns.urgent.push_back((*id, child));
        }
    }

    /// Somebody can no longer be a parent: its children lose it at once and are told soon.
    pub(super) fn parent_lost(&mut self, id: &TaskId, parent: HostNumber) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        let children = task.participants.iter();
        let children: Vec<_> = children
            .filter(|(_, me)| me.parents().contains(&parent))
            .map(|(child, _)| *child)
            .collect();
        for child in children {
            self.part(id, child, parent);
            self.hurry(id, child);
        }
    }

    /// What follows every event.
    pub(super) fn take_turns(&mut self, is_tick: bool) {
        for _ in 0..URGENT_PER_EVENT {
            let Some((id, child)) = self.turns.urgent.pop_front() else {
                break;
            };
            let task = self.tasks.get_mut(&id);
            if let Some(me) = task.and_then(|task| task.participants.get_mut(&child))
                && std::mem::take(&mut me.queued)
            {
                self.refresh(&id, child);
            }
        }
        if is_tick {
            self.go_round(TICK_PORTION);
        } else if self.now >= self.turns.next_portion {
            self.turns.next_portion = self.now + PAUSE;
            self.go_round(PORTION);
        }
    }

    /// Goes on with the rounds, or begins them when it is time.
    fn go_round(&mut self, portion: Portion) {
        let few = Portion {
            weighed: portion.weighed * STARVING / 4,
            ..portion
        };
        let weighed = self.go_on(Whom::Starving, few);
        let told = Portion {
            weighed: portion.told,
            ..portion
        };
        self.go_on(Whom::Offered, told);
        let rest = Portion {
            weighed: portion.weighed - weighed,
            ..portion
        };
        self.go_on(Whom::All, rest);
    }

    /// Goes on with a round, and says how many had their turn.
    fn go_on(&mut self, whom: Whom, portion: Portion) -> usize {
        let now = self.now;
        let round = self.turns.round(whom);
        if round.cursor.is_none() {
            if now < round.next {
                return 0;
            }
            round.next = now + ROUND;
        }
        let start = round.cursor.take();
        let (due, cursor) = self.look(whom, portion, start);
        self.turns.round(whom).cursor = cursor;
        for (id, child) in &due {
            let me = self.tasks.get(id);
            let me = me.and_then(|task| Some((task, task.participants.get(child)?)));
            let Some((task, me)) = me else { continue };
            let only_told = match whom {
                Whom::Starving => false,
                Whom::Offered => true,
                Whom::All => me.offered && !self.needs_weighing(id, task, me),
            };
            if only_told {
                self.tell(id, *child);
            } else {
                self.refresh(id, *child);
            }
        }
        due.len()
    }

    /// Looks at some children, from the one after `start` on: those whose turn it is, and who was
    /// looked at last, if any are left.
    fn look(
        &self,
        whom: Whom,
        portion: Portion,
        start: Option<Child>,
    ) -> (Vec<Child>, Option<Child>) {
        let mut due = Vec::new();
        let mut looks = portion.looks;
        let mut cursor = start;
        let first = match &start {
            Some((id, _)) => Bound::Included(*id),
            None => Bound::Unbounded,
        };
        for (id, task) in self.tasks.range((first, Bound::Unbounded)) {
            // A task without children costs a look too.
            looks = looks.saturating_sub(1);
            let after = match &start {
                Some((last, child)) if last == id => Bound::Excluded(*child),
                _ => Bound::Unbounded,
            };
            for (child, me) in task.participants.range((after, Bound::Unbounded)) {
                if looks == 0 || due.len() >= portion.weighed {
                    return (due, cursor);
                }
                looks -= 1;
                cursor = Some((*id, *child));
                if self.is_due(whom, id, task, me) {
                    due.push((*id, *child));
                }
            }
            cursor = Some((*id, SessionId(u64::MAX)));
            if looks == 0 {
                return (due, cursor);
            }
        }
        (due, None)
    }

    fn is_due(&self, whom: Whom, id: &TaskId, task: &Task, me: &Participant) -> bool {
        self.now >= me.not_before()
            && !me.held.is_full()
            && match whom {
                Whom::Starving => self.starves(id, task, me),
                // Who has nothing yet is to know soon whom it may have it from.
                Whom::Offered if me.held.is_empty() => me.offered,
                // The round over all comes in time where it is short, and weighs them too.
                Whom::Offered => me.offered && self.now >= me.not_before() + ROUND,
                Whom::All => me.offered || self.needs_weighing(id, task, me),
            }
    }

    fn needs_weighing(&self, id: &TaskId, task: &Task, me: &Participant) -> bool {
        me.seen != task.news
            || me.parents().len() < ENOUGH_PARENTS
            || (me.parents().len() + 1 < task.participants.len() && self.is_poor(me))
            || self.now >= me.not_before() + REVIEW
            || self.starves(id, task, me)
    }
}
