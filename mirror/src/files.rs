//! Files of any kind, from any HTTP server, for programs of this node: a download shared with the
//! cluster where that is right, and a request that just passes where it is not.
//!
//! ```text
//! request --> route --(refuse)--> refused
//!               |----(straight, another method)--> passed on to the host
//!               '----(swarm)--> the host is asked what it has for this very URL
//!                                 |--(no version to go by, or not to be shared)--> passed on
//!                                 '--> task of that version --> what its readers have verified
//! ```
//! The host is asked each time, with the caller's own URL and what else it shows: what is held answers
//! nobody whom the host would not. What was read with credentials stays on this node, see [`own`]. A file's key is made of its URL, size and validator (see
//! [`darner_proto::file`]), so that a version is read by nobody as another. Files that were put
//! into the cluster, and those whose digest a caller gives, are known by their digest, as blobs are.

mod held;
mod keep;
pub mod local;
mod metrics;
mod own;
mod passing;
mod replicas;
pub(crate) mod version;

use std::ops::Range;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use darner_proto::digest::Digest;
use darner_proto::file::Supply;
use darner_service::metrics::Metrics;
use darner_service::settings::RouteTo;
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::listen::Outlet;
use crate::registry::range::{Wanted, wanted};
use crate::store::Span;
use crate::task::{Reading, ServedFrom, Tasks};
use crate::upstream::files::{Files, shows_credentials};
use metrics::{FileMetrics, Outcome};
use version::Version;

/// Where the first byte of an answer came from, as with blobs.
const SOURCE: HeaderName = HeaderName::from_static("x-darner-source");
/// What a host says of a file that its readers want to know.
const DESCRIPTION: [HeaderName; 7] = [
    header::CONTENT_TYPE,
    header::CONTENT_DISPOSITION,
    header::CONTENT_LANGUAGE,
    header::CACHE_CONTROL,
    header::ETAG,
    header::LAST_MODIFIED,
    header::EXPIRES,
];

/// Answers requests for files. Clones share it.
#[derive(Debug, Clone)]
pub struct FileFront {
    tasks: Tasks,
    /// Downloads of what is one caller's own; `None` where nothing of that is kept.
    own: Option<Tasks>,
    metrics: FileMetrics,
}

/// A request for what is at a URL.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    pub(crate) url: &'a Url,
    /// Those of the client.
    pub(crate) headers: &'a HeaderMap,
    /// The digest that the client says it has.
    pub(crate) digest: Option<Digest>,
    /// There is an answer by then, of one kind or the other.
    pub(crate) deadline: Instant,
}

/// A file is not answered.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(format!("darner: {}\n", self.message)));
        *response.status_mut() = self.status;
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, text);
        response
    }
}

impl FileFront {
    /// Answers from what `tasks` bring here; what callers show credentials for, from `own`.
    pub fn new(tasks: &Tasks, own: Option<Tasks>, metrics: &Metrics) -> Self {
        Self {
            tasks: tasks.clone(),
            own,
            metrics: FileMetrics::new(metrics),
        }
    }

    /// The hosts of files.
    pub(crate) fn hosts(&self) -> &Files {
        self.tasks.parts().upstreams.files()
    }

    /// Answers with what is at a URL: by the route for it, or as `otherwise` says where there is
    /// none. `body` is the request's own.
    pub(crate) async fn answer(
        &self,
        asked: &Asked<'_>,
        otherwise: RouteTo,
        body: Option<Body>,
        outlet: &Outlet,
    ) -> Response<Body> {
        let answered = self.answered(asked, otherwise, body, outlet).await;
        answered.unwrap_or_else(|refusal| {
            self.metrics.answered(match refusal.status {
                StatusCode::FORBIDDEN => Outcome::Refused,
                _ => Outcome::Failed,
            });
            tracing::warn!(host = asked.url.host_str(), status = %refusal.status, reason = refusal.message, "a file is not answered");
            refusal.into_response()
        })
    }

    async fn answered(
        &self,
        asked: &Asked<'_>,
        otherwise: RouteTo,
        body: Option<Body>,
        outlet: &Outlet,
    ) -> Result<Response<Body>, Refusal> {
        let checked = self.hosts().check(asked.url);
        checked.map_err(|error| Refusal::new(StatusCode::FORBIDDEN, error.to_string()))?;
        let to = self.hosts().route(asked.url).unwrap_or(otherwise);
        let reads = matches!(*asked.method, Method::GET | Method::HEAD) && body.is_none();
        let one_callers = shows_credentials(asked.url, asked.headers);
        if to == RouteTo::Refuse {
            let message = "its host is not one that may be asked; give it a [[route]]";
            return Err(Refusal::new(StatusCode::FORBIDDEN, message));
        }
        if to != RouteTo::Swarm || !reads {
            return self.pass(asked, body).await;
        }
        let found = match one_callers {
            false => self.version(asked).await?.map(|found| (found, &self.tasks)),
            true => self.own_version(asked).await,
        };
        match found {
            Some((version, tasks)) => self.shared(asked, (version, tasks), outlet).await,
            None => self.pass(asked, None).await,
        }
    }

