//! Thousands of members in one process, on a network of messages that take a while.

mod network;

use super::*;
use darner_proto::gossip::MAX_MEMBERS;
use network::{Death, Network, member};

/// Members that came, went and died while the table had to hold.
const CHURN_PER_MINUTE: f64 = 0.1;

fn converged(network: &Network) -> bool {
    let live = network.live();
    live.iter().all(|name| network.sees(*name) == live)
}

#[test]
fn members_that_come_one_after_another_know_each_other_within_seconds() {
    let mut network = Network::new(1);
    for name in 0..60 {
        network.join(name);
        network.run(Duration::from_millis(20));
    }
    let took = network.until(Duration::from_secs(10), converged);
    assert!(took < Duration::from_secs(8), "{took:?}");
    let keepers = network.keepers(0);
    assert_eq!(keepers.len(), KEEPERS);
    assert!((1..60).all(|name| network.keepers(name) == keepers));
}

#[test]
fn one_that_joins_is_known_to_all_within_three_seconds() {
    for members in [2, 6, 30, 90] {
        let mut network = Network::settled(2, members);
        network.run(Duration::from_secs(3));
        network.join(members);
        let took = network.until(Duration::from_secs(5), converged);
        assert!(took <= Duration::from_secs(3), "{members}: {took:?}");
    }
}

/// Runs with so many members: large ones take long.
fn seeds(members: u32) -> u64 {
    if members < 50 { 5 } else { 2 }
}

#[test]
fn who_leaves_and_who_is_killed_is_known_to_be_gone_within_five_seconds() {
    for members in [3, 6, 30, 100] {
        for death in [Death::Leaves, Death::Killed] {
            for seed in 0..seeds(members) {
                let mut network = Network::settled(seed, members);
                network.run(Duration::from_secs(3));
                network.end(1, death);
                let took = network.until(Duration::from_secs(8), converged);
                let limit = Duration::from_secs(5);
                assert!(
                    took <= limit,
                    "{death:?} of {members}, seed {seed}: {took:?}"
                );
            }
        }
    }
}

#[test]
fn who_falls_silent_is_known_to_be_gone_within_five_seconds() {
    for members in [3, 6, 30, 100] {
        for seed in 0..seeds(members) {
            let mut network = Network::settled(seed, members);
            network.run(Duration::from_secs(3));
            network.end(1, Death::Silent);
            let took = network.until(Duration::from_secs(12), converged);
            assert!(
                took <= Duration::from_secs(5),
                "{members}, seed {seed}: {took:?}"
            );
        }
    }
}

#[test]
fn nobody_is_taken_for_dead_while_messages_are_lost() {
    let mut network = Network::settled(7, 60);
    network.lose(0.05);
    for _ in 0..120 {
        network.run(Duration::from_millis(500));
        assert!(converged(&network));
    }
}

#[test]
fn nobody_is_taken_for_dead_because_it_is_busy_for_some_seconds() {
    for (members, seed) in [(6, 1), (6, 2), (30, 3)] {
        let mut network = Network::settled(seed, members);
        for round in 0..10 {
            // Two of them at once, and one that judges them is slow as well.
            for name in [round, round + 1, round + 3] {
                network.stall(name % members, Duration::from_secs(4));
            }
            for _ in 0..60 {
                network.run(Duration::from_millis(100));
                assert!(converged(&network), "{members} members, round {round}");
            }
        }
    }
}

#[test]
fn among_many_who_is_gone_is_known_to_be_within_twenty_seconds() {
    for (death, seed) in [(Death::Leaves, 1), (Death::Killed, 2), (Death::Silent, 3)] {
        let mut network = Network::settled(seed, 300);
        network.run(Duration::from_secs(5));
        network.end(1, death);
        let took = network.until(Duration::from_secs(30), converged);
        assert!(took <= Duration::from_secs(20), "{death:?}: {took:?}");
    }
}

#[test]
fn one_that_was_cut_off_is_back_within_seconds_and_takes_nobody_along() {
    let mut network = Network::settled(3, 40);
    network.cut_off(5, true);
    network.run(Duration::from_secs(30));
    assert!(!network.sees(0).contains(&5));
    network.cut_off(5, false);
    let took = network.until(Duration::from_secs(40), converged);
    assert!(took <= Duration::from_secs(30), "{took:?}");
    // Those who stayed were never anybody else.
    assert!(
        (0..40)
            .filter(|name| *name != 5)
            .all(|name| network.lives_of(name) == 1)
    );
}

#[test]
fn one_that_is_started_again_at_once_takes_the_place_of_its_earlier_life() {
    let mut network = Network::settled(4, 20);
    network.end(2, Death::Killed);
    network.run(Duration::from_millis(300));
    network.join(2);
    let took = network.until(Duration::from_secs(5), converged);
    assert!(took < Duration::from_secs(5), "{took:?}");
    network.run(Duration::from_secs(10));
    assert!(converged(&network));
}

/// A tenth of the members goes in a minute, a third of it each way, and as many come. Says how many
/// bytes a second one member sent.
fn churn(members: u32, minutes: f64) -> f64 {
    let mut network = Network::settled(5, members);
    // Connections along the ring are made, and nobody is new any more.
    network.run(Duration::from_secs(5));
    network.forget_costs();
    let changes = (f64::from(members) * CHURN_PER_MINUTE * minutes) as u32;
    let pause = Duration::from_secs_f64(60.0 * minutes / f64::from(changes));
    for change in 0..changes {
        let death = [Death::Leaves, Death::Killed, Death::Silent][change as usize % 3];
        let goes = network.anybody();
        network.end(goes, death);
        network.join(members + change);
        network.run(pause);
    }
    let bytes = network.bytes_per_second();
    let (wrong, entries) = (network.differences(), network.live().len().pow(2));
    println!(
        "{members} members: each sent {bytes:.0} bytes/s; {wrong} of {entries} entries differ"
    );
    // Who fell silent last has to be noticed, and its time has to pass.
    network.run(Duration::from_secs(10));
    let wrong = network.differences();
    assert!(wrong * 100 < entries, "{wrong} of {entries} entries differ");
    bytes
}

