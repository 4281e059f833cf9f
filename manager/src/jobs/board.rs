//! What is to be done next for the jobs that have not ended, decided without clock, network or disk.
//!
//! A node is given orders when it is heard, so nothing is sent to anybody. For each image the seeds
//! come first: they read upstream, once for all, and the other nodes get it from them and from one
//! another. An order stands until the node has said how it ended and the database knows that, whatever is
//! restarted meanwhile; it is the same order then, and what the node holds already is held. A node answers
//! for an order as long as it is given, so a manager that dies takes nothing along that the node would not
//! tell the next one. That one begins nothing new on a node before it has read what others knew when the
//! node came to it.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;

use darner_proto::preheat::{MAX_ORDERS, Order, OrderId, Outcome, Report};

use super::job::{Item, Job, State};

/// Nodes of one job that are at it at once, of those which are not seeds, where it does not say: enough to fill every
/// seed's slots, few enough that the pulls of a cluster's pods get through.
pub const AT_ONCE: usize = 64;
/// A node that is out of the cluster for this long is not waited for: longer than it takes to
/// restart one.
pub const ABSENT_MS: u64 = 30_000;
/// A node that was not heard for so long may have been with another manager: longer than two
/// keep-alives, or than one of the slowest.
pub const SILENT_MS: u64 = 5_000;
/// From a failed attempt to the next; twice as long after that.
pub const PAUSE_MS: u64 = 1000;

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The database has this job, or this copy of one.
    Take(Job),
    /// A node lives, and tells of its orders.
    Heard {
        /// Its name.
        node: String,
        /// What came of them.
        reports: Vec<Report>,
    },
    /// Time passed.
    Tick {
        /// The nodes in the cluster, by name; nobody asks while there are no jobs.
        present: BTreeSet<String>,
        /// What the database had at this time (unix time in ms) has been taken.
        looked_ms: u64,
    },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The node that was heard is to carry these out, and no others.
    Order(Vec<Order>),
    /// The job has changed: remember it.
    Store(String),
}

/// The jobs that have not ended, or of which that is not yet remembered.
#[derive(Debug, Default)]
pub struct Board {
    jobs: BTreeMap<String, Known>,
    heard: BTreeMap<String, Heard>,
    looked_ms: u64,
}

#[derive(Debug)]
struct Known {
    job: Job,
    /// When each node was last in the cluster.
    seen_ms: BTreeMap<String, u64>,
    /// What has ended by the word of its node, and is not known to the database.
    told: BTreeMap<(String, u32), Told>,
}

/// An order that a node has told the end of.
#[derive(Debug)]
struct Told {
    attempt: u32,
    order: Order,
}

/// A node that has been heard here, in unix time in ms.
#[derive(Debug, Clone, Copy)]
struct Heard {
    /// Since when without a break.
    since_ms: u64,
    last_ms: u64,
}

impl Board {
    /// Takes note of an event at `now` (unix time in ms), and says what follows.
    pub fn apply(&mut self, now: u64, event: Event) -> Vec<Action> {
        let mut changed = BTreeSet::new();
        let mut actions = Vec::new();
        match event {
            Event::Take(job) => self.take(now, job),
            Event::Heard { node, reports } => {
                for report in reports {
                    self.report(now, &node, report, &mut changed);
                }
                let orders = self.orders(now, &node, &mut changed);
                actions.push(Action::Order(orders));
            }
            Event::Tick { present, looked_ms } => {
                self.looked_ms = looked_ms;
                // Who was not heard for longer is new when it comes.
                let silent = |heard: &Heard| now.saturating_sub(heard.last_ms) >= SILENT_MS;
                self.heard.retain(|_, heard| !silent(heard));
                self.miss(now, &present, &mut changed);
            }
        }
        actions.extend(changed.into_iter().map(Action::Store));
        actions
    }

    /// A job as it is known here.
    pub fn get(&self, id: &str) -> Option<&Job> {
        self.jobs.get(id).map(|known| &known.job)
    }

