//! Parents: who fetches from whom.

use super::*;

fn with_pieces() -> Cluster {
    let mut cluster = Cluster::of(&["s-1"], &["m-1", "m-2", "m-3", "m-4"]);
    cluster.list("s-1", &[task()]);
    cluster.join("m-1", join(10, &[0..3]));
    cluster.join("m-2", join(10, &[3..6]));
    cluster.join("m-3", join(10, &[]));
    cluster.pass(1000);
    cluster
}

#[test]
fn two_half_complete_peers_are_each_others_parents() {
    let mut cluster = with_pieces();
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    let first = sorted(cluster.parents("m-1").expect("told"));
    let second = sorted(cluster.parents("m-2").expect("told"));
    assert_eq!(first, ["m-2", "m-3", "s-1"]);
    assert_eq!(second, ["m-1", "m-3", "s-1"]);
}

#[test]
fn the_reader_becomes_everybodys_parent_when_it_has_begun() {
    let mut cluster = Cluster::of(&["s-1"], &["m-1", "m-2"]);
    cluster.join("m-1", join(10, &[]));
    cluster.join("m-2", join(10, &[]));
    let lease = cluster.lease("s-1").expect("leased");
    cluster.heard.clear();
    cluster.join("s-1", claim(10, &[], lease.lease, 0..10));
    for mirror in ["m-1", "m-2"] {
        assert!(
            cluster
                .parents(mirror)
                .expect("told")
                .contains(&"s-1".to_owned())
        );
    }
}

#[test]
fn seeds_sign_and_whoever_says_it_holds_the_whole_does_not() {
    let signers = |cluster: &mut Cluster, name: &str| {
        let heard = cluster.heard(name);
        let signers = heard.into_iter().rev().find_map(|message| match message {
            SchedulerMessage::Parents { signers, .. } => Some(signers),
            _ => None,
        });
        let signers = signers.expect("told").into_iter();
        signers
            .map(|(host, _)| host.to_string())
            .collect::<Vec<_>>()
    };
    let mut cluster = Cluster::of(&["s-1", "s-2"], &["m-1", "m-2", "m-3"]);
    cluster.list("m-1", &[task()]);
    cluster.join("m-3", join(10, &[0..1]));
    cluster.join("m-2", join(10, &[]));
    assert_eq!(signers(&mut cluster, "m-2"), ["s-1", "s-2"]);
    let mut seedless = Cluster::of(&[], &["m-1", "m-2"]);
    seedless.join("m-1", join(10, &[]));
    seedless.join("m-2", join(10, &[]));
    assert_eq!(signers(&mut seedless, "m-2"), ["m-1", "m-2"]);
}

#[test]
fn a_lost_parent_is_replaced_at_once() {
    let mut cluster = with_pieces();
    cluster.heard.clear();
    cluster.die("m-2");
    let parents = cluster.parents("m-1").expect("told at once");
    assert!(!parents.contains(&"m-2".to_owned()), "{parents:?}");
    cluster.fail("m-1", "s-1", FailureKind::Unreachable);
    let parents = cluster.parents("m-1").expect("told at once");
    assert_eq!(parents, ["m-3"]);
    cluster.pass(3000);
    let again = cluster.parents("m-1").unwrap_or_default();
    assert!(!again.contains(&"s-1".to_owned()), "{again:?}");
}

#[test]
fn a_new_holder_is_told_but_not_more_than_twice_a_second() {
    let mut cluster = Cluster::of(&["s-1"], &[]);
    for n in 0..50 {
        let name = format!("m-{n}");
        cluster.attend(&name, Role::Mirror);
        cluster.list(&name, &[]);
    }
    cluster.list("s-1", &[task()]);
    cluster.join("m-0", join(10, &[]));
    // At first it is told more often.
    for n in 1..10 {
        cluster.list(&format!("m-{n}"), &[task()]);
        cluster.pass(100);
    }
    cluster.heard.clear();
    for n in 10..50 {
        cluster.list(&format!("m-{n}"), &[task()]);
        cluster.pass(50);
    }
    let heard = cluster.heard("m-0");
    let told = heard
        .iter()
        .filter(|message| matches!(message, SchedulerMessage::Parents { .. }));
    let told = told.count();
    assert!((1..=5).contains(&told), "{told} messages in two seconds");
}

#[test]
fn fan_out_is_bounded() {
    let mut cluster = Cluster::of(&["s-1"], &[]);
    cluster.list("s-1", &[task()]);
    for n in 0..200 {
        let name = format!("m-{n}");
        cluster.attend(&name, Role::Mirror);
        cluster.list(&name, &[]);
        cluster.join(&name, join(10, &[]));
    }
    cluster.pass(2000);
    let mut children: BTreeMap<String, u32> = BTreeMap::new();
    for n in 0..200 {
        let parents = cluster.parents(&format!("m-{n}")).expect("told");
        assert!(
            (1..=selection::MAX_PARENTS + selection::SEEDS_BESIDE).contains(&parents.len()),
            "{parents:?}"
        );
        for parent in parents {
            *children.entry(parent).or_default() += 1;
        }
    }
    assert!(
        children
            .values()
            .all(|count| *count <= parents::most_children(8)),
        "{children:?}"
    );
    assert!(children["s-1"] >= 8);
}

