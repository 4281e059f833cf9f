//! Which candidates make the best parents of a child: pure arithmetic over what is known of them.
//!
//! Measured on a model of this swarm (2,600 nodes, one cold blob): a dozen neighbours of even load,
//! chosen with some chance, come within a few percent of the best possible; a clever choice that
//! loads some more than others is worse than no choice at all. So usefulness decides first, load
//! second, and what is left is spread.

use std::cmp::Reverse;

use darner_proto::id::{Host, Role};

use super::{SessionId, mix};

/// Parents of one child, seeds not counted.
pub(super) const MAX_PARENTS: usize = 12;
/// Seeds beside them. What one child of many gets from a seed is little: it must not cost a place
/// among those that serve each other.
pub(super) const SEEDS_BESIDE: usize = 2;
/// Of these, taken without regard to nearness, so that zones do not become islands.
const FAR_LINKS: usize = 2;

/// What a candidate is worth. The scale: a whole point of load on one side and full usefulness on the
/// other decide between candidates that are otherwise alike; chance decides between near equals.
///
/// It has everything the child lacks; less in proportion. The most by far: a parent without pieces
/// is none.
const USEFUL: i64 = 40;
/// It has anything that the child lacks, for a child whose parents have nothing. While a crowd gathers
/// nobody has much, and those who came first have chosen each other: in proportion, the first pieces
/// would weigh less than an old link between two that have none.
const FEEDS: i64 = 20;
/// It reads upstream, so it has what nobody else has yet.
const READING: i64 = 20;
/// It has no children; less in proportion to its slots. As much as reading: a reader with all its
/// slots taken is worth no more than an idle node with half of the pieces.
const IDLE: i64 = 20;
/// Bytes that stay in the zone cost less, and in the rack less again; but less than a half of the
/// pieces, since a near node that has nothing helps nobody.
const SAME_ZONE: i64 = 10;
/// See [`SAME_ZONE`].
const SAME_RACK: i64 = 5;
/// It is a parent already: a change costs a connection and what it has under way.
const KNOWN: i64 = 8;
/// It has the child as a parent: both ways of a link in use keep the numbers of children even.
const MUTUAL: i64 = 4;
/// For every host that it failed of late, up to [`MAX_FAILURES`]: three weigh more than full
/// usefulness.
const FAILURE: i64 = 15;
const MAX_FAILURES: u32 = 3;
/// Its link gives less than half of what is usual: as bad as a failure, for it is one to come.
const SLOW_LINK: i64 = 15;
/// Children see it send more slowly than is usual; less in proportion. Whoever hardly sends is worth
/// less than one from another zone, and not less than one that failed: a trickle is reported as
/// failure too.
const SLUGGISH: i64 = 12;
/// Below this percentage of the usual pace a link is not worth keeping for its own sake.
const POOR: u32 = 50;
/// Where a mirror does as well, the seed is left to those for whom none does.
const SEED: i64 = 2;
/// The share of chance: less than half of full usefulness.
const SPREAD: u64 = 16;

/// A host that a child may fetch from.
#[derive(Debug, Clone)]
pub(super) struct Candidate<'a> {
    pub(super) session: SessionId,
    pub(super) host: &'a Host,
    /// Pieces it has that the child lacks.
    pub(super) useful: u32,
    /// It reads upstream.
    pub(super) reading: bool,
    /// Children it has in all tasks.
    pub(super) children: u32,
    /// Hosts it failed of late.
    pub(super) failures: u32,
    /// It was too slow for this child before.
    pub(super) slow: bool,
    /// It sends less than half of what is usual.
    pub(super) slow_link: bool,
    /// How fast children see it send, in percent of what is usual, 100 at most.
    pub(super) pace: u32,
    /// It is a parent of the child already.
    pub(super) current: bool,
    /// The child is a parent of it.
    pub(super) mutual: bool,
}

impl Candidate<'_> {
    /// Whether it is to be replaced if there is any other.
    fn is_poor(&self) -> bool {
        self.failures > 0 || self.slow_link || self.pace < POOR
    }
}

