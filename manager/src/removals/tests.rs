use super::*;
use crate::database::testing::Place;
use crate::membership::{Snapshot, Timing};
use crate::metrics::ManagerMetrics;
use darner_proto::id::Host;

fn members(ids: &[&str]) -> Members {
    let members = Members::new(
        Snapshot::default(),
        false,
        Timing::default(),
        ManagerMetrics::default(),
    );
    for id in ids {
        let host = Host {
            id: id.parse().unwrap(),
            address: "10.0.0.1:7421".into(),
            role: Role::Mirror,
            labels: Default::default(),
            signing_key: None,
            upload_slots: 1,
        };
        members.register(host).unwrap();
    }
    members
}

fn node(id: &str) -> MemberKey {
    MemberKey {
        role: Role::Mirror,
        id: id.parse().unwrap(),
    }
}

fn wanted(name: &str) -> Wanted {
    Wanted {
        key: Digest::sha256(name.as_bytes()),
        name: name.to_owned(),
    }
}

#[tokio::test]
async fn every_node_is_told_until_it_has_done_it() {
    for place in Place::each() {
        let removals = Removals::new(place.open().await, members(&["a", "b"]));
        let first = removals.ask(&wanted("x"), "ann").await.unwrap();
        let second = removals.ask(&wanted("y"), "ann").await.unwrap();
        assert_eq!(second.number, first.number + 1);
        let told: Vec<_> = removals
            .heard(&node("a"), 0)
            .iter()
            .map(|one| one.number)
            .collect();
        assert_eq!(told, [first.number, second.number]);
        let told = removals.heard(&node("a"), first.number);
        assert_eq!(told[0].key, wanted("y").key);
        assert!(removals.heard(&node("a"), second.number).is_empty());

        let (_, progress) = removals.get(first.number).unwrap();
        assert_eq!((progress.nodes, progress.done), (2, 1));
        assert_eq!(progress.waiting, ["b"]);
        // It was away, or has started anew.
        assert_eq!(removals.heard(&node("b"), 0).len(), 2);
        removals.heard(&node("b"), second.number);
        let standing = removals.standing();
        assert_eq!(standing[0].0, second, "the latest first");
        assert!(standing.iter().all(|(_, progress)| progress.done == 2));
        assert!(removals.get(second.number + 1).is_none());
    }
}

#[tokio::test]
async fn another_manager_knows_of_it_and_numbers_are_used_once() {
    let place = Place::file();
    let database = place.open().await;
    let one = Removals::new(database.clone(), members(&["a"]));
    let other = Removals::new(database, members(&["a"]));
    let first = one.ask(&wanted("x"), "ann").await.unwrap();
    assert!(other.heard(&node("a"), 0).is_empty(), "it has not looked");
    other.look().await.unwrap();
    assert_eq!(other.heard(&node("a"), 0).len(), 1);
    let second = other.ask(&wanted("y"), "bob").await.unwrap();
    assert!(second.number > first.number);
    // As when the database is that of an older day.
    other.heard(&node("a"), 70);
    other.heard(&node("liar"), u64::MAX);
    let third = other.ask(&wanted("z"), "bob").await.unwrap();
    assert_eq!(third.number, 71);
}

#[test]
fn a_node_is_told_a_few_at_a_time_and_how_old_they_are() {
    let asked = |number| Asked {
        number,
        key: Digest::sha256(b"x"),
        name: String::new(),
        actor: String::new(),
        asked_ms: 1000,
    };
    let mut board = Board {
        standing: (1..100).map(asked).collect(),
        done: BTreeMap::new(),
    };
    let told = board.heard(&node("a"), 0, 1500);
    assert_eq!(told.len(), MAX_REMOVALS);
    assert_eq!(told[0].age, Duration::from_millis(500));
    assert_eq!(board.heard(&node("a"), 90, 0)[0].age, Duration::ZERO);
}
