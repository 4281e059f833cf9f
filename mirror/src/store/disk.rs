//! Files: the few operations the store needs, each with the flags and modes it must have. All of
//! them block.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use darner_proto::digest::Digest;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

/// Read and hashed at a time: large enough that system calls do not count, small enough to stay in
/// the processor's cache.
pub(super) const CHUNK: u64 = 1 << 20;
/// The same where many do it at once, each with a buffer of its own: downloads that read back what they have
/// written.
const FED: u64 = 256 << 10;

const PRIVATE: u32 = 0o600;
const SEALED: Mode = Mode::RUSR;

fn flags() -> i32 {
    // The flag is a small positive number on every platform.
    i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0)
}

/// Opens a file for reading; a symbolic link is refused.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(flags())
        .open(path)
}

/// Opens a file whose bytes are read from the disk itself: what is in memory is neither used nor
/// kept. Not every file system can.
pub(super) fn open_direct(path: &Path) -> io::Result<File> {
    let direct = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
    OpenOptions::new()
        .read(true)
        .custom_flags(flags() | direct)
        .open(path)
}

/// Reads by way of the memory from now on.
pub(super) fn read_through_memory(file: &File) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    Ok(rustix::fs::fcntl_setfl(file, flags - OFlags::DIRECT)?)
}

/// Whether `file` is what is called `path` now.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    let there = std::fs::symlink_metadata(path);
    match (file.metadata(), there) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// Opens a file for reading and writing, making it if need be.
pub(super) fn open_writable(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PRIVATE)
        .custom_flags(flags())
        .open(path)
}

/// Makes an empty file in place of whatever was there.
pub(super) fn create(path: &Path) -> io::Result<File> {
    remove(path)?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(PRIVATE)
        .custom_flags(flags())
        .open(path)
}

/// Gives an empty file `size` bytes, taken from the disk now rather than when they are written.
pub(super) fn allocate(file: &File, size: u64) -> io::Result<()> {
    if size == 0 {
        return Ok(());
    }
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
            Err(Errno::INTR) => {}
            // A file system that cannot: the bytes are taken as they are written.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return file.set_len(size),
            result => return Ok(result?),
        }
    }
}

/// The bytes of `range`, all of them.
pub(super) fn read(file: &File, range: Range<u64>) -> io::Result<Vec<u8>> {
    let length = usize::try_from(range.end.saturating_sub(range.start))
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes)
}

/// Feeds the bytes of `range` to `take`, by way of `buffer`, [`FED`] at a time. `false` when
/// `stop` ended it early.
pub(super) fn feed(
    file: &File,
    range: Range<u64>,
    buffer: &mut Vec<u8>,
    mut take: impl FnMut(&[u8]),
    stop: impl Fn() -> bool,
) -> io::Result<bool> {
    let mut at = range.start;
    while at < range.end {
        if stop() {
            return Ok(false);
        }
        // At most FED, which fits.
        let now = usize::try_from((range.end - at).min(FED)).unwrap_or(usize::MAX);
        buffer.resize(now, 0);
        file.read_exact_at(buffer, at)?;
        take(buffer);
        at += now as u64;
    }
    Ok(true)
}

/// Makes the file's bytes durable and the file read-only.
pub(super) fn seal(file: &File) -> io::Result<()> {
    rustix::fs::fchmod(file, SEALED)?;
    file.sync_data()
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Removes a file that may not be there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Bytes of the file system that an ordinary user may take, and bytes it has in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) free: u64,
    pub(super) total: u64,
}

/// The space of the file system that `path` is on.
pub(super) fn space(path: &Path) -> io::Result<Space> {
    let found = rustix::fs::statvfs(path)?;
    Ok(Space {
        free: found.f_bavail.saturating_mul(found.f_frsize),
        total: found.f_blocks.saturating_mul(found.f_frsize),
    })
}

/// Whether the first `size` bytes of `file`, and nothing else, have the digest. `None` when `stop`
/// says so before that is known.
pub(super) fn has_digest(
    file: &File,
    size: u64,
    digest: &Digest,
    stop: impl Fn() -> bool,
) -> io::Result<Option<bool>> {
    if file.metadata()?.len() != size {
        return Ok(Some(false));
    }
    let mut hasher = digest.hasher();
    let take = |bytes: &[u8]| hasher.update(bytes);
    let whole = feed(file, 0..size, &mut Vec::new(), take, stop)?;
    Ok(whole.then(|| hasher.finish() == *digest))
}
