//! Leases: who reads upstream, and when.

use super::*;

#[test]
fn a_cold_task_is_leased_to_exactly_one_seed() {
    let mut cluster = Cluster::of(&["s-1", "s-2", "s-3"], &["m-1", "m-2", "m-3"]);
    for mirror in ["m-1", "m-2", "m-3"] {
        cluster.join(mirror, join(10, &[]));
    }
    cluster.pass(1000);
    let leases = cluster.leases();
    assert_eq!(leases.len(), 1, "{leases:?}");
    let (reader, lease) = &leases[0];
    assert!(reader.starts_with("s-"));
    let seeds = [id("s-1"), id("s-2"), id("s-3")];
    let first = darner_proto::rendezvous::order(&task(), &seeds, |seed| seed)[0];
    assert_eq!(reader, first.as_str());
    assert_eq!(
        lease,
        &Lease {
            task: task(),
            size: 10 * MIB,
            lease: FIRST_LEASE,
            ranges: vec![0..10],
            expires_ms: 4000,
            sources: vec![source("library/debian")],
        }
    );
}

#[test]
fn when_a_seed_dies_another_reads_only_what_it_alone_held() {
    let mut cluster = Cluster::of(&["s-1", "s-2"], &["m-1"]);
    cluster.join("m-1", join(10, &[]));
    let (first, lease) = cluster.leases().remove(0);
    cluster.join(&first, claim(10, &[], lease.lease, 0..10));
    cluster.say(&first, gained(&[0..6]));
    cluster.say("m-1", gained(&[0..4]));
    cluster.die(&first);
    cluster.pass(600);
    assert_eq!(cluster.leases(), []);
    cluster.pass(200);
    let (second, again) = cluster.leases().remove(0);
    assert_ne!(second, first);
    assert_eq!(again.ranges, [4..10]);
    assert!(again.lease > lease.lease);
}

#[test]
fn a_reader_whose_session_broke_goes_on_when_it_is_back_in_time() {
    let mut cluster = Cluster::of(&["s-1", "s-2"], &["m-1"]);
    cluster.join("m-1", join(10, &[]));
    let (reader, lease) = cluster.leases().remove(0);
    cluster.join(&reader, claim(10, &[], lease.lease, 0..10));
    cluster.die(&reader);
    cluster.pass(200);
    cluster.attend(&reader, Role::Seed);
    cluster.list(&reader, &[]);
    cluster.join(&reader, claim(10, &[0..3], lease.lease, 0..10));
    cluster.pass(2000);
    assert_eq!(cluster.leases(), [(reader, lease)]);
}

#[test]
fn without_seeds_the_first_mirror_to_join_reads() {
    let mut cluster = Cluster::of(&[], &["m-1", "m-2", "m-3"]);
    cluster.join("m-2", join(10, &[]));
    cluster.join("m-1", join(10, &[]));
    cluster.join("m-3", join(10, &[]));
    cluster.pass(1000);
    let leases = cluster.leases();
    assert_eq!(leases.len(), 1, "{leases:?}");
    assert_eq!(
        (leases[0].0.as_str(), &leases[0].1.ranges),
        ("m-2", &vec![0..10])
    );
}

#[test]
fn nothing_is_read_that_somebody_holds() {
    let mut cluster = Cluster::of(&["s-1"], &["m-1", "m-2", "m-3"]);
    cluster.list("m-1", &[task()]);
    cluster.join("m-2", join(10, &[]));
    cluster.pass(2000);
    assert_eq!(cluster.leases(), []);
    // The holder evicts it: what nobody has now is read.
    cluster.say("m-2", gained(&[0..2]));
    cluster.say("m-1", NodeMessage::Withdraw(vec![task()]));
    assert_eq!(cluster.lease("s-1").expect("leased").ranges, [2..10]);
}

#[test]
fn a_whole_in_parts_is_not_read() {
    let mut cluster = Cluster::of(&["s-1"], &["m-1", "m-2"]);
    cluster.swarm.settled = Duration::from_secs(1);
    cluster.join("m-1", join(10, &[0..6]));
    cluster.join("m-2", join(10, &[5..10]));
    cluster.pass(3000);
    assert_eq!(cluster.leases(), []);
}

