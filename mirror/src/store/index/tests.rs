use super::*;

fn set(key: &[u8], value: &[u8]) -> Change {
    Change::set(Table::PieceMaps, key.to_vec(), value.to_vec())
}

fn open(directory: &Path) -> (Index, Loaded) {
    let path = directory.join("index.redb");
    Index::open(&path, &directory.join("aside")).unwrap()
}

#[test]
fn changes_are_seen_at_once_and_last() {
    let directory = tempfile::tempdir().unwrap();
    let (index, _) = open(directory.path());
    let get = |index: &Index, key: &[u8]| index.get(Table::PieceMaps, key);
    index
        .submit(vec![set(b"a", b"1"), set(b"b", b"1")])
        .unwrap();
    assert_eq!(get(&index, b"a"), Some(b"1".to_vec()));
    index.commit(vec![set(b"a", b"2")]).unwrap();
    assert_eq!(get(&index, b"a"), Some(b"2".to_vec()));
    let remove = Change::remove(Table::PieceMaps, b"b".to_vec());
    index.submit(vec![remove]).unwrap();
    assert_eq!(get(&index, b"b"), None);
    assert_eq!(index.get(Table::Blobs, b"a"), None);
    drop(index);
    let (index, _) = open(directory.path());
    assert_eq!(get(&index, b"a"), Some(b"2".to_vec()));
    assert_eq!(get(&index, b"b"), None);
}

#[test]
fn what_was_committed_by_many_at_once_is_all_there() {
    let directory = tempfile::tempdir().unwrap();
    let (index, _) = open(directory.path());
    std::thread::scope(|scope| {
        for writer in 0..4u8 {
            let index = &index;
            scope.spawn(move || {
                for number in 0..20u8 {
                    let change = Change::set(Table::Blobs, vec![writer, number], vec![1]);
                    index.commit(vec![change]).unwrap();
                }
            });
        }
    });
    // As a killed process leaves it.
    let copy = tempfile::tempdir().unwrap();
    let from = directory.path().join("index.redb");
    std::fs::copy(from, copy.path().join("index.redb")).unwrap();
    let (_, loaded) = open(copy.path());
    assert_eq!(loaded.blobs.len(), 80);
}

#[test]
fn an_index_that_cannot_be_written_remembers_and_catches_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.redb");
    let (index, _) = open(directory.path());
    index.commit(vec![set(b"a", b"1")]).unwrap();
    // The next write finds no database, and a directory where its file should be.
    index.shared.lose_database();
    let moved = directory.path().join("moved");
    std::fs::rename(&path, &moved).unwrap();
    std::fs::create_dir(&path).unwrap();
    let failed = index.commit(vec![set(b"a", b"2"), set(b"c", b"3")]);
    assert!(matches!(failed, Err(StoreError::Index(_))), "{failed:?}");
    assert!(index.submit(vec![set(b"d", b"4")]).is_err());
    assert_eq!(index.get(Table::PieceMaps, b"c"), Some(b"3".to_vec()));
    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(&moved, &path).unwrap();
    index.commit(Vec::new()).unwrap();
    drop(index);
    let (index, _) = open(directory.path());
    for (key, value) in [(b"a", b"2"), (b"c", b"3"), (b"d", b"4")] {
        assert_eq!(index.get(Table::PieceMaps, key), Some(value.to_vec()));
    }
}
