//! The OCI image-layout directory: what it holds, how blobs get into it, what `index.json` names.
//!
//! Everything is written under another name and renamed, so a file that is there under its own name
//! is whole; a blob's is checked by its digest all the same before it is taken for it, so nothing
//! rests on what a crash leaves. What came of blobs whose pull was cut off is in
//! `.partial`, and goes when they are complete.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use darner_proto::digest::{Digest, Hasher};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::PullError;
use super::image::Image;
use super::manifests::Top;

/// The version of the layout that this is, by the image specification.
const VERSION: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
const VERSION_FILE: &str = "oci-layout";
const INDEX_FILE: &str = "index.json";
const PARTIAL_DIR: &str = ".partial";
/// Names the image within the layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Names the image everywhere; Docker and containerd write and read it.
const FULL_NAME: &str = "io.containerd.image.name";
/// Bytes hashed at a time.
const READ: usize = 1 << 20;

/// A layout that this process alone writes to.
#[derive(Debug)]
pub(super) struct Layout {
    root: PathBuf,
    /// Held for its lock.
    _version: File,
}

/// A blob on its way into the layout.
#[derive(Debug)]
pub(super) struct Partial {
    file: tokio::fs::File,
    path: PathBuf,
    target: PathBuf,
    digest: Digest,
    hasher: Hasher,
    len: u64,
}

/// How a partial that has all its bytes ended.
#[derive(Debug)]
pub(super) enum Finished {
    /// It is in the layout.
    Held,
    /// It is gone: its bytes have this digest.
    Wrong(Digest),
}

impl Layout {
    /// Opens the layout in `root`, or makes one where there is nothing.
    pub(super) async fn open(root: &Path) -> Result<Self, PullError> {
        let root = root.to_owned();
        blocking(move || open(root)).await
    }

    /// Whether the blob is there. It is read to know.
    pub(super) async fn holds(&self, digest: &Digest, size: u64) -> Result<bool, PullError> {
        let path = self.blob(digest);
        let digest = *digest;
        blocking(move || match fs::metadata(&path) {
            Ok(found) if found.len() == size => {
                let mut hasher = digest.hasher();
                let read = File::open(&path).and_then(|mut file| hash(&mut file, &mut hasher));
                read.map_err(PullError::file(&path, "read"))?;
                Ok(hasher.finish() == digest)
            }
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(PullError::file(&path, "read")(error)),
        })
        .await
    }

    /// A small blob that is there and no larger than `limit`, or nothing.
    pub(super) async fn read(&self, digest: &Digest, limit: u64) -> Option<Vec<u8>> {
        let path = self.blob(digest);
        let digest = *digest;
        // Whatever is the matter with it, it is fetched and written anew.
        let read = move || {
            let length = fs::metadata(&path).ok()?.len();
            let bytes = (length <= limit).then(|| fs::read(&path).ok()).flatten()?;
            digest.matches(&bytes).then_some(bytes)
        };
        blocking(read).await
    }

    /// Takes a small blob whose bytes have been checked.
    pub(super) async fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), PullError> {
        let (path, bytes) = (self.blob(digest), bytes.to_owned());
        let partial = self.partial(digest);
        blocking(move || {
            make_dir_of(&partial)?;
            make_dir_of(&path)?;
            replace(&path, &partial, &bytes)
        })
        .await
    }

    /// Begins a blob, or goes on with what an earlier pull has left of it.
    pub(super) async fn begin(&self, digest: &Digest, size: u64) -> Result<Partial, PullError> {
        let (path, target, digest) = (self.partial(digest), self.blob(digest), *digest);
        blocking(move || {
            make_dir_of(&path)?;
            make_dir_of(&target)?;
            let failed = |error| PullError::file(&path, "written")(error);
            let mut options = File::options();
            let opened = options
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path);
            let mut file = opened.map_err(failed)?;
            if file.metadata().map_err(failed)?.len() > size {
                file.set_len(0).map_err(failed)?;
            }
            let mut hasher = digest.hasher();
            // Where reading ends, writing goes on.
            let len = hash(&mut file, &mut hasher).map_err(failed)?;
            Ok(Partial {
                file: file.into(),
                path,
                target,
                digest,
                hasher,
                len,
            })
        })
        .await
    }

    /// Has `index.json` name the image, in place of what had its name before.
    pub(super) async fn name(&self, top: &Top, image: &Image) -> Result<(), PullError> {
        let path = self.root.join(INDEX_FILE);
        let partial = self.root.join(PARTIAL_DIR).join(INDEX_FILE);
        let entry = entry(top, image);
        blocking(move || {
            let mut index = read_index(&path)?;
            let Some(manifests) = manifests(&mut index) else {
                let why = "it has no list of manifests".to_owned();
                return Err(PullError::Damaged { path, why });
            };
            manifests.retain(|other| !same_name(other, &entry));
            manifests.push(entry);
            make_dir_of(&partial)?;
            replace(&path, &partial, index.to_string().as_bytes())?;
            // Stays while it has halves of other blobs in it.
            if let Some(dir) = partial.parent() {
                let _ = fs::remove_dir(dir);
            }
            Ok(())
        })
        .await
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        let blobs = self.root.join("blobs");
        blobs.join(digest.algorithm()).join(digest.hex())
    }

    fn partial(&self, digest: &Digest) -> PathBuf {
        let name = format!("{}-{}", digest.algorithm(), digest.hex());
        self.root.join(PARTIAL_DIR).join(name)
    }
}