    /// Every job's id.
    pub fn ids(&self) -> Vec<String> {
        self.jobs.keys().cloned().collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.jobs.len()
    }

    /// A job that has ended is remembered as such: it needs no place here.
    pub fn forget_ended(&mut self, id: &str) {
        if self.get(id).is_some_and(Job::is_ended) {
            self.jobs.remove(id);
        }
    }

    fn take(&mut self, now: u64, job: Job) {
        if let Some(known) = self.jobs.get_mut(&job.id) {
            known.job.merge(&job);
            known.told.retain(|(node, image), told| {
                let mut items = job.items.iter();
                let item = items.find(|item| item.node == *node && item.image == *image);
                !item.is_some_and(|item| item.knows_end(told.attempt))
            });
        } else if !job.is_ended() {
            let nodes = job.items.iter().map(|item| (item.node.clone(), now));
            let known = Known {
                seen_ms: nodes.collect(),
                told: BTreeMap::new(),
                job,
            };
            self.jobs.insert(known.job.id.clone(), known);
        }
    }

    fn report(&mut self, now: u64, node: &str, report: Report, changed: &mut BTreeSet<String>) {
        let Some(known) = self.jobs.get_mut(&report.id.job) else {
            return;
        };
        let items = &mut known.job.items;
        let Some(at) = items.iter().position(|item| {
            item.node == node && item.image == report.id.image && item.attempt == report.id.attempt
        }) else {
            return;
        };
        let item = &mut known.job.items[at];
        let before = item.clone();
        if let State::Waiting { .. } = item.state {
            // Another manager has given the order, and died before it said so.
            item.state = State::Running;
        }
        if item.state != State::Running {
            return;
        }
        item.hear(&report.progress);
        match report.outcome {
            Outcome::Running => {}
            Outcome::Done => item.state = State::Done,
            Outcome::Failed { why, for_good } => fail(now, item, why, for_good),
        }
        if item.state != State::Running {
            item.coming.clear();
        }
        if *item != before {
            changed.insert(report.id.job);
        }
        if item.knows_end(before.attempt)
            && let Some(order) = order(&known.job, &before)
        {
            let attempt = before.attempt;
            let told = Told { attempt, order };
            known.told.insert((before.node, before.image), told);
        }
        known.settle();
    }

    /// What `node` is to do: what it is at, what it is to answer for, and what it may begin.
    fn orders(&mut self, now: u64, node: &str, changed: &mut BTreeSet<String>) -> Vec<Order> {
        let mut orders = Vec::new();
        let standing = self.jobs.values().map(|known| known.standing(node).count());
        // What runs is not to be dropped for what could.
        let mut room = MAX_ORDERS.saturating_sub(standing.sum());
        if !self.has_been_here(now, node) {
            room = 0;
        }
        for (id, known) in &mut self.jobs {
            known.seen_ms.insert(node.to_owned(), now);
            let begun = known.begin(now, node, room);
            room -= begun;
            if begun > 0 {
                changed.insert(id.clone());
            }
            orders.extend(known.standing(node));
        }
        orders.truncate(MAX_ORDERS);
        orders
    }

    /// Whether all that other managers knew of `node` when it came here is known here.
    fn has_been_here(&mut self, now: u64, node: &str) -> bool {
        let new = Heard {
            since_ms: now,
            last_ms: now,
        };
        let heard = self.heard.entry(node.to_owned()).or_insert(new);
        if now.saturating_sub(heard.last_ms) >= SILENT_MS {
            *heard = new;
        }
        heard.last_ms = now;
        heard.since_ms <= self.looked_ms
    }

