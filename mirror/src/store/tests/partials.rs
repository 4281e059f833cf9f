//! Downloads, and what a restart leaves of them.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

fn journal(store: &Path, sample: &Sample) -> PathBuf {
    let name = format!("sha256-{}.pieces", sample.digest.hex());
    store.join("partial").join(name)
}

fn data(store: &Path, sample: &Sample) -> PathBuf {
    journal(store, sample).with_extension("")
}

#[tokio::test]
async fn pieces_in_any_order_become_content() {
    let fixture = fixture(1 << 30);
    let store = &fixture.store;
    let mut events = store.events();
    let sample = Sample::new(3 * MIB + 500, 1);
    let partial = store.begin(&sample.digest, sample.size()).await.unwrap();
    assert_eq!(partial.geometry(), sample.geometry);
    assert!(partial.restored().0.is_empty());
    sample.write(&partial, [3, 0]).await;
    partial.shared.hash_to(1).unwrap();
    assert_eq!(partial.read(10..20).await.unwrap(), sample.content[10..20]);
    // Neither bytes nor digests of what is not there.
    assert!(partial.read(MIB - 1..MIB + 1).await.is_err());
    assert!(partial.shared.hash_to(2).is_err());
    assert!(partial.verify().await.is_err());
    assert!(store.get(&sample.digest).is_none());
    sample.write(&partial, [2, 1, 2]).await;
    partial.shared.hash_to(4).unwrap();
    partial.verify().await.unwrap();
    assert!(store.get(&sample.digest).is_none());
    assert!(events.try_recv().is_err());
    let reader = partial.clone();
    let content = partial.commit().await.unwrap();
    assert_eq!(events.try_recv().unwrap(), StoreEvent::Held(sample.digest));
    assert_eq!(read(&content).await, sample.content);
    assert_eq!(reader.read(0..sample.size()).await.unwrap(), sample.content);
    assert_eq!(
        read(&store.get(&sample.digest).unwrap()).await,
        sample.content
    );
    assert_eq!(
        std::fs::read_dir(fixture.path.join("partial"))
            .unwrap()
            .count(),
        0
    );

    store.set_piece_map(&sample.digest, &sample.runs).unwrap();
    assert_eq!(store.piece_map(&sample.digest), Some(sample.runs.clone()));
    let again = store.begin(&sample.digest, sample.size()).await;
    assert!(matches!(again, Err(StoreError::Held(_))));
    drop((content, reader));
    drop(fixture.store);
    let store = open(&fixture.path).unwrap();
    assert_eq!(store.piece_map(&sample.digest), Some(sample.runs));
}

#[tokio::test]
async fn a_wrong_whole_is_discarded_and_begun_anew() {
    let fixture = fixture(1 << 30);
    let store = &fixture.store;
    let mut sample = Sample::new(2 * MIB, 1);
    let partial = store.begin(&sample.digest, sample.size()).await.unwrap();
    let right = sample.content.clone();
    sample.content = bytes(2 * MIB, 9);
    sample.write(&partial, 0..2).await;
    let verified = partial.verify().await;
    assert!(matches!(verified, Err(StoreError::Mismatch(_))));
    assert!(partial.clone().commit().await.is_err());
    assert!(store.get(&sample.digest).is_none());
    // Somebody may still hold the old one.
    let anew = store.begin(&sample.digest, sample.size()).await.unwrap();
    assert!(anew.restored().0.is_empty());
    let late = sample.write_one(&partial, 0, sample.piece(0), 0).await;
    assert!(late.is_ok() || matches!(late, Err(StoreError::Gone(_))));
    partial.discard().await;
    sample.content = right;
    sample.write(&anew, 0..2).await;
    let content = anew.commit().await.unwrap();
    assert_eq!(read(&content).await, sample.content);
}

#[tokio::test]
async fn pieces_of_the_wrong_length_or_place_are_refused() {
    let fixture = fixture(1 << 30);
    let sample = Sample::new(2 * MIB, 1);
    let partial = fixture
        .store
        .begin(&sample.digest, sample.size())
        .await
        .unwrap();
    let short = sample.piece(0).slice(1..);
    for (index, piece, stated) in [(0, short, 0), (0, sample.piece(0), 1), (2, Bytes::new(), 1)] {
        let written = sample.write_one(&partial, index, piece, stated).await;
        assert!(written.is_err(), "piece {index}, statement {stated}");
    }
    assert!(partial.restored().0.is_empty());
}

