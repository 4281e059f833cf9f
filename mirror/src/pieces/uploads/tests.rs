use darner_proto::digest::Digest;
use darner_proto::geometry::Geometry;
use darner_proto::piece_set::PieceSet;

use super::*;

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

fn ask(uploads: &mut Uploads, ms: u64, asked: (u64, u64), want: Range<u32>) -> Vec<Action> {
    ask_for(uploads, ms, asked, (want, true))
}

fn ask_for(
    uploads: &mut Uploads,
    ms: u64,
    (request, child): (u64, u64),
    (want, awaited): (Range<u32>, bool),
) -> Vec<Action> {
    let held = PieceSet::full(4);
    uploads.apply(
        at(ms),
        Event::Asked {
            request,
            child: Child(child),
            wait: if awaited { Wait::InTurn } else { Wait::Idly },
            holding: holding(&held, true),
            want: &[want],
        },
    )
}

/// Lets time pass until this is done, before anything else.
fn until_told(uploads: &mut Uploads, action: Action) -> Duration {
    loop {
        let due = uploads.next().expect("somebody waits");
        let actions = uploads.apply(due, Event::Tick);
        if !actions.is_empty() {
            assert_eq!(actions, [action]);
            return due;
        }
    }
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
    let again = Duration::ZERO;
    let busy = Action::Busy { request: 3, again };
    let due = until_told(&mut uploads, busy);
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

/// Ends what is being sent until nothing more begins, and gives the order in which it began.
fn served(uploads: &mut Uploads, ms: u64, first: u64) -> Vec<u64> {
    let (mut order, mut request) = (vec![first], first);
    loop {
        let actions = uploads.apply(at(ms), Event::Sent { request });
        let begun = actions.iter().find_map(|action| match action {
            Action::Send { request, .. } => Some(*request),
            _ => None,
        });
        let Some(next) = begun else { return order };
        request = next;
        order.push(next);
    }
}

#[test]
fn what_somebody_waits_for_goes_before_what_nobody_does() {
    let mut uploads = Uploads::new(1);
    assert_eq!(ask(&mut uploads, 0, (1, 1), 0..1).len(), 1);
    for (request, awaited) in [(2, false), (3, false), (4, true), (5, true)] {
        let asked = ask_for(&mut uploads, 1, (request, request), (0..4, awaited));
        assert_eq!(asked, []);
    }
    assert_eq!(served(&mut uploads, 2, 1), [1, 4, 5, 2, 3]);
}

#[test]
fn what_waits_elsewhere_is_sent_at_once_or_not_at_all() {
    let mut uploads = Uploads::new(1);
    let held = PieceSet::full(4);
    let at_once = |uploads: &mut Uploads, ms, request, child| {
        let asked = Event::Asked {
            request,
            child: Child(child),
            wait: Wait::Not,
            holding: holding(&held, false),
            want: std::slice::from_ref(&(0..4)),
        };
        uploads.apply(at(ms), asked)
    };
    let sent = at_once(&mut uploads, 1, 1, 1);
    assert!(matches!(sent[..], [Action::Send { request: 1, .. }]));
    let refused = at_once(&mut uploads, 1, 2, 2);
    assert!(matches!(refused[..], [Action::Busy { request: 2, .. }]));
    assert_eq!((uploads.sending(), uploads.waiting()), (1, 0));
    assert_eq!(ask(&mut uploads, 1, (3, 3), 0..4), []);
    assert_eq!(served(&mut uploads, 2, 1), [1, 3]);
    // In a full queue nobody has to go for it either.
    assert_eq!(ask(&mut uploads, 3, (10, 10), 0..4).len(), 1);
    let mut next = 11;
    while ask_for(&mut uploads, 3, (next, next), (0..4, false)).is_empty() {
        next += 1;
    }
    let refused = at_once(&mut uploads, 3, 100, 100);
    assert!(matches!(refused[..], [Action::Busy { request: 100, .. }]));
}

#[test]
fn what_nobody_waits_for_does_not_stand_still() {
    let mut uploads = Uploads::new(1);
    assert_eq!(ask(&mut uploads, 0, (1, 1), 0..1).len(), 1);
    assert_eq!(ask_for(&mut uploads, 1, (2, 2), (0..4, false)), []);
    let waited = 2 + WAITED.as_millis() as u64;
    assert_eq!(ask(&mut uploads, waited, (3, 3), 0..4), []);
    assert_eq!(served(&mut uploads, waited, 1), [1, 2, 3]);
}

/// A link that takes a third of a second for a piece: what a source has sent is sent again only when all that
/// waits has been sent once, though everybody has waited for more than a second.
#[test]
fn on_a_slow_link_too_a_source_sends_everything_once_before_anything_twice() {
    let mut uploads = Uploads::new(1);
    let (mut now, mut request) = (0, 100);
    let mut held = PieceSet::empty(16);
    let ask = |uploads: &mut Uploads, now, number, want: Range<u32>, held: &PieceSet| {
        let want = [want];
        let asked = Event::Asked {
            request: number,
            child: Child(number),
            wait: Wait::InTurn,
            holding: holding(held, true),
            want: &want,
        };
        uploads.apply(at(now), asked)
    };
    held.insert_range(0..8);
    // How slow it is, is learnt.
    for piece in 0..8 {
        ask(&mut uploads, now, request, piece..piece + 1, &held);
        now += 333;
        uploads.apply(at(now), Event::Sent { request });
        request += 1;
    }
    held.insert_range(8..16);
    // The first comes again for what has been sent, and others for what has not.
    ask(&mut uploads, now, 1, 8..9, &held);
    ask(&mut uploads, now, 2, 0..1, &held);
    for number in 3..10 {
        let piece = 6 + number as u32;
        ask(&mut uploads, now, number, piece..piece + 1, &held);
    }
    let (mut order, mut request) = (vec![1], 1);
    for _ in 0..8 {
        now += 333;
        let actions = uploads.apply(at(now), Event::Sent { request });
        let begun = actions.iter().find_map(|action| match action {
            Action::Send { request, .. } => Some(*request),
            _ => None,
        });
        request = begun.expect("somebody waits");
        order.push(request);
    }
    assert_eq!(order, [1, 3, 4, 5, 6, 7, 8, 9, 2]);
}

#[test]
fn in_a_full_queue_what_nobody_waits_for_makes_place() {
    let mut uploads = Uploads::new(1);
    ask(&mut uploads, 0, (1, 1), 0..1);
    let places = uploads.places() as u64;
    for request in 2..2 + places {
        let awaited = request % 2 == 0;
        let asked = ask_for(&mut uploads, 0, (request, request), (0..4, awaited));
        assert_eq!(asked, []);
    }
    let (last, next) = (1 + places, 2 + places);
    let last = if last % 2 == 1 { last } else { last - 1 };
    let busy = |actions: &[Action]| match actions {
        [Action::Busy { request, .. }] => *request,
        other => panic!("{other:?}"),
    };
    let patient = ask_for(&mut uploads, 0, (next, next), (0..4, false));
    assert_eq!(busy(&patient), next);
    let awaited = ask(&mut uploads, 0, (next + 1, next + 1), 0..4);
    assert_eq!(busy(&awaited), last);
    assert_eq!(uploads.waiting() as u64, places);
}

/// A source that two children follow.
fn source_of(uploads: &mut Uploads, held: &PieceSet) {
    for child in [1, 2] {
        let (child, holding) = (Child(child), holding(held, true));
        uploads.apply(at(0), Event::Watched { child, holding });
    }
}

fn ask_of(
    uploads: &mut Uploads,
    ms: u64,
    (request, child): (u64, u64),
    (held, want): (&PieceSet, Range<u32>),
) -> Vec<Action> {
    let asked = Event::Asked {
        request,
        child: Child(child),
        wait: Wait::InTurn,
        holding: holding(held, true),
        want: &[want],
    };
    uploads.apply(at(ms), asked)
}

/// A request names what was there when it was made.
#[test]
fn who_waits_for_what_is_out_is_to_ask_anew_for_what_has_come_since() {
    let mut uploads = Uploads::new(16);
    let mut held = PieceSet::empty(16);
    held.insert_range(0..2);
    source_of(&mut uploads, &held);
    for (request, child, piece) in [(1, 1, 0), (2, 3, 1)] {
        let want = (&held, piece..piece + 1);
        let sent = ask_of(&mut uploads, 0, (request, child), want);
        assert!(matches!(sent[..], [Action::Send { .. }]));
    }
    assert_eq!(ask_of(&mut uploads, 1, (3, 2), (&held, 0..2)), []);
    let gained = Event::Gained {
        task: task(),
        piece: 2,
    };
    let (request, again) = (3, ANEW);
    let busy = Action::Busy { request, again };
    assert_eq!(uploads.apply(at(2), gained), [busy]);
    held.insert_range(2..3);
    let sent = ask_of(&mut uploads, 3, (4, 2), (&held, 0..3));
    assert!(matches!(sent[..], [Action::Send { request: 4, .. }]));
    // Nothing has come since it asked: it waits, as whoever does not want the rest.
    assert_eq!(ask_of(&mut uploads, 4, (5, 2), (&held, 0..1)), []);
}
