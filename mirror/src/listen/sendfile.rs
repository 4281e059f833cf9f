//! Bodies that the kernel sends from a file: their bytes never enter this process.
//!
//! The HTTP server takes a body as [`Bytes`] and hands slices of them to the connection. Here those
//! slices are blanks: places in one buffer that nobody ever reads. Which bytes of which file a blank
//! stands for is told to the connection beside the HTTP server, in a queue that an [`Outlet`] feeds
//! and a [`Plain`] connection takes from with `sendfile`.
//!
//! What must hold, and what sees to it:
//!
//! - *A blank is never sent.* Only the outlet of a connection makes blanks, and only [`Plain`] has
//!   an outlet that does. The server must not copy bodies into buffers of its own: it does not for
//!   a connection that is vectored, and if it should, it would use the plain write, which is
//!   refused while blanks are on their way. A test sends through the real server.
//! - *Each blank is sent from its own span.* A connection answers one request at a time and keeps
//!   the order of bodies. Blanks on their way at the same time lie in different places of the
//!   buffer, so a slice that is not at the place the front of the queue expects is found out, and
//!   the connection is cut rather than sent other bytes.
//! - *As many bytes as were promised.* A file that ends early cuts the connection; a body that is
//!   longer than its `Content-Length` leaves a span in the queue, which the next one runs into.
//! - *The bytes do not change on their way.* The kernel refers to the file's own pages until the
//!   client has them. [`Span`]s are of bytes that are never written again.
//! - *The disk is not waited for here.* Spans are in memory when they are given out (see
//!   [`Span::warm`]); where one was evicted since, a thread waits for the disk once.
//!
//! A client that reads slowly costs an open file and a queue entry, not a buffer.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream::BoxStream};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::copied::Pool;
use crate::store::{MAX_SPAN, Span};

/// Blanks that can be on their way at once on one connection. The server takes a new frame only
/// when most of the last has been sent, so two spans are what it comes to.
const BLANK: usize = 4 * MAX_SPAN as usize;
/// A connection whose client takes everything at once lets others have their turn after this many
/// bytes: about a millisecond.
const TURN: usize = 4 << 20;

/// Zeroes at known addresses. Nothing reads them, so they take address space and no memory.
static BLANKS: LazyLock<&'static [u8]> = LazyLock::new(|| Vec::leak(vec![0; BLANK]));

/// Where the body of an answer goes. Clones lead to the same connection.
#[derive(Debug, Clone)]
pub(crate) struct Outlet(Way);

#[derive(Debug, Clone)]
enum Way {
    /// From the file.
    File(Arc<Mutex<Queue>>),
    /// By way of buffers.
    Copied(Pool),
}

impl Outlet {
    /// A connection that takes bytes only, by way of buffers of `pool`.
    pub(super) fn of_bytes(pool: Pool) -> Self {
        Self(Way::Copied(pool))
    }

    /// The spans as the body of an answer on this connection.
    pub(crate) fn body(
        self,
        spans: impl Stream<Item = io::Result<Span>> + Send + 'static,
    ) -> BoxStream<'static, io::Result<Bytes>> {
        match self.0 {
            Way::File(queue) => spans.map(move |span| lock(&queue).push(span?)).boxed(),
            Way::Copied(pool) => pool.bytes(spans).boxed(),
        }
    }
}

/// Spans that have been promised and not yet sent, in order.
#[derive(Debug, Default)]
struct Queue {
    promised: VecDeque<Promised>,
    /// Where the next blank begins.
    next: usize,
    /// Bytes of all promised.
    bytes: usize,
}

#[derive(Debug)]
struct Promised {
    span: Span,
    /// Where in the blanks its next byte is.
    place: usize,
}

impl Queue {
    /// Takes a span in and returns its blank.
    fn push(&mut self, span: Span) -> io::Result<Bytes> {
        let length = usize::try_from(span.len()).unwrap_or(usize::MAX);
        // What is skipped at the end of the blanks is less than a span.
        if span.len() > MAX_SPAN || self.bytes + length > BLANK - 2 * MAX_SPAN as usize {
            return Err(out_of_step("more is promised than can be on its way"));
        }
        if self.next + length > BLANK {
            self.next = 0;
        }
        let place = self.next;
        self.next += length;
        if length > 0 {
            self.bytes += length;
            self.promised.push_back(Promised { span, place });
        }
        Ok(Bytes::from_static(&BLANKS[place..place + length]))
    }

    /// The span that the blank at `place` stands for.
    fn front(&mut self, place: usize, length: usize) -> io::Result<&mut Promised> {
        let front = self.promised.front_mut();
        front
            .filter(|front| front.place == place && length as u64 <= front.span.len())
            .ok_or_else(|| out_of_step("a blank is not the one that is due"))
    }

    /// The first `sent` bytes are gone.
    fn advance(&mut self, sent: usize) {
        self.bytes -= sent.min(self.bytes);
        if let Some(front) = self.promised.front_mut() {
            front.span.advance(sent as u64);
            front.place += sent;
            if front.span.is_empty() {
                self.promised.pop_front();
            }
        }
    }
}

/// Where in the blanks a slice lies, if it is a blank.
fn place_of(slice: &[u8]) -> Option<usize> {
    let place = slice.as_ptr().addr().checked_sub(BLANKS.as_ptr().addr())?;
    (place < BLANK && !slice.is_empty()).then_some(place)
}

