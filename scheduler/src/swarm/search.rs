//! Questions: who holds a key that nobody is known to hold? Asked of the nodes that may not have
//! told everything yet, so that nobody goes upstream because a scheduler was started anew.
//!
//! ```text
//! (nobody known) --> open --(all listed, answered or gone; or a second is over)--> nobody holds it
//!                      |
//!                      +--(an Inventory or Join names it)--> found
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use darner_proto::digest::Digest;
use darner_proto::id::Host;
use darner_proto::scheduler::SchedulerMessage;

use super::{SessionId, Swarm, mix};

/// Answers are waited for this long.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// A node asks the next scheduler too where this one has not answered; it is answered within this.
const FIND_TIME: Duration = Duration::from_millis(800);
/// A node that has not finished its listing by then counts as if it had.
const LISTING_TIME: Duration = Duration::from_secs(10);
/// Questions on the way to one node at once, well within what its queue takes.
const MAX_ASKED: usize = 256;
/// Searches of nodes that wait; further ones are answered at once with nobody.
const MAX_FINDS: usize = 4096;
/// And of one node: it is not for one to leave others without an answer.
const MAX_FINDS_OF_ONE: usize = 64;
/// Holders named in one answer.
const MAX_FOUND: usize = 8;
/// Holders considered for one answer.
const MAX_CONSIDERED: usize = 256;

/// What is being looked for, and by whom.
#[derive(Debug, Default)]
pub(super) struct Searches {
    open: BTreeMap<Digest, Search>,
    finds: Vec<Find>,
}

#[derive(Debug)]
struct Search {
    until: Duration,
    waiting: BTreeSet<SessionId>,
}

#[derive(Debug)]
struct Find {
    session: SessionId,
    request: u64,
    key: Digest,
    deadline: Duration,
}

impl Searches {
    /// Nothing more will be heard from the session: it is gone, or has told everything.
    pub(super) fn forget(&mut self, session: SessionId) {
        for search in self.open.values_mut() {
            search.waiting.remove(&session);
        }
    }

    /// Nobody is there to be answered any more.
    pub(super) fn drop_finds(&mut self, session: SessionId) {
        self.finds.retain(|find| find.session != session);
    }

    /// Whether nobody waits for an answer.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.finds.is_empty()
    }

    fn is_full(&self, session: SessionId) -> bool {
        let of_one = || self.finds.iter().filter(|find| find.session == session);
        self.finds.len() >= MAX_FINDS || of_one().nth(MAX_FINDS_OF_ONE - 1).is_some()
    }

    /// The session has answered for this key.
    pub(super) fn answered(&mut self, session: SessionId, key: &Digest) {
        if let Some(search) = self.open.get_mut(key) {
            search.waiting.remove(&session);
        }
    }

    fn is_open(&self, key: &Digest) -> bool {
        !self.open.is_empty() && self.open.contains_key(key)
    }

    pub(super) fn close(&mut self, key: &Digest) {
        if self.finds.iter().all(|find| find.key != *key) {
            self.open.remove(key);
        }
    }
}

impl Swarm {
    /// Whether it can be said that nobody holds `key` beyond what is known. If not yet, whoever may
    /// hold it is being asked.
    pub(super) fn all_asked(&mut self, key: &Digest) -> bool {
        let settling = self.now < self.settled;
        if !settling && self.hosts.unlisted().is_empty() {
            return true;
        }
        if !self.searches.open.contains_key(key) {
            self.ask(key, settling);
        }
        self.searches.open.get(key).is_some_and(|search| {
            !settling && (search.waiting.is_empty() || self.now >= search.until)
        })
    }

    fn ask(&mut self, key: &Digest, settling: bool) {
        let known = |session: &SessionId| self.takes_part(*session, key);
        let unlisted = self.hosts.unlisted().iter().copied();
        let waiting: BTreeSet<_> = unlisted.filter(|session| !known(session)).collect();
        let asked: Vec<_> = if settling {
            self.hosts.sessions().filter(|one| !known(one)).collect()
        } else {
            waiting.iter().copied().collect()
        };
        if self.searches.open.len() < MAX_ASKED {
            for session in asked {
                self.send(session, SchedulerMessage::Ask(*key));
            }
        }
        let search = Search {
            until: self.now.max(self.settled) + ANSWER_TIME,
            waiting,
        };
        self.searches.open.insert(*key, search);
    }

