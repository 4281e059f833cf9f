//! Clients: threads with a socket each.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use darner_proto::digest::Digest;
use darner_proto::peer::FIRST_PIECE;

use crate::content::Blob;
use crate::secured::{Member, Secured};

/// Read from a socket at once: more does not help.
pub(crate) const BUFFER: usize = 256 << 10;
const MIB: u64 = 1 << 20;

/// What is asked for, and of whom.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    address: SocketAddr,
    path: String,
    pieces: bool,
    member: Option<Member>,
}

/// A connection.
#[derive(Debug)]
pub(crate) enum Connection {
    Plain(TcpStream),
    Secured(Box<Secured>),
}

impl Target {
    /// A path, in part by `Range`.
    pub(crate) fn file(address: SocketAddr, path: &str) -> Self {
        Self {
            address,
            path: path.to_owned(),
            pieces: false,
            member: None,
        }
    }

    /// Content's pieces of a mebibyte, as peers ask for them.
    pub(crate) fn pieces(address: SocketAddr, digest: &Digest) -> Self {
        let path = format!("/v1/tasks/{digest}/pieces");
        Self {
            address,
            path,
            pieces: true,
            member: None,
        }
    }

    /// The same, asked for by a member under TLS.
    pub(crate) fn secured(self, member: &Member) -> Self {
        let member = Some(member.clone());
        Self { member, ..self }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(match &self.member {
            Some(member) => Connection::Secured(Box::new(member.connect(stream)?)),
            None => Connection::Plain(stream),
        })
    }

    /// A request for `start..end`.
    pub(crate) fn request(&self, start: u64, end: u64) -> String {
        let Self { address, path, .. } = self;
        if self.pieces {
            let (first, last) = (start / MIB, (end - 1) / MIB);
            return format!("GET {path}?want={first}-{last} HTTP/1.1\r\nhost: {address}\r\n\r\n");
        }
        let last = end - 1;
        format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nrange: bytes={start}-{last}\r\n\r\n")
    }

    /// A request for everything.
    pub(crate) fn whole(&self) -> String {
        format!(
            "GET {} HTTP/1.1\r\nhost: {}\r\n\r\n",
            self.path, self.address
        )
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(buffer),
            Self::Secured(tls) => tls.read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(bytes),
            Self::Secured(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.flush(),
            Self::Secured(tls) => tls.flush(),
        }
    }
}

/// Requests for parts of a blob until so many bytes have come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: u64,
    pub(crate) bytes: u64,
    pub(crate) request: u64,
    pub(crate) size: u64,
}

impl Load {
    /// Has everything in memory and every code path taken.
    pub(crate) fn warm(&self, target: &Target) -> Result<()> {
        let once = Self {
            bytes: self.size.max(self.request * self.connections),
            ..*self
        };
        once.run(target).map(drop)
    }

    /// How long it takes.
    pub(crate) fn run(&self, target: &Target) -> Result<Duration> {
        let next = AtomicU64::new(0);
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..self.connections)
                .map(|_| scope.spawn(|| self.client(target, &next)))
                .collect();
            for client in clients {
                client
                    .join()
                    .map_err(|_| anyhow::anyhow!("a client panicked"))??;
            }
            Ok::<_, anyhow::Error>(())
        })?;
        Ok(begun.elapsed())
    }

    fn client(&self, target: &Target, next: &AtomicU64) -> Result<()> {
        let mut stream = target.connect()?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let at = next.fetch_add(self.request, Ordering::Relaxed);
            if at >= self.bytes {
                return Ok(());
            }
            let mut start = at % self.size;
            let end = self.size.min(start + self.request);
            // A peer chooses how many of the pieces it sends for one request.
            while start < end {
                stream.write_all(target.request(start, end).as_bytes())?;
                let length = read_body(&mut stream, &mut buffer, |_| Ok(()))?;
                ensure!(
                    length > 0 && length <= end - start,
                    "{length} bytes of {start}..{end}"
                );
                start += length;
            }
        }
    }
}

