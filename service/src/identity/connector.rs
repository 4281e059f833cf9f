//! Connects to other processes, for the HTTP clients: takes those of the right role. Which of
//! them it is the response tells, in its extensions ([`super::Caller`]).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use darner_proto::id::HostId;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::gather::Gathered;
use super::metrics::Refused;
use super::peer::PeerRole;
use super::stream::Stream;
use super::tls::Protocol;
use super::{HANDSHAKE_TIMEOUT, Identity, session_name};

/// A host in the same cluster that takes longer to answer is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Makes connections. Clones share the identity.
#[derive(Debug, Clone)]
pub struct Connector {
    identity: Identity,
    protocol: Protocol,
    roles: &'static [PeerRole],
    /// Nobody else, where this is known beforehand.
    only: Option<HostId>,
}

/// There is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No host to connect to.
    #[error("the address is not a URL of a host and port")]
    Address,
    /// The system says why.
    #[error("no connection")]
    Tcp(#[source] io::Error),
    /// Not TLS, not of this cluster, or over.
    #[error("the other side does not show a certificate of this cluster")]
    Tls(#[source] io::Error),
    /// It takes too long.
    #[error("it takes too long")]
    Timeout,
    /// At its address is another, by its certificate.
    #[error("who answers there is {0}")]
    Another(HostId),
    /// Its certificate is of somebody else.
    #[error("the other side is not who is looked for: {0}")]
    Refused(Refused),
}

impl Connector {
    pub(super) fn new(identity: Identity, protocol: Protocol, roles: &'static [PeerRole]) -> Self {
        Self {
            identity,
            protocol,
            roles,
            only: None,
        }
    }

    /// The same, for connections to `id` and nobody else.
    pub fn only(self, id: HostId) -> Self {
        Self {
            only: Some(id),
            ..self
        }
    }

    async fn connect(self, uri: Uri) -> Result<TokioIo<Stream>, ConnectError> {
        let authority = uri.authority().ok_or(ConnectError::Address)?;
        let host = authority.host().trim_matches(['[', ']']);
        let port = authority.port_u16().ok_or(ConnectError::Address)?;
        let tcp = timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port))).await;
        let tcp = tcp.map_err(|_| ConnectError::Timeout)?;
        let tcp = tcp.map_err(ConnectError::Tcp)?;
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, "small messages may be late on a connection");
        }
        let Some(inner) = &self.identity.inner else {
            return Ok(TokioIo::new(Stream::Plain(tcp)));
        };
        let current = inner.current();
        let config = match self.protocol {
            Protocol::Grpc => &current.client_grpc,
            Protocol::Http1 => &current.client_http1,
        };
        let name = session_name(authority.as_str());
        let handshake = TlsConnector::from(config.clone()).connect(name, Gathered::new(tcp));
        let tls = timeout(HANDSHAKE_TIMEOUT, handshake)
            .await
            .map_err(|_| ConnectError::Timeout)?
            .map_err(ConnectError::Tls)?;
        let refused = |refused| {
            inner.metrics.refused(refused);
            ConnectError::Refused(refused)
        };
        let certificate = tls.get_ref().1.peer_certificates();
        let certificate = certificate.and_then(|chain| chain.first()).cloned();
        let certificate = certificate.ok_or_else(|| refused(Refused::Handshake))?;
        let (peer, place) = inner.let_in(&certificate, self.roles).map_err(refused)?;
        if self.only.as_ref().is_some_and(|only| *only != peer.id) {
            return Err(ConnectError::Another(peer.id));
        }
        Ok(TokioIo::new(Stream::secured(
            tls.into(),
            Some(peer),
            Some(place),
        )))
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}
