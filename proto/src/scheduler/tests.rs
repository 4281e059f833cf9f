use prost::Message as _;

use super::*;
use crate::id::Role;

fn host() -> Host {
    Host {
        id: "seed-1".parse().expect("valid"),
        address: "10.0.0.5:7421".to_owned(),
        role: Role::Seed,
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        signing_key: Some(SigningKey([7; 32])),
        upload_slots: 8,
    }
}

fn node_messages() -> Vec<NodeMessage> {
    let task = Digest::sha256(b"content");
    let mut held = PieceSet::empty(5);
    held.insert_range(1..3);
    let source = Source {
        registry: "docker.io".parse().expect("valid"),
        repository: "library/debian".parse().expect("valid"),
    };
    vec![
        NodeMessage::Hello(host()),
        NodeMessage::Heartbeat,
        NodeMessage::Inventory {
            keys: vec![task],
            listed: true,
        },
        NodeMessage::Withdraw(vec![task]),
        NodeMessage::Join(Join {
            task,
            size: 5 << 20,
            sources: vec![source],
            held,
            lease: Some(LeaseClaim {
                lease: 9,
                ranges: vec![0..5],
            }),
        }),
        NodeMessage::Progress(Progress {
            task,
            gained: vec![0..1, 4..5],
            upstream_bytes: 77,
            upstream_ranges: Some(true),
            rates: vec![ParentRate {
                parent: "m-2".parse().expect("valid"),
                bytes_per_second: 125_000_000,
            }],
        }),
        NodeMessage::Leave {
            task,
            outcome: Outcome::Complete,
        },
        NodeMessage::ParentFailed {
            task,
            parent: "m-2".parse().expect("valid"),
            kind: FailureKind::WrongBytes,
        },
        NodeMessage::LeaseReturn {
            task,
            lease: 9,
            reason: ReturnReason::Unavailable,
        },
        NodeMessage::Find {
            request: 3,
            key: task,
        },
    ]
}

fn scheduler_messages() -> Vec<SchedulerMessage> {
    let task = Digest::sha256(b"content");
    vec![
        SchedulerMessage::Welcome {
            scheduler: "s-1".parse().expect("valid"),
        },
        SchedulerMessage::Members(vec![host()]),
        SchedulerMessage::Parents {
            task,
            parents: vec![Parent {
                host: host(),
                complete: true,
            }],
            signers: vec![(host().id, SigningKey([7; 32]))],
        },
        SchedulerMessage::Lease(Lease {
            task,
            size: 4 << 20,
            lease: 2,
            ranges: vec![0..2, 3..4],
            expires_ms: 5000,
            sources: Vec::new(),
        }),
        SchedulerMessage::LeaseRevoked { task, lease: 2 },
        SchedulerMessage::Ask(task),
        SchedulerMessage::Found {
            request: 3,
            holders: vec![host()],
        },
        SchedulerMessage::NoSource {
            task,
            reason: ReturnReason::Refused,
        },
    ]
}

#[test]
fn every_message_survives_the_wire() {
    for message in node_messages() {
        assert_eq!(
            NodeMessage::try_from(wire::NodeMessage::from(&message)),
            Ok(message)
        );
    }
    for message in scheduler_messages() {
        assert_eq!(
            SchedulerMessage::try_from(wire::SchedulerMessage::from(&message)),
            Ok(message)
        );
    }
}

/// A field that no version has yet, as a later one would write it: number 1000, some bytes.
const LATER_FIELD: [u8; 6] = [0xc2, 0x3e, 0x03, b'n', b'e', b'w'];

#[test]
fn fields_of_a_later_version_are_ignored() {
    for message in node_messages() {
        let mut bytes = wire::NodeMessage::from(&message).encode_to_vec();
        bytes.extend(LATER_FIELD);
        let read = wire::NodeMessage::decode(bytes.as_slice()).expect("still a message");
        assert_eq!(NodeMessage::try_from(read), Ok(message));
    }
    let mut bytes = wire::Host::from(&host()).encode_to_vec();
    bytes.extend(LATER_FIELD);
    let read = wire::Host::decode(bytes.as_slice()).expect("still a host");
    assert_eq!(Host::try_from(read), Ok(host()));
    // A kind of message that only a later version has: it can be told from damage, and skipped.
    let read = wire::SchedulerMessage::decode(LATER_FIELD.as_slice()).expect("still a message");
    let refusal = SchedulerMessage::try_from(read).expect_err("unknown");
    assert!(refusal.to_string().contains("does not know"), "{refusal}");
}

#[test]
fn another_protocol_is_refused_by_name() {
    let mut hello = wire::NodeMessage::from(&NodeMessage::Hello(host()));
    if let Some(wire::node_message::Body::Hello(hello)) = &mut hello.body {
        hello.protocol = 2;
    }
    let refusal = NodeMessage::try_from(hello)
        .expect_err("refused")
        .to_string();
    assert!(
        refusal.contains("version 2") && refusal.contains("version 1"),
        "{refusal}"
    );
}

#[test]
fn a_join_about_pieces_that_cannot_be_is_refused() {
    let join = wire::Join {
        task: Digest::sha256(b"content").to_wire().into(),
        size: 1 << 20,
        held: vec![wire::PieceRange { first: 0, count: 2 }],
        ..wire::Join::default()
    };
    assert!(Join::try_from(join).is_err());
}
