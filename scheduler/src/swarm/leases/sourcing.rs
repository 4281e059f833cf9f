//! The search for a reader of what nobody has.
//!
//! When nobody is left to try, the task is *exhausted*: everybody is told, and for a moment newcomers
//! too, so that a thousand asking for what does not exist cost upstream one request and not a
//! thousand.

use std::collections::BTreeMap;
use std::time::Duration;

use darner_proto::id::{HostId, TaskId};
use darner_proto::scheduler::ReturnReason;

use super::super::hosts::Attendant;
use super::super::{SessionId, Swarm};
use super::ORPHAN_GRACE;
use super::seeds::divide;

/// Readers tried in a row without one piece gained.
const MAX_TRIES: u32 = 4;
/// Tries of one host.
pub(super) const MAX_TRIES_PER_HOST: u32 = 2;
/// The pause before the next reader when upstream failed one: doubling from the first to the last.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));
/// "There is no source" is remembered this long.
const EXHAUSTED_MEMORY: Duration = Duration::from_secs(1);

/// How the search for a reader stands.
///
/// ```text
/// seeking --(refused; nobody is left to try)--> exhausted
///    ^                                              |
///    +--(somebody joins with a new source, or later)+
/// ```
#[derive(Debug)]
pub(in crate::swarm) enum Sourcing {
    /// Somebody may still be found.
    Seeking(Search),
    /// Nobody is.
    Exhausted {
        /// Since when.
        since: Duration,
        /// What the last reader said.
        reason: ReturnReason,
    },
}

/// Who was tried.
#[derive(Debug, Default)]
pub(in crate::swarm) struct Search {
    not_before: Duration,
    /// Readers in a row without one piece gained.
    tries: u32,
    tried: BTreeMap<HostId, u32>,
    last_reason: Option<ReturnReason>,
}

impl Default for Sourcing {
    fn default() -> Self {
        Self::Seeking(Search::default())
    }
}

impl Sourcing {
    fn search(&self) -> Option<&Search> {
        match self {
            Self::Seeking(search) => Some(search),
            Self::Exhausted { .. } => None,
        }
    }

    fn search_mut(&mut self) -> Option<&mut Search> {
        match self {
            Self::Seeking(search) => Some(search),
            Self::Exhausted { .. } => None,
        }
    }

    /// Whether it is still remembered that there is no source.
    pub(in crate::swarm) fn remembers(&self, now: Duration) -> bool {
        matches!(self, Self::Exhausted { since, .. } if now < *since + EXHAUSTED_MEMORY)
    }

    fn may_ask(&self, now: Duration) -> bool {
        self.search().is_some_and(|one| now >= one.not_before)
    }

    fn is_hopeless(&self) -> bool {
        self.search().is_none_or(|one| one.tries >= MAX_TRIES)
    }

    fn last_reason(&self) -> ReturnReason {
        let last = self.search().and_then(|one| one.last_reason);
        last.unwrap_or(ReturnReason::Unavailable)
    }

    fn tries_of(&self, host: &HostId) -> u32 {
        let search = self.search();
        search
            .and_then(|one| one.tried.get(host).copied())
            .unwrap_or(0)
    }

    /// A reader did not read: that counts as so many tries of its host.
    pub(super) fn failed(&mut self, host: &HostId, tries: u32, reason: ReturnReason) {
        if let Some(search) = self.search_mut() {
            *search.tried.entry(host.clone()).or_default() += tries;
            search.tries += 1;
            search.last_reason = Some(reason);
        }
    }

    /// A reader has read something.
    pub(super) fn gained(&mut self, host: &HostId) {
        if let Some(search) = self.search_mut() {
            search.tries = 0;
            search.tried.remove(host);
        }
    }

    /// Upstream failed a reader: the next is asked after a while.
    pub(super) fn pause(&mut self, now: Duration) {
        if let Some(search) = self.search_mut() {
            let doublings = search.tries.min(MAX_TRIES);
            search.not_before = now + (PAUSE.0 * 2u32.pow(doublings)).min(PAUSE.1);
        }
    }

