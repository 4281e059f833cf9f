use super::*;

fn source(number: usize) -> Source {
    Source {
        registry: "registry.example".parse().unwrap(),
        repository: format!("team/app{number}").parse().unwrap(),
    }
}

fn records(bounds: Bounds) -> Records {
    let mut records = Records::load(&Loaded::default());
    records.bounds = bounds;
    records
}

fn link(size: u64) -> LinkRecord {
    LinkRecord {
        manifest: false,
        media_type: String::new(),
        size,
    }
}

fn blob(number: u32) -> Digest {
    Digest::sha256(&number.to_be_bytes())
}

/// What an index holds after these changes.
fn index(changes: &[Change]) -> Loaded {
    let mut rows = std::collections::BTreeMap::new();
    for change in changes {
        rows.insert((change.table, change.key.clone()), change.value.clone());
    }
    let of = |table: Table| {
        rows.iter()
            .filter(|((of, _), _)| *of == table)
            .filter_map(|((_, key), value)| Some((key.clone(), value.clone()?)))
            .collect()
    };
    Loaded {
        repositories: of(Table::Repositories),
        tags: of(Table::Tags),
        links: of(Table::Links),
        ..Loaded::default()
    }
}

#[test]
fn the_least_recently_used_repository_goes() {
    let mut records = records(Bounds {
        repositories: 3,
        per_repository: 100,
        records: 100,
    });
    let tag: Tag = "v1".parse().unwrap();
    let record = TagRecord {
        digest: blob(1),
        checked_ms: 1,
    };
    let mut changes = Vec::new();
    for number in 0..3 {
        let now = 1000 + number as u64;
        changes.extend(records.set_tag(&source(number), &tag, &record, now));
        changes.extend(records.add_links(&source(number), &[(blob(1), link(5))], now));
    }
    assert!(records.tag(&source(0), &tag, 2000).is_some());
    changes.extend(records.set_public(&source(3), Some(7), 3000));
    let mut left = records.sources();
    left.sort();
    assert_eq!(left, [source(0), source(2), source(3)]);
    assert_eq!(records.count, 4);

    let mut again = Records::load(&index(&changes));
    let mut left = again.sources();
    left.sort();
    assert_eq!(left, [source(0), source(2), source(3)]);
    assert_eq!(again.count, 4);
    assert_eq!(again.link(&source(2), &blob(1), 0), Some(link(5)));
    assert_eq!(again.public_since(&source(3)), Some(7));
}

#[test]
fn a_repository_of_too_many_records_loses_those_not_set_for_longest() {
    let mut records = records(Bounds {
        repositories: 3,
        per_repository: 10,
        records: 100,
    });
    let mut changes = Vec::new();
    for number in 0..10 {
        changes.extend(records.add_links(&source(0), &[(blob(number), link(1))], 1));
    }
    changes.extend(records.add_links(&source(0), &[(blob(0), link(1))], 1));
    changes.extend(records.add_links(&source(0), &[(blob(10), link(1))], 1));
    assert_eq!(records.count, 5);
    for number in [0, 7, 8, 9, 10] {
        assert!(records.link(&source(0), &blob(number), 1).is_some());
    }
    let mut again = Records::load(&index(&changes));
    assert_eq!(again.count, 5);
    assert!(again.link(&source(0), &blob(1), 1).is_none());
    assert!(again.link(&source(0), &blob(0), 1).is_some());
}

#[test]
fn too_many_records_in_all_cost_other_repositories() {
    let mut records = records(Bounds {
        repositories: 10,
        per_repository: 10,
        records: 8,
    });
    for number in 0..6 {
        records.add_links(&source(0), &[(blob(number), link(1))], 1);
    }
    for number in 0..3 {
        records.add_links(&source(1), &[(blob(number), link(1))], 2);
    }
    assert_eq!(records.sources(), [source(1)]);
    assert_eq!(records.count, 3);
}

#[test]
fn what_does_not_change_is_not_written() {
    let mut records = records(BOUNDS);
    let now = 10 * USE_GRAIN_MS;
    assert_eq!(
        records
            .add_links(&source(0), &[(blob(1), link(1))], now)
            .len(),
        2
    );
    assert_eq!(
        records.add_links(&source(0), &[(blob(1), link(1))], now + 1),
        []
    );
    assert_eq!(
        records
            .add_links(&source(0), &[(blob(1), link(2))], now + 2)
            .len(),
        1
    );
    assert_eq!(records.unsaved_uses().len(), 1);
    assert_eq!(records.unsaved_uses(), []);
}

#[test]
fn rows_that_make_no_sense_are_passed_over() {
    let loaded = Loaded {
        repositories: vec![(b"no slash".to_vec(), vec![1]), (vec![0xff], vec![])],
        tags: vec![
            (b"a.io/b\0latest".to_vec(), vec![9]),
            (b"a.io/b".to_vec(), vec![]),
        ],
        links: vec![(b"a.io/b\0\x01short".to_vec(), link(1).encode())],
        ..Loaded::default()
    };
    let records = Records::load(&loaded);
    assert_eq!(records.sources(), []);
}
