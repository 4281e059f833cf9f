//! Rendezvous hashing: an order of hosts for every key, the same on every node, in which the loss
//! of a host moves only the keys that host was first for. This is the one-hop distributed hash
//! table: the first scheduler in a task's order keeps the task, the first seed reads it.

use crate::digest::Digest;
use crate::id::{Host, HostId};

/// Ranks `host` for `key`: the higher, the earlier.
pub fn rank(key: &Digest, host: &HostId) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key.hash());
    hasher.update(host.as_str().as_bytes());
    let hash = hasher.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_be_bytes(first)
}

/// `items` in rendezvous order for `key`, the owner first.
pub fn order<'a, T>(
    key: &Digest,
    items: impl IntoIterator<Item = &'a T>,
    id: impl Fn(&T) -> &HostId,
) -> Vec<&'a T> {
    let mut ranked: Vec<_> = items
        .into_iter()
        .map(|item| ((rank(key, id(item)), id(item).clone()), item))
        .collect();
    ranked.sort_by(|(left, _), (right, _)| right.cmp(left));
    ranked.into_iter().map(|(_, item)| item).collect()
}

/// `items` in weighted rendezvous order for `key`: each is first for a share of all keys that is in
/// proportion to its host's weight, and a change of one weight moves only keys of that host. Among
/// equal weights this is [`order`].
///
/// The score is `-weight / ln(u)`, where `u` is the rank as a number between 0 and 1.
pub fn order_by_weight<'a, T>(
    key: &Digest,
    items: impl IntoIterator<Item = &'a T>,
    host: impl Fn(&T) -> &Host,
) -> Vec<&'a T> {
    let mut ranked: Vec<_> = items
        .into_iter()
        .map(|item| {
            let host = host(item);
            let rank = rank(key, &host.id);
            (score(rank, host.weight()), rank, &host.id, item)
        })
        .map(|(score, rank, id, item)| ((score, rank, id.clone()), item))
        .collect();
    ranked.sort_by(|(left, _), (right, _)| {
        let scores = right.0.total_cmp(&left.0);
        scores.then_with(|| (right.1, &right.2).cmp(&(left.1, &left.2)))
    });
    ranked.into_iter().map(|(_, item)| item).collect()
}

fn score(rank: u64, weight: u32) -> f64 {
    // 53 bits fit a float exactly; the half keeps the logarithm away from both ends.
    let unit = ((rank >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    f64::from(weight) / -unit.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Role;
    use proptest::prelude::*;

    fn weighted(weights: &[u32]) -> Vec<Host> {
        let host = |(n, weight): (usize, &u32)| Host {
            id: format!("host-{n}").parse().expect("valid"),
            address: "h:1".to_owned(),
            role: Role::Seed,
            labels: [("weight".to_owned(), weight.to_string())].into(),
            signing_key: None,
            upload_slots: 8,
        };
        weights.iter().enumerate().map(host).collect()
    }

    #[test]
    fn keys_spread_by_weight() {
        let hosts = weighted(&[100, 100, 200, 400]);
        let mut owned = [0i32; 4];
        for n in 0u32..8000 {
            let key = Digest::sha256(&n.to_be_bytes());
            let owner = order_by_weight(&key, &hosts, |host| host)[0];
            owned[hosts.iter().position(|host| host == owner).expect("listed")] += 1;
        }
        let expected = [1000, 1000, 2000, 4000];
        for (owned, expected) in owned.into_iter().zip(expected) {
            assert!((owned - expected).abs() < 150, "{owned} of {expected}");
        }
    }

    fn hosts(count: usize) -> Vec<HostId> {
        (0..count)
            .map(|n| format!("host-{n}").parse().expect("valid"))
            .collect()
    }

    #[test]
    fn keys_spread_evenly() {
        let hosts = hosts(5);
        let mut owned = [0; 5];
        for n in 0u32..5000 {
            let key = Digest::sha256(&n.to_be_bytes());
            let owner = order(&key, &hosts, |host| host)[0];
            owned[hosts.iter().position(|host| host == owner).expect("listed")] += 1;
        }
        assert!(
            owned.iter().all(|count| (850..1150).contains(count)),
            "{owned:?}"
        );
    }

    proptest! {
        #[test]
        fn equal_weights_change_nothing(seed in any::<u64>(), weight in 1u32..1000) {
            let hosts = weighted(&[weight; 7]);
            let key = Digest::sha256(&seed.to_be_bytes());
            prop_assert_eq!(
                order_by_weight(&key, &hosts, |host| host),
                order(&key, &hosts, |host| &host.id)
            );
        }

        #[test]
        fn more_weight_takes_keys_from_others_and_moves_none_between_them(seed in any::<u64>()) {
            let (before, after) = (weighted(&[100; 5]), weighted(&[100, 100, 300, 100, 100]));
            let key = Digest::sha256(&seed.to_be_bytes());
            let old = &order_by_weight(&key, &before, |host| host)[0].id;
            let new = &order_by_weight(&key, &after, |host| host)[0].id;
            prop_assert!(old == new || *new == after[2].id);
        }

        #[test]
        fn losing_a_host_moves_only_its_own_keys(seed in any::<u64>(), lost in 0usize..6) {
            let all = hosts(6);
            let fewer: Vec<_> = all.iter().filter(|host| **host != all[lost]).cloned().collect();
            let key = Digest::sha256(&seed.to_be_bytes());
            let before = order(&key, &all, |host| host);
            let after = order(&key, &fewer, |host| host);
            let expected: Vec<_> = before.into_iter().filter(|host| **host != all[lost]).collect();
            prop_assert_eq!(after, expected);
        }
    }
}
