//! What happens when there is no room.

use super::*;

fn withdrawn(events: &mut broadcast::Receiver<StoreEvent>) -> Vec<Digest> {
    let mut withdrawn = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let StoreEvent::Withdrawn(digest) = event {
            withdrawn.push(digest);
        }
    }
    withdrawn
}

#[tokio::test]
async fn the_longest_unused_goes_and_whoever_reads_it_reads_on() {
    let fixture = fixture(10 * MIB);
    let store = &fixture.store;
    let mut digests = Vec::new();
    for seed in 0..10 {
        digests.push(put(store, MIB, seed).await);
    }
    let reader = store.get(&digests[0]).unwrap();
    drop(store.get(&digests[1]));
    drop(store.get(&digests[0]));
    let mut events = store.events();
    put(store, MIB, 50).await;
    // Down to nine tenths: two of ten go, and with them room for the next.
    assert_eq!(withdrawn(&mut events), digests[2..4]);
    assert!(!fixture.blob(&digests[2]).exists());
    put(store, MIB, 51).await;
    assert_eq!(withdrawn(&mut events), []);
    for seed in 60..68 {
        put(store, MIB, seed).await;
    }
    let gone = withdrawn(&mut events);
    assert!(
        gone.contains(&digests[1]) && gone.contains(&digests[0]),
        "{gone:?}"
    );
    assert!(store.get(&digests[0]).is_none());
    assert_eq!(reader.read(0..MIB).await.unwrap(), bytes(MIB, 0));
}

#[tokio::test]
async fn the_order_of_use_survives_a_restart() {
    let fixture = fixture(10 * MIB);
    let first = put(&fixture.store, MIB, 0).await;
    let mut others = Vec::new();
    for seed in 1..10 {
        others.push(put(&fixture.store, MIB, seed).await);
    }
    drop(fixture.store.get(&first));
    drop(fixture.store);
    let store = Store::open(options(&fixture.path, 10 * MIB), &Metrics::default()).unwrap();
    let mut events = store.events();
    put(&store, MIB, 50).await;
    assert_eq!(withdrawn(&mut events), others[..2]);
    assert!(store.get(&first).is_some());
}

#[tokio::test]
async fn what_cannot_fit_is_full_and_evicts_nothing() {
    let fixture = fixture(10 * MIB);
    let store = &fixture.store;
    let held = put(store, MIB, 1).await;
    let sample = Sample::new(11 * MIB, 2);
    let begun = store.begin(&sample.digest, sample.size()).await;
    assert!(
        matches!(begun, Err(StoreError::Full { needed, capacity }) if needed == 11 * MIB && capacity == 10 * MIB)
    );
    let put = store.put(&sample.digest, sample.content.clone()).await;
    assert!(matches!(put, Err(StoreError::Full { .. })));
    assert!(store.begin(&sample.digest, u64::MAX).await.is_err());
    assert!(store.get(&held).is_some());
    assert_eq!(
        std::fs::read_dir(fixture.path.join("partial"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test]
async fn downloads_take_room_and_those_left_alone_go_first() {
    let fixture = fixture(10 * MIB);
    let store = &fixture.store;
    let held = put(store, MIB, 1).await;
    let (left, running) = (Sample::new(4 * MIB, 2), Sample::new(4 * MIB, 3));
    let partial = store.begin(&left.digest, left.size()).await.unwrap();
    left.write(&partial, [0]).await;
    drop(partial);
    let running_partial = store.begin(&running.digest, running.size()).await.unwrap();
    let mut events = store.events();
    put(store, 2 * MIB, 4).await;
    assert_eq!(withdrawn(&mut events), []);
    let anew = store.begin(&left.digest, MIB).await.unwrap();
    assert!(anew.restored().0.is_empty());
    // Those that run are never cut.
    let big = Sample::new(6 * MIB, 5);
    let begun = store.begin(&big.digest, big.size()).await;
    assert!(matches!(begun, Err(StoreError::Full { .. })));
    assert!(store.get(&held).is_some());
    running.write(&running_partial, 0..4).await;
    let content = running_partial.commit().await.unwrap();
    assert_eq!(read(&content).await, running.content);
}

#[tokio::test]
async fn a_disk_that_fails_again_and_again_is_left_alone() {
    let fixture = fixture(10 * MIB);
    let store = &fixture.store;
    let held = put(store, 5000, 1).await;
    let fault = || StoreError::io("write", Path::new("x"), std::io::Error::other("broken"));
    for _ in 0..2 {
        store.inner.write_failed(fault(), 1);
    }
    let second = put(store, 5000, 2).await;
    store.inner.write_failed(fault(), 1);
    let digest = Digest::sha256(b"x");
    let refused = store.put(&digest, Bytes::from_static(b"x")).await;
    assert!(matches!(refused, Err(StoreError::Failing)));
    assert!(matches!(
        store.begin(&digest, 1).await,
        Err(StoreError::Failing)
    ));
    // What is there is served all the same.
    assert!(store.get(&held).is_some() && store.get(&second).is_some());
}

#[tokio::test]
async fn what_is_counted_is_what_happened() {
    let directory = tempfile::tempdir().unwrap();
    let metrics = Metrics::default();
    let store = Store::open(options(directory.path(), 2 * MIB), &metrics).unwrap();
    put(&store, MIB, 1).await;
    put(&store, MIB, 2).await;
    put(&store, 5000, 3).await;
    let other = Digest::sha256(b"x");
    assert!(store.put(&other, Bytes::from_static(b"y")).await.is_err());
    let text = metrics.encode().unwrap();
    for line in [
        "darner_store_blobs 2",
        "darner_store_bytes 1056768",
        "darner_store_capacity_bytes 2097152",
        "darner_store_evictions_total 1",
        "darner_store_evicted_bytes_total 1048576",
        "darner_store_quarantined_total 0",
        r#"darner_store_errors_total{kind="mismatch"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
}