fn out_of_step(what: &'static str) -> io::Error {
    io::Error::other(what)
}

/// A connection without encryption, whose bodies the kernel sends.
#[derive(Debug)]
pub(crate) struct Plain {
    stream: TcpStream,
    queue: Arc<Mutex<Queue>>,
    /// Bytes sent since the client last made it wait.
    turn: usize,
}

impl Plain {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            queue: Arc::default(),
            turn: 0,
        }
    }

    pub(crate) fn outlet(&self) -> Outlet {
        Outlet(Way::File(self.queue.clone()))
    }

    /// Tries to send until the socket takes something.
    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        mut send: impl FnMut(&TcpStream) -> Result<usize, Errno>,
    ) -> Poll<io::Result<usize>> {
        if self.turn >= TURN {
            self.turn = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            let ready = self.stream.poll_write_ready(context)?;
            if ready.is_pending() {
                self.turn = 0;
                return Poll::Pending;
            }
            let stream = &self.stream;
            let sent = stream.try_io(Interest::WRITABLE, || Ok(send(stream)?));
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(sent) => {
                    self.turn += sent;
                    return Poll::Ready(Ok(sent));
                }
                failed => return Poll::Ready(failed),
            }
        }
    }

    fn poll_send_file(
        &mut self,
        context: &mut Context<'_>,
        place: usize,
        length: usize,
    ) -> Poll<io::Result<usize>> {
        let queue = self.queue.clone();
        let mut queue = lock(&queue);
        let span = &queue.front(place, length)?.span;
        let (file, start) = (span.file(), span.start());
        let sent = self.poll_send(context, |stream| {
            let mut at = start;
            rustix::fs::sendfile(stream, file, Some(&mut at), length)
        });
        let sent = ready!(sent)?;
        if sent == 0 {
            let early = "the file ends before the content does";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, early)));
        }
        queue.advance(sent);
        Poll::Ready(Ok(sent))
    }
}

impl AsyncWrite for Plain {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(place) = place_of(bytes) {
            return self.poll_send_file(context, place, bytes.len());
        }
        if !lock(&self.queue).promised.is_empty() {
            return Poll::Ready(Err(out_of_step("blanks may have been copied")));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let blank = slices.iter().position(|slice| place_of(slice).is_some());
        match blank {
            None => Pin::new(&mut self.stream).poll_write_vectored(context, slices),
            Some(first) if slices[..first].iter().all(|slice| slice.is_empty()) => {
                let blank = &slices[first];
                // It is one: it was found as one.
                let place = place_of(blank).unwrap_or_default();
                self.poll_send_file(context, place, blank.len())
            }
            // A head goes out with the first bytes of its body.
            Some(first) => self.poll_send(context, |stream| {
                let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
                let nothing = &mut SendAncillaryBuffer::default();
                rustix::net::sendmsg(stream, &slices[..first], nothing, flags)
            }),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl AsyncRead for Plain {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

/// What a panic left is still whole: no change is made in more than one step that can panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Options, Store};
    use darner_proto::digest::Digest;
    use darner_service::metrics::Metrics;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// A connection, its client, and a span of a file with other bytes than zeroes.
    async fn connection() -> (Plain, TcpStream, Span, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let options = Options::new(directory.path().join("store"), Some(1 << 30));
        let store = Store::open(options, &Metrics::default()).unwrap();
        let bytes = Bytes::from_static(&[7; 5000]);
        let digest = Digest::sha256(&bytes);
        store.put(&digest, bytes).await.unwrap();
        let span = store.get(&digest).unwrap().span(0..5000).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, server) = tokio::join!(client, listener.accept());
        (
            Plain::new(server.unwrap().0),
            client.unwrap(),
            span,
            directory,
        )
    }

    #[tokio::test]
    async fn a_server_that_copies_is_found_out() {
        let (mut plain, mut client, span, _directory) = connection().await;
        let blank = lock(&plain.queue).push(span).unwrap();
        let copied = [b"HTTP/1.1 200 OK\r\n\r\n", &blank[..]].concat();
        assert!(plain.write_all(&copied).await.is_err());
        drop(plain);
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert!(got.is_empty());
    }

    #[tokio::test]
    async fn blanks_out_of_turn_are_refused() {
        let (mut plain, _client, span, _directory) = connection().await;
        let first = lock(&plain.queue).push(span.clone()).unwrap();
        let second = lock(&plain.queue).push(span).unwrap();
        assert!(plain.write(&second).await.is_err());
        assert!(plain.write(&first[1..]).await.is_err());
        assert_eq!(plain.write(&first).await.unwrap(), 5000);
        assert!(plain.write(&first).await.is_err());
        assert_eq!(plain.write(&second[..10]).await.unwrap(), 10);
        assert_eq!(plain.write(&second[10..]).await.unwrap(), 4990);
        assert!(lock(&plain.queue).promised.is_empty());
    }

    #[tokio::test]
    async fn promises_are_bounded() {
        let (plain, _client, span, _directory) = connection().await;
        let mut queue = lock(&plain.queue);
        let mut taken = 0;
        while queue.push(span.clone()).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, 2 * MAX_SPAN / 5000);
    }
}
