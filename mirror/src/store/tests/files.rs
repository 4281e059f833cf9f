//! Files whose digest nobody knew before they were complete.

use super::*;

/// A sample that is known as a file.
fn file(length: u64, seed: u8) -> Sample {
    let mut sample = Sample::new(length, seed);
    let key = Digest::File([seed; 32]);
    let signing = PieceSigner::generate().unwrap();
    let signer = PieceSigner::from_pkcs8("seed-1".parse().unwrap(), &signing).unwrap();
    sample.runs = (0..sample.geometry.pieces())
        .map(|index| {
            let hash = piece_map::hash(&sample.piece(index));
            signer.sign(&key, length, index, vec![hash])
        })
        .collect();
    sample.digest = key;
    sample
}

#[tokio::test]
async fn a_file_is_kept_under_its_key_and_its_digest_is_learnt() {
    let fixture = fixture(1 << 30);
    let sample = file(2 * MIB + 7, 1);
    let of_content = Digest::sha256(&sample.content);
    assert_eq!(fixture.store.content_digest(&sample.digest), None);
    sample.download(&fixture.store).await;
    let store = &fixture.store;
    assert_eq!(store.content_digest(&sample.digest), Some(of_content));
    assert_eq!(store.keys(), [sample.digest]);
    // It is not known by what its bytes are.
    assert!(store.get(&of_content).is_none());
    store.check(&sample.digest).await;
    assert!(store.get(&sample.digest).is_some());
    drop(fixture.store);
    let store = open(&fixture.path).unwrap();
    let content = store.get(&sample.digest).unwrap();
    assert_eq!(read(&content).await, sample.content);
    assert_eq!(store.content_digest(&sample.digest), Some(of_content));
}

#[tokio::test]
async fn a_file_that_rots_is_set_aside_when_somebody_doubts_it() {
    let fixture = fixture(1 << 30);
    let sample = file(2 * MIB, 2);
    sample.download(&fixture.store).await;
    let path = fixture.blob(&sample.digest);
    let mut rotten = std::fs::read(&path).unwrap();
    rotten[5] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, rotten).unwrap();
    fixture.store.check(&sample.digest).await;
    assert!(fixture.store.get(&sample.digest).is_none());
}

#[tokio::test]
async fn a_download_of_a_file_goes_on_after_a_restart() {
    let fixture = fixture(1 << 30);
    let sample = file(3 * MIB, 3);
    let partial = fixture.store.begin(&sample.digest, sample.size()).await;
    let partial = partial.unwrap();
    sample.write(&partial, 0..2).await;
    drop(partial);
    drop(fixture.store);
    let store = open(&fixture.path).unwrap();
    let partial = store.begin(&sample.digest, sample.size()).await.unwrap();
    assert_eq!(partial.restored().0.len(), 2);
    sample.write(&partial, 2..3).await;
    partial.verify().await.unwrap();
    let content = partial.commit().await.unwrap();
    assert_eq!(read(&content).await, sample.content);
}

#[tokio::test]
async fn a_file_that_the_index_does_not_know_is_removed() {
    let fixture = fixture(1 << 30);
    let sample = file(MIB, 4);
    sample.download(&fixture.store).await;
    let crashed = fixture.crash();
    std::fs::remove_file(crashed.join("index.redb")).unwrap();
    let store = open(&crashed).unwrap();
    assert!(store.get(&sample.digest).is_none());
    assert!(!blob(&crashed, &sample.digest).exists());
    sample.download(&store).await;
    assert!(store.get(&sample.digest).is_some());
}