#[tokio::test]
async fn all_who_ask_share_one_download() {
    let fixture = fixture(1 << 30);
    let store = &fixture.store;
    let sample = Sample::new(3 * MIB, 1);
    let (first, second) = tokio::join!(
        store.begin(&sample.digest, sample.size()),
        store.begin(&sample.digest, sample.size())
    );
    let (first, second) = (first.unwrap(), second.unwrap());
    let other = store.begin(&sample.digest, sample.size() + 1).await;
    assert!(matches!(other, Err(StoreError::Size { .. })));
    sample.write(&first, [0]).await;
    drop(first);
    sample.write(&second, [1]).await;
    drop(second);
    let third = store.begin(&sample.digest, sample.size()).await.unwrap();
    assert_eq!(third.restored().0.iter().collect::<Vec<_>>(), [0, 1]);
    // The same piece twice at once is one piece.
    tokio::join!(sample.write(&third, [2]), sample.write(&third, [2]));
    assert_eq!(read(&third.commit().await.unwrap()).await, sample.content);
}

#[tokio::test]
async fn after_a_crash_a_download_goes_on_with_the_pieces_that_are_right() {
    let fixture = fixture(1 << 30);
    let sample = Sample::new(6 * MIB, 1);
    let partial = fixture
        .store
        .begin(&sample.digest, sample.size())
        .await
        .unwrap();
    sample.write(&partial, [5, 1, 2, 4]).await;
    let crashed = fixture.crash();
    let file = OpenOptions::new()
        .write(true)
        .open(data(&crashed, &sample))
        .unwrap();
    file.write_all_at(b"rot", 2 * MIB + 9).unwrap();

    let store = open(&crashed).unwrap();
    assert!(store.get(&sample.digest).is_none());
    let partial = store.begin(&sample.digest, sample.size()).await.unwrap();
    let (held, runs) = partial.restored();
    assert_eq!(held.iter().collect::<Vec<_>>(), [1, 4, 5]);
    assert_eq!(runs, [1, 4, 5].map(|index| sample.runs[index].clone()));
    assert!(partial.read(2 * MIB..3 * MIB).await.is_err());
    drop(partial);
    assert_eq!(read(&sample.download(&store).await).await, sample.content);
}

#[tokio::test]
async fn a_torn_journal_costs_what_was_torn() {
    let fixture = fixture(1 << 30);
    let sample = Sample::new(4 * MIB, 1);
    let partial = fixture
        .store
        .begin(&sample.digest, sample.size())
        .await
        .unwrap();
    sample.write(&partial, [0, 1, 2]).await;
    let crashed = fixture.crash();
    let torn = OpenOptions::new()
        .write(true)
        .open(journal(&crashed, &sample))
        .unwrap();
    torn.set_len(torn.metadata().unwrap().len() - 3).unwrap();
    drop(torn);

    let store = open(&crashed).unwrap();
    let partial = store.begin(&sample.digest, sample.size()).await.unwrap();
    assert_eq!(partial.restored().0.iter().collect::<Vec<_>>(), [0, 1]);
    sample.write(&partial, [3]).await;
    drop(partial);
    drop(store);
    let store = open(&crashed).unwrap();
    let partial = store.begin(&sample.digest, sample.size()).await.unwrap();
    assert_eq!(partial.restored().0.iter().collect::<Vec<_>>(), [0, 1, 3]);
}

#[tokio::test]
async fn a_partial_that_makes_no_sense_is_begun_anew() {
    let fixture = fixture(1 << 30);
    let sample = Sample::new(2 * MIB, 1);
    let other = Sample::new(2 * MIB, 2);
    let partial = fixture
        .store
        .begin(&sample.digest, sample.size())
        .await
        .unwrap();
    sample.write(&partial, [0]).await;
    let cut = fixture
        .store
        .begin(&other.digest, other.size())
        .await
        .unwrap();
    other.write(&cut, [0]).await;
    let crashed = fixture.crash();
    std::fs::write(journal(&crashed, &sample), b"not a journal").unwrap();
    std::fs::write(data(&crashed, &other), b"short").unwrap();
    std::fs::write(crashed.join("partial/new-17"), b"being written").unwrap();
    std::fs::write(crashed.join("partial/old-3"), b"being removed").unwrap();

    let store = open(&crashed).unwrap();
    assert!(!crashed.join("partial/new-17").exists());
    assert!(!crashed.join("partial/old-3").exists());
    for sample in [&sample, &other] {
        let partial = store.begin(&sample.digest, sample.size()).await.unwrap();
        assert!(partial.restored().0.is_empty());
        drop(partial);
        assert_eq!(read(&sample.download(&store).await).await, sample.content);
    }
    // A partial of another size than what is asked for now was of something else.
    let third = Sample::new(2 * MIB, 3);
    drop(store.begin(&third.digest, 5 * MIB).await.unwrap());
    let partial = store.begin(&third.digest, third.size()).await.unwrap();
    assert_eq!(partial.geometry(), third.geometry);
}

