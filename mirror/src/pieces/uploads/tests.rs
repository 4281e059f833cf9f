use super::*;
use darner_proto::digest::Digest;

pub(super) fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) fn task() -> TaskId {
    Digest::sha256(b"content")
}

fn geometry(pieces: u64) -> Geometry {
    Geometry::of(pieces << 20)
}

pub(super) fn holding(held: &PieceSet, source: bool) -> Holding<'_> {
    Holding {
        task: task(),
        geometry: geometry(u64::from(held.pieces())),
        held,
        source,
    }
}

#[test]
fn a_new_piece_of_a_source_goes_to_one_child_at_first() {
    let mut uploads = Uploads::new(16);
    let held = PieceSet::empty(4);
    for child in [1, 2] {
        uploads.apply(
            at(0),
            Event::Watched {
                child: Child(child),
                holding: holding(&held, true),
            },
        );
    }
    uploads.apply(
        at(1),
        Event::Gained {
            task: task(),
            piece: 0,
        },
    );
    uploads.apply(
        at(1),
        Event::Gained {
            task: task(),
            piece: 1,
        },
    );
    let of = |uploads: &Uploads, child, ms| {
        let withheld = uploads.withheld(at(ms), &task(), Child(child));
        withheld.map(|withheld| withheld.pieces.iter().collect::<Vec<_>>())
    };
    assert_eq!(of(&uploads, 1, 2), Some(vec![1]));
    assert_eq!(of(&uploads, 2, 2), Some(vec![0]));
    assert_eq!(of(&uploads, 1, 100), None);
}

fn ask(
    uploads: &mut Uploads,
    ms: u64,
    (request, child): (u64, u64),
    want: Range<u32>,
) -> Vec<Action> {
    let held = PieceSet::full(4);
    uploads.apply(
        at(ms),
        Event::Asked {
            request,
            child: Child(child),
            holding: holding(&held, true),
            want: &[want],
        },
    )
}

#[test]
fn what_is_out_waits_while_a_first_copy_is_passed_on() {
    let mut uploads = Uploads::new(16);
    let send = |request, piece| Action::Send {
        request,
        pieces: piece..piece + 1,
    };
    assert_eq!(ask(&mut uploads, 0, (1, 1), 0..2), [send(1, 0)]);
    assert_eq!(ask(&mut uploads, 1, (2, 2), 0..2), [send(2, 1)]);
    assert_eq!(ask(&mut uploads, 2, (3, 3), 0..2), []);
    let due = uploads.next().expect("it waits");
    let again = Duration::ZERO;
    let busy = Action::Busy { request: 3, again };
    assert_eq!(uploads.apply(due, Event::Tick), [busy]);
    let later = due.as_millis() as u64 + 1;
    assert_eq!(ask(&mut uploads, later, (4, 3), 0..2), [send(4, 0)]);
}

#[test]
fn one_child_has_two_places_in_the_queue() {
    let mut uploads = Uploads::new(1);
    assert_eq!(ask(&mut uploads, 0, (1, 1), 0..1).len(), 1);
    assert_eq!(ask(&mut uploads, 0, (2, 2), 1..4), []);
    assert_eq!(ask(&mut uploads, 0, (3, 2), 1..4), []);
    let third = ask(&mut uploads, 0, (4, 2), 1..4);
    assert!(matches!(third[..], [Action::Busy { request: 4, .. }]));
}