#[test]
fn a_lease_without_progress_passes_on_and_one_with_does_not() {
    let mut cluster = Cluster::of(&["s-1", "s-2"], &["m-1"]);
    cluster.join("m-1", join(10, &[]));
    let (first, lease) = cluster.leases().remove(0);
    cluster.join(&first, claim(10, &[], lease.lease, 0..10));
    for _ in 0..5 {
        cluster.pass(2000);
        cluster.say(&first, read(1, None));
    }
    assert_eq!(cluster.leases(), []);
    cluster.pass(4100);
    let heard = cluster.heard(&first);
    let revoked = SchedulerMessage::LeaseRevoked {
        task: task(),
        lease: lease.lease,
    };
    assert!(heard.contains(&revoked), "{heard:?}");
    assert!(cluster.counted.contains(&Counted::LeaseExpired));
    let (second, again) = cluster.leases().remove(0);
    assert!(second != first && again.lease > lease.lease);
    // The old holder's word on the old lease is of no account.
    cluster.give_back(&first, lease.lease, ReturnReason::Refused);
    cluster.pass(500);
    assert_eq!(
        cluster
            .heard("m-1")
            .iter()
            .filter(|one| matches!(one, SchedulerMessage::NoSource { .. }))
            .count(),
        0
    );
}

#[test]
fn a_returned_lease_goes_to_the_other_seed_then_to_a_mirror_then_there_is_no_source() {
    let mut cluster = Cluster::of(&["s-1", "s-2"], &["m-1"]);
    cluster.join("m-1", join(10, &[]));
    let (first, lease) = cluster.leases().remove(0);
    cluster.give_back(&first, lease.lease, ReturnReason::Unavailable);
    assert_eq!(cluster.leases(), []);
    cluster.pass(600);
    let (second, lease) = cluster.leases().remove(0);
    assert!(second != first && second.starts_with("s-"));
    cluster.give_back(&second, lease.lease, ReturnReason::Reader);
    let (third, lease) = cluster.leases().remove(0);
    assert_eq!(third, "m-1");
    cluster.give_back("m-1", lease.lease, ReturnReason::Unavailable);
    cluster.pass(4000);
    let (fourth, lease) = cluster.leases().remove(0);
    assert_eq!(fourth, first);
    cluster.give_back(&fourth, lease.lease, ReturnReason::Unavailable);
    cluster.pass(4100);
    let none = SchedulerMessage::NoSource {
        task: task(),
        reason: ReturnReason::Unavailable,
    };
    let heard = cluster.heard("m-1");
    assert_eq!(
        heard.iter().filter(|one| **one == none).count(),
        1,
        "{heard:?}"
    );
    cluster.leave("m-1", Outcome::Failed);
    cluster.pass(1000);
    assert_eq!(cluster.swarm.census().tasks, 0);
    cluster.join("m-1", join(10, &[]));
    assert_eq!(cluster.leases().len(), 1);
}

#[test]
fn what_upstream_refuses_has_no_source_for_anyone_and_is_asked_once() {
    let mut cluster = Cluster::of(&["s-1", "s-2"], &["m-1", "m-2", "m-3"]);
    cluster.join("m-1", join(10, &[]));
    cluster.join("m-2", join(10, &[]));
    let (first, lease) = cluster.leases().remove(0);
    cluster.give_back(&first, lease.lease, ReturnReason::Refused);
    cluster.join("m-3", join(10, &[]));
    let none = SchedulerMessage::NoSource {
        task: task(),
        reason: ReturnReason::Refused,
    };
    for mirror in ["m-1", "m-2", "m-3"] {
        assert!(cluster.heard(mirror).contains(&none), "{mirror}");
    }
    assert_eq!(cluster.leases(), []);
}

#[test]
fn another_source_is_tried_after_a_refusal() {
    let mut cluster = Cluster::of(&["s-1"], &["m-1", "m-2"]);
    cluster.join("m-1", join(10, &[]));
    let lease = cluster.lease("s-1").expect("leased");
    cluster.give_back("s-1", lease.lease, ReturnReason::Refused);
    let mut other = join(10, &[]);
    other.sources = vec![source("mirror/debian")];
    cluster.join("m-2", other);
    let lease = cluster.lease("s-1").expect("leased again");
    assert_eq!(
        lease.sources,
        [source("library/debian"), source("mirror/debian")]
    );
}

