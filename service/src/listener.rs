//! A TCP listener that holds a bounded number of connections, and for gRPC takes in only those who may
//! come ([`crate::identity`]). What is spoken on them is its users' business.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::identity::{Callers, Identity, PeerRole, Protocol, Stream};
use crate::shutdown::Shutdown;

/// Accepted connections that wait for a server to take them.
const ACCEPTED: usize = 64;
/// After a failure to accept (no file descriptor left, mostly): one may be free by then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The listener.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    places: Arc<Semaphore>,
    when_full: WhenFull,
    address: SocketAddr,
}

/// What becomes of a connection beyond those allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// It waits in the kernel's queue until another ends.
    Wait,
    /// It is closed at once, so that who made it turns to somebody else.
    Refuse,
}

/// A connection, and its place among those allowed.
#[derive(Debug)]
pub struct Connection<S = TcpStream> {
    io: S,
    _place: OwnedSemaphorePermit,
}

/// Whom a listener for gRPC takes in.
#[derive(Debug, Clone)]
pub struct Door {
    /// This side's identity.
    pub identity: Identity,
    /// Whether who connects has to have a certificate.
    pub callers: Callers,
    /// The roles that have business here.
    pub roles: &'static [PeerRole],
}

impl Listener {
    /// Binds `listen`, for at most `connections` at once.
    ///
    /// # Errors
    /// What the system says.
    pub async fn bind(
        listen: SocketAddr,
        connections: usize,
        when_full: WhenFull,
    ) -> io::Result<Self> {
        let tcp = TcpListener::bind(listen).await?;
        let address = tcp.local_addr()?;
        Ok(Self {
            tcp,
            places: Arc::new(Semaphore::new(connections)),
            when_full,
            address,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection, and where it comes from.
    pub async fn next(&self) -> (Connection, SocketAddr) {
        loop {
            match self.try_next().await {
                Ok(Some(accepted)) => return accepted,
                Ok(None) => {
                    tracing::warn!(address = %self.address, "a connection was refused: too many");
                }
                Err(error) => {
                    tracing::warn!(address = %self.address, %error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn try_next(&self) -> io::Result<Option<(Connection, SocketAddr)>> {
        let place = match self.when_full {
            WhenFull::Wait => {
                let place = self.places.clone().acquire_owned().await;
                Some(place.map_err(io::Error::other)?)
            }
            WhenFull::Refuse => None,
        };
        let (tcp, from) = self.tcp.accept().await?;
        let Some(place) = place.or_else(|| self.places.clone().try_acquire_owned().ok()) else {
            return Ok(None);
        };
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, "small messages may be late on a connection");
        }
        let connection = Connection {
            io: tcp,
            _place: place,
        };
        Ok(Some((connection, from)))
    }

    /// The connections that `door` takes in, until the process drains. Nothing listens from then
    /// on, so that whoever comes later is told at once.
    pub fn into_stream(
        self,
        door: Door,
        shutdown: &Shutdown,
    ) -> ReceiverStream<io::Result<Connection<Stream>>> {
        let (accepted, taken) = mpsc::channel(ACCEPTED);
        let ending = shutdown.clone();
        shutdown.spawn(async move {
            tokio::select! {
                () = ending.draining() => {}
                () = self.accept_for(&door, accepted, &ending) => {}
            }
        });
        ReceiverStream::new(taken)
    }

    /// Handshakes go on beside each other: one that is slow keeps nobody waiting.
    async fn accept_for(
        &self,
        door: &Door,
        server: mpsc::Sender<io::Result<Connection<Stream>>>,
        shutdown: &Shutdown,
    ) {
        loop {
            let (connection, _) = self.next().await;
            if server.is_closed() {
                return;
            }
            let (door, server) = (door.clone(), server.clone());
            shutdown.spawn(async move {
                let Door {
                    identity,
                    callers,
                    roles,
                } = door;
                let Connection { io, _place } = connection;
                let accepted = identity.accept(io, Protocol::Grpc, callers, roles).await;
                if let Ok(io) = accepted {
                    // A server that has ended takes no more.
                    let _ = server.send(Ok(Connection { io, _place })).await;
                }
            });
        }
    }
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        self.next().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl<S: Connected> Connected for Connection<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.io.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    async fn bind(when_full: WhenFull) -> Listener {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Listener::bind(anywhere, 1, when_full).await.unwrap()
    }

    #[tokio::test]
    async fn one_too_many_waits_for_a_place() {
        let listener = bind(WhenFull::Wait).await;
        let first = TcpStream::connect(listener.address()).await.unwrap();
        let (held, _) = listener.next().await;
        let second = TcpStream::connect(listener.address()).await.unwrap();
        let mut next = std::pin::pin!(listener.next());
        tokio::select! {
            biased;
            _ = &mut next => panic!("there was no place"),
            () = tokio::task::yield_now() => {}
        }
        drop((first, held));
        let (_, from) = next.await;
        assert_eq!(from, second.local_addr().unwrap());
    }

    #[tokio::test]
    async fn one_too_many_is_closed_at_once() {
        let listener = bind(WhenFull::Refuse).await;
        let _first = TcpStream::connect(listener.address()).await.unwrap();
        let (held, _) = listener.next().await;
        let mut second = TcpStream::connect(listener.address()).await.unwrap();
        let mut rest = Vec::new();
        tokio::select! {
            _ = listener.next() => panic!("there was no place"),
            read = second.read_to_end(&mut rest) => assert_eq!(read.unwrap(), 0),
        }
        drop(held);
        let third = TcpStream::connect(listener.address()).await.unwrap();
        let (_, from) = listener.next().await;
        assert_eq!(from, third.local_addr().unwrap());
    }

    #[tokio::test]
    async fn nothing_listens_while_the_process_drains() {
        let shutdown = Shutdown::default();
        let listener = bind(WhenFull::Wait).await;
        let address = listener.address();
        let door = Door {
            identity: Identity::insecure(&crate::identity::IdentityMetrics::default()),
            callers: Callers::Known,
            roles: &[],
        };
        let stream = listener.into_stream(door, &shutdown);
        assert!(shutdown.finish(Duration::from_secs(10)).await);
        TcpStream::connect(address).await.unwrap_err();
        drop(stream);
    }
}
