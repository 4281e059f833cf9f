//! Where things are on disk.
//!
//! ```text
//! format            the version of all this; written first, read before anything is touched
//! lock              held by the process that works on the store
//! oci-layout, index.json, blobs/<algorithm>/<hex>     an OCI image layout, and beside its blobs
//!                   files, which have no digest to be called by, as blobs/file/<hex of the key>
//! partial/          <algorithm>-<hex> and <algorithm>-<hex>.pieces: downloads;
//!                   new-<n>: small contents being written; old-<n>: what is being removed
//! quarantine/       files that did not have their digest, and a damaged index
//! index.redb        what the names of the files do not say
//! ```

use std::fs::{DirBuilder, File, Metadata};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use darner_proto::digest::Digest;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::disk;
use super::error::StoreError;

/// The format that this version writes, and the newest it knows.
const FORMAT: u32 = 1;
const FORMAT_NAME: &str = "darner-store";
const PRIVATE_DIRECTORY: u32 = 0o700;
/// A process that is being replaced lets go of the store within moments.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_POLL: Duration = Duration::from_millis(20);
/// `format` is one short line.
const LONGEST_FORMAT: u64 = 64;
const ALGORITHMS: [&str; 3] = ["sha256", "sha512", "file"];
const JOURNAL_SUFFIX: &str = ".pieces";

/// The paths of a store that this process has to itself.
#[derive(Debug)]
pub(super) struct Layout {
    root: PathBuf,
    next: AtomicU64,
    /// The lock goes with the file.
    _lock: File,
}

impl Layout {
    /// Opens the directory, or makes it. A directory of another format is left as it is.
    pub(super) fn open(root: &Path) -> Result<Self, StoreError> {
        // First, so that a store that is not for this version keeps even its permissions.
        let fresh = check_format(root)?;
        make_directory(root)?;
        let lock = lock(root)?;
        // Whoever held the lock before may have written it.
        if fresh && check_format(root)? {
            write_format(root)?;
        }
        for name in ["partial", "quarantine", "blobs"] {
            make_directory(&root.join(name))?;
        }
        for algorithm in ALGORITHMS {
            make_directory(&root.join("blobs").join(algorithm))?;
        }
        write_once(root, "oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        write_once(
            root,
            "index.json",
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#,
        )?;
        disk::sync_directory(root).map_err(|error| StoreError::io("sync", root, error))?;
        Ok(Self {
            root: root.to_owned(),
            next: AtomicU64::new(0),
            _lock: lock,
        })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn index(&self) -> PathBuf {
        self.root.join("index.redb")
    }

    pub(super) fn blobs(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm())
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs(digest).join(digest.hex())
    }

    pub(super) fn partial(&self, digest: &Digest) -> PathBuf {
        self.root.join("partial").join(file_name(digest))
    }

    pub(super) fn journal(&self, digest: &Digest) -> PathBuf {
        let name = format!("{}{JOURNAL_SUFFIX}", file_name(digest));
        self.root.join("partial").join(name)
    }

    pub(super) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    pub(super) fn quarantined(&self, digest: &Digest) -> PathBuf {
        self.quarantine().join(file_name(digest))
    }

    /// A name for content that is being written.
    pub(super) fn new_file(&self) -> PathBuf {
        self.numbered("new")
    }

    /// Moves a file out of the way, to be removed at leisure: removing takes the longer the larger
    /// it is, moving does not. `None` when it was not there.
    pub(super) fn set_aside(&self, path: &Path) -> Option<PathBuf> {
        let aside = self.numbered("old");
        match std::fs::rename(path, &aside) {
            Ok(()) => Some(aside),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "a file cannot be moved out of the way");
                }
                None
            }
        }
    }

    fn numbered(&self, kind: &str) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.root.join("partial").join(format!("{kind}-{number}"))
    }

    /// Every file under `blobs` that is named as a blob. Files are not looked at: that would take
    /// longer than everything else at a start.
    pub(super) fn scan_blobs(&self) -> Result<Vec<Digest>, StoreError> {
        let mut found = Vec::new();
        for algorithm in ALGORITHMS {
            let directory = self.root.join("blobs").join(algorithm);
            let failed = |error| StoreError::io("list", &directory, error);
            for entry in std::fs::read_dir(&directory).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                if entry.file_type().map_err(failed)?.is_file()
                    && let Some(name) = entry.file_name().to_str()
                {
                    found.extend(Digest::from_hex(algorithm, name).ok());
                }
            }
        }
        Ok(found)
    }

    /// The size of a blob's file, if it is there.
    pub(super) fn size_of_blob(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let path = self.blob(digest);
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("look at", &path, error)),
        }
    }

    /// Every partial that has a journal: digest, size, and when it was last written to in unix
    /// milliseconds. Removes everything else in `partial`: what was being written or removed.
    pub(super) fn scan_partials(&self) -> Result<Vec<(Digest, u64, u64)>, StoreError> {
        let directory = self.root.join("partial");
        let (mut data, mut journals) = (Vec::new(), std::collections::HashMap::new());
        for_each_file(&directory, |name, metadata| {
            match name.strip_suffix(JOURNAL_SUFFIX) {
                Some(of) => drop(journals.insert(of.to_owned(), modified_ms(metadata))),
                None => data.push((name.to_owned(), metadata.len())),
            }
        })?;
        let mut found = Vec::new();
        for (name, size) in data {
            let digest = Digest::parse_key(&name.replacen('-', ":", 1)).ok();
            match digest.and_then(|digest| Some((digest, journals.remove(&name)?))) {
                Some((digest, last_use)) => found.push((digest, size, last_use)),
                None => remove(&directory.join(name)),
            }
        }
        for name in journals.into_keys() {
            remove(&directory.join(format!("{name}{JOURNAL_SUFFIX}")));
        }
        Ok(found)
    }

    /// Removes the oldest quarantined files beyond `count` files or `bytes` bytes.
    pub(super) fn prune_quarantine(&self, count: usize, bytes: u64) -> Result<(), StoreError> {
        let directory = self.quarantine();
        let mut files = Vec::new();
        for_each_file(&directory, |name, metadata| {
            files.push((modified_ms(metadata), metadata.len(), name.to_owned()));
        })?;
        files.sort_unstable_by(|left, right| right.cmp(left));
        let mut kept = 0u64;
        for (rank, (_, size, name)) in files.into_iter().enumerate() {
            kept = kept.saturating_add(size);
            if rank >= count || kept > bytes {
                remove(&directory.join(name));
            }
        }
        Ok(())
    }
}

