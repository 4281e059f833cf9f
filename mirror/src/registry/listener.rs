//! Connections of clients: accepts them for as long as the process lives, and speaks HTTP/1.1.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Request;
use darner_service::shutdown::Shutdown;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::metrics::Trouble;
use super::serve::Front;
use super::stream::{Busy, HEAD_TIMEOUT, Patient};

/// More clients than any node's runtimes open. Beyond it a client is sent away at once, and turns
/// to the registry.
const MAX_CONNECTIONS: usize = 8192;
/// When the process is out of file descriptors, one may soon be free again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What clients send is far below these.
const MAX_HEADERS: usize = 64;
const MAX_HEAD: usize = 16 << 10;
/// The first byte of a TLS record that carries a handshake (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// Clients that try TLS first read the five bytes `HTTP/` as "this is a plain port".
const NOT_TLS: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
/// A client that was told so hangs up; who does not is hung up on.
const LINGER: Duration = Duration::from_millis(500);

/// Accepts until the process drains. Connections end by themselves, as tasks of `shutdown`.
pub(super) async fn accept(listener: TcpListener, front: Arc<Front>, shutdown: Shutdown) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.draining() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                front.metrics.trouble(Trouble::Accept);
                if is_the_clients(&error) {
                    continue;
                }
                // Once per spell, not ten times a second.
                if !failing {
                    tracing::error!(%error, "connections cannot be accepted; trying again until they can");
                }
                failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        failing = false;
        let Ok(place) = places.clone().try_acquire_owned() else {
            front.metrics.trouble(Trouble::Connections);
            continue;
        };
        let (front, ending) = (front.clone(), shutdown.clone());
        shutdown.spawn(async move {
            let _place = place;
            connection(stream, front, ending).await;
        });
    }
}

/// Whether accepting failed because of that one client.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

async fn connection(stream: TcpStream, front: Arc<Front>, shutdown: Shutdown) {
    let _connected = front.metrics.connection();
    tune(&stream);
    let mut first = [0];
    let begun = tokio::select! {
        begun = timeout(HEAD_TIMEOUT, stream.peek(&mut first)) => begun,
        () = shutdown.draining() => return,
    };
    match begun {
        Ok(Ok(1)) if first[0] == TLS_HANDSHAKE => {
            front.metrics.trouble(Trouble::Tls);
            return refuse_tls(stream).await;
        }
        Ok(Ok(1)) => {}
        // Nothing, an end, or too late.
        Ok(_) | Err(_) => return,
    }
    let busy = Busy::default();
    let stream = TokioIo::new(Patient::new(stream, busy.clone()));
    let service = service_fn(move |request: Request<Incoming>| {
        let answering = busy.begin();
        let front = front.clone();
        async move {
            let (parts, _body) = request.into_parts();
            Ok::<_, Infallible>(front.answer(parts, answering).await)
        }
    });
    let serving = http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEAD)
        // The stream sees to that.
        .header_read_timeout(None)
        .serve_connection(stream, service);
    let mut serving = std::pin::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = shutdown.draining() => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                served = serving => served,
                // The client sees a broken connection and goes on elsewhere.
                () = shutdown.cancelled() => return,
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a client's connection ended early");
    }
}

/// Small answers go out at once. Between processes of one host a congestion control that paces
/// only costs time.
fn tune(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a client's connection keeps its delay");
    }
    if stream.peer_addr().is_ok_and(|peer| peer.ip().is_loopback()) {
        // Not every kernel has it.
        let _ = rustix::net::sockopt::set_tcp_congestion(stream, "reno");
    }
}

/// Tells a client that speaks TLS to this port that it is a plain one. What the client has sent is
/// read first, so that closing does not reset the connection before it has read the answer.
async fn refuse_tls(mut stream: TcpStream) {
    let exchange = async {
        let mut hello = [0; 4096];
        let _ = stream.read(&mut hello).await?;
        stream.write_all(NOT_TLS).await?;
        stream.shutdown().await?;
        while stream.read(&mut hello).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    // Whatever becomes of it, the connection is closed.
    let _ = timeout(LINGER, exchange).await;
}