/// Everything is reached from the source along parent links.
#[test]
fn no_part_of_a_cold_swarm_is_an_island() {
    let mut cluster = Cluster::of(&["s-1"], &[]);
    for n in 0..300 {
        let name = format!("m-{n}");
        cluster.attend(&name, Role::Mirror);
        cluster.list(&name, &[]);
        cluster.join(&name, join(10, &[]));
    }
    cluster.join("s-1", claim(10, &[], FIRST_LEASE, 0..10));
    cluster.pass(1000);
    let task = &cluster.swarm.tasks[&task()];
    let mut reached: std::collections::BTreeSet<_> = [cluster.nodes["s-1"]].into();
    let mut hops = 0;
    while reached.len() < 301 {
        let next: Vec<_> = task
            .participants
            .iter()
            .filter(|(_, one)| {
                let mut parents = cluster.swarm.parents_of(one);
                parents.any(|parent| reached.contains(&parent))
            })
            .map(|(session, _)| *session)
            .collect();
        let before = reached.len();
        reached.extend(next);
        hops += 1;
        assert!(
            reached.len() > before,
            "an island: {before} of 301 are reached"
        );
    }
    assert!(hops <= 6, "{hops} hops to the last");
}

#[test]
fn one_node_cannot_ban_another_and_two_can() {
    let mut cluster = with_pieces();
    for _ in 0..5 {
        cluster.fail("m-1", "m-2", FailureKind::WrongBytes);
    }
    assert!(!cluster.counted.contains(&Counted::Banned));
    cluster.heard.clear();
    cluster.fail("m-3", "m-2", FailureKind::WrongLength);
    assert!(cluster.counted.contains(&Counted::Banned));
    cluster.join("m-4", join(10, &[]));
    cluster.pass(2000);
    for mirror in ["m-1", "m-3", "m-4"] {
        let parents = cluster.parents(mirror).unwrap_or_default();
        assert!(
            !parents.contains(&"m-2".to_owned()),
            "{mirror}: {parents:?}"
        );
    }
    // A new session does not wash it off, an hour does.
    cluster.attend("m-2", Role::Mirror);
    cluster.list("m-2", &[task()]);
    cluster.leave("m-4", Outcome::Failed);
    cluster.join("m-4", join(10, &[]));
    assert!(
        !cluster
            .parents("m-4")
            .expect("told")
            .contains(&"m-2".to_owned())
    );
    cluster.leave("m-4", Outcome::Failed);
    cluster.now += Duration::from_secs(3601);
    cluster.apply(Event::Tick);
    cluster.join("m-4", join(10, &[]));
    assert!(
        cluster
            .parents("m-4")
            .expect("told")
            .contains(&"m-2".to_owned())
    );
}

#[test]
fn accusations_of_hosts_that_were_never_ones_parents_do_not_count() {
    let mut cluster = with_pieces();
    cluster.fail("m-1", "m-4", FailureKind::WrongBytes);
    cluster.fail("m-3", "m-4", FailureKind::WrongBytes);
    cluster.fail("m-4", "m-1", FailureKind::WrongBytes);
    assert!(!cluster.counted.contains(&Counted::Banned));
}

#[test]
fn bans_come_at_most_three_a_minute() {
    let mut cluster = Cluster::of(&[], &["m-1", "m-2", "m-3", "m-4", "m-5", "m-6"]);
    for n in 3..=6 {
        cluster.list(&format!("m-{n}"), &[task()]);
    }
    cluster.join("m-1", join(10, &[]));
    cluster.join("m-2", join(10, &[]));
    for n in 3..=6 {
        for accuser in ["m-1", "m-2"] {
            cluster.fail(accuser, &format!("m-{n}"), FailureKind::WrongBytes);
        }
    }
    let bans = cluster
        .counted
        .iter()
        .filter(|one| **one == Counted::Banned)
        .count();
    assert_eq!(bans, 3);
}

#[test]
fn a_slow_parent_is_better_than_none() {
    let mut cluster = Cluster::of(&["s-1"], &["m-1"]);
    cluster.list("s-1", &[task()]);
    cluster.join("m-1", join(10, &[]));
    cluster.fail("m-1", "s-1", FailureKind::Slow);
    cluster.pass(1000);
    assert_eq!(cluster.parents("m-1").expect("told"), ["s-1"]);
    assert_eq!(cluster.leases(), []);
}

#[test]
fn the_odd_size_is_refused_until_more_hosts_say_so() {
    let mut cluster = Cluster::of(&["s-1"], &["m-1", "m-2", "m-3"]);
    cluster.join("m-1", join(10, &[]));
    let none = SchedulerMessage::NoSource {
        task: task(),
        reason: ReturnReason::Refused,
    };
    cluster.join("m-2", join(11, &[]));
    assert_eq!(cluster.heard("m-2").last(), Some(&none));
    cluster.heard.clear();
    cluster.join("m-3", join(11, &[]));
    assert!(cluster.heard("m-1").contains(&none));
    let lease = cluster.lease("s-1").expect("leased anew");
    assert_eq!((lease.size, lease.ranges), (11 * MIB, vec![0..11]));
}

