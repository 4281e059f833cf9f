//! A new life, after this process was down for the others.

use super::Members;
use super::calls::{CALL, COMPARE};
use super::pace::foca;
use super::wishes::{Change, Wake, Wishes};

impl Members {
    /// This process was down for the others, mostly because it was cut off. What it believed of them
    /// in that time is not worth telling.
    pub(super) fn begin_again(&mut self, wishes: &mut Wishes) {
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
}
