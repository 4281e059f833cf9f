//! The guarded client for what is no registry: files at any URL, and requests that only pass.
//!
//! The operator's [`super::routes`] say which hosts may be asked; what no route is about is asked at
//! the ports of the web, and only where it is on the internet. Redirects are followed by hand, each
//! as guarded as the first. A version of a file is read with the precondition that it is still that
//! version, and the answer is checked for it all the same, since not every server heeds it.

mod callers;
mod client;

use std::io;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use darner_proto::digest::Digest;
use darner_proto::file::{Located, Validator};
use darner_service::settings::{Route, RouteTo};
use darner_service::shutdown::Shutdown;
use futures_util::stream::BoxStream;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, COOKIE, IF_MATCH, IF_UNMODIFIED_SINCE, LOCATION, RANGE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::{Request, Response};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::answer::blob_range;
use super::body::{Body, ByteStream};
use super::dial::{Zone, zone};
use super::error::{Fault, UpstreamError};
use super::limit::Slots;
use super::metrics::{Counts, Kind};
use super::routes::Routes;
use super::setup::Authorities;
use super::{BlobBody, version};
use crate::bandwidth::Bandwidth;
use client::Client;

/// To the headers of the last answer, redirects included: a client is to have headers or an error
/// within ten seconds.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(8);
/// A read waits this long for its turn: other reads are what it waits for.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 5;
/// Exchanges at once with all hosts together.
const MAX_EXCHANGES: usize = 64;
/// The longest URL that can go on to another node in a header.
const MAX_URL: usize = 8 << 10;

/// The client. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Files {
    /// Replaced when the routes change.
    current: Arc<RwLock<Arc<Inner>>>,
    bandwidth: Bandwidth,
}

#[derive(Debug)]
struct Inner {
    routes: Routes,
    /// One for each route, and one for what has none.
    clients: Vec<Arc<Client>>,
    counts: Counts,
    slots: Slots,
    stop: CancellationToken,
}

/// What the host of a file says of it.
#[derive(Debug, Clone)]
pub struct FileHead {
    /// 200 where the file can be read.
    pub status: StatusCode,
    /// All of the answer's headers.
    pub headers: HeaderMap,
    /// The size of the whole, where it is told.
    pub size: Option<u64>,
    /// By what this version is told from others.
    pub validator: Option<Validator>,
    /// What one caller reads is what another would read.
    pub shared: bool,
}

/// The answer to a request that only passes.
pub struct PassedAnswer {
    /// Whatever the host said.
    pub status: StatusCode,
    /// All of its headers.
    pub headers: HeaderMap,
    /// Its body as it comes.
    pub body: ByteStream,
}