#[test]
fn a_large_content_is_divided_once_upstream_is_known_to_take_ranges() {
    let mut cluster = Cluster::of(&["s-1", "s-2", "s-3"], &["m-1"]);
    cluster.join("m-1", join(300, &[]));
    let (first, lease) = cluster.leases().remove(0);
    cluster.join(&first, claim(300, &[], lease.lease, 0..300));
    assert_eq!(cluster.leases(), []);
    cluster.say(&first, read(1, Some(true)));
    let leases: BTreeMap<_, _> = cluster.leases().into_iter().collect();
    assert_eq!(leases.len(), 3, "{leases:?}");
    assert_eq!(leases[&first].lease, lease.lease);
    assert_eq!(leases[&first].ranges, [0..100]);
    let mut all = PieceSet::empty(300);
    for lease in leases.values() {
        for range in &lease.ranges {
            for index in range.clone() {
                assert!(all.insert(index), "piece {index} is leased twice");
            }
        }
    }
    assert!(all.is_full());
}

#[test]
fn an_upstream_without_ranges_has_one_reader() {
    let mut cluster = Cluster::of(&["s-1", "s-2", "s-3"], &["m-1"]);
    cluster.join("m-1", join(300, &[]));
    let (first, lease) = cluster.leases().remove(0);
    cluster.join(&first, claim(300, &[], lease.lease, 0..300));
    cluster.say(&first, read(1, Some(false)));
    assert_eq!(cluster.leases(), []);
}

#[test]
fn after_a_restart_a_running_reader_keeps_its_pieces_under_a_higher_number() {
    let mut cluster = Cluster::new(2000);
    for (name, role) in [
        ("s-1", Role::Seed),
        ("s-2", Role::Seed),
        ("m-1", Role::Mirror),
    ] {
        cluster.attend(name, role);
        cluster.list(name, &[]);
    }
    cluster.join("m-1", join(10, &[0..2]));
    cluster.join("s-2", claim(10, &[0..4], 5, 0..10));
    cluster.pass(3000);
    let leases = cluster.leases();
    assert_eq!(leases.len(), 1, "{leases:?}");
    assert_eq!(
        (leases[0].0.as_str(), &leases[0].1.ranges),
        ("s-2", &vec![0..10])
    );
    assert!(leases[0].1.lease >= FIRST_LEASE);
}

#[test]
fn a_claim_to_what_another_reads_is_revoked() {
    let mut cluster = Cluster::of(&["s-1", "s-2"], &["m-1"]);
    cluster.join("m-1", join(10, &[]));
    let (reader, _) = cluster.leases().remove(0);
    let other = if reader == "s-1" { "s-2" } else { "s-1" };
    cluster.join(other, claim(10, &[], 5, 0..10));
    let revoked = SchedulerMessage::LeaseRevoked {
        task: task(),
        lease: 5,
    };
    let heard = cluster.heard(other);
    assert!(heard.contains(&revoked), "{heard:?}");
    assert_eq!(cluster.swarm.census().leases, 1);
}

#[test]
fn nothing_is_read_while_the_scheduler_settles_and_everybody_is_asked() {
    let mut cluster = Cluster::new(2000);
    cluster.attend("s-1", Role::Seed);
    cluster.attend("m-1", Role::Mirror);
    cluster.list("s-1", &[]);
    cluster.list("m-1", &[]);
    cluster.join("m-1", join(10, &[]));
    assert!(
        cluster
            .heard("s-1")
            .contains(&SchedulerMessage::Ask(task()))
    );
    cluster.attend("m-2", Role::Mirror);
    assert!(
        cluster
            .heard("m-2")
            .contains(&SchedulerMessage::Ask(task()))
    );
    cluster.list("m-2", &[]);
    cluster.pass(1900);
    assert_eq!(cluster.leases(), []);
    cluster.pass(100);
    assert_eq!(cluster.leases().len(), 1);
}