    /// A new session is asked what others were asked before it came.
    pub(super) fn ask_newcomer(&mut self, session: SessionId) {
        let keys: Vec<_> = self.searches.open.keys().copied().take(MAX_ASKED).collect();
        for key in keys {
            self.send(session, SchedulerMessage::Ask(key));
        }
        for search in self.searches.open.values_mut() {
            search.waiting.insert(session);
        }
    }

    pub(super) fn find(&mut self, session: SessionId, request: u64, key: Digest) {
        let holders = self.found(&key, session);
        let is_full = self.searches.is_full(session);
        if !holders.is_empty() || is_full || self.all_asked(&key) {
            return self.send(session, SchedulerMessage::Found { request, holders });
        }
        self.searches.finds.push(Find {
            session,
            request,
            key,
            deadline: self.now + FIND_TIME,
        });
    }

    /// Live holders of `key` for whoever asks in `session`: near ones first, and among these in an
    /// order of its own, so that all askers together use all holders.
    fn found(&self, key: &Digest, session: SessionId) -> Vec<Host> {
        let Some(asker) = self.hosts.get(session).map(|node| &node.host) else {
            return Vec::new();
        };
        let holders = self.inventory.holders(key);
        let skip = match holders.len() {
            count if count > MAX_CONSIDERED => {
                usize::try_from(mix(session.0, 0) % (count - MAX_CONSIDERED) as u64).unwrap_or(0)
            }
            _ => 0,
        };
        let mut holders: Vec<_> = holders
            .window(skip, MAX_CONSIDERED)
            .filter(|holder| *holder != session && !self.is_banned(*holder))
            .filter_map(|holder| Some((holder, &self.hosts.get(holder)?.host)))
            .collect();
        holders.sort_by_key(|(holder, host)| {
            (
                Reverse(super::selection::nearness(asker, host)),
                mix(session.0, holder.0),
            )
        });
        let nearest = holders.into_iter().take(MAX_FOUND);
        nearest.map(|(_, host)| host.clone()).collect()
    }

    /// Tells those who looked for `key` who has it.
    pub(super) fn answer_finds(&mut self, key: &Digest) {
        if self.searches.finds.is_empty() {
            return;
        }
        let finds = std::mem::take(&mut self.searches.finds);
        for find in finds {
            let holders = if find.key == *key {
                self.found(key, find.session)
            } else {
                Vec::new()
            };
            if holders.is_empty() {
                self.searches.finds.push(find);
            } else {
                self.answer(&find, holders);
            }
        }
    }

    fn answer(&mut self, find: &Find, holders: Vec<Host>) {
        let request = find.request;
        self.send(find.session, SchedulerMessage::Found { request, holders });
    }

    /// Somebody has answered for these keys: a search may be over.
    pub(super) fn close_answered(&mut self, keys: &[Digest]) {
        if keys.iter().any(|key| self.searches.is_open(key)) {
            self.close_searches();
        }
    }

    /// Ends the searches that have no more answer to wait for.
    pub(super) fn close_searches(&mut self) {
        let now = self.now;
        for find in std::mem::take(&mut self.searches.finds) {
            if now >= find.deadline || self.all_asked(&find.key) {
                self.answer(&find, Vec::new());
            } else {
                self.searches.finds.push(find);
            }
        }
        let settled = now >= self.settled;
        let done = |search: &Search| settled && (search.waiting.is_empty() || now >= search.until);
        let open = self.searches.open.iter();
        let answered: Vec<_> = open
            .filter(|(_, search)| done(search))
            .map(|(key, _)| *key)
            .collect();
        for key in answered {
            if self.tasks.contains_key(&key) {
                self.look_after(&key);
            }
        }
    }

    pub(super) fn tick_searches(&mut self) {
        let now = self.now;
        let late: Vec<_> = self
            .hosts
            .unlisted()
            .iter()
            .copied()
            .filter(|session| {
                self.hosts
                    .get(*session)
                    .is_none_or(|node| now >= node.since + LISTING_TIME)
            })
            .collect();
        for session in late {
            self.hosts.set_listed(session);
            self.searches.forget(session);
        }
        self.close_searches();
        // What was asked a while ago may be asked again.
        self.searches
            .open
            .retain(|_, search| now < search.until + ANSWER_TIME);
    }
}
