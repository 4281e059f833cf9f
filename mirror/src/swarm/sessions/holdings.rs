//! Who is told what the node holds, and at what pace: pure.
//!
//! ```text
//! scheduler: --(up)--> listing, part by part --(the last part)--> listed --(deltas)--+
//!                         ^                                          ^________________|
//!                         +--(what it takes over from one that is gone joins the queue)
//! ```
//! A key belongs to the first two schedulers in rendezvous order among those connected: the one that
//! keeps its task, and the one that would keep it next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use darner_proto::digest::Digest;
use darner_proto::id::HostId;
use darner_proto::rendezvous;
use darner_proto::scheduler::NodeMessage;

use super::Output;

/// Schedulers that know of one key.
pub(super) const KEEPERS: usize = 2;
/// Keys in one part: 35 KB. A part goes out every turn, a tenth of a second, so 50,000 keys, the
/// most a scheduler keeps, take five seconds, half of what it waits for a listing.
const PART: usize = 1024;

/// What the node holds, and what of it is still to be told.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    keys: BTreeSet<Digest>,
    listings: BTreeMap<HostId, Listing>,
    /// Schedulers that were up before: all nodes come back to them at the same moment.
    seen: BTreeSet<HostId>,
    patience: u32,
}

/// What one scheduler is still to be told.
#[derive(Debug)]
struct Listing {
    /// Turns to wait before the first part.
    wait: u32,
    parts: VecDeque<NodeMessage>,
}

impl Holdings {
    pub(super) fn with_patience(patience: u32) -> Self {
        Self {
            patience,
            ..Self::default()
        }
    }

    /// `scheduler` comes to those `connected`. `keys` is everything the node holds.
    pub(super) fn up(
        &mut self,
        connected: &BTreeSet<HostId>,
        scheduler: &HostId,
        keys: Vec<Digest>,
        out: &mut Vec<Output>,
    ) {
        self.keys = keys.into_iter().collect();
        let mut with = connected.clone();
        with.insert(scheduler.clone());
        let (mut its, mut lost): (Vec<_>, BTreeMap<_, Vec<_>>) = Default::default();
        for key in &self.keys {
            let keepers = keepers(&with, key);
            if !keepers.contains(&scheduler) {
                continue;
            }
            its.push(*key);
            let before = self::keepers(connected, key).into_iter();
            for old in before.filter(|old| !keepers.contains(old)) {
                lost.entry(old.clone()).or_default().push(*key);
            }
        }
        let is_new = self.seen.insert(scheduler.clone());
        let listing = Listing {
            wait: if is_new { 0 } else { self.patience },
            parts: listing(&its),
        };
        self.listings.insert(scheduler.clone(), listing);
        for (old, keys) in lost {
            let parts = keys.chunks(PART);
            self.queue(old, parts.map(|part| NodeMessage::Withdraw(part.to_vec())));
        }
        if is_new {
            self.next_part(scheduler, out);
        }
    }

    /// `scheduler` is gone, these are left `connected`: the next in order takes over what it kept.
    pub(super) fn down(&mut self, connected: &BTreeSet<HostId>, scheduler: &HostId) {
        self.listings.remove(scheduler);
        let mut with = connected.clone();
        with.insert(scheduler.clone());
        let mut taken: BTreeMap<HostId, Vec<Digest>> = BTreeMap::new();
        for key in &self.keys {
            let before = keepers(&with, key);
            if !before.contains(&scheduler) {
                continue;
            }
            let now = keepers(connected, key).into_iter();
            for new in now.filter(|new| !before.contains(new)) {
                taken.entry(new.clone()).or_default().push(*key);
            }
        }
        for (new, keys) in taken {
            self.queue(new, listing(&keys));
        }
    }

    /// The node holds further keys.
    pub(super) fn held(
        &mut self,
        connected: &BTreeSet<HostId>,
        keys: Vec<Digest>,
        out: &mut Vec<Output>,
    ) {
        self.keys.extend(&keys);
        for (scheduler, keys) in by_keeper(connected, &keys) {
            // One whose listing is not over must not take it for complete.
            let listed = !self.listings.contains_key(scheduler);
            for part in keys.chunks(PART) {
                let keys = part.to_vec();
                let message = NodeMessage::Inventory { keys, listed };
                out.push(Output::Send(scheduler.clone(), message));
            }
        }
    }

    /// The node no longer holds these.
    pub(super) fn withdrawn(
        &mut self,
        connected: &BTreeSet<HostId>,
        keys: Vec<Digest>,
        out: &mut Vec<Output>,
    ) {
        for key in &keys {
            self.keys.remove(key);
        }
        for (scheduler, keys) in by_keeper(connected, &keys) {
            for part in keys.chunks(PART) {
                let message = NodeMessage::Withdraw(part.to_vec());
                out.push(Output::Send(scheduler.clone(), message));
            }
        }
    }

    /// The next part for everyone who waits for one.
    pub(super) fn turn(&mut self, out: &mut Vec<Output>) {
        let waiting: Vec<_> = self.listings.keys().cloned().collect();
        for scheduler in waiting {
            match self.listings.get_mut(&scheduler) {
                Some(listing) if listing.wait > 0 => listing.wait -= 1,
                _ => self.next_part(&scheduler, out),
            }
        }
    }

    /// Whether anybody waits for a part.
    pub(super) fn waits(&self) -> bool {
        !self.listings.is_empty()
    }

    fn next_part(&mut self, scheduler: &HostId, out: &mut Vec<Output>) {
        let Some(listing) = self.listings.get_mut(scheduler) else {
            return;
        };
        if let Some(part) = listing.parts.pop_front() {
            let part = still_true(part, &self.keys);
            out.push(Output::Send(scheduler.clone(), part));
        }
        if listing.parts.is_empty() {
            self.listings.remove(scheduler);
        }
    }