    /// Nobody is asked before `until`.
    fn wait(&mut self, until: Duration) {
        if let Some(search) = self.search_mut() {
            search.not_before = search.not_before.max(until);
        }
    }
}

impl Swarm {
    /// Leases what nobody has and nobody reads, if somebody needs it and it may be read now.
    pub(in crate::swarm) fn source(&mut self, id: &TaskId) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        if task.participants.is_empty() || task.is_all_held() || self.has_holder(id) {
            return;
        }
        let needed = task.unread();
        if needed.is_empty() || !task.sourcing.may_ask(self.now) {
            return;
        }
        if !self.all_asked(id) {
            return;
        }
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        let reading = !task.leases.is_empty();
        let ranged = task.ranged == Some(true);
        let readers = self.candidates(id);
        if task.sourcing.is_hopeless() || readers.is_empty() {
            let reason = task.sourcing.last_reason();
            // While somebody still reads another part, it may take this one over in the end.
            if !reading {
                self.exhaust(id, reason);
            }
            return;
        }
        let readers = &readers[..self.at_once(&readers, needed.len(), ranged)];
        let shares = divide(&needed, &self.weights(readers));
        for (reader, share) in readers.iter().zip(shares) {
            self.grant(id, *reader, share);
        }
    }

    /// Who may read now, the first to be asked first: seeds in the task's weighted rendezvous order,
    /// then participants in the order they came; those already tried behind those not.
    pub(super) fn candidates(&self, id: &TaskId) -> Vec<SessionId> {
        let Some(task) = self.tasks.get(id) else {
            return Vec::new();
        };
        let seeds = self.hosts.seeds_for(id);
        let seeds = seeds.into_iter().map(Attendant::session);
        let mirrors = task.order.iter().copied();
        let mut ranked: Vec<_> = seeds
            .chain(mirrors.filter(|session| !self.is_seed(*session)))
            .filter(|session| !task.shunned.contains(session) && !self.is_useless(id, *session))
            .filter_map(|session| Some((&self.hosts.get(session)?.host.id, session)))
            // Also not one whose lease waits for it to come and claim it.
            .filter(|(host, _)| task.leases.iter().all(|lease| lease.host != **host))
            .map(|(host, session)| (task.sourcing.tries_of(host), session))
            .filter(|(tries, _)| *tries < MAX_TRIES_PER_HOST)
            .collect();
        ranked.sort_by_key(|(tries, _)| *tries);
        ranked.into_iter().map(|(_, session)| session).collect()
    }

    /// Somebody who had something of the task is gone: it may be back at once.
    pub(in crate::swarm) fn wait_for_return(&mut self, id: &TaskId) {
        let until = self.now + ORPHAN_GRACE;
        if let Some(task) = self.tasks.get_mut(id) {
            task.sourcing.wait(until);
        }
    }

    /// Nobody is left to try: everybody is told.
    pub(in crate::swarm) fn exhaust(&mut self, id: &TaskId, reason: ReturnReason) {
        let now = self.now;
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        task.sourcing = Sourcing::Exhausted { since: now, reason };
        let participants = task.order.clone();
        for participant in participants {
            self.no_source(participant, id, reason);
        }
    }

    /// A node has joined. An exhausted task is tried anew when it brings a source not tried, or when
    /// some time has passed; otherwise the reason there is none.
    pub(in crate::swarm) fn revive(
        &mut self,
        id: &TaskId,
        new_sources: bool,
    ) -> Option<ReturnReason> {
        let now = self.now;
        let sourcing = &mut self.tasks.get_mut(id)?.sourcing;
        let Sourcing::Exhausted { reason, .. } = *sourcing else {
            return None;
        };
        if sourcing.remembers(now) && !new_sources {
            return Some(reason);
        }
        *sourcing = Sourcing::default();
        None
    }
}
