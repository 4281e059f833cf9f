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
use crate::load::{BUFFER, Target, read_body};

const PIECE: usize = 1 << 20;
/// Asked for at once, as a mirror does of a peer.
const REQUEST: u64 = 4 << 20;

/// The processor time it takes on this thread.
pub(crate) fn relay(from: &Target, blob: &Blob, path: &Path) -> Result<Duration> {
    let mut stream = from.connect()?;
    let file = File::create(path)?;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, blob.size)?;
    let client = reader()?;
    let begun = thread_time()?;
    let mut whole = blob.digest.hasher();
    let mut buffer = vec![0; BUFFER];
    let mut piece = Vec::with_capacity(PIECE);
    let mut written = 0;
    let mut at = 0;
    while at < blob.size {
        let end = blob.size.min(at + REQUEST);
        stream.write_all(from.request(at, end).as_bytes())?;
        let length = read_body(&mut stream, &mut buffer, |mut bytes| {
            while !bytes.is_empty() {
                let now = bytes.len().min(PIECE - piece.len());
                piece.extend_from_slice(&bytes[..now]);
                bytes = &bytes[now..];
                if piece.len() == PIECE || written + piece.len() as u64 == blob.size {
                    std::hint::black_box(blake3::hash(&piece));
                    whole.update(&piece);
                    file.write_all_at(&piece, written)?;
                    written += piece.len() as u64;
                    piece.clear();
                }
            }
            Ok(())
        })?;
        at += length;
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