#[test]
fn a_holder_that_is_heard_of_while_settling_costs_no_read() {
    let mut cluster = Cluster::new(2000);
    cluster.attend("s-1", Role::Seed);
    cluster.list("s-1", &[]);
    cluster.attend("m-1", Role::Mirror);
    cluster.list("m-1", &[]);
    cluster.join("m-1", join(10, &[]));
    cluster.pass(1000);
    cluster.heard("m-1");
    cluster.attend("m-2", Role::Mirror);
    cluster.list("m-2", &[task()]);
    assert_eq!(cluster.parents("m-1").expect("told"), ["m-2"]);
    cluster.pass(5000);
    assert_eq!(cluster.leases(), []);
}

#[test]
fn a_node_that_is_still_listing_is_waited_for_a_second_and_not_longer() {
    let mut cluster = Cluster::of(&["s-1"], &["m-1"]);
    cluster.attend("m-2", Role::Mirror);
    cluster.join("m-1", join(10, &[]));
    assert!(
        cluster
            .heard("m-2")
            .contains(&SchedulerMessage::Ask(task()))
    );
    cluster.pass(900);
    assert_eq!(cluster.leases(), []);
    cluster.pass(200);
    assert_eq!(cluster.leases().len(), 1);
}

#[test]
fn the_lease_is_given_as_soon_as_everybody_has_listed() {
    let mut cluster = Cluster::of(&["s-1"], &["m-1"]);
    cluster.attend("m-2", Role::Mirror);
    cluster.join("m-1", join(10, &[]));
    cluster.list("m-2", &[]);
    assert_eq!(cluster.leases().len(), 1);
}

#[test]
fn a_seed_that_nobody_can_reach_stops_reading() {
    let mut cluster = Cluster::of(&["s-1", "s-2"], &["m-1", "m-2"]);
    cluster.join("m-1", join(10, &[]));
    cluster.join("m-2", join(10, &[]));
    let (first, lease) = cluster.leases().remove(0);
    cluster.join(&first, claim(10, &[], lease.lease, 0..10));
    cluster.say(&first, gained(&[0..5]));
    cluster.fail("m-1", &first, FailureKind::Unreachable);
    assert_eq!(cluster.leases(), []);
    cluster.fail("m-2", &first, FailureKind::Unreachable);
    let (second, again) = cluster.leases().remove(0);
    assert_ne!(second, first);
    assert_eq!(again.ranges, [0..10]);
}

#[test]
fn a_task_that_nobody_needs_is_forgotten() {
    let mut cluster = Cluster::of(&["s-1"], &["m-1"]);
    cluster.join("m-1", join(10, &[]));
    cluster.leave("m-1", Outcome::Abandoned);
    assert_eq!(cluster.swarm.census().tasks, 1);
    cluster.join("s-1", claim(10, &[], FIRST_LEASE, 0..10));
    cluster.leave("s-1", Outcome::Complete);
    assert_eq!(cluster.swarm.census().tasks, 0);
    cluster.join("m-1", join(10, &[]));
    assert_eq!(cluster.parents("m-1").expect("told"), ["s-1"]);
}

#[test]
fn a_node_that_joins_what_it_announced_does_not_hold_it() {
    let mut cluster = Cluster::of(&["s-1"], &["m-1"]);
    cluster.list("m-1", &[task()]);
    cluster.join("m-1", join(10, &[]));
    assert_eq!(cluster.lease("s-1").expect("leased").ranges, [0..10]);
}

#[test]
fn a_seed_that_came_back_does_not_read_for_those_who_have_given_it_up() {
    let mut cluster = Cluster::of(&["s-1", "s-2"], &["m-1"]);
    cluster.join("m-1", join(10, &[]));
    let (first, lease) = cluster.leases().remove(0);
    cluster.join(&first, claim(10, &[], lease.lease, 0..10));
    cluster.die(&first);
    cluster.fail("m-1", &first, FailureKind::Unreachable);
    cluster.attend(&first, Role::Seed);
    cluster.list(&first, &[task()]);
    cluster.pass(1000);
    let (second, _) = cluster.leases().remove(0);
    assert_ne!(second, first);
}
