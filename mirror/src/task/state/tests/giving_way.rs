//! A download that gives way goes on with one transfer at a time.

use super::*;

#[test]
fn one_parent_is_asked_at_a_time() {
    let mut task = task(64);
    task.give_way(true);
    task.apply(at(0), parents(&[("a", Role::Seed), ("b", Role::Seed)]));
    let mut asked = fetches(&task.apply(at(1), offer("a", 0..64, true)));
    asked.extend(fetches(&task.apply(at(2), offer("b", 0..64, true))));
    let [(request, _, wanted)] = &asked[..] else {
        panic!("{asked:?}");
    };
    let first = wanted[0];
    let pieces = first..first + 1;
    let request = *request;
    task.apply(at(3), Event::Chosen { request, pieces });
    assert!(fetches(&task.apply(at(4), Event::Arrived { index: first })).is_empty());
    let end = RequestEnd::Done;
    let next = fetches(&task.apply(at(5), Event::RequestEnded { request, end }));
    assert_eq!(next.len(), 1, "{next:?}");

    // Nobody is before it any more.
    task.give_way(false);
    let more = fetches(&task.apply(at(100), Event::Tick));
    assert!(more.len() > 1, "{more:?}");
}

#[test]
fn one_range_of_upstream_is_read_at_a_time() {
    let mut task = task(64);
    task.give_way(true);
    let all = 0..64;
    let begun = reads(&task.apply(at(0), lease(1, vec![all])));
    let [(read, _)] = begun[..] else {
        panic!("{begun:?}");
    };
    let ranged = true;
    let begun = Event::ReadBegun { read, ranged };
    assert!(reads(&task.apply(at(1), begun)).is_empty());
    task.give_way(false);
    assert_eq!(reads(&task.apply(at(100), Event::Tick)).len(), 3);
}

#[test]
fn clients_and_children_are_who_waits() {
    let mut task = task(4);
    assert!(!task.is_awaited());
    let (reader, piece) = (1, Some(0));
    task.apply(at(0), Event::Cursor { reader, piece });
    assert!(task.is_awaited());
    let piece = None;
    task.apply(at(1), Event::Cursor { reader, piece });
    assert!(!task.is_awaited());
    task.apply(at(2), Event::Followed { children: 1 });
    assert!(task.is_awaited());
}