#[tokio::test]
async fn the_beginning_of_a_piece_can_be_had_before_it_is_whole() {
    let fixture = fixture(1 << 30);
    let sample = Sample::new(2 * MIB, 1);
    let store = &fixture.store;
    let partial = store.begin(&sample.digest, sample.size()).await.unwrap();
    let part = |range: std::ops::Range<usize>| sample.content.slice(MIB as usize..).slice(range);
    let write = async |from: u64, to: usize| {
        let bytes = part(usize::try_from(from).unwrap()..to);
        partial.write_part(1, from, bytes).await.unwrap()
    };
    assert!(partial.span(MIB..MIB + 1).is_err());
    assert_eq!(write(0, 1000).await, 1000);
    let span = partial.span(MIB + 5..MIB + 1000).unwrap();
    assert_eq!(span.read().await.unwrap(), part(5..1000));
    for missing in [MIB - 1..MIB + 1, MIB..MIB + 1001, 0..10] {
        assert!(partial.span(missing).is_err());
    }
    // A read that began anew is behind, then in front.
    assert_eq!(write(0, 400).await, 1000);
    assert_eq!(write(400, 1500).await, 1500);
    assert_eq!(write(1700, 1800).await, 1500, "a gap");
    let span = partial.span(MIB..MIB + 1500).unwrap();
    assert_eq!(span.read().await.unwrap(), part(0..1500));
    assert!(partial.write_part(1, MIB, part(0..1)).await.is_err());
    // It counts as a piece only when it is whole.
    assert!(partial.restored().0.is_empty());
    sample.write(&partial, [0, 1]).await;
    assert_eq!(write(0, 1).await, MIB);
    partial.verify().await.unwrap();
    assert_eq!(read(&partial.commit().await.unwrap()).await, sample.content);
}

#[tokio::test]
async fn a_piece_that_differs_from_what_was_given_out_of_it_is_refused() {
    let fixture = fixture(1 << 30);
    let sample = Sample::new(2 * MIB, 1);
    let store = &fixture.store;
    let partial = store.begin(&sample.digest, sample.size()).await.unwrap();
    let other = bytes(1000, 9);
    partial.write_part(0, 0, other.clone()).await.unwrap();
    let span = partial.span(0..1000).unwrap();
    let written = sample.write_one(&partial, 0, sample.piece(0), 0).await;
    assert!(matches!(written, Err(StoreError::Changed(of)) if of == sample.digest));
    let read = span.clone().read().await.unwrap();
    assert_eq!(read, other, "it stays as it was");
    assert!(partial.restored().0.is_empty());
    // The next download knows nothing of it.
    drop((span, partial));
    sample.download(store).await;
}

#[tokio::test]
async fn the_beginning_of_a_piece_can_be_had_all_the_while_it_becomes_whole() {
    let fixture = fixture(1 << 30);
    let store = &fixture.store;
    for number in 0..100 {
        let sample = Sample::new(1000, number);
        let partial = store.begin(&sample.digest, sample.size()).await.unwrap();
        let first = sample.content.slice(..100);
        partial.write_part(0, 0, first).await.unwrap();
        let (reader, is_whole) = (partial.clone(), AtomicBool::new(false));
        let is_whole = Arc::new(is_whole);
        let until = is_whole.clone();
        let reading = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                reader.span(0..100)?;
            }
            Ok::<_, StoreError>(())
        });
        sample.write(&partial, [0]).await;
        is_whole.store(true, Ordering::Relaxed);
        let read = reading.join().unwrap();
        assert!(read.is_ok(), "piece {number}: {read:?}");
    }
}

/// Whoever writes goes on with the digest of the whole unless another is at it, who must then see what was
/// written: nothing is left lying between the two.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_digest_of_the_whole_follows_what_is_written_in_whatever_order() {
    let fixture = fixture(1 << 30);
    let sample = Sample::new(12 * MIB, 5);
    for round in 0..20_u32 {
        let store = &fixture.store;
        let partial = store.begin(&sample.digest, sample.size()).await.unwrap();
        let order = (0..12).map(|at| (at * 5 + round) % 12);
        let writes = order.map(|index| sample.write(&partial, [index]));
        futures_util::future::join_all(writes).await;
        let all = async {
            while partial.shared.hashed() < 12 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        let within = std::time::Duration::from_secs(20);
        tokio::time::timeout(within, all).await.expect("all of it");
        partial.verify().await.unwrap();
        partial.discard().await;
    }
}