#[test]
fn with_a_tenth_of_three_hundred_coming_and_going_every_minute_views_hold_and_cost_little() {
    let bytes = churn(300, 1.0);
    assert!(bytes < 5000.0, "{bytes} bytes/s");
}

#[test]
fn with_a_tenth_of_two_thousand_coming_and_going_every_minute_views_hold_and_cost_little() {
    let bytes = churn(2000, 0.2);
    assert!(bytes < 5000.0, "{bytes} bytes/s");
}

mod hostile {
    use super::*;
    use darner_proto::wire;
    use proptest::prelude::*;
    use prost::Message as _;

    fn packet(from: u32, to: u32, kind: wire::GossipKind, updates: &[wire::GossipUpdate]) -> Bytes {
        let head = wire::GossipHead {
            from: Some((&member(from, 1)).into()),
            incarnation: 0,
            to: Some((&member(to, 1)).into()),
            kind: kind.into(),
            ..wire::GossipHead::default()
        };
        let mut packet = head.encode_length_delimited_to_vec();
        packet.extend(u16::try_from(updates.len()).expect("few").to_be_bytes());
        for update in updates {
            packet.extend(update.encode_length_delimited_to_vec());
        }
        packet.into()
    }

    fn update(member: &Member, state: wire::GossipState) -> wire::GossipUpdate {
        wire::GossipUpdate {
            member: Some(member.into()),
            incarnation: 0,
            state: state.into(),
        }
    }

    #[test]
    fn who_says_it_is_another_is_not_heard() {
        let mut members = Members::new(Duration::ZERO, member(0, 1), network::EPOCH, 1);
        let hello = packet(1, 0, wire::GossipKind::Gossip, &[]);
        let liar = Some(member(2, 1).id);
        members.apply(
            Duration::ZERO,
            Event::Packet {
                from: liar,
                packet: hello.clone(),
            },
        );
        assert_eq!((members.count(), members.refused()), (1, 1));
        let itself = Some(member(1, 1).id);
        members.apply(
            Duration::ZERO,
            Event::Packet {
                from: itself,
                packet: hello,
            },
        );
        assert_eq!((members.count(), members.refused()), (2, 1));
    }

    #[test]
    fn a_member_that_calls_everybody_dead_ends_nobody() {
        let mut network = Network::settled(8, 30);
        for _ in 0..1 {
            let dead: Vec<_> = (0..29)
                .map(|name| update(&network.record(name), wire::GossipState::Down))
                .collect();
            for to in 0..29 {
                network.inject(29, to, packet(29, to, wire::GossipKind::Gossip, &dead));
            }
            for _ in 0..20 {
                network.run(Duration::from_millis(500));
                assert!(converged(&network));
            }
        }
        assert!((0..30).all(|name| network.lives_of(name) == 1));
    }

    #[test]
    fn a_false_life_of_another_is_outdone_by_it() {
        let mut network = Network::settled(9, 12);
        let mut false_life = network.record(3);
        false_life.generation += 1000;
        false_life.place.as_mut().expect("has one").address = "10.9.9.9:1".to_owned();
        let said = [update(&false_life, wire::GossipState::Alive)];
        for to in 0..11 {
            network.inject(11, to, packet(11, to, wire::GossipKind::Gossip, &said));
        }
        let right = |network: &Network| {
            let here = network.record(3);
            converged(network) && (0..12).all(|name| network.knows(name, &here))
        };
        let took = network.until(Duration::from_secs(10), right);
        assert!(took < Duration::from_secs(10));
    }

    #[test]
    fn nobody_is_of_the_far_future_and_members_without_end_are_not_remembered() {
        let mut members = Members::new(Duration::ZERO, member(0, 1), network::EPOCH, 1);
        let mut future = member(1, 1);
        future.generation = network::EPOCH + 2 * 3_600_000;
        let said = [update(&future, wire::GossipState::Alive)];
        let lie = packet(2, 0, wire::GossipKind::Gossip, &said);
        members.apply(
            Duration::ZERO,
            Event::Packet {
                from: None,
                packet: lie,
            },
        );
        assert_eq!(members.count(), 2, "the liar itself");
        let mut named = 100;
        while named < 12_000 {
            let said: Vec<_> = (named..named + 80)
                .map(|name| update(&member(name, 1), wire::GossipState::Alive))
                .collect();
            let flood = packet(2, 0, wire::GossipKind::Gossip, &said);
            members.apply(
                Duration::ZERO,
                Event::Packet {
                    from: None,
                    packet: flood,
                },
            );
            named += 80;
        }
        assert_eq!(members.count(), MAX_MEMBERS + 1);
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400), flips in prop::collection::vec((0usize..200, any::<u8>()), 0..4)) {
            let mut members = Members::new(Duration::ZERO, member(0, 1), network::EPOCH, 1);
            members.apply(Duration::ZERO, Event::Packet { from: None, packet: bytes.into() });
            let said = [update(&member(5, 1), wire::GossipState::Alive)];
            let mut bent = packet(1, 0, wire::GossipKind::Ping, &said).to_vec();
            for (at, with) in flips {
                if let Some(byte) = bent.get_mut(at) {
                    *byte = with;
                }
            }
            members.apply(Duration::ZERO, Event::Packet { from: None, packet: bent.into() });
            prop_assert!(members.count() <= 3);
        }
    }
}
