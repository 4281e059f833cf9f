//! A connection that is passed through: bytes in both directions, and an end to it when nobody has
//! sent any for a while.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use darner_service::shutdown::Shutdown;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// For each of a host's addresses.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Clients keep connections for later, and servers close them after a few minutes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// While the process ends, a connection on which nothing moves for so long is not waited for.
const IDLE_AT_END: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(500);
const BUFFER: usize = 32 << 10;

/// Connects to the first address that answers.
pub(super) async fn dial(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // It only costs latency.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// Passes bytes on until both sides have ended, one breaks, or nothing moves.
pub(super) async fn run(upgrade: OnUpgrade, stream: TcpStream, shutdown: Shutdown) {
    let client = match upgrade.await {
        Ok(client) => TokioIo::new(client),
        Err(error) => return tracing::debug!(%error, "a tunnel's client has gone"),
    };
    let moved = AtomicU64::new(0);
    let (from_client, to_client) = tokio::io::split(client);
    let (from_host, to_host) = stream.into_split();
    let passing = async {
        tokio::try_join!(
            copy(from_client, to_host, &moved),
            copy(from_host, to_client, &moved)
        )
    };
    tokio::select! {
        passed = passing => {
            if let Err(error) = passed {
                tracing::debug!(%error, "a tunnel broke");
            }
        }
        () = still(&moved, &shutdown) => {}
        () = shutdown.cancelled() => {}
    }
}

/// Completes when nothing has moved for too long.
async fn still(moved: &AtomicU64, shutdown: &Shutdown) {
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        tokio::time::sleep(LOOK).await;
        let now = moved.load(Ordering::Relaxed);
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        let patience = match shutdown.is_draining() {
            true => IDLE_AT_END,
            false => IDLE_TIMEOUT,
        };
        if since.elapsed() >= patience {
            return;
        }
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
        moved.fetch_add(read as u64, Ordering::Relaxed);
    }
}
