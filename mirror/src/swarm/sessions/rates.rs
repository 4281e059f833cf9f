//! How fast parents send to this node, for the scheduler to choose by: pure. Told along with the
//! next progress of the task, so that it costs no message.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use darner_proto::id::HostId;
use darner_proto::scheduler::{MAX_RATES, ParentRate};

/// A transfer of less says more about the way than about the parent.
const LEAST: u64 = 256 << 10;
/// Parents measured between two reports, in one task. A node fetches from eight at a time, and some
/// change in between.
const MAX_MEASURED: usize = 32;

/// What has come from each parent since the last report.
#[derive(Debug, Default)]
pub(super) struct Rates(BTreeMap<HostId, Received>);

#[derive(Debug, Default, Clone, Copy)]
struct Received {
    bytes: u64,
    took: Duration,
}

impl Rates {
    /// A transfer from `parent` has ended.
    pub(super) fn received(&mut self, parent: HostId, bytes: u64, took: Duration) {
        if bytes < LEAST || took.is_zero() {
            return;
        }
        if self.0.len() >= MAX_MEASURED && !self.0.contains_key(&parent) {
            return;
        }
        let so_far = self.0.entry(parent).or_default();
        so_far.bytes = so_far.bytes.saturating_add(bytes);
        so_far.took += took;
    }

    /// What is to be reported, and counts no longer: the parents that sent most.
    pub(super) fn take(&mut self) -> Vec<ParentRate> {
        let mut all: Vec<_> = std::mem::take(&mut self.0).into_iter().collect();
        all.sort_by_key(|(_, one)| Reverse(one.bytes));
        all.truncate(MAX_RATES);
        all.into_iter()
            .map(|(parent, one)| ParentRate {
                parent,
                bytes_per_second: per_second(one),
            })
            .collect()
    }
}

fn per_second(one: Received) -> u64 {
    let micros = one.took.as_micros().max(1);
    let rate = u128::from(one.bytes) * 1_000_000 / micros;
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> HostId {
        name.parse().expect("valid")
    }

    #[test]
    fn transfers_of_one_parent_add_up_and_small_ones_do_not_count() {
        let mut rates = Rates::default();
        rates.received(id("a"), 3 << 20, Duration::from_secs(1));
        rates.received(id("a"), 1 << 20, Duration::from_secs(1));
        rates.received(id("b"), 1000, Duration::from_millis(1));
        let told = rates.take();
        let expected = ParentRate {
            parent: id("a"),
            bytes_per_second: 2 << 20,
        };
        assert_eq!(told, [expected]);
        assert!(rates.take().is_empty());
    }

    #[test]
    fn the_eight_that_sent_most_are_told() {
        let mut rates = Rates::default();
        for n in 1..=20 {
            rates.received(id(&format!("p-{n}")), n << 20, Duration::from_secs(1));
        }
        let told: Vec<_> = rates.take().into_iter().map(|one| one.parent).collect();
        let expected: Vec<_> = (13..=20).rev().map(|n| id(&format!("p-{n}"))).collect();
        assert_eq!(told, expected);
    }
}
