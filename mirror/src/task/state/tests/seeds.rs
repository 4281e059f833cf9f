//! What a seed is asked for: it alone knows what it has sent to nobody yet.

use super::*;

fn at_seed(task: &mut Task, ms: u64, pieces: Range<u32>) -> Vec<Action> {
    task.apply(at(ms), offer("seed", pieces, true))
}

/// Three parents, of which one is a seed and has everything.
fn begun() -> (Task, Vec<Action>) {
    let mut task = task(64);
    task.start(at(0), false);
    let named = [
        ("a", Role::Mirror),
        ("b", Role::Mirror),
        ("seed", Role::Seed),
    ];
    task.apply(at(0), parents(&named));
    let actions = at_seed(&mut task, 1, 0..24);
    (task, actions)
}

#[test]
fn a_seed_may_choose_among_many_pieces_and_a_peer_among_its_share() {
    let (_, actions) = begun();
    let fetches = fetches(&actions);
    let wanted: Vec<_> = fetches.iter().map(|(_, _, want)| want.len()).collect();
    assert_eq!(wanted, [16, 8]);
    let (mut task, _) = begun();
    let actions = task.apply(at(2), offer("a", 32..56, true));
    let share = super::fetches(&actions);
    assert!(
        share
            .iter()
            .all(|(_, parent, want)| parent == "a" && want.len() <= 4)
    );
    assert!(!share.is_empty());
}

#[test]
fn a_busy_seed_is_asked_again_when_it_tells_of_more() {
    let (mut task, actions) = begun();
    let again = Some(at(400));
    for (request, _, _) in fetches(&actions) {
        let end = RequestEnd::Busy { again };
        let actions = task.apply(at(2), Event::RequestEnded { request, end });
        assert!(fetches(&actions).is_empty());
    }
    assert!(
        fetches(&at_seed(&mut task, 3, 0..24)).is_empty(),
        "nothing is new"
    );
    let asked = fetches(&at_seed(&mut task, 4, 24..25));
    assert!(asked.iter().any(|(_, parent, _)| parent == "seed"));
}