    fn miss(&mut self, now: u64, present: &BTreeSet<String>, changed: &mut BTreeSet<String>) {
        for (id, known) in &mut self.jobs {
            let Known { job, seen_ms, .. } = known;
            for item in job.items.iter_mut().filter(|item| !item.state.is_ended()) {
                let seen = seen_ms.entry(item.node.clone()).or_insert(now);
                if present.contains(&item.node) {
                    *seen = now;
                } else if now.saturating_sub(*seen) >= ABSENT_MS {
                    item.coming.clear();
                    item.state = State::Failed {
                        why: "the node has left the cluster".to_owned(),
                        for_good: false,
                    };
                    changed.insert(id.clone());
                }
            }
            known.settle();
        }
    }
}

impl Known {
    /// The orders that `node` is to go on with, or to answer for.
    fn standing(&self, node: &str) -> impl Iterator<Item = Order> {
        let items = self.job.items.iter();
        let running = items.filter(move |item| item.node == node && item.state == State::Running);
        let running = running.filter_map(|item| order(&self.job, item));
        let told = self.told.iter().filter(move |((of, _), _)| of == node);
        running.chain(told.map(|(_, told)| told.order.clone()))
    }

    /// Begins at most `room` items of `node`. Says how many.
    fn begin(&mut self, now: u64, node: &str, room: usize) -> usize {
        let running = |item: &&Item| item.state == State::Running;
        let busy = self.job.items.iter().filter(running);
        let busy = busy.filter(|item| !item.seed).count();
        let mut places = at_once(&self.job).saturating_sub(busy);
        let seeding: BTreeSet<u32> = {
            let items = self.job.items.iter();
            let open = items.filter(|item| item.seed && !item.state.is_ended());
            open.map(|item| item.image).collect()
        };
        let mut begun = 0;
        for item in self.job.items.iter_mut().filter(|item| item.node == node) {
            let due =
                matches!(item.state, State::Waiting { not_before_ms, .. } if not_before_ms <= now);
            let turn = item.seed || (places > 0 && !seeding.contains(&item.image));
            let told = self.told.contains_key(&(item.node.clone(), item.image));
            if due && turn && !told && begun < room {
                item.state = State::Running;
                places = places.saturating_sub(usize::from(!item.seed));
                begun += 1;
            }
        }
        begun
    }

    /// What no seed can ever get, the other nodes need not ask for.
    fn settle(&mut self) {
        let mut hopeless: BTreeMap<u32, Option<String>> = BTreeMap::new();
        for item in self.job.items.iter().filter(|item| item.seed) {
            let why = match &item.state {
                State::Failed {
                    why,
                    for_good: true,
                } => Some(why.clone()),
                _ => None,
            };
            let known = hopeless.entry(item.image).or_insert_with(|| why.clone());
            if why.is_none() {
                *known = None;
            }
        }
        for item in self.job.items.iter_mut().filter(|item| !item.seed) {
            let why = hopeless.get(&item.image).cloned().flatten();
            if let (State::Waiting { .. }, Some(why)) = (&item.state, why) {
                item.state = State::Failed {
                    why,
                    for_good: true,
                };
            }
        }
    }
}

fn fail(now: u64, item: &mut Item, why: String, for_good: bool) {
    if for_good || item.attempt >= item.last_attempt {
        item.state = State::Failed { why, for_good };
        return;
    }
    let left = item.last_attempt - item.attempt;
    item.attempt += 1;
    item.state = State::Waiting {
        not_before_ms: now + if left > 1 { PAUSE_MS } else { 2 * PAUSE_MS },
        why: Some(why),
    };
}

fn at_once(job: &Job) -> usize {
    let wanted = job
        .limits
        .at_once
        .and_then(|at_once| at_once.try_into().ok());
    wanted.unwrap_or(AT_ONCE)
}

fn order(job: &Job, item: &Item) -> Option<Order> {
    let target = job.wanted(item.image)?;
    Some(Order {
        id: OrderId {
            job: job.id.clone(),
            image: item.image,
            attempt: item.attempt,
        },
        target,
        bytes_per_second: job.limits.bytes_per_second.and_then(NonZeroU64::new),
    })
}