impl Partial {
    /// Bytes that are there.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Adds bytes.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), PullError> {
        let written = self.file.write_all(bytes).await;
        written.map_err(PullError::file(&self.path, "written"))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Takes it into the layout, if it is what its digest says. It is empty from here on.
    pub(super) async fn finish(&mut self) -> Result<Finished, PullError> {
        // What tokio still has in its buffer.
        let flushed = self.file.flush().await;
        flushed.map_err(PullError::file(&self.path, "written"))?;
        let fresh = self.digest.hasher();
        let found = std::mem::replace(&mut self.hasher, fresh).finish();
        self.len = 0;
        let right = found == self.digest;
        let (path, target) = (self.path.clone(), self.target.clone());
        blocking(move || {
            if right {
                fs::rename(&path, &target).map_err(PullError::file(&target, "written"))?;
                return Ok(Finished::Held);
            }
            fs::remove_file(&path).map_err(PullError::file(&path, "removed"))?;
            Ok(Finished::Wrong(found))
        })
        .await
    }
}

fn open(root: PathBuf) -> Result<Layout, PullError> {
    fs::create_dir_all(&root).map_err(PullError::file(&root, "made"))?;
    let path = root.join(VERSION_FILE);
    let read = |error| PullError::file(&path, "read")(error);
    let is_new = !path.try_exists().map_err(read)?;
    if is_new && fs::read_dir(&root).map_err(read)?.next().is_some() {
        return Err(PullError::NotLayout(root));
    }
    let mut options = File::options();
    let opened = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    let mut file = opened.map_err(PullError::file(&path, "written"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(PullError::InUse(root)),
        Err(TryLockError::Error(error)) => return Err(PullError::file(&path, "locked")(error)),
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(read)?;
    if text.is_empty() {
        let written = file.write_all(VERSION.as_bytes());
        written.map_err(PullError::file(&path, "written"))?;
    } else {
        check_version(&path, &text)?;
    }
    Ok(Layout {
        root,
        _version: file,
    })
}

/// Layouts of a later major version are left as they are.
fn check_version(path: &Path, text: &str) -> Result<(), PullError> {
    let damaged = |why| PullError::Damaged {
        path: path.to_owned(),
        why,
    };
    let value: Value = serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
    let version = value["imageLayoutVersion"].as_str().unwrap_or_default();
    if !version.starts_with("1.") {
        let why = format!("it is of version {version:?}, and this program knows 1.0.0");
        return Err(damaged(why));
    }
    Ok(())
}

fn read_index(path: &Path) -> Result<Value, PullError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| PullError::Damaged {
            path: path.to_owned(),
            why: error.to_string(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(json!({
            "schemaVersion": 2,
            "mediaType": oci_distribution::manifest::OCI_IMAGE_INDEX_MEDIA_TYPE,
            "manifests": [],
        })),
        Err(error) => Err(PullError::file(path, "read")(error)),
    }
}

fn manifests(index: &mut Value) -> Option<&mut Vec<Value>> {
    index.get_mut("manifests")?.as_array_mut()
}

/// The descriptor of `top`, named.
fn entry(top: &Top, image: &Image) -> Value {
    let mut entry = json!({
        "mediaType": top.media_type,
        "digest": top.digest.to_string(),
        "size": top.size,
        "annotations": { REF_NAME: image.short_name(), FULL_NAME: image.to_string() },
    });
    if let Some(platform) = &top.platform {
        entry["platform"] = platform.clone();
    }
    entry
}

/// Whether two entries are called the same. One that another tool made has only the short name.
fn same_name(one: &Value, other: &Value) -> bool {
    let annotation =
        |entry: &Value, key: &str| entry["annotations"][key].as_str().map(str::to_owned);
    let (full, others) = (annotation(one, FULL_NAME), annotation(other, FULL_NAME));
    match (full, others) {
        (Some(full), Some(others)) => full == others,
        _ => annotation(one, REF_NAME) == annotation(other, REF_NAME),
    }
}

fn make_dir_of(path: &Path) -> Result<(), PullError> {
    match path.parent() {
        Some(dir) => fs::create_dir_all(dir).map_err(PullError::file(dir, "made")),
        None => Ok(()),
    }
}

fn replace(path: &Path, partial: &Path, bytes: &[u8]) -> Result<(), PullError> {
    let written = fs::write(partial, bytes).and_then(|()| fs::rename(partial, path));
    written.map_err(PullError::file(path, "written"))
}

/// Hashes the rest of `file` and gives its length.
fn hash(file: &mut File, hasher: &mut Hasher) -> io::Result<u64> {
    let mut buffer = vec![0; READ];
    let mut len = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(len),
            read => {
                hasher.update(&buffer[..read]);
                len += read as u64;
            }
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // Nothing cancels it, so it has panicked.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