    fn queue(&mut self, scheduler: HostId, parts: impl IntoIterator<Item = NodeMessage>) {
        let listing = self.listings.entry(scheduler).or_insert_with(|| Listing {
            wait: 0,
            parts: VecDeque::new(),
        });
        // The listing itself ends with the last part; what comes in between does not say so.
        let open = listing.parts.pop_back();
        listing
            .parts
            .extend(parts.into_iter().map(|part| match part {
                NodeMessage::Inventory { keys, .. } if open.is_some() => NodeMessage::Inventory {
                    keys,
                    listed: false,
                },
                part => part,
            }));
        listing.parts.extend(open);
    }
}

/// Between queueing and sending keys may have been lost.
fn still_true(part: NodeMessage, held: &BTreeSet<Digest>) -> NodeMessage {
    match part {
        NodeMessage::Inventory { mut keys, listed } => {
            keys.retain(|key| held.contains(key));
            NodeMessage::Inventory { keys, listed }
        }
        part => part,
    }
}

/// A listing in parts. There is always a last one, which says so.
fn listing(keys: &[Digest]) -> VecDeque<NodeMessage> {
    let count = keys.len().div_ceil(PART).max(1);
    let mut chunks = keys.chunks(PART);
    let part = |number| NodeMessage::Inventory {
        keys: chunks.next().unwrap_or_default().to_vec(),
        listed: number + 1 == count,
    };
    (0..count).map(part).collect()
}

fn by_keeper<'a>(
    connected: &'a BTreeSet<HostId>,
    keys: &[Digest],
) -> BTreeMap<&'a HostId, Vec<Digest>> {
    let mut by_keeper: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for key in keys {
        for keeper in keepers(connected, key) {
            by_keeper.entry(keeper).or_default().push(*key);
        }
    }
    by_keeper
}

fn keepers<'a>(connected: &'a BTreeSet<HostId>, key: &Digest) -> Vec<&'a HostId> {
    if connected.len() <= KEEPERS {
        return connected.iter().collect();
    }
    let mut order = rendezvous::order(key, connected, |id| id);
    order.truncate(KEEPERS);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every scheduler knows, after these schedulers came and went.
    fn told(out: &[Output], knows: &mut BTreeMap<HostId, BTreeSet<Digest>>) {
        for output in out {
            match output {
                Output::Send(to, NodeMessage::Inventory { keys, .. }) => {
                    knows.entry(to.clone()).or_default().extend(keys);
                }
                Output::Send(to, NodeMessage::Withdraw(keys)) => {
                    let known = knows.entry(to.clone()).or_default();
                    known.retain(|key| !keys.contains(key));
                }
                _ => {}
            }
        }
    }

    fn drain(holdings: &mut Holdings, knows: &mut BTreeMap<HostId, BTreeSet<Digest>>) {
        for _ in 0..40 {
            let mut out = Vec::new();
            holdings.turn(&mut out);
            told(&out, knows);
        }
        assert!(holdings.listings.is_empty());
    }

    #[test]
    fn whoever_comes_and_goes_each_key_is_known_to_its_two_keepers_and_nobody_else() {
        let keys: Vec<_> = (0u32..3000)
            .map(|n| Digest::sha256(&n.to_be_bytes()))
            .collect();
        let mut holdings = Holdings::with_patience(3);
        let mut connected = BTreeSet::new();
        let mut knows: BTreeMap<HostId, BTreeSet<Digest>> = BTreeMap::new();
        for (name, comes) in [
            ("a", true),
            ("b", true),
            ("c", true),
            ("d", true),
            ("b", false),
            ("a", false),
            ("a", true),
            ("e", true),
            ("d", false),
        ] {
            let scheduler: HostId = name.parse().expect("valid");
            let mut out = Vec::new();
            if comes {
                holdings.up(&connected, &scheduler, keys.clone(), &mut out);
                connected.insert(scheduler);
            } else {
                connected.remove(&scheduler);
                holdings.down(&connected, &scheduler);
                knows.remove(&scheduler);
            }
            told(&out, &mut knows);
            drain(&mut holdings, &mut knows);
            for key in &keys {
                let known = knows.iter().filter(|(_, keys)| keys.contains(key));
                let known: BTreeSet<_> = known.map(|(scheduler, _)| scheduler).collect();
                assert_eq!(known, keepers(&connected, key).into_iter().collect());
            }
        }
    }

    #[test]
    fn one_that_comes_back_is_told_after_a_while_and_a_part_at_a_time() {
        let keys: Vec<_> = (0u32..3000)
            .map(|n| Digest::sha256(&n.to_be_bytes()))
            .collect();
        let mut holdings = Holdings::with_patience(2);
        let (nobody, scheduler) = (BTreeSet::new(), "a".parse().expect("valid"));
        let mut out = Vec::new();
        holdings.up(&nobody, &scheduler, keys.clone(), &mut out);
        assert_eq!(out.len(), 1, "the first part goes out at once");
        holdings.down(&nobody, &scheduler);
        out.clear();
        holdings.up(&nobody, &scheduler, keys, &mut out);
        let mut parts = Vec::new();
        for _ in 0..5 {
            assert!(out.len() <= 1);
            parts.push(out.iter().any(|output| {
                matches!(
                    output,
                    Output::Send(_, NodeMessage::Inventory { listed: true, .. })
                )
            }));
            out.clear();
            holdings.turn(&mut out);
        }
        assert_eq!(parts, [false; 5]);
        assert!(matches!(
            out.as_slice(),
            [Output::Send(_, NodeMessage::Inventory { listed: true, .. })]
        ));
    }
}