/// Reads an answer and gives out its body as it comes.
pub(crate) fn read_body(
    stream: &mut impl Read,
    buffer: &mut [u8],
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<u64> {
    read_pieces(stream, buffer, |_, bytes| take(bytes))
}

/// The same, of a peer: which of the pieces asked for it sends is for the peer to choose, and each part of
/// the body comes with the number of the first.
pub(crate) fn read_pieces(
    stream: &mut impl Read,
    buffer: &mut [u8],
    mut take: impl FnMut(Option<u64>, &[u8]) -> Result<()>,
) -> Result<u64> {
    let mut filled = 0;
    let body = loop {
        let read = stream.read(&mut buffer[filled..])?;
        ensure!(read > 0, "the connection ended before an answer");
        filled += read;
        let end = buffer[..filled]
            .windows(4)
            .position(|end| end == b"\r\n\r\n");
        if let Some(end) = end {
            break end + 4;
        }
    };
    let length = length_of(&buffer[..body])?;
    let first = field_of(&buffer[..body], FIRST_PIECE);
    let first = first.map(|first| first.parse()).transpose()?;
    take(first, &buffer[body..filled])?;
    let mut left = length - (filled - body) as u64;
    while left > 0 {
        let most = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = stream.read(&mut buffer[..most])?;
        ensure!(read > 0, "the connection ended {left} bytes early");
        take(first, &buffer[..read])?;
        left -= read as u64;
    }
    Ok(length)
}

/// The length of the body that follows an answer's head.
fn length_of(head: &[u8]) -> Result<u64> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap_or_default();
    if !status.starts_with('2') {
        bail!("an answer of status {status}");
    }
    let length = field_of(head.as_bytes(), "content-length");
    Ok(length.context("no length")?.parse()?)
}

fn field_of(head: &[u8], name: &str) -> Option<String> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    let (_, value) = fields.find(|(found, _)| *found == name)?;
    Some(value.to_owned())
}

/// How many bytes of a body are still to come, once the whole head has.
pub(crate) fn body_left(got: &[u8]) -> Result<Option<usize>> {
    let end = got.windows(4).position(|end| end == b"\r\n\r\n");
    let Some(body) = end.map(|end| end + 4) else {
        return Ok(None);
    };
    let length = usize::try_from(length_of(&got[..body])?)?;
    Ok(Some(length - (got.len() - body)))
}

/// A pull of one blob.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pulled {
    pub(crate) took: Duration,
    pub(crate) first_byte: Duration,
}

/// Pulls a blob whole and verifies it, as a runtime does.
pub(crate) fn pull(target: &Target, blob: &Blob) -> Result<Pulled> {
    let mut hasher = blob.digest.hasher();
    let pulled = whole(target, |bytes| hasher.update(bytes))?;
    ensure!(
        hasher.finish() == blob.digest,
        "wrong bytes from {}",
        target.address
    );
    Ok(pulled)
}

/// Reads a blob whole and throws it away.
pub(crate) fn read(target: &Target) -> Result<Pulled> {
    whole(target, |_| ())
}

fn whole(target: &Target, mut take: impl FnMut(&[u8])) -> Result<Pulled> {
    let mut stream = target.connect()?;
    let begun = Instant::now();
    stream.write_all(target.whole().as_bytes())?;
    let mut first_byte = None;
    read_body(&mut stream, &mut vec![0; BUFFER], |bytes| {
        if !bytes.is_empty() {
            first_byte.get_or_insert_with(|| begun.elapsed());
        }
        take(bytes);
        Ok(())
    })?;
    Ok(Pulled {
        took: begun.elapsed(),
        first_byte: first_byte.context("an empty blob")?,
    })
}

/// Small requests, one after the other on each connection.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) count: u64,
    pub(crate) p99: Duration,
}

/// As fast as they are answered; with a `pause`, so long after the last one was due on a connection.
pub(crate) fn ask(
    target: &Target,
    connections: usize,
    time: Duration,
    pause: Option<Duration>,
) -> Result<Asked> {
    let until = Instant::now() + time;
    let client = || {
        let mut stream = target.connect()?;
        let mut buffer = vec![0; BUFFER];
        let mut took = Vec::new();
        let mut due = Instant::now();
        while Instant::now() < until {
            let begun = match pause {
                None => Instant::now(),
                Some(pause) => {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    // One that could not be sent in time has waited since.
                    due += pause;
                    due - pause
                }
            };
            stream.write_all(target.whole().as_bytes())?;
            read_body(&mut stream, &mut buffer, |_| Ok(()))?;
            took.push(begun.elapsed());
        }
        Ok::<_, anyhow::Error>(took)
    };
    let mut all = Vec::new();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..connections).map(|_| scope.spawn(client)).collect();
        for client in clients {
            all.extend(
                client
                    .join()
                    .map_err(|_| anyhow::anyhow!("a client panicked"))??,
            );
        }
        Ok::<_, anyhow::Error>(())
    })?;
    all.sort_unstable();
    let p99 = all.get(all.len() * 99 / 100).copied().unwrap_or_default();
    Ok(Asked {
        count: all.len() as u64,
        p99,
    })
}
