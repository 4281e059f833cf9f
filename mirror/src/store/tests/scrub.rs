//! The scrub: what it finds, what it leaves alone, and what is told of it.

use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use super::*;
use crate::store::encoding::ScrubPass;

const SOON: Duration = Duration::from_millis(50);
/// Longer than a loaded machine needs for anything here.
const PATIENCE: Duration = Duration::from_secs(60);

fn scrubbed(path: &Path, every: Duration) -> Store {
    let schedule = Schedule { every, share: 100 };
    let options = options(path, 1 << 30).scrubbed(schedule);
    Store::open(options, &Metrics::default()).unwrap()
}

/// Turns a bit of a blob, as a disk does: the file stays the same one.
fn rot(path: &Path, at: u64) {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.sync_all().unwrap();
}

async fn until_damaged(events: &mut broadcast::Receiver<StoreEvent>) -> (Digest, u64) {
    let heard = async {
        loop {
            if let StoreEvent::Damaged(digest, size) = events.recv().await.unwrap() {
                return (digest, size);
            }
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.unwrap()
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn pass(store: &Store) -> Option<ScrubPass> {
    let kept = store.inner.index.get(Table::State, b"scrub")?;
    ScrubPass::decode(&kept)
}

#[tokio::test]
async fn content_that_rots_is_found_set_aside_and_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = scrubbed(&path, SOON);
    // Whole chunks, parts of one, and none.
    let lengths = [2 * MIB, 3 * MIB + 77, 4096, 5, 0];
    let mut digests = Vec::new();
    for (seed, length) in (1..).zip(lengths) {
        digests.push(put(&store, length, seed).await);
    }
    for (bad, at) in [(1, 3 * MIB + 70), (2, 17)] {
        let mut events = store.events();
        let digest = digests[bad];
        rot(&blob(&path, &digest), at);
        let (found, size) = until_damaged(&mut events).await;
        assert_eq!((found, size), (digest, lengths[bad]));
        assert!(store.get(&digest).is_none());
        assert!(!blob(&path, &digest).exists());
        let aside = format!("{}-{}", digest.algorithm(), digest.hex());
        assert!(path.join("quarantine").join(aside).exists());
        // What comes in its place is whole.
        store
            .put(&digest, bytes(lengths[bad], u8::try_from(bad + 1).unwrap()))
            .await
            .unwrap();
    }
    let passes = || store.inner.metrics.passes();
    let before = passes();
    until("two more passes", || passes() >= before + 2).await;
    for digest in &digests {
        assert!(store.get(digest).is_some(), "{digest}");
    }
}

#[tokio::test]
async fn a_pass_goes_on_where_the_last_process_left_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = open(&path).unwrap();
    let mut digests = vec![put(&store, 9000, 1).await, put(&store, 9000, 2).await];
    digests.sort_unstable();
    let half_way = ScrubPass {
        began_ms: now_ms(),
        after: Some(digests[0]),
        done: false,
    };
    let change = Change::set(Table::State, b"scrub".to_vec(), half_way.encode());
    store.inner.index.commit(vec![change]).unwrap();
    drop(store);
    for digest in &digests {
        rot(&blob(&path, digest), 100);
    }

    let store = scrubbed(&path, Duration::from_secs(3600));
    until("the pass ends", || {
        pass(&store).is_some_and(|pass| pass.done)
    })
    .await;
    assert!(store.size_of(&digests[0]).is_some(), "was read before");
    assert!(store.size_of(&digests[1]).is_none());
    assert_eq!(pass(&store).unwrap().began_ms, half_way.began_ms);
}

#[tokio::test]
async fn a_store_that_was_never_scrubbed_waits_for_its_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = scrubbed(&path, Duration::from_secs(3600));
    let digest = put(&store, 9000, 1).await;
    until("the time is noted", || pass(&store).is_some()).await;
    let noted = pass(&store).unwrap();
    assert!(noted.done && now_ms() - noted.began_ms < 3_600_000);
    rot(&blob(&path, &digest), 5);
    assert!(store.size_of(&digest).is_some());
    assert_eq!(store.inner.metrics.passes(), 0);
}

#[tokio::test]
async fn it_stands_still_while_something_is_downloaded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = open(&path).unwrap();
    let digest = put(&store, 9000, 1).await;
    let begun = ScrubPass {
        began_ms: now_ms(),
        after: None,
        done: false,
    };
    let change = Change::set(Table::State, b"scrub".to_vec(), begun.encode());
    store.inner.index.commit(vec![change]).unwrap();
    rot(&blob(&path, &digest), 5);
    let sample = Sample::new(9000, 7);
    let partial = store.begin(&sample.digest, sample.size()).await.unwrap();
    assert!(lock(&store.inner.ledger).is_busy());
    drop(store);
    // The download keeps the store open, so its scrub is started by hand.
    let inner = partial.shared.store().clone();
    let (_running, stop) = std::sync::mpsc::sync_channel(1);
    let schedule = Schedule {
        every: Duration::from_secs(3600),
        share: 100,
    };
    let mut events = inner.events.subscribe();
    crate::store::scrub::start(&inner, schedule, stop).unwrap();
    let heard = tokio::time::timeout(Duration::from_secs(2), until_damaged(&mut events));
    assert!(heard.await.is_err(), "it reads beside a download");
    drop(partial);
    assert_eq!(until_damaged(&mut events).await.0, digest);
}