#[test]
fn whoever_its_children_see_sending_slowly_gets_fewer_of_them() {
    let mut cluster = Cluster::of(&["s-1"], &[]);
    // Enough of them that a child can do without any one.
    for n in 0..3 * selection::MAX_PARENTS {
        let name = format!("h-{n}");
        cluster.attend(&name, Role::Mirror);
        cluster.list(&name, &[task()]);
    }
    let children: Vec<_> = (0..24).map(|n| format!("m-{n}")).collect();
    for child in &children {
        cluster.attend(child, Role::Mirror);
        cluster.list(child, &[]);
        cluster.join(child, join(1000, &[]));
    }
    let load = |cluster: &Cluster, name: &str| {
        let session = cluster.nodes[name];
        cluster.swarm.hosts.get(session).expect("attends").children
    };
    let before = load(&cluster, "h-7");
    assert!(before >= 4, "{before}");
    for _ in 0..20 {
        for child in &children {
            let session = cluster.nodes[child];
            let me = &cluster.swarm.tasks[&task()].participants[&session];
            let rates = cluster.swarm.parents_of(me).map(|parent| {
                let parent = &cluster.swarm.hosts.get(parent).expect("attends").host.id;
                let slow = parent.as_str() == "h-7";
                ParentRate {
                    parent: parent.clone(),
                    bytes_per_second: if slow { 5 * MIB } else { 100 * MIB },
                }
            });
            let rates = rates.collect();
            let progress = Progress {
                task: task(),
                gained: Vec::new(),
                upstream_bytes: 0,
                upstream_ranges: None,
                rates,
            };
            cluster.say(child, NodeMessage::Progress(progress));
        }
        cluster.pass(500);
    }
    let after = load(&cluster, "h-7");
    assert!(
        after * 2 <= before,
        "{before} children before, {after} after"
    );
}

#[test]
fn only_the_word_of_those_it_serves_counts_against_a_hosts_rate() {
    let mut cluster = Cluster::of(&["s-1"], &["m-1", "m-2", "m-3"]);
    cluster.list("s-1", &[task()]);
    cluster.join("m-1", join(10, &[]));
    let tell = |cluster: &mut Cluster, teller: &str, parent: &str, rate| {
        let rates = vec![ParentRate {
            parent: id(parent),
            bytes_per_second: rate,
        }];
        let progress = Progress {
            task: task(),
            gained: Vec::new(),
            upstream_bytes: 0,
            upstream_ranges: None,
            rates,
        };
        cluster.say(teller, NodeMessage::Progress(progress));
    };
    let pace = |cluster: &Cluster| {
        let hosts = &cluster.swarm.hosts;
        let seed = hosts.get(cluster.nodes["s-1"]).expect("attends");
        hosts.pace(seed, cluster.now)
    };
    tell(&mut cluster, "m-1", "s-1", 100 * MIB);
    // Neither takes part, and m-3 was never a parent.
    tell(&mut cluster, "m-2", "s-1", 1);
    tell(&mut cluster, "m-1", "m-3", 1);
    assert_eq!(pace(&cluster), 100);
    tell(&mut cluster, "m-1", "s-1", 1);
    assert!(pace(&cluster) < 100);
}

/// Everybody is to be weighed anew, which takes a crowd a while; one of them has nobody useful.
#[test]
fn who_starves_is_weighed_before_the_rest_of_the_crowd() {
    const CROWD: usize = 600;
    let mut cluster = Cluster::of(&[], &[]);
    let names: Vec<_> = (0..CROWD).map(|n| format!("m-{n}")).collect();
    for (name, pieces) in names.iter().zip((1..50).cycle()) {
        cluster.attend(name, Role::Mirror);
        cluster.list(name, &[]);
        cluster.join(name, join(100, &[pieces..pieces + 1]));
    }
    // Has what any of them has, and came last.
    cluster.attend("last", Role::Mirror);
    cluster.list("last", &[]);
    cluster.join("last", join(100, &[0..60]));
    cluster.pass(1000);
    cluster.swarm.mark_due(&task());
    let weighed = |cluster: &Cluster| -> BTreeMap<SessionId, u32> {
        let participants = cluster.swarm.tasks[&task()].participants.iter();
        participants
            .map(|(session, one)| (*session, one.evaluations))
            .collect()
    };
    let before = weighed(&cluster);
    cluster.now += Duration::from_millis(600);
    for _ in 0..20 {
        cluster.now += Duration::from_micros(400);
        cluster.say("m-0", NodeMessage::Heartbeat);
    }
    let after = weighed(&cluster);
    let last = cluster.nodes["last"];
    assert!(after[&last] > before[&last]);
    let others = after.iter().filter(|(one, count)| **count > before[one]);
    let others = others.count();
    assert!(others < CROWD / 2, "{others}");
}
