//! Who may be gone: what makes a suspect, and what decides when its time is over.
//!
//! A process may be slow where its machine has too much to do, as may be the one that judges it. So
//! in a cluster that is not large nobody is judged by time alone: every member that hears of a suspect
//! calls it. Where its port is closed or nobody takes connections it is gone; where somebody does, it
//! has much longer to object. A machine takes connections however busy its processes are.

use std::sync::Arc;
use std::time::Duration;

use darner_proto::gossip::Member;
use foca::{State, Timer};

use super::Members;
use super::pace::FEW;
use super::wishes::{Wake, Wishes};
use crate::gossip::node::{Node, rank};

/// A process whose own timers are this late has too little of its machine to judge others by theirs.
const LATE: Duration = Duration::from_millis(250);
/// For so long after that.
const LENIENT: Duration = Duration::from_secs(5);
/// So long a suspect has beyond its time where nothing says that it is gone, and again each time it
/// answers.
const PUT_OFF: Duration = Duration::from_secs(10);
/// Who has objected is not suspected again for so long because of one way that does not work: others
/// may well reach it.
const DOUBTED_AGAIN: Duration = Duration::from_secs(10);

/// What is known of a suspect besides that it is one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Suspicion {
    incarnation: u16,
    /// Its port is closed, or nobody is there to take connections.
    is_gone: bool,
    /// It has answered since.
    has_answered: bool,
    /// Its time to object is over.
    is_over: bool,
}

impl Members {
    /// A closed port says at once what a ping would say after a while, and so does a machine that takes
    /// no connections.
    pub(super) fn unreachable(&mut self, now: Duration, member: &Arc<Member>, wishes: &mut Wishes) {
        let node = Node::of(member.clone());
        match self.state_of(&node) {
            Some((State::Alive, incarnation)) => self.suspect(now, node, incarnation, wishes),
            Some((State::Suspect, incarnation)) => self.gone(node, incarnation, wishes),
            _ => {}
        }
    }

    pub(super) fn answered(&mut self, member: &Arc<Member>) {
        if self.suspicions.is_empty() {
            return;
        }
        if let Some(suspicion) = self.suspicions.get_mut(&rank(&member.id)) {
            (suspicion.has_answered, suspicion.is_gone) = (true, false);
        }
    }

    fn suspect(&mut self, now: Duration, node: Node, incarnation: u16, wishes: &mut Wishes) {
        let recent = now.saturating_sub(DOUBTED_AGAIN);
        self.doubted
            .retain(|_, at| now < DOUBTED_AGAIN || *at > recent);
        let life = (node.rank, node.member.generation);
        if self.doubted.contains_key(&life) {
            return;
        }
        self.doubted.insert(life, now);
        let suspect = foca::Member::new(node, incarnation, State::Suspect);
        self.believe(suspect, true, wishes);
    }

    /// A suspect is known here from now on. It is called, to hear whether it is there.
    pub(super) fn suspected(&mut self, node: &Node, incarnation: u16, wishes: &mut Wishes) {
        let suspicions = std::mem::take(&mut self.suspicions);
        let known = self.foca.iter_membership_state();
        let suspects = known.filter(|known| known.state() == State::Suspect);
        self.suspicions = suspects
            .filter_map(|known| {
                let suspicion = suspicions.get(&known.id().rank)?;
                Some((known.id().rank, *suspicion))
            })
            .collect();
        let suspicion = Suspicion {
            incarnation,
            ..Suspicion::default()
        };
        self.suspicions.insert(node.rank, suspicion);
        if self.count() <= FEW {
            self.call_suspect(node, incarnation, wishes);
        }
    }

    /// Tells it that it is suspect; whether that reaches it says more than time does.
    fn call_suspect(&self, node: &Node, incarnation: u16, wishes: &mut Wishes) {
        let suspect = foca::Member::new(node.clone(), incarnation, State::Suspect);
        let call = self.call_with(node, &[suspect]);
        let call = call.map(|packet| (node.clone(), packet));
        wishes.calls.extend(call);
    }

    fn gone(&mut self, node: Node, incarnation: u16, wishes: &mut Wishes) {
        let Some(suspicion) = self.suspicions.get_mut(&node.rank) else {
            return;
        };
        (suspicion.is_gone, suspicion.has_answered) = (true, false);
        if suspicion.is_over && suspicion.incarnation == incarnation {
            self.bury(node, incarnation, wishes);
        }
    }

    /// What is to be done of what is due. A verdict may be put off.
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
        let (node, incarnation, is_last) = match &what {
            Wake::Objected(node, incarnation) => (node, *incarnation, false),
            Wake::PutOff(node, incarnation) => (node, *incarnation, true),
            Wake::Protocol(Timer::ChangeSuspectToDown {
                member_id,
                incarnation,
                ..
            }) => (member_id, *incarnation, false),
            _ => return Some(what),
        };
        if self.state_of(node) != Some((State::Suspect, incarnation)) {
            return None;
        }
        let by_time = self.count() > FEW && now >= self.lenient;
        let suspicion = self.suspicions.entry(node.rank).or_default();
        let is_same = suspicion.incarnation == incarnation;
        if by_time || (is_same && (suspicion.is_gone || (is_last && !suspicion.has_answered))) {
            return Some(Wake::Objected(node.clone(), incarnation));
        }
        *suspicion = Suspicion {
            incarnation,
            is_over: true,
            ..Suspicion::default()
        };
        self.call_suspect(node, incarnation, wishes);
        let again = Wake::PutOff(node.clone(), incarnation);
        wishes.timers.push((PUT_OFF, again));
        None
    }

    /// Its time is over. Whoever has heard of the suspicion counts for itself: this is no news.
    pub(super) fn bury(&mut self, node: Node, incarnation: u16, wishes: &mut Wishes) {
        if self.state_of(&node) == Some((State::Suspect, incarnation)) {
            self.suspicions.remove(&node.rank);
            let down = foca::Member::new(node, incarnation, State::Down);
            self.believe(down, false, wishes);
        }
    }
}
