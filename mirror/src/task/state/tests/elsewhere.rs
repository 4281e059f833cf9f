//! What waits long at one parent is asked of another that may send it at once.

use super::*;

/// A piece waits at `first`, which has sent another in 20 ms.
fn waiting() -> Task {
    let mut task = task(2);
    task.start(at(0), false);
    task.apply(
        at(0),
        parents(&[("first", Role::Mirror), ("other", Role::Mirror)]),
    );
    let asked = fetches(&task.apply(at(1), offer("first", 0..2, true)));
    let wanted: Vec<_> = asked.iter().map(|(_, _, want)| want.len()).collect();
    assert_eq!(wanted, [1, 1]);
    let (request, _, want) = &asked[0];
    let (request, index) = (*request, want[0]);
    let pieces = index..index + 1;
    task.apply(at(10), Event::Chosen { request, pieces });
    task.apply(at(30), Event::Arrived { index });
    let end = RequestEnd::Done;
    task.apply(at(30), Event::RequestEnded { request, end });
    task
}

/// What is to be sent at once or not at all.
fn at_once(actions: &[Action]) -> Vec<(u64, String)> {
    let asked = actions.iter().filter_map(|action| match action {
        Action::Fetch {
            request,
            parent,
            at_once: true,
            ..
        } => Some((*request, parent.id.to_string())),
        _ => None,
    });
    asked.collect()
}

fn is_given_up(actions: &[Action]) -> bool {
    let given_up = |action: &Action| matches!(action, Action::CancelFetch(_));
    actions.iter().any(given_up)
}

/// Until when nothing is looked for elsewhere, and what is asked then.
fn next_question(task: &mut Task, mut ms: u64) -> (u64, u64) {
    loop {
        ms += 1;
        let asked = at_once(&task.apply(at(ms), Event::Tick));
        if let [(request, parent)] = asked.as_slice() {
            assert_eq!(parent, "other");
            return (ms, *request);
        }
        assert!(ms < 10_000, "nobody is asked any more");
    }
}

#[test]
fn it_is_asked_for_there_when_it_has_waited_long_and_keeps_its_place() {
    let mut task = waiting();
    let actions = task.apply(at(31), offer("other", 0..2, true));
    assert_eq!(at_once(&actions), [], "it has not waited long");
    let (asked_at, request) = next_question(&mut task, 31);
    assert!((40..=80).contains(&asked_at), "{asked_at}");
    // One question at a time, and nothing is given up for it.
    for ms in asked_at..asked_at + 100 {
        let actions = task.apply(at(ms), Event::Tick);
        assert!(at_once(&actions).is_empty() && !is_given_up(&actions));
    }
    let index = u32::from(task.held.contains(0));
    let pieces = index..index + 1;
    let chosen = task.apply(at(asked_at + 100), Event::Chosen { request, pieces });
    assert!(is_given_up(&chosen), "its place at the first is free now");
}

#[test]
fn after_a_no_the_next_question_comes_later_and_later() {
    let mut task = waiting();
    task.apply(at(31), offer("other", 0..2, true));
    let (mut now, mut request) = next_question(&mut task, 31);
    let mut pauses = Vec::new();
    for _ in 0..3 {
        let end = RequestEnd::Busy {
            again: Some(at(250)),
        };
        let actions = task.apply(at(now), Event::RequestEnded { request, end });
        assert!(at_once(&actions).is_empty() && !is_given_up(&actions));
        let (next, another) = next_question(&mut task, now);
        pauses.push(next - now);
        (now, request) = (next, another);
    }
    assert_eq!(pauses, [20, 40, 80]);
}

/// A parent with a slow uplink has fewer requests than one that answers soon, whatever the scheduler's order.
#[test]
fn of_parents_with_as_many_requests_the_one_that_answers_sooner_comes_first() {
    let mut task = task(64);
    task.start(at(0), false);
    let named = [("late", Role::Mirror), ("soon", Role::Mirror)];
    task.apply(at(0), parents(&named));
    let mut asked = fetches(&task.apply(at(1), offer("late", 0..64, true)));
    asked.extend(fetches(&task.apply(at(1), offer("soon", 0..64, true))));
    let first = |task: &Task| {
        let first = task.links.values().min_by_key(|link| link.rank());
        first.map(|link| link.host.id.to_string())
    };
    assert_eq!(first(&task).as_deref(), Some("late"));
    for (name, ms) in [("soon", 5), ("late", 200)] {
        for (request, _, want) in asked.iter().filter(|(_, parent, _)| parent == name) {
            let (request, pieces) = (*request, want[0]..want[0] + 1);
            task.apply(at(ms), Event::Chosen { request, pieces });
        }
    }
    let in_flight: Vec<_> = task.links.values().map(|link| link.in_flight).collect();
    assert_eq!(in_flight, [2, 2]);
    assert_eq!(first(&task).as_deref(), Some("soon"));
}
