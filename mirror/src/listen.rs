//! Listeners for HTTP/1.1: accepts connections for as long as the process lives, and bounds what each
//! may take and how long. What is answered is the business of a [`Front`]; how the bytes of files go
//! out is in [`sendfile`].

mod copied;
mod metrics;
mod patient;
mod secured;
mod sendfile;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use darner_service::identity::local::Local;
use darner_service::identity::{Caller, Identity};
use darner_service::shutdown::Shutdown;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub use metrics::ListenMetrics;
use metrics::Trouble;
use patient::{Answering, Busy, HEAD_TIMEOUT, Patient};
pub(crate) use sendfile::Outlet;
use sendfile::Plain;

/// When the process is out of file descriptors, one may soon be free again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What clients and peers send is far below these.
const MAX_HEADERS: usize = 64;
const MAX_HEAD: usize = 16 << 10;
/// The first byte of a TLS record that carries a handshake (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// Clients that try TLS first read the five bytes `HTTP/` as "this is a plain port".
const NOT_TLS: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
/// In the words of other servers, which people look for.
const NOT_PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\
    Content-Type: text/plain\r\nContent-Length: 49\r\n\r\n\
    A plain HTTP request was sent to a port for TLS.\n";
/// A client that was told so hangs up; who does not is hung up on.
const LINGER: Duration = Duration::from_millis(500);

/// Answers the requests of one listener.
pub(crate) trait Front: Send + Sync + 'static {
    /// The body of an answer.
    type Body: http_body::Body<Data = Bytes, Error: std::error::Error + Send + Sync>
        + Send
        + 'static;

    /// The listener's name in metrics and logs.
    const NAME: &'static str;
    /// Connections at once. Beyond it a client is sent away at once, and turns elsewhere.
    const MAX_CONNECTIONS: usize;
    /// A client that takes no byte for this long has gone without saying so.
    const STALL_TIMEOUT: Duration;
    /// Bytes that the system may take ahead of the network; as many as it likes where it is none.
    const AHEAD: Option<u32> = None;

    /// Where only members of the cluster may connect: this side's identity.
    fn members(&self) -> Option<&Identity> {
        None
    }

    /// What strangers are spoken to with under TLS, where they may speak it.
    fn tls(&self) -> Option<&Local> {
        None
    }

    /// Whether who speaks no TLS is answered.
    fn takes_plain(&self) -> bool {
        true
    }

    /// Answers one request, whose [`Caller`] is among its extensions; content from files goes to
    /// `outlet`. Nothing bounds how long the request's own body may take: that is for the front to do.
    fn answer(
        &self,
        request: Request<Incoming>,
        outlet: Outlet,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// Accepts until the process drains. Connections end by themselves, as tasks of `shutdown`.
pub(crate) async fn accept<F: Front>(
    listener: TcpListener,
    front: F,
    metrics: ListenMetrics,
    shutdown: Shutdown,
) {
    let front = Arc::new(front);
    let places = Arc::new(Semaphore::new(F::MAX_CONNECTIONS));
    let copies = copied::Pool::default();
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.draining() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                metrics.trouble(F::NAME, Trouble::Accept);
                if is_the_clients(&error) {
                    continue;
                }
                // Once per spell, not ten times a second.
                if !failing {
                    tracing::error!(listener = F::NAME, %error, "connections cannot be accepted; trying again until they can");
                }
                failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        failing = false;
        let Ok(place) = places.clone().try_acquire_owned() else {
            metrics.trouble(F::NAME, Trouble::TooMany);
            continue;
        };
        let (front, metrics, ending) = (front.clone(), metrics.clone(), shutdown.clone());
        let copies = copies.clone();
        shutdown.spawn(async move {
            let _place = place;
            connection(stream, front, copies, metrics, ending).await;
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

async fn connection<F: Front>(
    stream: TcpStream,
    front: Arc<F>,
    copies: copied::Pool,
    metrics: ListenMetrics,
    shutdown: Shutdown,
) {
    let _connected = metrics.connection(F::NAME);
    tune(&stream);
    if let Some(ahead) = F::AHEAD
        && let Err(error) = SockRef::from(&stream).set_tcp_notsent_lowat(ahead)
    {
        tracing::debug!(%error, "the system takes ahead what it likes");
    }
    if let Some(identity) = front.members().filter(|identity| identity.is_secure()) {
        let taken_in = tokio::select! {
            taken_in = secured::take_in(stream, identity) => taken_in,
            () = shutdown.draining() => return,
        };
        if let Some(stream) = taken_in {
            let caller = stream.caller();
            serve(stream, (Outlet::of_bytes(copies), caller), front, shutdown).await;
        }
        return;
    }
    let mut first = [0];
    let begun = tokio::select! {
        begun = timeout(HEAD_TIMEOUT, stream.peek(&mut first)) => begun,
        () = shutdown.draining() => return,
    };
    match begun {
        Ok(Ok(1)) if first[0] == TLS_HANDSHAKE => {
            let Some(tls) = front.tls() else {
                metrics.trouble(F::NAME, Trouble::Tls);
                return refuse(stream, NOT_TLS).await;
            };
            match tls.accept(stream).await {
                Ok(stream) => {
                    let caller = stream.caller();
                    serve(stream, (Outlet::of_bytes(copies), caller), front, shutdown).await;
                }
                Err(error) => {
                    metrics.trouble(F::NAME, Trouble::Tls);
                    tracing::debug!(listener = F::NAME, %error, "a handshake failed");
                }
            }
            return;
        }
        Ok(Ok(1)) if !front.takes_plain() => {
            metrics.trouble(F::NAME, Trouble::Plain);
            return refuse(stream, NOT_PLAIN).await;
        }
        Ok(Ok(1)) => {}
        // Nothing, an end, or too late.
        Ok(_) | Err(_) => return,
    }
    let stream = Plain::new(stream);
    let outlet = stream.outlet();
    serve(stream, (outlet, Caller::Unproved), front, shutdown).await;
}

/// Answers the requests of a connection that was made within another.
pub(crate) async fn serve_within<F: Front>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    front: Arc<F>,
    shutdown: Shutdown,
) {
    let outlet = Outlet::of_bytes(copied::Pool::default());
    serve(stream, (outlet, Caller::Unproved), front, shutdown).await;
}

async fn serve<F: Front>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    (outlet, caller): (Outlet, Caller),
    front: Arc<F>,
    shutdown: Shutdown,
) {
    let busy = Busy::default();
    let stream = TokioIo::new(Patient::new(stream, busy.clone(), F::STALL_TIMEOUT));
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        let answering = Arc::new(busy.begin());
        let kept_open = KeptOpen(answering.clone());
        request.extensions_mut().insert(kept_open);
        let (front, outlet) = (front.clone(), outlet.clone());
        async move {
            let response = front.answer(request, outlet).await;
            Ok::<_, Infallible>(response.map(|body| Answer {
                body: Box::pin(body),
                _answering: answering,
            }))
        }
    });
    let serving = http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEAD)
        // The stream sees to that.
        .header_read_timeout(None)
        .serve_connection(stream, service)
        .with_upgrades();
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
        tracing::debug!(listener = F::NAME, %error, "a connection ended early");
    }
}

