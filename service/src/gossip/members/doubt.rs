//! Who may be gone: what makes a suspect, and when its time is over.

use std::sync::Arc;
use std::time::Duration;

use darner_proto::gossip::Member;
use foca::{State, Timer};

use super::Members;
use super::wishes::{Wake, Wishes};
use crate::gossip::node::{Node, rank};

/// A process whose own timers are this late has too little of its machine to judge others by theirs.
const LATE: Duration = Duration::from_millis(250);
/// For so long after that it gives suspects more time, this much once for each.
const LENIENT: Duration = Duration::from_secs(5);
/// So many packets in a row without an answer make a suspect.
const UNANSWERED: u8 = 3;
/// Members that are counted for; of others one more has no effect.
const MAX_UNANSWERED: usize = 256;
/// Who has objected is not suspected again for so long because of one way that does not work: others
/// may well reach it.
const DOUBTED_AGAIN: Duration = Duration::from_secs(10);

impl Members {
    /// A closed port says at once what a ping would say after a while. It also says it to a process
    /// that is too slow to judge by time.
    pub(super) fn unreachable(&mut self, now: Duration, member: &Arc<Member>, wishes: &mut Wishes) {
        let node = Node::of(member.clone());
        match self.state_of(&node) {
            Some((State::Alive, incarnation)) => self.suspect(now, node, incarnation, wishes),
            Some((State::Suspect, incarnation)) if self.overdue.remove(&node.rank).is_some() => {
                self.objected(node, incarnation, wishes);
            }
            _ => {}
        }
    }

    /// Who does not answer in time may be gone with its whole machine.
    pub(super) fn unanswered(&mut self, now: Duration, member: &Arc<Member>, wishes: &mut Wishes) {
        if now < self.lenient {
            return self.unheard.clear();
        }
        let node = Node::of(member.clone());
        let Some((State::Alive, incarnation)) = self.state_of(&node) else {
            return self.answered(member);
        };
        if self.unheard.len() >= MAX_UNANSWERED {
            self.unheard.clear();
        }
        let times = self.unheard.entry(node.rank).or_default();
        *times += 1;
        if *times >= UNANSWERED {
            self.unheard.remove(&node.rank);
            self.suspect(now, node, incarnation, wishes);
        }
    }

    pub(super) fn answered(&mut self, member: &Arc<Member>) {
        if !self.unheard.is_empty() {
            self.unheard.remove(&rank(&member.id));
        }
    }

    fn suspect(&mut self, now: Duration, node: Node, incarnation: u16, wishes: &mut Wishes) {
        let recent = now.saturating_sub(DOUBTED_AGAIN);
        self.doubted.retain(|_, at| *at > recent);
        let life = (node.rank, node.member.generation);
        if now >= DOUBTED_AGAIN && self.doubted.contains_key(&life) {
            return;
        }
        self.doubted.insert(life, now);
        let suspect = foca::Member::new(node, incarnation, State::Suspect);
        self.believe(suspect, true, wishes);
    }

    /// What is to be done now of what is due. A verdict may be put off; meanwhile the suspect is called,
    /// since a closed port would settle it.
    pub(super) fn due(
        &mut self,
        now: Duration,
        at: Duration,
        what: Wake,
        wishes: &mut Wishes,
    ) -> Option<Wake> {
        if now.saturating_sub(at) >= LATE {
            self.lenient = now + LENIENT;
        }
        let (node, incarnation) = match &what {
            Wake::PutOff(_) => {
                let Wake::PutOff(verdict) = what else {
                    return None;
                };
                return Some(*verdict);
            }
            Wake::Objected(node, incarnation) => (node.clone(), *incarnation),
            Wake::Protocol(Timer::ChangeSuspectToDown {
                member_id,
                incarnation,
                ..
            }) => (member_id.clone(), *incarnation),
            _ => return Some(what),
        };
        if now >= self.lenient || self.state_of(&node) != Some((State::Suspect, incarnation)) {
            return Some(what);
        }
        let call = self.nothing_new(&node);
        self.overdue.insert(node.rank, incarnation);
        wishes.calls.extend(call.map(|packet| (node, packet)));
        wishes.timers.push((LENIENT, Wake::PutOff(Box::new(what))));
        None
    }

    /// Whoever has heard of the suspicion counts for itself: this is no news.
    pub(super) fn objected(&mut self, node: Node, incarnation: u16, wishes: &mut Wishes) {
        if self.state_of(&node) == Some((State::Suspect, incarnation)) {
            self.overdue.remove(&node.rank);
            let down = foca::Member::new(node, incarnation, State::Down);
            self.believe(down, false, wishes);
        }
    }
}
