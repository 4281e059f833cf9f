//! Requests to other nodes' pieces listeners: availability streams, runs of pieces, look-ups in a
//! repository's records. What comes back is parsed here and judged by the caller.

mod holds;
mod permits;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use darner_proto::file::{FILE_URL, FILE_VALIDATOR, Supply};
use darner_proto::id::{Host, HostId, Role, TaskId};
use darner_proto::invalid::Invalid;
use darner_proto::peer::{
    Availability, BUSY_FOR, CHILD, CONTENT_SIZE, ENDS_IN, FIRST_PIECE, MAX_FRAME, PATH_PREFIX,
    PIECE_COUNT, PRIVATE_PREFIX, ResolveReply, ResolveRequest, Wait,
};
use darner_proto::wire;
use darner_service::identity::{Caller, Connector, Identity, PeerRole, Protocol};
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use prost::Message as _;

pub use permits::Credential;
use permits::Permits;

/// From the request to the headers of the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// An owner may have to ask upstream before it answers.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(8);
/// An availability stream says something at least every second; one that is silent this long is
/// dead.
const SILENCE: Duration = Duration::from_secs(5);
/// Kept-alive connections to one peer.
const IDLE_PER_PEER: usize = 8;
/// Given up before the other side does, so that no request is sent into a connection that is just
/// being closed.
const IDLE_FOR: Duration = Duration::from_secs(50);
/// A reply to a look-up carries a manifest of up to 4 MiB and little else.
const MAX_REPLY: usize = (4 << 20) + (64 << 10);

/// HTTP client to other nodes. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Peers {
    client: Client<Connector, Full<Bytes>>,
    scheme: &'static str,
    /// This node's id, for the header.
    me: HeaderValue,
    /// With tickets, what is not public is asked for, of seeds alone.
    permits: Option<Arc<Permits>>,
}

