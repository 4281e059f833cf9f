//! Restarts after a process was killed or a disk lost something.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use super::*;

/// Every file with its content and every directory with its mode.
fn everything(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mode = std::fs::metadata(directory).unwrap().permissions().mode();
    found.insert(directory.to_owned(), mode.to_string().into_bytes());
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(everything(&path));
        } else {
            let content = std::fs::read(&path).unwrap();
            found.insert(path, content);
        }
    }
    found
}

#[tokio::test]
async fn committed_content_is_there_at_once_after_a_crash() {
    let fixture = fixture(1 << 30);
    let sample = Sample::new(2 * MIB, 1);
    sample.download(&fixture.store).await;
    let crashed = fixture.crash();
    let store = open(&crashed).unwrap();
    assert_eq!(store.size_of(&sample.digest), Some(sample.size()));
    assert_eq!(
        read(&store.get(&sample.digest).unwrap()).await,
        sample.content
    );
}

#[tokio::test]
async fn whenever_it_is_killed_the_store_has_verified_content_or_goes_on() {
    let sample = Sample::new(2 * MIB + 5, 1);
    for steps in 0..=5 {
        let fixture = fixture(1 << 30);
        let partial = fixture.store.begin(&sample.digest, sample.size());
        let partial = partial.await.unwrap();
        sample.write(&partial, 0..steps.min(3)).await;
        if steps >= 4 {
            partial.verify().await.unwrap();
        }
        if steps == 5 {
            partial.clone().commit().await.unwrap();
        }
        let crashed = fixture.crash();
        let store = open(&crashed).unwrap();
        let visible = store.get(&sample.digest);
        assert_eq!(visible.is_some(), steps == 5, "after {steps} steps");
        let content = match visible {
            Some(content) => content,
            None => {
                let left = store.begin(&sample.digest, sample.size()).await.unwrap();
                assert_eq!(left.restored().0.len(), steps.min(3));
                drop(left);
                sample.download(&store).await
            }
        };
        assert_eq!(read(&content).await, sample.content);
    }
}

#[tokio::test]
async fn a_file_that_is_not_in_the_index_counts_once_it_has_been_hashed() {
    let fixture = fixture(1 << 30);
    fixture.store.flush().await;
    let crashed = fixture.crash();
    // Killed between the name and the index, once whole and once with lost bytes.
    let (good, bad) = (bytes(MIB, 1), bytes(MIB, 2));
    let (good_digest, bad_digest) = (Digest::sha256(&good), Digest::sha256(&bad));
    std::fs::write(blob(&crashed, &good_digest), &good).unwrap();
    std::fs::write(blob(&crashed, &bad_digest), vec![0; bad.len()]).unwrap();
    std::fs::write(crashed.join("blobs/sha256/notes.txt"), b"not ours").unwrap();

    let store = open(&crashed).unwrap();
    let mut events = store.events();
    until_held(&store, &mut events, &good_digest).await;
    assert_eq!(read(&store.get(&good_digest).unwrap()).await, good);
    // Whoever wants the other gets a new download, whether it has been looked at or not.
    drop(store.begin(&bad_digest, MIB).await.unwrap());
    assert!(store.get(&bad_digest).is_none());
    assert!(!blob(&crashed, &bad_digest).exists());
    assert!(crashed.join("blobs/sha256/notes.txt").exists());
    drop(store);
    let store = open(&crashed).unwrap();
    assert_eq!(store.keys(), [good_digest]);
}

#[tokio::test]
async fn who_wants_a_file_that_is_not_in_the_index_need_not_wait_its_turn() {
    let fixture = fixture(1 << 30);
    fixture.store.flush().await;
    let crashed = fixture.crash();
    let content = bytes(MIB, 1);
    let digest = Digest::sha256(&content);
    std::fs::write(blob(&crashed, &digest), &content).unwrap();
    let store = open(&crashed).unwrap();
    let begun = store.begin(&digest, MIB).await;
    assert!(matches!(begun, Err(StoreError::Held(_))));
    assert_eq!(read(&store.get(&digest).unwrap()).await, content);
}