    /// The version that the host has for this caller; `None` when there is none to share.
    async fn version(&self, asked: &Asked<'_>) -> Result<Option<Version>, Refusal> {
        let head = timeout_at(asked.deadline, self.hosts().head(asked.url)).await;
        let head = match head {
            Ok(Ok(head)) => head,
            Ok(Err(error)) => return Err(Refusal::new(StatusCode::BAD_GATEWAY, error.to_string())),
            Err(_) => {
                let message = "its host does not answer in time";
                return Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, message));
            }
        };
        Ok(Version::of(head, self.hosts(), (asked.url, asked.digest)))
    }

    async fn shared(
        &self,
        asked: &Asked<'_>,
        (version, tasks): (Version, &Tasks),
        outlet: &Outlet,
    ) -> Result<Response<Body>, Refusal> {
        let Version { key, size, .. } = version;
        if passing::is_known(asked.headers, &version.headers) {
            self.metrics.answered(Outcome::Shared);
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            describe(response.headers_mut(), &version.headers);
            return Ok(response);
        }
        let part = match wanted(asked.headers, size, &version.tag) {
            Wanted::Whole => None,
            Wanted::Part(part) => Some(part),
            Wanted::Outside => return Ok(outside(size)),
        };
        let range = part.clone().unwrap_or(0..size);
        let opened = if *asked.method == Method::HEAD {
            Some((Body::empty(), None))
        } else {
            let sources = version.sources;
            let opened = open(tasks, (&key, size), sources, range.clone());
            let opened = timeout_at(asked.deadline, opened).await;
            let late = "it does not come in time";
            let opened =
                opened.map_err(|_| Refusal::new(StatusCode::GATEWAY_TIMEOUT, late.to_owned()))?;
            opened.map(|(from, spans)| (self.body(outlet, spans, from), Some(from)))
        };
        // No worse than without this node.
        let Some((body, from)) = opened else {
            return self.pass(asked, None).await;
        };
        self.metrics.answered(Outcome::Shared);
        let mut response = part_of(body, size, part);
        describe(response.headers_mut(), &version.headers);
        if let Some(from) = from {
            let from = HeaderValue::from_static(from.as_str());
            response.headers_mut().insert(SOURCE, from);
        }
        Ok(response)
    }

    fn body(&self, outlet: &Outlet, spans: Spans, from: ServedFrom) -> Body {
        let sent = self.metrics.bytes(from);
        Body::from_stream(outlet.clone().body(spans).inspect(move |chunk| {
            if let Ok(chunk) = chunk {
                sent.inc_by(chunk.len() as u64);
            }
        }))
    }
}

/// Content of which the first byte can be sent; `None` when it cannot be had this way.
async fn open(
    tasks: &Tasks,
    (key, size): (&Digest, u64),
    sources: Vec<Supply>,
    range: Range<u64>,
) -> Option<(ServedFrom, Spans)> {
    match tasks.open_from(key, size, sources).await {
        Ok(Reading::Stored(content)) if content.size() == size => {
            Some((ServedFrom::Store, content.spans(range).boxed()))
        }
        Ok(Reading::Arriving(mut arriving)) if arriving.size() == size => {
            match arriving.first_source(range.clone()).await {
                Ok(from) => Some((from, arriving.spans(range).boxed())),
                Err(error) => {
                    tracing::warn!(task = %key, %error, "a file does not come");
                    None
                }
            }
        }
        Ok(_) => None,
        Err(error) => {
            tracing::warn!(task = %key, %error, "a file cannot be opened");
            None
        }
    }
}

type Spans = futures_util::stream::BoxStream<'static, std::io::Result<Span>>;

/// All of content of this size, or a part.
fn part_of(body: Body, size: u64, part: Option<Range<u64>>) -> Response<Body> {
    let mut response = Response::new(body);
    let mut length = size;
    if let Some(part) = part {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        length = part.end - part.start;
        let range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
        insert(response.headers_mut(), header::CONTENT_RANGE, &range);
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

fn outside(size: u64) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
    let range = format!("bytes */{size}");
    insert(response.headers_mut(), header::CONTENT_RANGE, &range);
    response
}

fn describe(headers: &mut HeaderMap, told: &HeaderMap) {
    for name in DESCRIPTION {
        for value in told.get_all(&name) {
            headers.append(name.clone(), value.clone());
        }
    }
}

/// Sets a header to what is made of digits and plain letters.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}