impl std::fmt::Debug for PassedAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PassedAnswer")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl Files {
    /// For these routes. What the operator has given is looked at before anything starts.
    pub(super) fn new(
        ways: &[(Route, Authorities)],
        counts: Counts,
        shutdown: &Shutdown,
    ) -> Result<Self, UpstreamError> {
        let inner = Inner {
            routes: Routes::default(),
            clients: Vec::new(),
            slots: Slots::new(MAX_EXCHANGES, counts.clone()),
            counts,
            stop: shutdown.cancellation(),
        };
        let inner = inner.rerouted(ways)?;
        Ok(Self {
            current: Arc::new(RwLock::new(Arc::new(inner))),
            bandwidth: Bandwidth::default(),
        })
    }

    /// From now on these are the routes, for all clones; what is under way goes on as it began.
    ///
    /// # Errors
    /// A route cannot be used, and nothing is changed.
    pub(super) fn reroute(&self, ways: &[(Route, Authorities)]) -> Result<(), UpstreamError> {
        let inner = self.inner().rerouted(ways)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(inner);
        Ok(())
    }

    fn inner(&self) -> Arc<Inner> {
        let current = self.current.read();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same, with limits on how fast bodies come.
    pub(super) fn limited(self, bandwidth: Bandwidth) -> Self {
        Self { bandwidth, ..self }
    }

    /// What the routes say of a URL; `None` where none is about it.
    pub fn route(&self, url: &Url) -> Option<RouteTo> {
        self.inner().routes.way(url).to()
    }

    /// Why a URL must not be asked for, as far as it tells.
    ///
    /// # Errors
    /// The reason.
    pub fn check(&self, url: &Url) -> Result<(), UpstreamError> {
        self.inner().check(url).map_err(|fault| blame(url, fault))
    }

    /// The URL without what does not say which file is meant.
    pub fn canonical(&self, url: &Url) -> Url {
        self.inner().routes.canonical(url)
    }

    /// Whether another node's word on where the content of `task` is to be read fits that task, and
    /// this node's routes let it be read for the cluster.
    pub fn vet(&self, task: &Digest, size: u64, located: &Located) -> bool {
        let Ok(url) = Url::parse(&located.url) else {
            return false;
        };
        let shared = matches!(self.route(&url), None | Some(RouteTo::Swarm));
        let fits = match &located.validator {
            _ if task.is_of_content() => true,
            Some(validator) => validator.key(self.canonical(&url).as_str(), size) == *task,
            None => false,
        };
        shared && fits && located.url.len() <= MAX_URL && self.inner().check(&url).is_ok()
    }

    /// What the host says of the file at `url` to who asks for it so.
    pub async fn head(&self, url: &Url) -> Result<FileHead, UpstreamError> {
        let head = self.inner().head(url).await;
        head.map_err(|fault| self.blamed(url, fault))
    }

    /// Reads `range` of the version of `size` bytes that `located` means.
    ///
    /// # Errors
    /// Also when the file is another version by now.
    pub async fn read(
        &self,
        located: &Located,
        range: Range<u64>,
        size: u64,
    ) -> Result<BlobBody, UpstreamError> {
        self.read_by(located, (range, size), None).await
    }

    async fn read_by(
        &self,
        located: &Located,
        part: (Range<u64>, u64),
        shown: Option<&HeaderMap>,
    ) -> Result<BlobBody, UpstreamError> {
        let url = Url::parse(&located.url);
        let url = url.map_err(|_| UpstreamError::of_host("?", Fault::NotAllowed("its URL")))?;
        let validator = located.validator.as_ref();
        let opened = self.inner().read(&url, validator, &part, shown).await;
        let (ranged, range, body) = opened.map_err(|fault| self.blamed(&url, fault))?;
        let body = body.with_length(range.end - range.start);
        Ok(BlobBody {
            ranged,
            range,
            stream: self.stream(&url, body),
        })
    }

    /// Passes a request on as it is, without following redirects. `Host` and what is about one
    /// connection alone must not be among its headers.
    pub async fn pass(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Option<BoxStream<'static, io::Result<Bytes>>>,
    ) -> Result<PassedAnswer, UpstreamError> {
        let body = body.map(reqwest::Body::wrap_stream);
        let passed = self.inner().pass(method, url, headers, body).await;
        let mut response = passed.map_err(|fault| self.blamed(url, fault))?;
        let status = response.status();
        let headers = std::mem::take(response.headers_mut());
        let body = self.inner().body(response, None);
        Ok(PassedAnswer {
            status,
            headers,
            body: self.stream(url, body),
        })
    }

    /// Addresses of a host that something may be connected to in a client's name, without its being
    /// read here.
    pub async fn addresses(&self, url: &Url) -> Result<Vec<std::net::SocketAddr>, UpstreamError> {
        let found = self.inner().addresses(url).await;
        found.map_err(|fault| blame(url, fault))
    }

    fn stream(&self, url: &Url, body: Body) -> ByteStream {
        let (inner, url) = (self.inner(), url.clone());
        body.into_stream(&self.bandwidth, move |fault| {
            inner.counts.error(fault.kind());
            blame(&url, fault)
        })
    }

    fn blamed(&self, url: &Url, fault: Fault) -> UpstreamError {
        self.inner().counts.error(fault.kind());
        blame(url, fault)
    }
}

fn blame(url: &Url, fault: Fault) -> UpstreamError {
    UpstreamError::of_host(url.host_str().unwrap_or_default(), fault)
}