#[tokio::test]
async fn a_damaged_index_costs_hashing_and_no_content() {
    let fixture = fixture(1 << 30);
    let mut digests = Vec::new();
    for seed in 0..20 {
        digests.push(put(&fixture.store, 10_000, seed).await);
    }
    drop(fixture.store);
    let index = fixture.path.join("index.redb");
    let whole = std::fs::read(&index).unwrap();
    let mut scrambled = whole.clone();
    for byte in scrambled.iter_mut().skip(4096).step_by(3) {
        *byte ^= 0x5a;
    }
    let damages = [
        b"not a database".to_vec(),
        whole[..whole.len() / 3].to_vec(),
        whole[..100].to_vec(),
        scrambled,
        vec![0; whole.len()],
        Vec::new(),
    ];
    for (number, damaged) in damages.into_iter().enumerate() {
        std::fs::write(&index, &damaged).unwrap();
        let store = open(&fixture.path).unwrap();
        let mut events = store.events();
        for digest in &digests {
            until_held(&store, &mut events, digest).await;
        }
        let late = put(&store, 10_000, 100 + u8::try_from(number).unwrap()).await;
        drop(store);
        let store = open(&fixture.path).unwrap();
        assert_eq!(store.keys().len(), digests.len() + 1, "damage {number}");
        assert!(store.get(&late).is_some());
        digests.push(late);
    }
}

#[tokio::test]
async fn blobs_that_went_or_shrank_while_nobody_looked_are_forgotten() {
    let fixture = fixture(1 << 30);
    let mut digests = Vec::new();
    for seed in 0..3 {
        digests.push(put(&fixture.store, 10_000, seed).await);
    }
    drop(fixture.store);
    let path = |digest| blob(&fixture.path, digest);
    std::fs::remove_file(path(&digests[0])).unwrap();
    std::fs::remove_file(path(&digests[1])).unwrap();
    std::fs::write(path(&digests[1]), b"short").unwrap();
    let store = open(&fixture.path).unwrap();
    assert!(store.get(&digests[0]).is_none());
    // The size is looked at beside normal work, so that it may count for a moment.
    while store.keys() != [digests[2]] {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(store.get(&digests[1]).is_none());
}

#[test]
fn a_newer_format_is_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("format"), "darner-store 2\n").unwrap();
    std::fs::write(path.join("index.redb"), b"of the future").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let before = everything(&path);
    let refused = open(&path);
    assert!(
        matches!(
            refused,
            Err(StoreError::Newer {
                found: 2,
                known: 1,
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(everything(&path), before);
}

#[test]
fn a_directory_of_something_else_is_left_as_it_is() {
    for (name, text) in [
        ("format", "something else"),
        ("format", ""),
        ("letters.txt", "dear"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(name), text).unwrap();
        let before = everything(directory.path());
        let refused = open(directory.path());
        assert!(
            matches!(refused, Err(StoreError::NotAStore(_))),
            "{refused:?}"
        );
        assert_eq!(everything(directory.path()), before);
    }
}

#[test]
fn a_start_that_ended_before_the_format_was_written_is_no_obstacle() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("lock"), b"").unwrap();
    std::fs::write(directory.path().join("format.new"), b"darn").unwrap();
    std::fs::create_dir(directory.path().join("lost+found")).unwrap();
    drop(open(directory.path()).unwrap());
    drop(open(directory.path()).unwrap());
}

#[test]
fn a_store_has_one_process() {
    let fixture = fixture(1 << 30);
    let second = open(&fixture.path);
    assert!(matches!(second, Err(StoreError::InUse(_))), "{second:?}");
    drop(fixture.store);
    drop(open(&fixture.path).unwrap());
}
