//! The scrub: everything in the store is read again on a schedule, past the memory, so that what a
//! disk has lost is found before somebody asks for it. Wrong content is set aside and withdrawn, and
//! those who listen are told that it is to be had again.
//!
//! A thread of its own reads and hashes for no more than its share of the time, and stands still
//! while something is downloaded; only a pass that is late does not. How far a pass has come is in
//! the index, so a restart does not begin it anew.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use darner_proto::digest::Digest;
use rustix::io::Errno;

use super::disk::CHUNK;
use super::encoding::ScrubPass;
use super::error::StoreError;
use super::index::{Change, Table};
use super::{Inner, disk, lock, now_ms};

/// Contents taken up at a time: the ledger is searched once for each so many.
const BATCH: usize = 256;
/// While the store is busy it is looked at again after this.
const BUSY_LOOK: Duration = Duration::from_millis(500);
/// What file systems want the place, the length and the memory of a direct read to be multiples of.
const ALIGNMENT: usize = 4096;
/// Where the index keeps how far a pass is.
const KEY: &[u8] = b"scrub";

/// When the store is scrubbed, and how hard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// From the beginning of a pass to that of the next.
    pub every: Duration,
    /// Of a hundred parts of the time, how many are spent reading and hashing at most. Less than
    /// one counts as one.
    pub share: u32,
}

impl Schedule {
    /// How long until a pass is to be begun or gone on with.
    fn until_due(&self, pass: &ScrubPass, now_ms: u64) -> Duration {
        if !pass.done {
            return Duration::ZERO;
        }
        // A clock that was set back does not put a pass off for longer than the schedule says.
        let since = Duration::from_millis(now_ms.saturating_sub(pass.began_ms));
        self.every.saturating_sub(since)
    }

    /// Whether the next pass should have begun by now.
    fn is_late(&self, pass: &ScrubPass, now_ms: u64) -> bool {
        Duration::from_millis(now_ms.saturating_sub(pass.began_ms)) >= self.every
    }

    /// The rest that is due after so much work.
    fn rest_after(&self, work: Duration) -> Duration {
        let share = self.share.clamp(1, 100);
        work * (100 - share) / share
    }
}

/// The process is ending, or the store has been closed.
struct Stopped;

/// Starts the thread. It ends when the sender of `stop` is dropped.
pub(super) fn start(
    store: &Arc<Inner>,
    schedule: Schedule,
    stop: Receiver<()>,
) -> Result<(), StoreError> {
    store.metrics.scrub_schedule(schedule);
    let scrub = Scrub {
        store: Arc::downgrade(store),
        schedule,
        stop,
    };
    std::thread::Builder::new()
        .name("store-scrub".to_owned())
        .spawn(move || drop(scrub.run()))
        .map(drop)
        .map_err(|error| StoreError::io("start a thread for", store.layout.root(), error))
}

struct Scrub {
    store: Weak<Inner>,
    schedule: Schedule,
    stop: Receiver<()>,
}

impl Scrub {
    fn run(&self) -> Result<(), Stopped> {
        let mut pass = self.restored()?;
        loop {
            self.pause(self.schedule.until_due(&pass, now_ms()))?;
            if pass.done {
                pass = ScrubPass {
                    began_ms: now_ms(),
                    ..ScrubPass::default()
                };
            }
            self.go_on(&mut pass)?;
        }
    }

    /// The pass the index knows of. A store that was never scrubbed counts as scrubbed now: all in
    /// it was verified when it came.
    fn restored(&self) -> Result<ScrubPass, Stopped> {
        let store = self.store()?;
        let kept = store.index.get(Table::State, KEY);
        if let Some(pass) = kept.and_then(|value| ScrubPass::decode(&value)) {
            return Ok(pass);
        }
        let pass = ScrubPass {
            began_ms: now_ms(),
            after: None,
            done: true,
        };
        keep(&store, &pass);
        Ok(pass)
    }

    /// Carries a pass to its end.
    fn go_on(&self, pass: &mut ScrubPass) -> Result<(), Stopped> {
        let mut buffer = Buffer::new();
        loop {
            let batch = lock(&self.store()?.ledger).following(pass.after.as_ref(), BATCH);
            if batch.is_empty() {
                break;
            }
            for digest in batch {
                self.one(&digest, pass, &mut buffer)?;
                pass.after = Some(digest);
                keep(&*self.store()?, pass);
            }
        }
        (pass.after, pass.done) = (None, true);
        let store = self.store()?;
        keep(&store, pass);
        store.metrics.scrubbed_all(now_ms());
        Ok(())
    }

    fn one(&self, digest: &Digest, pass: &ScrubPass, buffer: &mut Buffer) -> Result<(), Stopped> {
        let Some((mut file, size)) = self.open(digest)? else {
            return Ok(());
        };
        let mut hasher = digest.hasher();
        let mut at = 0;
        while at < size {
            self.give_way(pass)?;
            let begun = Instant::now();
            // At most a chunk, which fits.
            let length = usize::try_from((size - at).min(CHUNK)).unwrap_or(usize::MAX);
            match file.read(at, length, buffer) {
                Ok(bytes) => hasher.update(bytes),
                Err(error) => {
                    self.found(digest, &file.file, Err(error))?;
                    return Ok(());
                }
            }
            at += length as u64;
            self.store()?.metrics.scrubbed(length as u64);
            self.pause(self.schedule.rest_after(begun.elapsed()))?;
        }
        // Of a file whose digest is not known nothing can be said.
        let expected = self.store()?.content_digest(digest);
        let found = hasher.finish();
        let right = expected.is_none_or(|expected| expected == found);
        self.found(digest, &file.file, Ok(right))
    }

