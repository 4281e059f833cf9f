//! Content that is put, read, doubted.

use std::os::unix::fs::PermissionsExt as _;

use futures_util::StreamExt as _;

use super::*;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn what_is_put_is_there_until_and_after_a_restart() {
    let fixture = fixture(1 << 30);
    let store = fixture.store;
    let mut events = store.events();
    let content = bytes(5000, 1);
    let short = Digest::sha256(&content);
    let mut hasher = Digest::Sha512([0; 64]).hasher();
    hasher.update(&content);
    let long = hasher.finish();
    let empty = Digest::sha256(b"");
    store.put(&short, content.clone()).await.unwrap();
    store.put(&long, content.clone()).await.unwrap();
    store.put(&empty, Bytes::new()).await.unwrap();
    store.put(&empty, Bytes::new()).await.unwrap();
    for digest in [short, long, empty] {
        assert_eq!(events.recv().await.unwrap(), StoreEvent::Held(digest));
    }
    assert!(events.try_recv().is_err());
    drop(store);

    let store = open(&fixture.path).unwrap();
    let mut keys = store.keys();
    keys.sort_unstable();
    let mut expected = vec![short, long, empty];
    expected.sort_unstable();
    assert_eq!(keys, expected);
    assert_eq!(read(&store.get(&short).unwrap()).await, content);
    assert_eq!(read(&store.get(&long).unwrap()).await, content);
    assert_eq!(read(&store.get(&empty).unwrap()).await, Bytes::new());
    assert_eq!(store.get(&empty).unwrap().spans(0..0).count().await, 0);
    assert_eq!(store.size_of(&Digest::sha256(b"other")), None);
}

