//! How a lease is read: in order, by as many requests at once as pay.

use super::*;

#[test]
fn a_reader_waits_for_its_children_but_not_for_ever() {
    let mut task = task(200);
    task.apply(at(0), lease(1, vec![0..200]));
    task.apply(at(0), Event::Followed { children: 1 });
    let ranged = true;
    task.apply(at(1), Event::ReadBegun { read: 1, ranged });
    for index in 0..80 {
        task.apply(at(2), Event::ReadPiece { index });
        if index % 16 == 15 {
            let (read, result) = (u64::from(index / 16) + 1, Ok(()));
            task.apply(at(2), Event::ReadEnded { read, result });
        }
    }
    assert_eq!(reads(&task.apply(at(3), Event::Tick)), []);
    let copied = |pieces| Event::Copied { pieces };
    assert_eq!(reads(&task.apply(at(4), copied(0..16))), []);
    let some = reads(&task.apply(at(5), copied(16..17)));
    assert_eq!(some, [(6, 80..96)]);
    assert_eq!(reads(&task.apply(at(1006), Event::Tick)), []);
}

/// Bytes come from upstream every 10 ms, at a rate that depends on how many reads are under way, and
/// are told as the driver does. Gives the reads with when they began, in milliseconds.
fn read_all(pieces: u32, rate: impl Fn(usize) -> u64) -> Vec<(u64, Range<u32>)> {
    let mut task = task(u64::from(pieces));
    let mut began = Vec::new();
    let mut open: BTreeMap<u64, (Range<u32>, u64)> = BTreeMap::new();
    let mut actions = task.apply(at(0), lease(1, vec![0..pieces]));
    for ms in (0u64..).step_by(10) {
        let mut answered = Vec::new();
        for (read, pieces) in reads(&actions) {
            began.push((ms, pieces.clone()));
            open.insert(read, (pieces, 0));
            let ranged = true;
            answered.extend(task.apply(at(ms), Event::ReadBegun { read, ranged }));
        }
        actions = answered;
        assert!(open.len() <= 4, "{open:?}");
        let bytes = rate(open.len()) / 100 / open.len().max(1) as u64;
        for read in open.keys().copied().collect::<Vec<_>>() {
            actions.extend(task.apply(at(ms), Event::ReadBytes { bytes }));
            let (pieces, got) = open.get_mut(&read).expect("open");
            *got += bytes;
            while *got >= MIB && pieces.start < pieces.end {
                *got -= MIB;
                let index = pieces.start;
                pieces.start += 1;
                actions.extend(task.apply(at(ms), Event::ReadPiece { index }));
            }
            if pieces.start == pieces.end {
                open.remove(&read);
                let result = Ok(());
                actions.extend(task.apply(at(ms), Event::ReadEnded { read, result }));
            }
        }
        if task.held().is_full() {
            return began;
        }
        assert!(ms < 600_000, "it does not end: {open:?}");
    }
    began
}

#[test]
fn a_blob_is_read_in_order_where_the_link_is_the_limit() {
    let began = read_all(256, |_| 125_000_000);
    let firsts: Vec<_> = began.iter().map(|(_, pieces)| pieces.start).collect();
    assert!(firsts.is_sorted(), "{began:?}");
    // As few requests as without trying whether more of them at once are faster.
    assert!(began.len() <= 256 / 16 + 2, "{began:?}");
    // The next one is asked for before the one before is over: there are no gaps.
    let took = began.last().map(|(ms, _)| *ms).expect("reads");
    assert!(took < 2200, "{began:?}");
}

#[test]
fn several_are_read_at_once_where_each_connection_is_limited() {
    let began = read_all(256, |open| 10_000_000 * open as u64);
    let took = began.last().map(|(ms, _)| *ms).expect("reads");
    assert!(took < 256 * 1000 / 38 + 1500, "{began:?}");
    // The last ones are short, so that a client that reads in order has all but the end.
    let last = began.iter().map(|(_, pieces)| pieces.len()).rev().take(3);
    assert!(last.max() <= Some(4), "{began:?}");
}

#[test]
fn a_large_blob_is_read_by_one_request_until_ranges_are_known() {
    let mut task = task(100);
    let begun = reads(&task.apply(at(0), lease(1, vec![0..100])));
    assert_eq!(begun, [(1, 0..16)]);
    for index in 0..15 {
        assert_eq!(reads(&task.apply(at(1), Event::ReadPiece { index })), []);
    }
    let ranged = true;
    let begun = Event::ReadBegun { read: 1, ranged };
    assert_eq!(reads(&task.apply(at(2), begun)), [(2, 16..32)]);
}

#[test]
fn an_upstream_without_ranges_is_read_in_one_stream() {
    let mut task = task(100);
    task.apply(at(0), lease(1, vec![0..100]));
    let actions = task.apply(
        at(1),
        Event::ReadBegun {
            read: 1,
            ranged: false,
        },
    );
    assert_eq!(reads(&actions), []);
    for index in 0..100 {
        assert_eq!(reads(&task.apply(at(2), Event::ReadPiece { index })), []);
    }
    assert!(task.held().is_full());
}

#[test]
fn a_lease_that_shrinks_stops_what_is_outside_it() {
    let mut task = task(100);
    task.apply(at(0), lease(1, vec![0..100]));
    let ranged = true;
    task.apply(at(1), Event::ReadBegun { read: 1, ranged });
    for index in 0..12 {
        task.apply(at(2), Event::ReadPiece { index });
    }
    let actions = task.apply(at(3), lease(1, vec![0..16]));
    assert!(actions.contains(&Action::CancelRead(2)), "{actions:?}");
    assert!(!actions.contains(&Action::CancelRead(1)), "{actions:?}");
}