impl Inner {
    /// With these routes; a host whose way has not changed keeps its connections.
    fn rerouted(&self, ways: &[(Route, Authorities)]) -> Result<Self, UpstreamError> {
        let to = |route: Option<&Route>, authorities: &Authorities| {
            let same = |client: &&Arc<Client>| {
                client.route.as_ref() == route && client.authorities == *authorities
            };
            let kept = self.clients.iter().find(same).cloned();
            kept.unwrap_or_else(|| Arc::new(Client::new(route, authorities.clone())))
        };
        let clients: Vec<_> = ways
            .iter()
            .map(|(route, authorities)| to(Some(route), authorities))
            .chain([to(None, &Authorities::System)])
            .collect();
        for (client, (route, authorities)) in clients.iter().zip(ways) {
            if *authorities != Authorities::System {
                let made = client.get();
                made.map_err(|fault| UpstreamError::of_host(&route.host.name, fault))?;
            }
        }
        let routes: Vec<_> = ways.iter().map(|(route, _)| route.clone()).collect();
        Ok(Self {
            routes: Routes::new(&routes),
            clients,
            counts: self.counts.clone(),
            slots: self.slots.clone(),
            stop: self.stop.clone(),
        })
    }

    fn client(&self, url: &Url) -> &Client {
        let last = self.routes.len();
        let place = self.routes.way(url).route.map_or(last, |(place, _)| place);
        &self.clients[place]
    }