#[tokio::test]
async fn the_directory_is_an_image_layout_for_its_owner_alone() {
    let fixture = fixture(1 << 30);
    let digest = put(&fixture.store, 10, 1).await;
    let text = |name| std::fs::read_to_string(fixture.path.join(name)).unwrap();
    assert_eq!(text("format"), "darner-store 1\n");
    assert_eq!(text("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#);
    let index: serde_json::Value = serde_json::from_str(&text("index.json")).unwrap();
    assert_eq!(index["schemaVersion"], 2);
    assert_eq!(mode(&fixture.path), 0o700);
    assert_eq!(mode(&fixture.path.join("blobs/sha256")), 0o700);
    assert_eq!(mode(&fixture.path.join("index.redb")), 0o600);
    assert_eq!(mode(&fixture.blob(&digest)), 0o400);
    assert_eq!(
        std::fs::read(fixture.blob(&digest)).unwrap(),
        bytes(10, 1).to_vec()
    );
}

#[tokio::test]
async fn bytes_without_their_digest_never_show() {
    let fixture = fixture(1 << 30);
    let mut events = fixture.store.events();
    let digest = Digest::sha256(b"right");
    let put = fixture.store.put(&digest, Bytes::from_static(b"wrong"));
    assert!(matches!(put.await, Err(StoreError::Mismatch(of)) if of == digest));
    assert!(fixture.store.get(&digest).is_none());
    assert!(!fixture.blob(&digest).exists());
    assert!(events.try_recv().is_err());
}

#[tokio::test]
async fn ranges_are_streamed_whole_and_in_order() {
    let fixture = fixture(1 << 30);
    let digest = put(&fixture.store, 3 * MIB + 77, 1).await;
    let whole = bytes(3 * MIB + 77, 1);
    let content = fixture.store.get(&digest).unwrap();
    for range in [0..3 * MIB + 77, 5..6, MIB - 1..2 * MIB + 1, 9..9] {
        let spans: Vec<_> = content.clone().spans(range.clone()).collect().await;
        let mut got = Vec::new();
        for span in spans {
            let span = span.unwrap();
            assert!(!span.is_empty() && span.len() <= MAX_SPAN);
            got.extend_from_slice(&span.read().await.unwrap());
        }
        let expected =
            &whole[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
        assert!(got == expected, "{range:?}");
    }
    let past = content.read(0..3 * MIB + 78).await;
    assert!(matches!(past, Err(StoreError::Missing { .. })));
    let mut past = std::pin::pin!(content.spans(3 * MIB..3 * MIB + 78));
    assert!(past.next().await.unwrap().is_err());
    assert!(past.next().await.is_none());
}

#[tokio::test]
async fn doubted_content_is_set_aside_only_if_it_is_wrong() {
    let fixture = fixture(1 << 30);
    let store = &fixture.store;
    let (good, bad) = (put(store, 9000, 1).await, put(store, 9000, 2).await);
    let mut events = store.events();
    let reader = store.get(&bad).unwrap();
    let mut damaged = bytes(9000, 2).to_vec();
    damaged[4500] ^= 1;
    std::fs::remove_file(fixture.blob(&bad)).unwrap();
    std::fs::write(fixture.blob(&bad), &damaged).unwrap();
    drop(reader);

    store.check(&good).await;
    store.check(&bad).await;
    assert!(store.get(&good).is_some());
    assert!(store.get(&bad).is_none());
    assert_eq!(events.try_recv().unwrap(), StoreEvent::Withdrawn(bad));
    let aside = fixture.path.join("quarantine");
    let aside = aside.join(format!("sha256-{}", bad.hex()));
    assert_eq!(std::fs::read(aside).unwrap(), damaged);

    // It can be had again, and be doubted again; what was right is not read over and over.
    put(store, 9000, 2).await;
    std::fs::remove_file(fixture.blob(&bad)).unwrap();
    std::fs::write(fixture.blob(&bad), &damaged).unwrap();
    let reread = store.inner.checks.clone_recent();
    store.check(&good).await;
    assert_eq!(store.inner.checks.clone_recent(), reread);
    drop(store.get(&bad));
    store.check(&bad).await;
    assert!(store.get(&bad).is_none());
}

#[tokio::test]
async fn content_that_lost_its_file_or_size_is_withdrawn() {
    let fixture = fixture(1 << 30);
    let store = &fixture.store;
    let (lost, cut) = (put(store, 9000, 1).await, put(store, 9000, 2).await);
    let mut events = store.events();
    std::fs::remove_file(fixture.blob(&lost)).unwrap();
    std::fs::remove_file(fixture.blob(&cut)).unwrap();
    std::fs::write(fixture.blob(&cut), b"short").unwrap();
    for digest in [lost, cut] {
        assert!(store.get(&digest).is_none());
        assert!(store.size_of(&digest).is_none());
        assert_eq!(events.try_recv().unwrap(), StoreEvent::Withdrawn(digest));
        assert_eq!(
            events.try_recv().unwrap(),
            StoreEvent::Damaged(digest, 9000)
        );
    }
    put(store, 9000, 1).await;
    assert!(store.get(&lost).is_some());
}

#[tokio::test]
async fn a_link_in_place_of_a_blob_is_not_followed() {
    let fixture = fixture(1 << 30);
    let digest = put(&fixture.store, 6, 1).await;
    let secret = fixture.directory.path().join("secret");
    std::fs::write(&secret, b"secret").unwrap();
    std::fs::remove_file(fixture.blob(&digest)).unwrap();
    std::os::unix::fs::symlink(&secret, fixture.blob(&digest)).unwrap();
    assert!(fixture.store.get(&digest).is_none());
}

#[tokio::test]
async fn records_of_repositories_survive() {
    let fixture = fixture(1 << 30);
    let store = fixture.store;
    let source = Source {
        registry: "registry.example:5000".parse().unwrap(),
        repository: "team/app".parse().unwrap(),
    };
    let other = Source {
        repository: "team/app2".parse().unwrap(),
        ..source.clone()
    };
    let tag: Tag = "latest".parse().unwrap();
    let digest = Digest::sha256(b"manifest");
    let record = TagRecord {
        digest,
        checked_ms: 7,
    };
    let link = LinkRecord {
        manifest: true,
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        size: 99,
    };
    store.set_tag(&source, &tag, &record).unwrap();
    store.add_links(&source, &[(digest, link.clone())]).unwrap();
    store.set_public(&source, 1234).unwrap();
    store.set_public(&other, 5).unwrap();
    store.forget_public(&other).unwrap();
    drop(store);

    let store = open(&fixture.path).unwrap();
    assert_eq!(store.tag(&source, &tag), Some(record));
    assert_eq!(store.link(&source, &digest), Some(link));
    assert_eq!(store.public_since(&source), Some(1234));
    assert_eq!(store.tag(&other, &tag), None);
    assert_eq!(store.link(&other, &digest), None);
    assert_eq!(store.public_since(&other), None);
    assert!(store.sources().contains(&source));
}
