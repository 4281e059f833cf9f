use super::*;
use proptest::prelude::*;

fn held() -> Held {
    let digest = Digest::sha256(b"manifest");
    Held {
        key: ImageKey {
            digest,
            private: true,
        },
        names: vec![Name {
            source: Source {
                registry: "docker.io".parse().unwrap(),
                repository: "library/debian".parse().unwrap(),
            },
            tags: vec![TagName {
                tag: "12".parse().unwrap(),
                named: Digest::sha256(b"index"),
                checked_ms: 7,
            }],
        }],
        blobs: Share::of([true, false, true]),
    }
}

#[test]
fn a_report_survives_the_wire() {
    let facts = Facts {
        digest: held().key.digest,
        platform: "linux/arm64/v8".to_owned(),
        blobs: vec![Blob {
            digest: Digest::sha256(b"blob"),
            size: 9,
            config: true,
        }],
    };
    let report = HoldingsReport {
        sequence: 3,
        anew: true,
        held: vec![Arc::new(held())],
        gone: vec![held().key],
        facts: vec![Arc::new(facts)],
        left_off: 2,
    };
    let told = HoldingsReport::try_from(wire::HoldingsReport::from(&report)).unwrap();
    assert_eq!(told, report);
    let reply = HoldingsReply {
        again: true,
        unknown: vec![held().key.digest],
    };
    let told = HoldingsReply::try_from(wire::HoldingsReply::from(&reply)).unwrap();
    assert_eq!(told, reply);
}

#[test]
fn what_is_told_is_bounded_and_what_is_wrong_refused() {
    let one = wire::HeldImage::from(&held());
    let many = wire::HoldingsReport {
        held: vec![one.clone(); 2 * MAX_HELD],
        ..Default::default()
    };
    let told = HoldingsReport::try_from(many).unwrap();
    assert_eq!(told.held.len(), MAX_HELD);
    let wide = wire::HeldImage {
        blobs: vec![0; MAX_BLOBS].into(),
        ..one.clone()
    };
    let nameless = wire::HeldImage { key: None, ..one };
    for wrong in [wide, nameless] {
        assert!(Held::try_from(wrong).is_err());
    }
    let odd = wire::ImageFacts {
        digest: held().key.digest.to_wire().into(),
        platform: "<script>".to_owned(),
        blobs: Vec::new(),
    };
    assert_eq!(Facts::try_from(odd).unwrap().platform, "");
}

#[test]
fn that_a_tag_was_asked_for_again_is_no_news() {
    let mut again = held();
    again.names[0].tags[0].checked_ms += 1;
    assert!(held().says_as(&again));
    again.names[0].tags[0].named = Digest::sha256(b"another");
    assert!(!held().says_as(&again));
    let more = Held {
        blobs: Share::default(),
        ..held()
    };
    assert!(!held().says_as(&more));
}

proptest! {
    #[test]
    fn a_share_is_what_it_was_made_of(bits in proptest::collection::vec(any::<bool>(), 0..MAX_BLOBS)) {
        let share = Share::of(bits.iter().copied());
        for (at, bit) in bits.iter().enumerate() {
            prop_assert_eq!(share.has(at), *bit);
        }
        prop_assert_eq!(share.is_all(), bits.iter().all(|bit| *bit));
    }
}
