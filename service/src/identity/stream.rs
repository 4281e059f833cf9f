//! A connection between processes: plain, or under TLS with whoever was let in. One that is under
//! TLS ends when its peer's certificate is revoked or over ([`super::live`]).

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use super::gather::Gathered;
use super::live::Place;
use super::peer::Peer;

/// Encrypted before the system is asked to take it: a call for each of the records would cost more
/// than it moves.
const WRITE: usize = 256 << 10;
/// The most that one record carries (RFC 8446, section 5.1).
const RECORD: usize = 16 << 10;

/// The connection.
#[derive(Debug)]
pub enum Stream {
    /// Without encryption: `[identity] insecure`.
    Plain(TcpStream),
    /// Encrypted.
    Secured(Box<Secured>),
}

/// A connection under TLS.
#[derive(Debug)]
pub struct Secured {
    tls: TlsStream<Gathered>,
    peer: Option<Peer>,
    place: Option<Place>,
    closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

/// Who is at the other end of the connection that a request came over.
#[derive(Debug, Clone)]
pub enum Caller {
    /// Anybody: nothing was proved, and what a message says of its sender counts.
    Unproved,
    /// A stranger, who may only join.
    Stranger,
    /// Whoever the certificate names.
    Known(Peer),
}

impl Stream {
    pub(super) fn secured(
        mut tls: TlsStream<Gathered>,
        peer: Option<Peer>,
        place: Option<Place>,
    ) -> Self {
        match &mut tls {
            TlsStream::Client(tls) => tls.get_mut().1.set_buffer_limit(Some(WRITE)),
            TlsStream::Server(tls) => tls.get_mut().1.set_buffer_limit(Some(WRITE)),
        }
        let closing = place.as_ref().map(|place| Box::pin(place.closed()));
        Self::Secured(Box::new(Secured {
            tls,
            peer,
            place,
            closing,
        }))
    }

    /// Who is at its other end.
    pub fn caller(&self) -> Caller {
        match self {
            Self::Plain(_) => Caller::Unproved,
            Self::Secured(secured) => match &secured.peer {
                Some(peer) => Caller::Known(peer.clone()),
                None => Caller::Stranger,
            },
        }
    }
}

impl Secured {
    fn is_closed(&self) -> bool {
        self.place.as_ref().is_some_and(Place::is_closed)
    }

    /// Reads a record, and those behind it that are here and for which there is room.
    fn poll_records(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let begun = buffer.filled().len();
        loop {
            let before = buffer.filled().len();
            let read = Pin::new(&mut self.tls).poll_read(context, buffer);
            match read {
                Poll::Ready(Ok(())) if buffer.filled().len() > before => {}
                // What came before it is given out first; an end or a failure comes again.
                _ if before > begun => return Poll::Ready(Ok(())),
                read => return read,
            }
            if buffer.remaining() < RECORD || !self.tls.get_ref().0.has_waiting() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

fn closed() -> io::Error {
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        "the peer's certificate does not count any more",
    )
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(context, buffer),
            Self::Secured(secured) => {
                let closing = secured.closing.as_mut();
                if closing.is_some_and(|closing| closing.as_mut().poll(context).is_ready()) {
                    secured.closing = None;
                }
                if secured.is_closed() {
                    return Poll::Ready(Err(closed()));
                }
                secured.poll_records(context, buffer)
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(context, bytes),
            Self::Secured(secured) if secured.is_closed() => Poll::Ready(Err(closed())),
            Self::Secured(secured) => Pin::new(&mut secured.tls).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(context, slices),
            Self::Secured(secured) if secured.is_closed() => Poll::Ready(Err(closed())),
            Self::Secured(secured) => {
                Pin::new(&mut secured.tls).poll_write_vectored(context, slices)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(context),
            Self::Secured(secured) => Pin::new(&mut secured.tls).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(context),
            Self::Secured(secured) => Pin::new(&mut secured.tls).poll_shutdown(context),
        }
    }
}

impl Connected for Stream {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller()
    }
}

impl connect::Connection for Stream {
    fn connected(&self) -> connect::Connected {
        connect::Connected::new().extra(self.caller())
    }
}
