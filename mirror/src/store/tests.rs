mod blobs;
mod crash;
mod eviction;
mod files;
mod partials;
mod scrub;
mod size;
mod terms;

use std::convert::Infallible;

use darner_proto::piece_map::{self, PieceSigner};
use tempfile::TempDir;

use super::*;

const MIB: u64 = 1 << 20;

/// A store in a directory of its own.
struct Fixture {
    store: Store,
    path: PathBuf,
    directory: TempDir,
}

fn options(path: &Path, capacity: u64) -> Options {
    Options::new(path.to_owned(), Some(capacity))
}

fn open(path: &Path) -> Result<Store, StoreError> {
    Store::open(options(path, 1 << 30), &Metrics::default())
}

fn fixture(capacity: u64) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = Store::open(options(&path, capacity), &Metrics::default()).unwrap();
    Fixture {
        store,
        path,
        directory,
    }
}

impl Fixture {
    /// What a process that is killed now leaves behind.
    fn crash(&self) -> PathBuf {
        let copy = self.directory.path().join("after-crash");
        copy_directory(&self.path, &copy);
        copy
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        blob(&self.path, digest)
    }
}

fn blob(store: &Path, digest: &Digest) -> PathBuf {
    store
        .join("blobs")
        .join(digest.algorithm())
        .join(digest.hex())
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Bytes that differ from place to place.
fn bytes(length: u64, seed: u8) -> Bytes {
    let mut bytes = vec![0; usize::try_from(length).unwrap()];
    let mut reader = blake3::Hasher::new().update(&[seed]).finalize_xof();
    reader.fill(&mut bytes);
    bytes.into()
}

async fn put(store: &Store, length: u64, seed: u8) -> Digest {
    let content = bytes(length, seed);
    let digest = Digest::sha256(&content);
    store.put(&digest, content).await.unwrap();
    digest
}

/// Content and signed statements about its pieces.
struct Sample {
    content: Bytes,
    digest: Digest,
    geometry: Geometry,
    runs: Vec<PieceRun>,
}

impl Sample {
    fn new(length: u64, seed: u8) -> Self {
        let content = bytes(length, seed);
        let digest = Digest::sha256(&content);
        let geometry = Geometry::of(length);
        let key = PieceSigner::generate().unwrap();
        let signer = PieceSigner::from_pkcs8("seed-1".parse().unwrap(), &key).unwrap();
        let mut sample = Self {
            content,
            digest,
            geometry,
            runs: Vec::new(),
        };
        sample.runs = (0..geometry.pieces())
            .map(|index| {
                let hash = piece_map::hash(&sample.piece(index));
                signer.sign(&digest, length, index, vec![hash])
            })
            .collect();
        sample
    }

    fn size(&self) -> u64 {
        self.geometry.size()
    }

    fn piece(&self, index: u32) -> Bytes {
        let range = self.geometry.bytes_of(index);
        self.content
            .slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap())
    }

    async fn write(&self, partial: &Partial, indexes: impl IntoIterator<Item = u32>) {
        for index in indexes {
            self.write_one(partial, index, self.piece(index), index)
                .await
                .unwrap();
        }
    }

    /// Writes `piece` as piece `index`, under the statement about piece `stated`.
    async fn write_one(
        &self,
        partial: &Partial,
        index: u32,
        piece: Bytes,
        stated: u32,
    ) -> Result<(), StoreError> {
        let run = Arc::new(self.runs[stated as usize].clone());
        let Ok(_) = partial
            .write(index, piece, move |_| Ok::<_, Infallible>(run))
            .await?;
        Ok(())
    }

    async fn download(&self, store: &Store) -> Content {
        let partial = store.begin(&self.digest, self.size()).await.unwrap();
        let (held, _) = partial.restored();
        self.write(&partial, held.complement().iter().collect::<Vec<_>>())
            .await;
        partial.verify().await.unwrap();
        let content = partial.commit().await.unwrap();
        store.set_piece_map(&self.digest, &self.runs).unwrap();
        content
    }
}

async fn read(content: &Content) -> Bytes {
    content.read(0..content.size()).await.unwrap()
}

/// Waits until the store says that it holds the content.
async fn until_held(store: &Store, events: &mut broadcast::Receiver<StoreEvent>, digest: &Digest) {
    while store.size_of(digest).is_none() {
        events.recv().await.unwrap();
    }
}
