//! A connection with the patience of a listener built in: how long it may be idle, take for a
//! request's head, and stand still while it is sent something.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A head is one packet; who takes longer is not in earnest.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Between requests. Peers give up their idle connections before that.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Whether a request is being answered. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Busy(Arc<AtomicBool>);

/// Held while a request is being answered.
#[derive(Debug)]
pub(super) struct Answering(Busy);

impl Busy {
    pub(super) fn begin(&self) -> Answering {
        self.0.store(true, Ordering::Release);
        Answering(self.clone())
    }

    fn is(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}

/// What the connection waits for from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Head,
    Idle,
    Nothing,
}

/// A connection that fails with [`io::ErrorKind::TimedOut`] when its client is too slow.
#[derive(Debug)]
pub(super) struct Patient<S> {
    inner: S,
    busy: Busy,
    waiting: Waiting,
    reading: Pin<Box<Sleep>>,
    /// How long a write may stand still.
    stall_timeout: Duration,
    /// Set while a write stands still.
    writing: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(super) fn new(inner: S, busy: Busy, stall_timeout: Duration) -> Self {
        Self {
            inner,
            busy,
            waiting: Waiting::Head,
            reading: Box::pin(tokio::time::sleep(HEAD_TIMEOUT)),
            stall_timeout,
            writing: None,
        }
    }

    /// Turns to waiting for something else, with the time that gets.
    fn wait_for(&mut self, next: Waiting, time: Duration) {
        if self.waiting != next {
            self.waiting = next;
            self.reading.as_mut().reset(Instant::now() + time);
        }
    }

    fn read_pending(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The last of an answer may be on its way for as long as the client keeps taking it.
        if self.busy.is() || self.writing.is_some() {
            self.waiting = Waiting::Nothing;
            return Poll::Pending;
        }
        if self.waiting == Waiting::Nothing {
            self.wait_for(Waiting::Idle, IDLE_TIMEOUT);
        }
        ready!(self.reading.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Passes on what a write came to, and fails one that stands still for too long.
    fn written<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.writing = None;
            return written;
        }
        let time = self.stall_timeout;
        let stalled = self
            .writing
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.inner).poll_read(context, buffer) {
            Poll::Pending => self.read_pending(context),
            read => {
                if !self.busy.is() {
                    self.wait_for(Waiting::Head, HEAD_TIMEOUT);
                }
                read
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        self.written(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const STALL_TIMEOUT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_is_cut_after_its_time() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = Patient::new(server, Busy::default(), STALL_TIMEOUT);
        let started = Instant::now();
        let trickle = async {
            while client.write_all(b"G").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let read = async {
            let mut head = Vec::new();
            server.read_to_end(&mut head).await
        };
        let error = tokio::select! {
            () = trickle => panic!("the client gave up first"),
            read = read => read.expect_err("cut"),
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), HEAD_TIMEOUT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn between_requests_it_may_be_idle_longer_and_while_answering_for_ever() {
        let (mut client, server) = tokio::io::duplex(64);
        let busy = Busy::default();
        let mut server = Patient::new(server, busy.clone(), STALL_TIMEOUT);
        client.write_all(b"x").await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'x');
        let answering = busy.begin();
        let long = tokio::time::timeout(Duration::from_secs(3600), server.read_u8());
        assert!(long.await.is_err());
        drop(answering);
        let started = Instant::now();
        let error = server.read_u8().await.expect_err("cut");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), IDLE_TIMEOUT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_cut() {
        let (_client, server) = tokio::io::duplex(8);
        let mut server = Patient::new(server, Busy::default(), STALL_TIMEOUT);
        let started = Instant::now();
        let error = server.write_all(&[0; 64]).await.expect_err("cut");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), STALL_TIMEOUT.as_secs());
    }
}