/// What a node is asked.
struct Request {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Request {
    fn new(method: Method, path: String) -> Self {
        Self {
            method,
            path,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }
}

/// A peer did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// No connection.
    #[error("the peer cannot be reached")]
    Unreachable(#[source] Error),
    /// The connection broke.
    #[error("the connection to the peer broke")]
    Broken(#[source] hyper::Error),
    /// At its address is another, by its certificate.
    #[error("who answers at the peer's address is {0}")]
    Another(HostId),
    /// No answer in time.
    #[error("the peer does not answer")]
    Silent,
    /// All its upload slots are taken, or what was wanted is on its way to another.
    #[error("the peer is busy")]
    Busy {
        /// When to ask again, if it said.
        again: Option<Duration>,
    },
    /// It has none of what was asked for.
    #[error("the peer does not hold it")]
    NotHeld,
    /// It answered something else.
    #[error("the peer answered {0}")]
    Status(u16),
    /// Its answer makes no sense.
    #[error("the peer's answer is not valid")]
    Invalid(#[from] Invalid),
}

/// A run of pieces on its way.
#[derive(Debug)]
pub struct PieceBody {
    /// The pieces the peer chose.
    pub pieces: Range<u32>,
    /// The content's size as the peer has it.
    pub size: u64,
    response: Response<Incoming>,
}

impl PieceBody {
    /// The next bytes; `None` at the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, PeerError> {
        chunk(&mut self.response).await
    }
}

impl Peers {
    /// A client with its own connections, of the node that is called `me`.
    ///
    /// # Errors
    /// The id cannot stand in a header.
    pub fn new(me: &HostId, identity: &Identity) -> Result<Self, PeerError> {
        Self::of(me, identity, PeerRole::NODES)
    }

    /// One that asks seeds for what is not public, and shows them what `credential` gives it.
    ///
    /// # Errors
    /// The id cannot stand in a header.
    pub fn private(
        me: &HostId,
        identity: &Identity,
        credential: Credential,
    ) -> Result<Self, PeerError> {
        const SEEDS: &[PeerRole] = &[PeerRole::Member(Role::Seed)];
        let peers = Self::of(me, identity, SEEDS)?;
        let permits = Some(Arc::new(Permits::new(credential)));
        Ok(Self { permits, ..peers })
    }

    fn of(me: &HostId, identity: &Identity, roles: &'static [PeerRole]) -> Result<Self, PeerError> {
        let me = HeaderValue::from_str(me.as_str());
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE_PER_PEER)
            .pool_idle_timeout(IDLE_FOR)
            .build(identity.connector(Protocol::Http1, roles));
        Ok(Self {
            client,
            scheme: identity.scheme(),
            me: me.map_err(|_| Invalid::new("host id", "is no header"))?,
            permits: None,
        })
    }

    /// Asks a repository's owner, or any holder of its records.
    pub async fn resolve(
        &self,
        host: &Host,
        request: &ResolveRequest,
    ) -> Result<ResolveReply, PeerError> {
        let body = wire::ResolveRequest::from(request).encode_to_vec();
        let asked = Request {
            body: body.into(),
            ..Request::new(Method::POST, "/resolve".to_owned())
        };
        let exchange = async { read_bounded(self.send(host, asked).await?).await };
        let bytes = tokio::time::timeout(RESOLVE_TIMEOUT, exchange)
            .await
            .map_err(|_| PeerError::Silent)??;
        let reply = wire::ResolveReply::decode(bytes)
            .map_err(|error| Invalid::new("resolve reply", error.to_string()))?;
        Ok(reply.try_into()?)
    }

    /// What `host` has of `task`, now and as it comes. A seed that has no such task begins one, to
    /// read it from `sources`.
    pub async fn availability(
        &self,
        host: &Host,
        task: &TaskId,
        size: u64,
        sources: &[Supply],
    ) -> Result<impl Stream<Item = Result<Availability, PeerError>> + Send + use<>, PeerError> {
        let mut query = vec![("size", size.to_string())];
        for source in sources.iter().filter_map(Supply::repository) {
            query.push(("registry", source.registry.to_string()));
            query.push(("repository", source.repository.to_string()));
        }
        let query = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(query)
            .finish();
        let mut asked = Request::new(Method::GET, format!("/tasks/{task}/availability?{query}"));
        locate(&mut asked.headers, sources)?;
        let source = sources.iter().find_map(Supply::repository);
        let response = self.about(host, task, source, asked).await?;
        Ok(futures_util::stream::try_unfold(
            (response, BytesMut::new()),
            |(mut response, mut buffer)| async move {
                let frame = next_frame(&mut response, &mut buffer).await?;
                Ok(frame.map(|frame| (frame, (response, buffer))))
            },
        ))
    }

    /// The size of what `host` holds or is getting as `task`, and in what time it is to go, if it is.
    pub async fn size(
        &self,
        host: &Host,
        task: &TaskId,
    ) -> Result<(u64, Option<Duration>), PeerError> {
        let path = format!("/tasks/{task}/availability?size=0");
        let asked = Request::new(Method::GET, path);
        let mut response = self.about(host, task, None, asked).await?;
        let ends_in = header(&response, ENDS_IN).ok();
        let frame = next_frame(&mut response, &mut BytesMut::new()).await?;
        let size = frame.ok_or(PeerError::NotHeld)?.size;
        Ok((size, ends_in.map(Duration::from_millis)))
    }

    /// A run of the wanted pieces; which one, the peer chooses.
    pub async fn pieces(
        &self,
        host: &Host,
        task: &TaskId,
        want: &[Range<u32>],
        wait: Wait,
    ) -> Result<PieceBody, PeerError> {
        let ranges: Vec<_> = want
            .iter()
            .map(|range| format!("{}-{}", range.start, range.end - 1))
            .collect();
        let ranges = ranges.join(",");
        let mut asked = Request::new(Method::GET, format!("/tasks/{task}/pieces?want={ranges}"));
        if let Some(manner) = wait.header() {
            let yes = HeaderValue::from_static("1");
            asked.headers.insert(manner, yes);
        }
        let response = self.about(host, task, None, asked).await?;
        let first = header(&response, FIRST_PIECE)?;
        let count = header(&response, PIECE_COUNT)?;
        let size = header(&response, CONTENT_SIZE)?;
        let bad = || Invalid::new("piece run", "is not what was asked for");
        let first = u32::try_from(first).map_err(|_| bad())?;
        let end = u32::try_from(count)
            .ok()
            .and_then(|count| first.checked_add(count))
            .ok_or_else(bad)?;
        let asked_for = |index| want.iter().any(|range| range.contains(&index));
        if first == end || end - first > MAX_RUN || !(first..end).all(asked_for) {
            return Err(bad().into());
        }
        Ok(PieceBody {
            pieces: first..end,
            size,
            response,
        })
    }

    /// Tells a peer that bytes it sent do not match their hash, so that it looks at its own copy.
    pub async fn doubt(&self, host: &Host, task: &TaskId) {
        let asked = Request::new(Method::POST, format!("/tasks/{task}/doubt"));
        // Advice, not a duty: a peer that cannot be told is no worse than one that will not listen.
        let _ = self.about(host, task, None, asked).await;
    }

    async fn answered(&self, host: &Host, asked: Request) -> Result<Response<Incoming>, PeerError> {
        tokio::time::timeout(ANSWER_TIMEOUT, self.send(host, asked))
            .await
            .map_err(|_| PeerError::Silent)?
    }

    async fn send(&self, host: &Host, asked: Request) -> Result<Response<Incoming>, PeerError> {
        let prefix = match self.permits {
            Some(_) => PRIVATE_PREFIX,
            None => PATH_PREFIX,
        };
        let uri = format!("{}://{}{prefix}{}", self.scheme, host.address, asked.path);
        let mut request = http::Request::builder()
            .method(asked.method)
            .uri(uri)
            .header(CHILD, self.me.clone())
            .body(Full::new(asked.body))
            .map_err(|error| Invalid::new("peer's address", error.to_string()))?;
        request.headers_mut().extend(asked.headers);
        let sent = self.client.request(request).await;
        let response = sent.map_err(PeerError::Unreachable)?;
        // An address may be another's by now.
        if let Some(Caller::Known(peer)) = response.extensions().get()
            && peer.id != host.id
        {
            return Err(PeerError::Another(peer.id.clone()));
        }
        accepted(response)
    }
}

/// Tells where a file can be read. In headers, since a URL in the request's own might be logged.
fn locate(headers: &mut HeaderMap, sources: &[Supply]) -> Result<(), Invalid> {
    let located = sources.iter().find_map(|supply| match supply {
        Supply::File(located) => Some(located),
        Supply::Repository(_) => None,
    });
    let Some(located) = located else {
        return Ok(());
    };
    let value = |text: &str| {
        let value = HeaderValue::from_str(text);
        value.map_err(|_| Invalid::new("file", "has a URL or validator that is no header"))
    };
    let mut url = value(&located.url)?;
    url.set_sensitive(true);
    headers.insert(FILE_URL, url);
    if let Some(validator) = &located.validator {
        headers.insert(FILE_VALIDATOR, value(&validator.to_string())?);
    }
    Ok(())
}

/// The next bytes of a body; `None` at its end.
async fn chunk(response: &mut Response<Incoming>) -> Result<Option<Bytes>, PeerError> {
    while let Some(frame) = response.body_mut().frame().await {
        if let Ok(data) = frame.map_err(PeerError::Broken)?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// A run has at most this many pieces: enough to make requests few, little enough that a slot is
/// soon free again and a lost run costs little.
pub const MAX_RUN: u32 = 4;

fn accepted(response: Response<Incoming>) -> Result<Response<Incoming>, PeerError> {
    match response.status() {
        StatusCode::OK => Ok(response),
        StatusCode::SERVICE_UNAVAILABLE => {
            let again = header(&response, BUSY_FOR).ok();
            Err(PeerError::Busy {
                again: again.map(Duration::from_millis),
            })
        }
        StatusCode::NOT_FOUND => Err(PeerError::NotHeld),
        status => Err(PeerError::Status(status.as_u16())),
    }
}

fn header(response: &Response<Incoming>, name: &'static str) -> Result<u64, PeerError> {
    let value = response
        .headers()
        .get(name)
        .and_then(|value| value.to_str().ok());
    let number = value.and_then(|value| value.parse().ok());
    Ok(number.ok_or_else(|| Invalid::new(name, "is missing or no number"))?)
}

async fn read_bounded(mut response: Response<Incoming>) -> Result<Bytes, PeerError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = chunk(&mut response).await? {
        if body.len() + chunk.len() > MAX_REPLY {
            return Err(Invalid::new("reply", "is longer than 4 MiB").into());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Takes the next length-prefixed frame from the stream.
async fn next_frame(
    response: &mut Response<Incoming>,
    buffer: &mut BytesMut,
) -> Result<Option<Availability>, PeerError> {
    loop {
        if let Some(frame) = split_frame(buffer)? {
            return Ok(Some(frame));
        }
        let chunk = tokio::time::timeout(SILENCE, chunk(response))
            .await
            .map_err(|_| PeerError::Silent)??;
        match chunk {
            Some(chunk) => buffer.extend_from_slice(&chunk),
            None => return Ok(None),
        }
    }
}

fn split_frame(buffer: &mut BytesMut) -> Result<Option<Availability>, Invalid> {
    let Some(prefix) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*prefix) as usize;
    if length > MAX_FRAME {
        return Err(Invalid::new("availability frame", "is longer than 1 MiB"));
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    buffer.advance(4);
    let frame = wire::Availability::decode(buffer.split_to(length))
        .map_err(|error| Invalid::new("availability frame", error.to_string()))?;
    frame.try_into().map(Some)
}

/// A frame as the sender writes it.
pub fn encode_frame(frame: &Availability) -> Bytes {
    let frame = wire::Availability::from(frame);
    let length = frame.encoded_len();
    let mut bytes = BytesMut::with_capacity(4 + length);
    // The sender cuts its frames below MAX_FRAME, far under u32::MAX.
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(&frame.encode_to_vec());
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(size: u64, complete: bool) -> Availability {
        Availability {
            size,
            available: vec![0..1],
            runs: Vec::new(),
            complete,
            received_bytes: 5,
        }
    }

    #[test]
    fn frames_are_cut_out_of_any_chunks() {
        let frames = [frame(1 << 20, false), frame(1 << 20, true)];
        let bytes = [encode_frame(&frames[0]), encode_frame(&frames[1])].concat();
        for cut in 0..bytes.len() {
            let mut buffer = BytesMut::from(&bytes[..cut]);
            let mut found = Vec::new();
            while let Some(frame) = split_frame(&mut buffer).expect("valid") {
                found.push(frame);
            }
            buffer.extend_from_slice(&bytes[cut..]);
            while let Some(frame) = split_frame(&mut buffer).expect("valid") {
                found.push(frame);
            }
            assert_eq!(found, frames, "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn hostile_frames_are_errors_not_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = split_frame(&mut BytesMut::from(&bytes[..]));
        }
    }

    #[test]
    fn frames_as_no_peer_of_ours_sends_them() {
        let good = [
            encode_frame(&frame(1 << 20, true)),
            encode_frame(&frame(3 << 20, false)),
        ];
        darner_mutate::each(&[&good[0], &good[1]], |bytes| {
            let mut buffer = BytesMut::from(bytes);
            while let Ok(Some(frame)) = split_frame(&mut buffer) {
                assert!(frame.size <= darner_proto::geometry::MAX_SIZE);
            }
        });
    }
}