    fn check(&self, url: &Url) -> Result<(), Fault> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Fault::NotAllowed("its scheme is neither http nor https"));
        }
        self.routes.may_ask(url).map_err(Fault::NotAllowed)?;
        self.client(url).guard.check(url)
    }

    async fn addresses(&self, url: &Url) -> Result<Vec<std::net::SocketAddr>, Fault> {
        self.check(url)?;
        let port = url.port_or_known_default().unwrap_or(0);
        match url.host() {
            Some(url::Host::Domain(name)) => self.client(url).guard.addresses(name, port).await,
            Some(url::Host::Ipv4(address)) => Ok(vec![(address, port).into()]),
            Some(url::Host::Ipv6(address)) => Ok(vec![(address, port).into()]),
            None => Err(Fault::NotAllowed("it has no host")),
        }
    }

    /// `HEAD`; a host that refuses that, as storage does to signed URLs, is asked for one byte.
    async fn head(&self, url: &Url) -> Result<FileHead, Fault> {
        let permit = timeout(HEADERS_TIMEOUT, self.slots.take(false)).await;
        let _permit = permit.unwrap_or(Err(Fault::Full))?;
        let none = HeaderMap::new();
        let mut answer = timely(self.follow(&Method::HEAD, url, &none)).await?;
        let refused = [400, 403, 405, 501].contains(&answer.status().as_u16());
        if refused {
            let one = HeaderMap::from_iter([(RANGE, HeaderValue::from_static("bytes=0-0"))]);
            answer = timely(self.follow(&Method::GET, url, &one)).await?;
        }
        Ok(described(&mut answer))
    }

    async fn read(
        &self,
        url: &Url,
        validator: Option<&Validator>,
        (range, size): &(Range<u64>, u64),
        shown: Option<&HeaderMap>,
    ) -> Result<(bool, Range<u64>, Body), Fault> {
        let mut headers = shown.cloned().unwrap_or_default();
        let value = |text: &str| HeaderValue::from_str(text).map_err(|_| Fault::Changed);
        match validator {
            Some(Validator::Tag(tag)) => drop(headers.insert(IF_MATCH, value(tag)?)),
            Some(Validator::Modified(date)) => {
                headers.insert(IF_UNMODIFIED_SINCE, value(date)?);
            }
            None => {}
        }
        if *range != (0..*size) {
            let range = format!("bytes={}-{}", range.start, range.end - 1);
            headers.insert(RANGE, value(&range)?);
        }
        let permit = timeout(TURN_TIMEOUT, self.slots.take(true)).await;
        let permit = permit.unwrap_or(Err(Fault::Full))?;
        let mut answer = match shown {
            Some(_) => timely(self.ask(&Method::GET, url, &headers)).await?,
            None => timely(self.follow(&Method::GET, url, &headers)).await?,
        };
        let (status, headers) = (answer.status(), std::mem::take(answer.headers_mut()));
        // A range outside of the file is one of another version.
        let gone = [
            StatusCode::PRECONDITION_FAILED,
            StatusCode::RANGE_NOT_SATISFIABLE,
        ];
        let other = validator.is_some_and(|expected| !version::is_of(&headers, expected));
        if gone.contains(&status) || (status.is_success() && other) {
            return Err(Fault::Changed);
        }
        if !version::may_be_shared(&headers) && status.is_success() {
            return Err(Fault::Nonsense("content that is not to be shared"));
        }
        let (ranged, range) = blob_range(status, &headers, range, *size)?;
        Ok((ranged, range, self.body(answer, Some(permit))))
    }

    fn body(&self, answer: Response, permit: Option<super::limit::Permit>) -> Body {
        let received = self.counts.bytes(Kind::File);
        Body::new(answer, received, self.stop.clone(), permit)
    }

    async fn pass(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Option<reqwest::Body>,
    ) -> Result<Response, Fault> {
        let mut request = Request::new(method, url.clone());
        *request.headers_mut() = headers;
        let has_body = body.is_some();
        *request.body_mut() = body;
        let sent = self.exchange(request);
        // Nobody knows how long a body takes that comes from a client.
        match has_body {
            true => self
                .stop
                .run_until_cancelled(sent)
                .await
                .unwrap_or(Err(Fault::Stopping)),
            false => timely(sent).await,
        }
    }

    /// Asks, and follows where that is redirected to.
    async fn follow(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Response, Fault> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.ask(method, &url, headers).await?;
            let redirects = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            let location = response.headers().get(LOCATION).filter(|_| redirects);
            let Some(location) = location else {
                return Ok(response);
            };
            let next = location.to_str().ok().and_then(|text| url.join(text).ok());
            let next = next.ok_or(Fault::Redirect("to what is no URL"))?;
            if url.scheme() == "https" && next.scheme() != "https" {
                return Err(Fault::Redirect("from https to something else"));
            }
            url = next;
        }
        Err(Fault::Redirects(MAX_REDIRECTS))
    }

    /// Asks once.
    async fn ask(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Response, Fault> {
        let mut request = Request::new(method.clone(), url.clone());
        *request.headers_mut() = headers.clone();
        // Versions are told apart by the bytes themselves, not by some encoding of them.
        let identity = HeaderValue::from_static("identity");
        request.headers_mut().insert(ACCEPT_ENCODING, identity);
        self.exchange(request).await
    }

    async fn exchange(&self, request: Request) -> Result<Response, Fault> {
        self.check(request.url())?;
        let method = request.method().clone();
        let answer = self.client(request.url()).get()?.execute(request).await;
        let status = answer.as_ref().ok().map(Response::status);
        self.counts.request(&method, Kind::File, status);
        answer.map_err(Fault::network)
    }
}

/// What an answer says of a file.
fn described(answer: &mut Response) -> FileHead {
    let status = answer.status();
    let headers = std::mem::take(answer.headers_mut());
    let readable = matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT);
    FileHead {
        size: version::size(status, &headers),
        validator: version::validator(&headers),
        shared: version::may_be_shared(&headers),
        status: if readable { StatusCode::OK } else { status },
        headers,
    }
}

async fn timely<T>(work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let done = timeout(HEADERS_TIMEOUT, work).await;
    done.unwrap_or(Err(Fault::Silent(HEADERS_TIMEOUT)))
}

/// Whether a request shows who asks: what it gets is that caller's alone.
pub fn shows_credentials(url: &Url, headers: &HeaderMap) -> bool {
    let in_url = !url.username().is_empty() || url.password().is_some();
    in_url || headers.contains_key(AUTHORIZATION) || headers.contains_key(COOKIE)
}

/// Whether an address is one of the internet.
pub fn is_public(address: std::net::IpAddr) -> bool {
    zone(address) == Zone::Public
}
