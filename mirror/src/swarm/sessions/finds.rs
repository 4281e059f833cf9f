//! Questions who holds a key, and whom they are put to: pure.
//!
//! The first two schedulers in the key's order know. The second is asked too when the first knows
//! nobody (it may have begun a moment ago), is gone, or lets it wait (it may be gone without a word).

use std::collections::{BTreeMap, BTreeSet};

use darner_proto::digest::Digest;
use darner_proto::id::{Host, HostId};
use darner_proto::rendezvous;
use darner_proto::scheduler::NodeMessage;

use super::{KEEPERS, Output};

/// Turns, tenths of a second, before the next is asked as well. One that has to ask the nodes first
/// takes up to eight.
const PATIENCE: u32 = 3;
/// Schedulers asked for one answer, while they come and go.
const MAX_ASKED: usize = 4;

/// Questions under way. Whoever asks gives up by itself, so they are few.
#[derive(Debug, Default)]
pub(super) struct Finds {
    open: BTreeMap<u64, Find>,
}

#[derive(Debug)]
struct Find {
    key: Digest,
    asked: BTreeSet<HostId>,
    /// Of those asked.
    waiting: BTreeSet<HostId>,
    turns: u32,
}

impl Finds {
    pub(super) fn begin(
        &mut self,
        connected: &BTreeSet<HostId>,
        request: u64,
        key: Digest,
        out: &mut Vec<Output>,
    ) {
        let mut find = Find {
            key,
            asked: BTreeSet::new(),
            waiting: BTreeSet::new(),
            turns: 0,
        };
        if find.ask(connected, request, out) {
            self.open.insert(request, find);
        } else {
            out.push(Output::Found(request, Vec::new()));
        }
    }

    pub(super) fn answered(
        &mut self,
        connected: &BTreeSet<HostId>,
        scheduler: &HostId,
        request: u64,
        holders: Vec<Host>,
        out: &mut Vec<Output>,
    ) {
        let asked = |find: &&mut Find| find.waiting.contains(scheduler);
        let Some(find) = self.open.get_mut(&request).filter(asked) else {
            return;
        };
        if !holders.is_empty() {
            self.open.remove(&request);
            out.push(Output::Found(request, holders));
        } else if !find.goes_on_without(connected, scheduler, request, out) {
            self.open.remove(&request);
            out.push(Output::Found(request, Vec::new()));
        }
    }

    /// `scheduler` is no longer among those `connected`.
    pub(super) fn down(
        &mut self,
        connected: &BTreeSet<HostId>,
        scheduler: &HostId,
        out: &mut Vec<Output>,
    ) {
        self.open.retain(|request, find| {
            let goes_on = !find.waiting.contains(scheduler)
                || find.goes_on_without(connected, scheduler, *request, out);
            if !goes_on {
                out.push(Output::Found(*request, Vec::new()));
            }
            goes_on
        });
    }

    /// Whether any is under way.
    pub(super) fn waits(&self) -> bool {
        !self.open.is_empty()
    }

    pub(super) fn turn(&mut self, connected: &BTreeSet<HostId>, out: &mut Vec<Output>) {
        for (request, find) in &mut self.open {
            find.turns += 1;
            if find.turns == PATIENCE {
                find.ask(connected, *request, out);
            }
        }
    }
}

impl Find {
    /// Puts it to one more. `false` when there is nobody else.
    fn ask(&mut self, connected: &BTreeSet<HostId>, request: u64, out: &mut Vec<Output>) -> bool {
        if self.asked.len() >= MAX_ASKED {
            return false;
        }
        let order = rendezvous::order(&self.key, connected, |id| id);
        let mut knowing = order.into_iter().take(KEEPERS);
        let Some(next) = knowing.find(|scheduler| !self.asked.contains(*scheduler)) else {
            return false;
        };
        self.asked.insert(next.clone());
        self.waiting.insert(next.clone());
        let key = self.key;
        out.push(Output::Send(
            next.clone(),
            NodeMessage::Find { request, key },
        ));
        true
    }

    fn goes_on_without(
        &mut self,
        connected: &BTreeSet<HostId>,
        scheduler: &HostId,
        request: u64,
        out: &mut Vec<Output>,
    ) -> bool {
        self.waiting.remove(scheduler);
        self.ask(connected, request, out) || !self.waiting.is_empty()
    }
}