/// The best parents, best first: at most `most`, and some seeds beside them. `lacking` is how many
/// pieces the child misses, `turn` the child's own part of chance.
pub(super) fn choose(
    child: &Host,
    turn: u64,
    lacking: u32,
    most: usize,
    mut candidates: Vec<Candidate<'_>>,
) -> Vec<SessionId> {
    if candidates.iter().any(|one| !one.slow && one.useful > 0) {
        candidates.retain(|one| !one.slow);
    }
    let starves = !candidates.iter().any(|one| one.current && one.useful > 0);
    candidates.sort_by_cached_key(|one| {
        let chance = mix(turn, one.session.0);
        let mut score = score(child, one, lacking) + i64::try_from(chance % SPREAD).unwrap_or(0);
        if starves && one.useful > 0 {
            score += FEEDS;
        }
        (Reverse(score), chance)
    });
    let most = most.clamp(FAR_LINKS, MAX_PARENTS);
    let is_seed = |one: &Candidate<'_>| one.host.role == Role::Seed;
    let (mut seeds, mut candidates): (Vec<_>, Vec<_>) = candidates.into_iter().partition(is_seed);
    seeds.truncate(SEEDS_BESIDE.max(most.saturating_sub(candidates.len())));
    let seeds = seeds.iter().map(|one| one.session);
    if candidates.len() <= most {
        let few = candidates.iter().map(|one| one.session);
        return seeds.chain(few).collect();
    }
    let mut rest = candidates.split_off(most - FAR_LINKS);
    rest.sort_by_cached_key(|one| {
        let elsewhere = nearness(child, one.host) == 0;
        (
            one.is_poor(),
            Reverse(one.current),
            Reverse(elsewhere),
            mix(one.session.0, turn),
        )
    });
    let far = rest.iter().take(FAR_LINKS);
    let mirrors = candidates.iter().chain(far).map(|one| one.session);
    seeds.chain(mirrors).collect()
}

fn score(child: &Host, one: &Candidate<'_>, lacking: u32) -> i64 {
    let useful = USEFUL * i64::from(one.useful) / i64::from(lacking.max(1));
    // As many children as slots is a full load; twice that is all that is counted.
    let full = i64::from(one.host.upload_slots.clamp(1, 1024)) * 2;
    let idle = IDLE * (full - i64::from(one.children).min(full)) / full;
    let near = match nearness(child, one.host) {
        0 => 0,
        1 => SAME_ZONE,
        _ => SAME_ZONE + SAME_RACK,
    };
    let mut score = useful + idle + near;
    score -= SLUGGISH * i64::from(100 - one.pace.min(100)) / 100;
    score -= FAILURE * i64::from(one.failures.min(MAX_FAILURES));
    if one.reading {
        score += READING;
    }
    if one.current {
        score += KNOWN;
    }
    if one.mutual {
        score += MUTUAL;
    }
    if one.slow_link {
        score -= SLOW_LINK;
    }
    if one.host.role == Role::Seed {
        score -= SEED;
    }
    score
}

