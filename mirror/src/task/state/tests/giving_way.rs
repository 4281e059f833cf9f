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
    for index in 0..15 {
        assert!(reads(&task.apply(at(2), Event::ReadPiece { index })).is_empty());
    }
    // The next one may begin before this one is over once nobody is before it any more.
    task.give_way(false);
    assert_eq!(reads(&task.apply(at(100), Event::Tick)).len(), 1);
}

#[test]
fn clients_here_and_at_children_are_who_waits() {
    let mut task = task(4);
    assert!(!task.is_awaited(at(0)));
    let (reader, piece) = (1, Some(0));
    task.apply(at(0), Event::Cursor { reader, piece });
    assert!(task.is_awaited(at(1)));
    let piece = None;
    task.apply(at(1), Event::Cursor { reader, piece });
    assert!(!task.is_awaited(at(1)));
    // A child may bring it ahead of time, too.
    task.apply(at(2), Event::Followed { children: 1 });
    assert!(!task.is_awaited(at(2)));
    task.apply(at(3), Event::Wanted);
    assert!(task.is_awaited(at(1000)));
    assert!(!task.is_awaited(at(2003)));
}