    /// The content's file and size; `None` for content that is gone or cannot be opened just now,
    /// which a reader would find out, too.
    fn open(&self, digest: &Digest) -> Result<Option<(Source, u64)>, Stopped> {
        let store = self.store()?;
        let Some(size) = lock(&store.ledger).size_of(digest) else {
            return Ok(None);
        };
        Ok(Source::open(&store, digest).ok().map(|file| (file, size)))
    }

    fn found(&self, digest: &Digest, file: &File, found: io::Result<bool>) -> Result<(), Stopped> {
        let store = self.store()?;
        match found {
            Ok(true) => return Ok(()),
            Ok(false) => tracing::error!(%digest, "the scrub has found wrong content"),
            Err(error) => {
                tracing::error!(%digest, %error, "the scrub has found content that cannot be read");
            }
        }
        // It may have been evicted meanwhile and had again: that is another file.
        if disk::is_at(file, &store.layout.blob(digest)) {
            store.quarantine(digest);
        }
        Ok(())
    }

    /// Waits while there is a download, unless the pass is late.
    fn give_way(&self, pass: &ScrubPass) -> Result<(), Stopped> {
        while !self.schedule.is_late(pass, now_ms()) && lock(&self.store()?.ledger).is_busy() {
            self.pause(BUSY_LOOK)?;
        }
        Ok(())
    }

    fn store(&self) -> Result<Arc<Inner>, Stopped> {
        self.store.upgrade().ok_or(Stopped)
    }

    fn pause(&self, time: Duration) -> Result<(), Stopped> {
        match self.stop.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Err(Stopped),
        }
    }
}

fn keep(store: &Inner, pass: &ScrubPass) {
    let change = Change::set(Table::State, KEY.to_vec(), pass.encode());
    // Without, a restart reads some content twice.
    if let Err(error) = store.submit(vec![change]) {
        tracing::debug!(%error, "the index does not know how far the scrub is");
    }
}

/// Room for a chunk at an address that direct reads can be made to.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn new() -> Self {
        // A chunk is a mebibyte.
        let bytes = vec![0; CHUNK as usize + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { bytes, start }
    }

    fn chunk(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + CHUNK as usize]
    }
}

/// A file that is read past the memory, where its file system can do that: what is in memory says
/// nothing of the disk, and what is read here must not push out what others read.
struct Source {
    file: File,
    direct: bool,
}

impl Source {
    fn open(store: &Inner, digest: &Digest) -> io::Result<Self> {
        let path = store.layout.blob(digest);
        match disk::open_direct(&path) {
            Ok(file) => Ok(Self { file, direct: true }),
            Err(error) if is_invalid(&error) => Ok(Self {
                file: disk::open(&path)?,
                direct: false,
            }),
            Err(error) => Err(error),
        }
    }

    /// The `length` bytes from `at`, which is a multiple of a chunk.
    fn read<'a>(&mut self, at: u64, length: usize, buffer: &'a mut Buffer) -> io::Result<&'a [u8]> {
        let chunk = buffer.chunk();
        match self.fill(at, length, chunk) {
            Err(error) if self.direct && is_invalid(&error) => {
                // Such as one whose blocks are larger than pages.
                disk::read_through_memory(&self.file)?;
                self.direct = false;
                self.fill(at, length, chunk)?;
            }
            filled => filled?,
        }
        Ok(&chunk[..length])
    }

    fn fill(&self, at: u64, length: usize, chunk: &mut [u8]) -> io::Result<()> {
        let mut got = 0;
        while got < length {
            // Whole blocks are asked for, beyond the end of the file, too.
            match self.file.read_at(&mut chunk[got..], at + got as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => got += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_invalid(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::INVAL | Errno::OPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn schedule(share: u32) -> Schedule {
        Schedule { every: HOUR, share }
    }

    fn pass(began_ms: u64, done: bool) -> ScrubPass {
        ScrubPass {
            began_ms,
            after: None,
            done,
        }
    }

    #[test]
    fn a_pass_begins_when_the_one_before_is_old_enough() {
        let now = 10 * 3_600_000;
        let until = |pass: &ScrubPass| schedule(5).until_due(pass, now);
        assert_eq!(until(&pass(now, true)), HOUR);
        assert_eq!(until(&pass(now - 3_000_000, true)), HOUR / 6);
        assert_eq!(until(&pass(now - 4_000_000, true)), Duration::ZERO);
        assert_eq!(until(&pass(now, false)), Duration::ZERO, "it goes on");
        assert_eq!(until(&pass(now * 2, true)), HOUR, "the clock was set back");
    }

    #[test]
    fn only_a_pass_as_old_as_the_schedule_is_late() {
        let now = 10 * 3_600_000;
        assert!(!schedule(5).is_late(&pass(now - 3_599_000, false), now));
        assert!(schedule(5).is_late(&pass(now - 3_600_000, false), now));
    }

    #[test]
    fn rests_leave_others_their_share() {
        let work = Duration::from_millis(10);
        for (share, rest) in [(100, 0), (50, 10), (5, 190), (1, 990), (0, 990)] {
            assert_eq!(
                schedule(share).rest_after(work),
                Duration::from_millis(rest),
                "{share}"
            );
        }
    }
}
