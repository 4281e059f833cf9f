//! Searches: who holds this?

use super::*;

fn found(cluster: &mut Cluster, name: &str) -> Option<(u64, Vec<String>)> {
    cluster
        .heard(name)
        .into_iter()
        .find_map(|message| match message {
            SchedulerMessage::Found { request, holders } => {
                let holders = holders.iter().map(|host| host.id.to_string());
                Some((request, holders.collect()))
            }
            _ => None,
        })
}

fn find(request: u64) -> NodeMessage {
    NodeMessage::Find {
        request,
        key: task(),
    }
}

#[test]
fn known_holders_are_named_at_once_and_nobody_when_all_have_listed() {
    let mut cluster = Cluster::of(&["s-1"], &["m-1", "m-2"]);
    cluster.say("m-1", find(1));
    assert_eq!(found(&mut cluster, "m-1"), Some((1, vec![])));
    cluster.list("m-2", &[task()]);
    cluster.list("m-1", &[task()]);
    cluster.say("m-1", find(2));
    assert_eq!(
        found(&mut cluster, "m-1"),
        Some((2, vec!["m-2".to_owned()]))
    );
}

#[test]
fn who_has_not_listed_yet_is_asked() {
    let mut cluster = Cluster::of(&[], &["m-1"]);
    cluster.attend("m-2", Role::Mirror);
    cluster.say("m-1", find(1));
    assert_eq!(found(&mut cluster, "m-1"), None);
    assert!(
        cluster
            .heard("m-2")
            .contains(&SchedulerMessage::Ask(task()))
    );
    cluster.say(
        "m-2",
        NodeMessage::Inventory {
            keys: vec![task()],
            listed: false,
        },
    );
    assert_eq!(
        found(&mut cluster, "m-1"),
        Some((1, vec!["m-2".to_owned()]))
    );
}

#[test]
fn the_answer_comes_within_a_second_and_as_soon_as_all_have_listed() {
    let mut cluster = Cluster::of(&[], &["m-1"]);
    cluster.attend("m-2", Role::Mirror);
    cluster.say("m-1", find(1));
    cluster.pass(900);
    assert_eq!(found(&mut cluster, "m-1"), Some((1, vec![])));
    cluster.say("m-1", find(2));
    cluster.list("m-2", &[]);
    assert_eq!(found(&mut cluster, "m-1"), Some((2, vec![])));
}

#[test]
fn near_holders_come_first_and_at_most_eight() {
    let mut cluster = Cluster::new(0);
    for n in 0..20u64 {
        let mut one = host(&format!("m-{n}"), Role::Mirror);
        let zone = if n % 4 == 0 { "a" } else { "b" };
        one.labels.insert("zone".to_owned(), zone.to_owned());
        let session = SessionId(n + 1);
        cluster.nodes.insert(format!("m-{n}"), session);
        cluster.apply(Event::Message(session, NodeMessage::Hello(one)));
        let keys = if n == 0 { vec![] } else { vec![task()] };
        cluster.list(&format!("m-{n}"), &keys);
    }
    cluster.say("m-0", find(1));
    let (_, holders) = found(&mut cluster, "m-0").expect("answered");
    assert_eq!(holders.len(), 8);
    let mut near = holders[..4].to_vec();
    near.sort();
    assert_eq!(near, ["m-12", "m-16", "m-4", "m-8"]);
}

#[test]
fn one_that_floods_with_lookups_leaves_others_their_answers_and_is_sent_away() {
    let mut cluster = Cluster::of(&[], &["m-1", "liar"]);
    // It has not told yet what it holds: searches wait for it.
    cluster.attend("m-2", Role::Mirror);
    let key = |number: u64| Digest::sha256(&number.to_be_bytes());
    let lookup = |request| NodeMessage::Find {
        request,
        key: key(request),
    };
    (0..500).for_each(|number| cluster.say("liar", lookup(number)));
    let answered = cluster.heard("liar").len();
    assert!(
        answered >= 500 - 64,
        "{answered}: all but a few have had their answer"
    );
    let asked = cluster.heard("m-2").len();
    assert!(asked <= 300, "{asked} questions for one node");
    cluster.say("m-1", find(1));
    assert_eq!(found(&mut cluster, "m-1"), None);
    let keys = vec![task()];
    let listed = false;
    cluster.say("m-2", NodeMessage::Inventory { keys, listed });
    let holder = Some((1, vec!["m-2".to_owned()]));
    assert_eq!(found(&mut cluster, "m-1"), holder);
    let liar = cluster.nodes["liar"];
    (500..2000).for_each(|number| {
        if !cluster.closed.iter().any(|(session, _)| *session == liar) {
            cluster.say("liar", lookup(number));
        }
    });
    assert_eq!(cluster.closed, [(liar, CloseReason::Flooding)]);
}
