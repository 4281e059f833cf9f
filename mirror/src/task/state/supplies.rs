//! Tests of downloads of files: where they are read comes from other nodes, and their bytes are right
//! by the word of who counts alone.

use super::tests::{at, fetches, geometry_of, offer, parents};
use super::*;
use darner_proto::digest::Digest;
use darner_proto::file::Located;
use darner_proto::id::Role;
use std::sync::Arc;

/// A download of a file that is read nowhere yet.
fn file_task() -> Task {
    let me = "me".parse().expect("valid");
    let geometry = geometry_of(4);
    let held = PieceSet::empty(geometry.pieces());
    Task::new(at(0), Digest::File([1; 32]), me, held, geometry, Vec::new())
}

fn lease_of_file(number: u64) -> Event {
    Event::Scheduler(TaskEvent::Lease(Lease {
        task: Digest::File([1; 32]),
        size: 0,
        lease: number,
        ranges: std::iter::once(0..4).collect(),
        expires_ms: 5000,
        sources: Vec::new(),
    }))
}

fn returned(actions: &[Action]) -> Vec<u64> {
    let returned = actions.iter().filter_map(|action| match action {
        Action::Tell(Input::LeaseReturn(_, number, _)) => Some(*number),
        _ => None,
    });
    returned.collect()
}

#[test]
fn a_lease_on_a_file_waits_for_word_of_where_it_lies() {
    let mut task = file_task();
    let is_read = |action: &Action| matches!(action, Action::Read { .. });
    let waiting = task.apply(at(10), lease_of_file(1));
    assert!(!waiting.iter().any(is_read));
    assert!(!task.apply(at(2000), Event::Tick).iter().any(is_read));
    let supply = Supply::File(Arc::new(Located {
        url: "https://files.example/a".to_owned(),
        validator: None,
    }));
    let reads = task.apply(at(2100), Event::Supplied(supply.clone()));
    let sources = reads.iter().find_map(|action| match action {
        Action::Read { sources, .. } => Some(sources.clone()),
        _ => None,
    });
    assert_eq!(sources, Some(vec![supply]));
}

#[test]
fn a_lease_on_a_file_that_nobody_says_anything_of_is_returned() {
    let mut task = file_task();
    task.apply(at(10), lease_of_file(1));
    // Extending it is no word of where the file lies.
    task.apply(at(2000), lease_of_file(1));
    assert!(returned(&task.apply(at(2900), Event::Tick)).is_empty());
    assert_eq!(returned(&task.apply(at(3100), Event::Tick)), [1]);
    task.apply(at(3200), lease_of_file(2));
    assert!(returned(&task.apply(at(6100), Event::Tick)).is_empty());
    assert_eq!(returned(&task.apply(at(6300), Event::Tick)), [2]);
}

#[test]
fn the_word_of_nobody_who_counts_is_never_taken_for_a_file() {
    let mut task = file_task();
    task.apply(at(0), parents(&[("a", Role::Mirror)]));
    task.apply(at(10), offer("a", 0..4, false));
    for ms in [1000, 2000, 4000, 8000] {
        let actions = task.apply(at(ms), Event::Tick);
        assert!(!actions.contains(&Action::Unvouch));
        assert!(fetches(&actions).is_empty());
    }
}
