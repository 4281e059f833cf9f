use super::*;
use darner_proto::holdings::Share;

fn key(n: u32) -> ImageKey {
    ImageKey {
        digest: Digest::sha256(&n.to_be_bytes()),
        private: n.is_multiple_of(2),
    }
}

fn held(n: u32, blobs: &[bool]) -> Arc<Held> {
    Arc::new(Held {
        key: key(n),
        names: Vec::new(),
        blobs: Share::of(blobs.iter().copied()),
    })
}

fn facts(n: u32, platform: &str) -> Arc<Facts> {
    Arc::new(Facts {
        digest: key(n).digest,
        platform: platform.to_owned(),
        blobs: Vec::new(),
    })
}

fn snapshot(images: impl IntoIterator<Item = u32>) -> Snapshot {
    let images: Vec<_> = images.into_iter().collect();
    Snapshot {
        images: images
            .iter()
            .map(|n| (key(*n), held(*n, &[true])))
            .collect(),
        facts: images
            .iter()
            .map(|n| (key(*n).digest, facts(*n, "")))
            .collect(),
        left_off: 0,
    }
}

/// Tells all of `now` to a manager that says `reply` to each part; what was told.
fn tell(teller: &mut Teller, now: &Snapshot, reply: &HoldingsReply) -> Vec<HoldingsReport> {
    let mut told = Vec::new();
    while let Some(report) = teller.next(now) {
        assert!(told.len() < 100, "it goes on and on");
        told.push(report.clone());
        teller.answered(report, reply);
    }
    told
}

#[test]
fn all_is_told_in_parts_and_then_what_changes() {
    let mut teller = Teller::default();
    let heard = HoldingsReply::default();
    let many = u32::try_from(MAX_HELD).unwrap() + 1;
    let told = tell(&mut teller, &snapshot(0..many), &heard);
    let parts: Vec<_> = told
        .iter()
        .map(|part| (part.sequence, part.anew, part.held.len()))
        .collect();
    assert_eq!(parts, [(1, true, MAX_HELD), (2, false, 1)]);
    assert!(tell(&mut teller, &snapshot(0..many), &heard).is_empty());

    let mut now = snapshot(1..=many);
    now.images.insert(key(3), held(3, &[true, false]));
    let told = tell(&mut teller, &now, &heard);
    let [part] = &told[..] else {
        panic!("{told:?}")
    };
    let news: BTreeSet<_> = part.held.iter().map(|held| held.key).collect();
    assert_eq!(news, [key(3), key(many)].into());
    assert_eq!(part.gone, [key(0)]);
}

#[test]
fn a_host_that_holds_nothing_says_so_once() {
    let mut teller = Teller::default();
    let nothing = Snapshot::default();
    let told = tell(&mut teller, &nothing, &HoldingsReply::default());
    assert_eq!(told.len(), 1);
    assert!(told[0].anew && told[0].held.is_empty());
    let full = Snapshot {
        left_off: 4,
        ..nothing
    };
    assert_eq!(tell(&mut teller, &full, &HoldingsReply::default()).len(), 1);
}

#[test]
fn what_images_consist_of_is_told_when_asked_and_when_it_changes() {
    let mut teller = Teller::default();
    let mut now = snapshot([1]);
    let first = teller.next(&now).unwrap();
    assert!(first.facts.is_empty());
    let asks = HoldingsReply {
        again: false,
        unknown: vec![key(1).digest],
    };
    teller.answered(first, &asks);
    let told = tell(&mut teller, &now, &HoldingsReply::default());
    assert_eq!(told[0].facts, [facts(1, "")]);
    now.facts.insert(key(1).digest, facts(1, "linux/amd64"));
    let told = tell(&mut teller, &now, &HoldingsReply::default());
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].facts, [facts(1, "linux/amd64")]);
    // Of what is not held nothing is said, however often it is asked for.
    let stranger = HoldingsReply {
        again: false,
        unknown: vec![key(9).digest],
    };
    now.left_off = 1;
    assert_eq!(tell(&mut teller, &now, &stranger).len(), 1);
}

#[test]
fn a_manager_that_has_forgotten_is_told_all_anew() {
    let mut teller = Teller::default();
    let now = snapshot([1, 2]);
    tell(&mut teller, &now, &HoldingsReply::default());
    assert!(!teller.is_lost((1, 1)));
    assert!(teller.is_lost((0, 1)));
    teller.forget();
    // Once is enough, whatever late answers say.
    assert!(!teller.is_lost((0, 1)));
    let told = tell(&mut teller, &now, &HoldingsReply::default());
    assert_eq!(
        (told[0].anew, told[0].held.len(), told[0].sequence),
        (true, 2, 2)
    );

    let more = snapshot([1, 2, 3]);
    let part = teller.next(&more).unwrap();
    let again = HoldingsReply {
        again: true,
        unknown: Vec::new(),
    };
    teller.answered(part, &again);
    let told = tell(&mut teller, &more, &HoldingsReply::default());
    assert_eq!((told[0].anew, told[0].held.len()), (true, 3));
}
