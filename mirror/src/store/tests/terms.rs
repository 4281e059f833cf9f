//! What is to stay for a time.

use super::*;

fn term(until_ms: u64, pinned: bool) -> Term {
    Term { until_ms, pinned }
}

#[tokio::test]
async fn what_is_pinned_is_not_evicted_before_its_term_ends() {
    let fixture = fixture(10 * MIB);
    let store = &fixture.store;
    let pinned = put(store, MIB, 0).await;
    let until = now_ms() + 3_600_000;
    store.set_term(&pinned, MIB, term(until, true)).unwrap();
    for seed in 1..30 {
        put(store, MIB, seed).await;
    }
    assert!(store.size_of(&pinned).is_some());
    // It stays pinned after a restart.
    store.flush().await;
    let path = fixture.path.clone();
    drop(fixture.store);
    let store = Store::open(options(&path, 10 * MIB), &Metrics::default()).unwrap();
    assert_eq!(store.term(&pinned), Some(term(until, true)));
    for seed in 30..60 {
        put(&store, MIB, seed).await;
    }
    assert!(store.size_of(&pinned).is_some());
}

#[tokio::test]
async fn half_of_the_store_can_be_pinned() {
    let fixture = fixture(10 * MIB);
    let until = now_ms() + 3_600_000;
    for seed in 0..5 {
        let digest = put(&fixture.store, MIB, seed).await;
        let pinned = fixture.store.set_term(&digest, MIB, term(until, true));
        pinned.unwrap();
        // Again is no more.
        let again = fixture.store.set_term(&digest, MIB, term(until, true));
        again.unwrap();
    }
    let more = put(&fixture.store, MIB, 9).await;
    let refused = fixture.store.set_term(&more, MIB, term(until, true));
    assert!(matches!(refused, Err(StoreError::Pinned(_))), "{refused:?}");
    let kept = fixture.store.set_term(&more, MIB, term(until, false));
    kept.unwrap();
    // The rest still takes what comes, in turn.
    for seed in 10..40 {
        put(&fixture.store, MIB, seed).await;
    }
}

#[tokio::test]
async fn content_goes_when_its_term_ends_but_not_from_a_repository() {
    let fixture = fixture(100 * MIB);
    let store = &fixture.store;
    let mut digests = Vec::new();
    for seed in 0..4 {
        digests.push(put(store, MIB, seed).await);
    }
    let (past, future) = (1, now_ms() + 3_600_000);
    store.set_term(&digests[0], MIB, term(past, true)).unwrap();
    store.set_term(&digests[1], MIB, term(past, false)).unwrap();
    store.set_term(&digests[2], MIB, term(past, true)).unwrap();
    store
        .set_term(&digests[3], MIB, term(future, true))
        .unwrap();
    let source = Source {
        registry: "r.test".parse().unwrap(),
        repository: "a/b".parse().unwrap(),
    };
    let link = LinkRecord {
        manifest: false,
        media_type: String::new(),
        size: MIB,
    };
    store.add_links(&source, &[(digests[2], link)]).unwrap();
    let mut events = store.events();
    store.inner.tidy();
    let mut gone = Vec::new();
    while let Ok(StoreEvent::Withdrawn(digest)) = events.try_recv() {
        gone.push(digest);
    }
    gone.sort_unstable();
    let mut expected = digests[..2].to_vec();
    expected.sort_unstable();
    assert_eq!(gone, expected);
    assert!(!fixture.blob(&digests[0]).exists());
    assert!(store.size_of(&digests[2]).is_some() && store.size_of(&digests[3]).is_some());
    assert_eq!(store.term(&digests[2]), None);
}
