//! Connections of members under TLS. Their bodies are read into buffers, since what is sent has to be
//! encrypted first; plain connections, such as a runtime's on loopback, are sent from files
//! ([`super::sendfile`]).

use darner_service::identity::{Callers, Identity, PeerRole, Protocol, Stream};
use tokio::net::TcpStream;

/// Takes in a connection of a mirror or seed. Whoever else is sent away, which is counted.
pub(super) async fn take_in(tcp: TcpStream, identity: &Identity) -> Option<Stream> {
    let accepted = identity.accept(tcp, Protocol::Http1, Callers::Known, PeerRole::NODES);
    accepted.await.ok()
}
