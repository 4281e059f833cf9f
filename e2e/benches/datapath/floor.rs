//! The bare program: the same work with nothing around it. Blocking reads from one socket into one
//! buffer, both hashes while it is warm, a write into a preallocated file, one sync, and the kernel
//! sending it once.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::fs::FallocateFlags;

use crate::content::Blob;
use crate::load::{BUFFER, Target, read_pieces};

const PIECE: usize = 1 << 20;
/// Asked for at once, as a mirror does of a peer.
const REQUEST: usize = 4 << 20;

/// The processor time it takes on this thread.
pub(crate) fn relay(from: &Target, blob: &Blob, path: &Path) -> Result<Duration> {
    let mut stream = from.connect()?;
    let file = File::create(path)?;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, blob.size)?;
    let client = reader()?;
    let begun = thread_time()?;
    let mut whole = blob.digest.hasher();
    let mut buffer = vec![0; BUFFER];
    let mut window = Window::default();
    for start in (0..blob.size).step_by(REQUEST) {
        window.begin(start, blob.size.min(start + REQUEST as u64));
        while let Some((first, end)) = window.wanted() {
            stream.write_all(from.request(first, end).as_bytes())?;
            let mut at = None;
            read_pieces(&mut stream, &mut buffer, |piece, bytes| {
                let sent = piece.map_or(first, |piece| piece * PIECE as u64);
                let place = at.get_or_insert(sent);
                window.take(*place, bytes, |piece, at| {
                    std::hint::black_box(blake3::hash(piece));
                    Ok(file.write_all_at(piece, at)?)
                })?;
                *place += bytes.len() as u64;
                window.in_order(|piece| whole.update(piece));
                Ok(())
            })?;
        }
    }
    ensure!(
        whole.finish() == blob.digest,
        "wrong bytes from the registry"
    );
    file.sync_data()?;
    send(path, &client, blob.size)?;
    let used = thread_time()? - begun;
    std::fs::remove_file(path)?;
    Ok(used)
}

/// What is asked for now. Pieces come in the order that the peer chooses.
#[derive(Default)]
struct Window {
    start: u64,
    bytes: Vec<u8>,
    /// By piece, whether it is whole.
    whole: Vec<bool>,
    /// Pieces given out in order.
    given: usize,
}

impl Window {
    fn begin(&mut self, start: u64, end: u64) {
        self.start = start;
        self.bytes.resize((end - start) as usize, 0);
        self.whole.clear();
        self.whole.resize(self.bytes.len().div_ceil(PIECE), false);
        self.given = 0;
    }

    /// The first run that is missing, in bytes of the blob.
    fn wanted(&self) -> Option<(u64, u64)> {
        let first = self.whole.iter().position(|whole| !whole)?;
        let missing = self.whole[first..].iter().take_while(|whole| !**whole);
        let end = self.bytes.len().min((first + missing.count()) * PIECE);
        Some((self.start + (first * PIECE) as u64, self.start + end as u64))
    }

    /// Bytes that came for this place; each piece that is whole with them is `done`.
    fn take(
        &mut self,
        place: u64,
        mut bytes: &[u8],
        mut done: impl FnMut(&[u8], u64) -> Result<()>,
    ) -> Result<()> {
        ensure!(place >= self.start, "a piece that was not asked for");
        let mut at = (place - self.start) as usize;
        while !bytes.is_empty() {
            let piece = at / PIECE;
            let end = self.bytes.len().min((piece + 1) * PIECE);
            ensure!(at < end, "a piece that was not asked for");
            let now = bytes.len().min(end - at);
            self.bytes[at..at + now].copy_from_slice(&bytes[..now]);
            (bytes, at) = (&bytes[now..], at + now);
            if at == end {
                let first = piece * PIECE;
                done(&self.bytes[first..end], self.start + first as u64)?;
                self.whole[piece] = true;
            }
        }
        Ok(())
    }

    /// Gives out what has become whole with all before it.
    fn in_order(&mut self, mut give: impl FnMut(&[u8])) {
        while self.whole.get(self.given) == Some(&true) {
            let first = self.given * PIECE;
            give(&self.bytes[first..self.bytes.len().min(first + PIECE)]);
            self.given += 1;
        }
    }
}

fn send(path: &Path, client: &TcpStream, size: u64) -> Result<()> {
    let file = File::open(path)?;
    let mut at = 0;
    while at < size {
        let sent = rustix::fs::sendfile(client, &file, Some(&mut at), PIECE)?;
        ensure!(sent > 0, "the file ended early");
    }
    Ok(())
}

/// A socket whose other end is read to its end, by a thread of its own.
fn reader() -> Result<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let sender = TcpStream::connect(listener.local_addr()?)?;
    let (mut client, _) = listener.accept()?;
    std::thread::spawn(move || {
        let mut buffer = vec![0; BUFFER];
        while client.read(&mut buffer).is_ok_and(|read| read > 0) {}
    });
    Ok(sender)
}

/// What this thread has run, by the kernel's scheduler.
fn thread_time() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = stat.split(' ').next().unwrap_or_default().parse()?;
    Ok(Duration::from_nanos(nanoseconds))
}

/// What sha256 costs here, of bytes that are in the cache.
pub(crate) fn sha256_seconds_per_gib() -> Result<f64> {
    let bytes = vec![7; PIECE];
    let mut hasher = darner_proto::digest::Digest::sha256(b"").hasher();
    let begun = thread_time()?;
    for _ in 0..512 {
        hasher.update(&bytes);
    }
    std::hint::black_box(hasher.finish());
    Ok((thread_time()? - begun).as_secs_f64() * 2.0)
}
