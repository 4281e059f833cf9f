//! A socket that is read much at once. The TLS library reads a few kilobytes at a time, each with a
//! system call of its own; here one call brings what waits, and the library takes it from memory.
//! A connection that has nothing to read holds no memory for it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

/// Read at once: eight full records, which still lie in the processor's cache when they are decrypted.
const READ: usize = 128 << 10;

/// The socket.
#[derive(Debug)]
pub(super) struct Gathered {
    tcp: TcpStream,
    /// What has been read and not been taken.
    waiting: BytesMut,
}

impl Gathered {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self {
            tcp,
            waiting: BytesMut::new(),
        }
    }

    /// Whether bytes can be had without asking the system.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

impl AsyncRead for Gathered {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.waiting.is_empty() {
            this.waiting.reserve(READ);
            let read = poll_read_buf(Pin::new(&mut this.tcp), context, &mut this.waiting);
            if read.is_pending() {
                this.waiting = BytesMut::new();
            }
            ready!(read)?;
        }
        let taken = this.waiting.len().min(out.remaining());
        out.put_slice(&this.waiting[..taken]);
        this.waiting.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Gathered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, Gathered) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, server) = tokio::join!(client, listener.accept());
        (client.unwrap(), Gathered::new(server.unwrap().0))
    }

    #[tokio::test]
    async fn everything_comes_in_order_in_whatever_parts_it_is_taken() {
        let (mut sender, mut gathered) = pair().await;
        let sent: Vec<u8> = (0..3 * READ + 77).map(|at| (at % 251) as u8).collect();
        let expected = sent.clone();
        let sending = async move {
            for part in sent.chunks(70_001) {
                sender.write_all(part).await.unwrap();
            }
        };
        let taking = async {
            let mut got = Vec::new();
            let mut sizes = [1, 5, 4096, 18_437, 100_000].into_iter().cycle();
            loop {
                let mut part = vec![0; sizes.next().unwrap()];
                match gathered.read(&mut part).await.unwrap() {
                    0 => break got,
                    read => got.extend_from_slice(&part[..read]),
                }
            }
        };
        let ((), got) = tokio::join!(sending, taking);
        assert!(got == expected);
    }

    #[tokio::test]
    async fn who_waits_holds_no_memory() {
        let (mut sender, mut gathered) = pair().await;
        sender.write_all(b"abc").await.unwrap();
        let mut taken = [0; 2];
        gathered.read_exact(&mut taken).await.unwrap();
        assert!(gathered.has_waiting());
        gathered.read_exact(&mut taken[..1]).await.unwrap();
        assert!(!gathered.has_waiting());
        let more = tokio::time::timeout(std::time::Duration::ZERO, gathered.read(&mut taken));
        assert!(more.await.is_err());
        assert_eq!(gathered.waiting.capacity(), 0);
    }
}