/// Small answers go out at once. Between processes of one host a congestion control that paces
/// only costs time.
fn tune(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection keeps its delay");
    }
    if stream.peer_addr().is_ok_and(|peer| peer.ip().is_loopback()) {
        // Not every kernel has it.
        let _ = rustix::net::sockopt::set_tcp_congestion(stream, "reno");
    }
}

/// Tells a client that it has to speak otherwise to this port. What the client has sent is read
/// first, so that closing does not reset the connection before it has read the answer.
async fn refuse(mut stream: TcpStream, answer: &[u8]) {
    let exchange = async {
        let mut hello = [0; 4096];
        let _ = stream.read(&mut hello).await?;
        stream.write_all(answer).await?;
        stream.shutdown().await?;
        while stream.read(&mut hello).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    // Whatever becomes of it, the connection is closed.
    let _ = timeout(LINGER, exchange).await;
}

/// A body that keeps its connection from counting as idle while it is being sent.
struct Answer<B> {
    body: Pin<Box<B>>,
    _answering: Arc<Answering>,
}

/// With a request: as long as it is held, its connection does not count as idle. For who makes a
/// tunnel of it.
#[derive(Debug, Clone)]
pub(crate) struct KeptOpen(#[expect(dead_code, reason = "held, never looked at")] Arc<Answering>);

impl<B: http_body::Body<Data = Bytes>> http_body::Body for Answer<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.body.as_mut().poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