/// 0: elsewhere, or nothing is known; 1: the same zone; 2: the same rack of it.
pub(super) fn nearness(one: &Host, other: &Host) -> u8 {
    let same = |label: &str| {
        let (one, other) = (one.labels.get(label), other.labels.get(label));
        one.is_some() && one == other
    };
    match (same("zone"), same("rack")) {
        (true, true) => 2,
        (true, false) => 1,
        // Racks of different zones may have the same name.
        (false, true) if !one.labels.contains_key("zone") => 2,
        (false, _) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, role: Role, zone: &str) -> Host {
        Host {
            id: name.parse().expect("valid"),
            address: "h:1".to_owned(),
            role,
            labels: [("zone".to_owned(), zone.to_owned())].into(),
            signing_key: None,
            upload_slots: 8,
        }
    }

    fn candidate(session: u64, host: &Host, useful: u32) -> Candidate<'_> {
        Candidate {
            session: SessionId(session),
            host,
            useful,
            reading: false,
            children: 0,
            failures: 0,
            slow: false,
            slow_link: false,
            pace: 100,
            current: false,
            mutual: false,
        }
    }

    const CHILD: u64 = 99;

    #[test]
    fn who_has_what_is_lacking_comes_before_who_has_nothing() {
        let (child, other) = (host("c", Role::Mirror, "a"), host("o", Role::Mirror, "a"));
        let has = candidate(1, &other, 10);
        let has_not = candidate(2, &other, 0);
        let order = choose(&child, CHILD, 10, MAX_PARENTS, vec![has_not, has]);
        assert_eq!(order, [SessionId(1), SessionId(2)]);
    }

    #[test]
    fn the_first_piece_outweighs_an_old_link_to_one_without_any() {
        let (child, other) = (host("c", Role::Mirror, "a"), host("o", Role::Mirror, "a"));
        let fed = |turn: u64| {
            let old = (0..6).map(|n| Candidate {
                current: true,
                mutual: true,
                ..candidate(n, &other, 0)
            });
            let new = (6..12).map(|n| candidate(n, &other, 1));
            let order = choose(&child, turn, 1000, 6, old.chain(new).collect());
            order.iter().filter(|one| one.0 >= 6).count()
        };
        assert!((0..100).all(|turn| fed(turn) >= 2));
    }

    #[test]
    fn load_failures_and_slowness_push_back() {
        let (child, other) = (host("c", Role::Mirror, "a"), host("o", Role::Mirror, "a"));
        let good = candidate(1, &other, 10);
        let mut failed = candidate(2, &other, 10);
        failed.failures = 3;
        let mut slow = candidate(3, &other, 10);
        slow.slow = true;
        let mut loaded = candidate(4, &other, 10);
        loaded.children = 100;
        let order = choose(
            &child,
            CHILD,
            10,
            MAX_PARENTS,
            vec![slow.clone(), failed, loaded, good],
        );
        assert_eq!(order, [SessionId(1), SessionId(4), SessionId(2)]);
        assert_eq!(
            choose(&child, CHILD, 10, MAX_PARENTS, vec![slow]),
            [SessionId(3)]
        );
    }

    #[test]
    fn who_sends_slowly_comes_after_who_sends_as_usual() {
        let (child, other) = (host("c", Role::Mirror, "a"), host("o", Role::Mirror, "a"));
        let usual = |child: u64| {
            let mut sluggish = candidate(1, &other, 10);
            sluggish.pace = 0;
            let candidates = vec![sluggish, candidate(2, &other, 10)];
            choose(&host("c", Role::Mirror, "a"), child, 10, 2, candidates)[0] == SessionId(2)
        };
        let first = (0..100).filter(|turn| usual(*turn)).count();
        assert!(first > 80, "{first} of 100 children chose the usual one");
        let mut failed = candidate(3, &other, 10);
        failed.failures = 1;
        let mut sluggish = candidate(4, &other, 10);
        sluggish.pace = 0;
        assert!(score(&child, &sluggish, 10) > score(&child, &failed, 10));
    }

    #[test]
    fn some_links_leave_the_zone() {
        let child = host("c", Role::Mirror, "a");
        let (near, far) = (host("n", Role::Mirror, "a"), host("f", Role::Mirror, "b"));
        let mut candidates: Vec<_> = (0..40).map(|n| candidate(n, &near, 10)).collect();
        candidates.extend((40..44).map(|n| candidate(n, &far, 0)));
        let order = choose(&child, CHILD, 10, MAX_PARENTS, candidates);
        assert_eq!(order.len(), MAX_PARENTS);
        let links = order.iter().filter(|one| one.0 >= 40).count();
        assert_eq!(links, FAR_LINKS);
    }

    #[test]
    fn children_do_not_all_choose_the_same() {
        let (child, other) = (host("c", Role::Mirror, "a"), host("o", Role::Mirror, "a"));
        let mut children = [0u32; 64];
        for number in 1000..1064 {
            let candidates = (0..64).map(|n| candidate(n, &other, 0)).collect();
            for parent in choose(&child, number, 10, MAX_PARENTS, candidates) {
                children[usize::try_from(parent.0).expect("small")] += 1;
            }
        }
        assert!(children.iter().all(|count| *count < 24), "{children:?}");
        assert!(children.iter().filter(|count| **count > 0).count() > 48);
    }
}
