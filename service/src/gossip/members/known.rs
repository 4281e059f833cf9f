//! What the library remembers of one member.

use std::sync::Arc;

use darner_proto::gossip::Member;
use foca::State;

use super::Members;
use crate::gossip::node::Node;

impl Members {
    /// With the place that is known of it.
    pub(super) fn placed(&self, node: Node) -> Option<Arc<Member>> {
        if node.member.place.is_some() {
            return Some(node.member);
        }
        let known = self.foca.iter_membership_state().map(|one| one.id());
        let mut known = known.filter(|known| known.rank == node.rank);
        let known = known.next()?.member.clone();
        known.place.is_some().then_some(known)
    }

    pub(super) fn state_of(&self, node: &Node) -> Option<(State, u16)> {
        let mut known = self.foca.iter_membership_state();
        let known = known.find(|known| known.id() == node)?;
        Some((known.state(), known.incarnation()))
    }

    pub(super) fn is_live(&self, node: &Node) -> bool {
        matches!(
            self.state_of(node),
            Some((State::Alive | State::Suspect, _))
        )
    }
}