/// Removes a file whose presence does no harm.
pub(super) fn remove(path: &Path) {
    if let Err(error) = disk::remove(path) {
        tracing::warn!(path = %path.display(), %error, "a file cannot be removed");
    }
}

fn file_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm(), digest.hex())
}

fn modified_ms(metadata: &Metadata) -> u64 {
    let seconds = u64::try_from(metadata.mtime()).unwrap_or(0);
    seconds
        .saturating_mul(1000)
        .saturating_add(u64::try_from(metadata.mtime_nsec() / 1_000_000).unwrap_or(0))
}

/// Calls `seen` for every regular file; links and directories are not ours and are left alone.
fn for_each_file(
    directory: &Path,
    mut seen: impl FnMut(&str, &Metadata),
) -> Result<(), StoreError> {
    let failed = |error| StoreError::io("list", directory, error);
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let metadata = entry.metadata().map_err(failed)?;
        if let Some(name) = entry.file_name().to_str()
            && metadata.is_file()
        {
            seen(name, &metadata);
        }
    }
    Ok(())
}

/// Makes a directory only this user may enter, or makes sure that it is one.
fn make_directory(path: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::io("make the directory", path, error);
    DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_DIRECTORY)
        .create(path)
        .map_err(failed)?;
    let found = std::fs::metadata(path).map_err(failed)?;
    let me = rustix::process::geteuid().as_raw();
    if found.uid() != me && found.uid() != 0 {
        return Err(StoreError::Foreign(path.to_owned()));
    }
    if found.permissions().mode() & 0o077 != 0 {
        let private = std::fs::Permissions::from_mode(PRIVATE_DIRECTORY);
        std::fs::set_permissions(path, private)
            .map_err(|error| StoreError::io("close to other users", path, error))?;
    }
    Ok(())
}

/// Whether the directory is still without a format. Changes nothing.
fn check_format(root: &Path) -> Result<bool, StoreError> {
    let path = root.join("format");
    let text = match disk::open(&path) {
        Ok(file) => {
            let length = file.metadata().map(|metadata| metadata.len());
            let length = length
                .map_err(|error| StoreError::io("read", &path, error))?
                .min(LONGEST_FORMAT);
            disk::read(&file, 0..length).map_err(|error| StoreError::io("read", &path, error))?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return check_empty(root),
        Err(error) => return Err(StoreError::io("open", &path, error)),
    };
    let text = String::from_utf8_lossy(&text);
    let found = text
        .trim_end()
        .strip_prefix(FORMAT_NAME)
        .and_then(|version| version.trim_start().parse::<u32>().ok())
        .ok_or_else(|| StoreError::NotAStore(root.to_owned()))?;
    if found > FORMAT {
        return Err(StoreError::Newer {
            path: root.to_owned(),
            found,
            known: FORMAT,
        });
    }
    Ok(false)
}

/// Nothing, or only what a start leaves that ended before it wrote the format, and what a fresh file
/// system has.
fn check_empty(root: &Path) -> Result<bool, StoreError> {
    let failed = |error| StoreError::io("list", root, error);
    let entries = match std::fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        if !matches!(name.to_str(), Some("lock" | "format.new" | "lost+found")) {
            return Err(StoreError::NotAStore(root.to_owned()));
        }
    }
    Ok(true)
}

fn lock(root: &Path) -> Result<File, StoreError> {
    let path = root.join("lock");
    let failed = |error: io::Error| StoreError::io("lock", &path, error);
    let file = disk::open_writable(&path).map_err(failed)?;
    let begun = Instant::now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK | Errno::INTR) if begun.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(LOCK_POLL);
            }
            Err(Errno::WOULDBLOCK) => return Err(StoreError::InUse(root.to_owned())),
            Err(error) => return Err(failed(error.into())),
        }
    }
}

fn write_format(root: &Path) -> Result<(), StoreError> {
    write_once(root, "format", &format!("{FORMAT_NAME} {FORMAT}\n"))?;
    disk::sync_directory(root).map_err(|error| StoreError::io("sync", root, error))
}

/// Writes a small file that never changes, whole or not at all.
fn write_once(root: &Path, name: &str, text: &str) -> Result<(), StoreError> {
    let path = root.join(name);
    let failed = |error| StoreError::io("write", &path, error);
    if path.try_exists().map_err(failed)? {
        return Ok(());
    }
    let new = root.join(format!("{name}.new"));
    let mut file = disk::create(&new).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    std::fs::rename(&new, &path).map_err(failed)
}
