//! One packet there, whatever there is for us back: a request over HTTP/1.1 to another member's
//! pieces listener. What comes back is cut into packets here and judged by [`super::members`].

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use darner_proto::gossip::{self, MAX_MEMBERS, MAX_PACKET, Member};
use darner_proto::id::HostId;
use darner_proto::wire;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::metrics::GossipMetrics;
use crate::identity::{Caller, Connector, Identity, PeerRole, Protocol};

/// A packet and its answer, a new connection included; longer than a ping waits.
const EXCHANGE_TIME: Duration = Duration::from_secs(1);
/// A connection by itself takes no longer unless nobody is there.
const CONNECT_TIME: Duration = Duration::from_millis(300);
/// A list of members.
const LISTING_TIME: Duration = Duration::from_secs(5);
/// Given up before the other side does, so that nothing is sent into a connection that is just being
/// closed.
const IDLE_FOR: Duration = Duration::from_secs(50);
/// An answer is a packet or two.
const MAX_ANSWER: usize = 4 * MAX_PACKET;
/// The longest list: every member with all the labels it may have.
const MAX_LISTING: usize = MAX_MEMBERS * 1024;

/// Packets to other members. Clones share connections.
#[derive(Debug, Clone)]
pub(super) struct Exchanges {
    client: Client<Connector, Full<Bytes>>,
    scheme: &'static str,
    metrics: GossipMetrics,
}

/// What a member has answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// Who, where that was proved.
    pub(super) from: Option<HostId>,
    pub(super) packets: Vec<Bytes>,
}

/// No answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    /// Its port is closed, or another's.
    #[error("nobody of this name listens there")]
    Unreachable,
    /// Nothing came in time.
    #[error("it does not answer")]
    Silent,
    /// The answer is none that can be read, or there was none before the connection ended.
    #[error("its answer was lost")]
    Lost,
}

impl Exchanges {
    pub(super) fn new(identity: &Identity, metrics: GossipMetrics) -> Self {
        Self {
            client: Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_max_idle_per_host(1)
                .pool_idle_timeout(IDLE_FOR)
                .build(identity.connector(Protocol::Http1, PeerRole::NODES)),
            scheme: identity.scheme(),
            metrics,
        }
    }

    /// Sends a packet to `to`.
    pub(super) async fn exchange(
        &self,
        to: &Member,
        packet: Bytes,
    ) -> Result<Answer, ExchangeError> {
        let place = to.place.as_ref().ok_or(ExchangeError::Lost)?;
        self.metrics.sent(packet.len());
        let exchange = async {
            let response = self.ask(Method::POST, &place.address, packet).await?;
            let from = response.extensions().get().and_then(proved);
            if from.as_ref().is_some_and(|from| *from != to.id) {
                return Err(ExchangeError::Unreachable);
            }
            let body = whole(response, MAX_ANSWER).await?;
            let packets = cut(body).ok_or(ExchangeError::Lost)?;
            Ok(Answer { from, packets })
        };
        let answer = timeout(EXCHANGE_TIME, exchange).await;
        let answer = answer.unwrap_or(Err(ExchangeError::Silent))?;
        for packet in &answer.packets {
            self.metrics.received(packet.len());
        }
        Ok(answer)
    }

    /// Whether a connection to `to` is taken, as a machine does for its processes however busy they are.
    pub(super) async fn is_taken(&self, to: &Member) -> bool {
        let Some(place) = &to.place else { return false };
        let connected = timeout(CONNECT_TIME, TcpStream::connect(&place.address)).await;
        matches!(connected, Ok(Ok(_)))
    }

    /// Whom whoever listens at `address` knows; itself first.
    pub(super) async fn listing(&self, address: &str) -> Result<Vec<Arc<Member>>, ExchangeError> {
        let exchange = async {
            let response = self.ask(Method::GET, address, Bytes::new()).await?;
            let from: Option<HostId> = response.extensions().get().and_then(proved);
            let body = whole(response, MAX_LISTING).await?;
            let listed = wire::GossipMembers::decode(body).ok().map(gossip::members);
            let listed = listed.and_then(Result::ok).ok_or(ExchangeError::Lost)?;
            let first = listed.first().ok_or(ExchangeError::Lost)?;
            if from.is_some_and(|from| from != first.id) {
                return Err(ExchangeError::Lost);
            }
            Ok(listed.into_iter().map(Arc::new).collect())
        };
        let listed = timeout(LISTING_TIME, exchange).await;
        listed.unwrap_or(Err(ExchangeError::Lost))
    }

    async fn ask(
        &self,
        method: Method,
        address: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ExchangeError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}://{address}{}", self.scheme, gossip::PATH))
            .body(Full::new(body))
            .map_err(|_| ExchangeError::Lost)?;
        let sent = self.client.request(request).await;
        let response = sent.map_err(|error| match is_refused(&error) {
            true => ExchangeError::Unreachable,
            false => ExchangeError::Lost,
        })?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(ExchangeError::Lost),
        }
    }
}

/// Whether the port is closed, as the system says.
fn is_refused(error: &hyper_util::client::legacy::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        let refused = error.downcast_ref::<io::Error>();
        if refused.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}

async fn whole(response: Response<Incoming>, most: usize) -> Result<Bytes, ExchangeError> {
    let body = Limited::new(response.into_body(), most).collect().await;
    Ok(body.map_err(|_| ExchangeError::Lost)?.to_bytes())
}

/// Who is at the other end, where that was proved.
pub(super) fn proved(caller: &Caller) -> Option<HostId> {
    match caller {
        Caller::Known(peer) => Some(peer.id.clone()),
        Caller::Unproved | Caller::Stranger => None,
    }
}

/// Packets with their lengths.
pub(super) fn framed(packets: &[Bytes]) -> Bytes {
    let mut body = BytesMut::new();
    for packet in packets {
        // None is longer than MAX_PACKET.
        body.put_u32(u32::try_from(packet.len()).unwrap_or(0));
        body.extend_from_slice(packet);
    }
    body.freeze()
}

fn cut(mut body: Bytes) -> Option<Vec<Bytes>> {
    let mut packets = Vec::new();
    while !body.is_empty() {
        let length = usize::try_from(body.try_get_u32().ok()?).ok()?;
        if length > body.len() {
            return None;
        }
        packets.push(body.split_to(length));
    }
    Some(packets)
}

/// Members as they go over the wire.
pub(super) fn listed(members: &[Arc<Member>]) -> Bytes {
    let members = members
        .iter()
        .map(|member| member.as_ref().into())
        .collect();
    wire::GossipMembers { members }.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packets_come_out_as_they_were(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..5)) {
            let packets: Vec<Bytes> = packets.into_iter().map(Bytes::from).collect();
            prop_assert_eq!(cut(framed(&packets)), Some(packets));
        }

        #[test]
        fn bytes_of_any_kind_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let packets = cut(Bytes::from(bytes.clone())).unwrap_or_default();
            let total: usize = packets.iter().map(Bytes::len).sum();
            prop_assert!(total <= bytes.len());
        }
    }
}
