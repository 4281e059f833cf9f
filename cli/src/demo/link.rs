//! The link of a node to its peers. Over loopback a seed could feed everybody by itself, which no
//! machine's network card can; here what a node sends is held to a rate, and nothing else changed.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use darner_service::shutdown::Shutdown;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;

use super::pace::Pace;

/// Bytes passed on at a time.
const CHUNK: usize = 64 << 10;
/// What the node may believe to be sent while it waits here.
const BUFFER: u32 = 128 << 10;
/// More connections wait; a node has a few with each of its peers.
const MAX_CONNECTIONS: usize = 256;

/// Where peers reach a node.
#[derive(Debug)]
pub(super) struct Link {
    listener: TcpListener,
    address: SocketAddr,
    pace: Arc<Pace>,
}

impl Link {
    /// A link over which the node sends `rate` bytes a second.
    pub(super) async fn bind(rate: u64) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            pace: Arc::new(Pace::new(rate)),
        })
    }

    /// What the node advertises.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Passes connections on to the node's own listener until `shutdown` drains.
    pub(super) fn serve(self, node: SocketAddr, shutdown: &Shutdown) {
        let ending = shutdown.clone();
        shutdown.spawn(async move {
            tokio::select! {
                ended = self.accept(node, &ending) => if let Err(error) = ended {
                    tracing::error!(%node, %error, "a node's link has ended");
                },
                () = ending.draining() => {}
            }
        });
    }

    async fn accept(&self, node: SocketAddr, shutdown: &Shutdown) -> io::Result<()> {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let place = places.clone().acquire_owned().await;
            let place = place.map_err(io::Error::other)?;
            let (peer, _) = self.listener.accept().await?;
            let (pace, ending) = (self.pace.clone(), shutdown.clone());
            shutdown.spawn(async move {
                tokio::select! {
                    // Either side may hang up at any time.
                    ended = pass(peer, node, &pace) => if let Err(error) = ended {
                        tracing::debug!(%node, %error, "a connection over a node's link broke");
                    },
                    () = ending.draining() => {}
                }
                drop(place);
            });
        }
    }
}

async fn pass(mut peer: TcpStream, node: SocketAddr, pace: &Pace) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(BUFFER)?;
    let mut node = socket.connect(node).await?;
    node.set_nodelay(true)?;
    peer.set_nodelay(true)?;
    let (mut from_node, mut to_node) = node.split();
    let (mut from_peer, mut to_peer) = peer.split();
    let asking = async {
        tokio::io::copy(&mut from_peer, &mut to_node).await?;
        to_node.shutdown().await
    };
    let sending = async {
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = from_node.read(&mut chunk).await?;
            if length == 0 {
                return to_peer.shutdown().await;
            }
            pace.wait(length).await;
            to_peer.write_all(&chunk[..length]).await?;
        }
    };
    tokio::try_join!(asking, sending).map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[tokio::test]
    async fn what_a_node_sends_comes_whole_and_no_faster_than_its_link() {
        let node = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let shutdown = Shutdown::default();
        let link = Link::bind(1_000_000).await.unwrap();
        let address = link.address();
        link.serve(node.local_addr().unwrap(), &shutdown);
        let sent: Vec<_> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
        let sending = async {
            let (mut peer, _) = node.accept().await.unwrap();
            let mut question = Vec::new();
            peer.read_to_end(&mut question).await.unwrap();
            assert_eq!(question, b"all of it");
            peer.write_all(&sent).await.unwrap();
        };
        let asking = async {
            let mut node = TcpStream::connect(address).await.unwrap();
            node.write_all(b"all of it").await.unwrap();
            node.shutdown().await.unwrap();
            let mut came = Vec::new();
            node.read_to_end(&mut came).await.unwrap();
            came
        };
        let began = Instant::now();
        let ((), came) = tokio::join!(sending, asking);
        assert_eq!(came, sent);
        assert!(began.elapsed() > Duration::from_millis(250));
        assert!(shutdown.finish(Duration::from_secs(5)).await);
    }
}
