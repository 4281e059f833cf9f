use super::*;
use darner_proto::digest::Digest;

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn task() -> TaskId {
    Digest::sha256(b"content")
}

fn geometry(pieces: u64) -> Geometry {
    Geometry::of(pieces << 20)
}

fn holding(held: &PieceSet, source: bool) -> Holding<'_> {
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
