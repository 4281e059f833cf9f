//! Rendezvous hashing: an order of hosts for every key, the same on every node, in which the loss
//! of a host moves only the keys that host was first for. This is the one-hop distributed hash
//! table: the first scheduler in a task's order keeps the task, the first seed reads it.

use crate::digest::Digest;
use crate::id::HostId;

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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
