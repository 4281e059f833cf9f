//! The front end for other peers: pieces of what this node holds or is getting, what it has of a
//! content as that grows, and answers from the repositories it owns. Paths are in
//! [`darner_proto::peer`].
//!
//! Slots bound how many runs are sent at once; a few more wait shortly, everybody else is told
//! "busy" at once and asks another parent. What is public is decided when content enters the store:
//! in this version nothing else is stored.

mod availability;
mod want;

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use darner_proto::digest::Digest;
use darner_proto::geometry::Geometry;
use darner_proto::id::Role;
use darner_proto::peer::{CONTENT_SIZE, FIRST_PIECE, PATH_PREFIX, PIECE_COUNT, ResolveRequest};
use darner_proto::piece_map::PieceSigner;
use darner_proto::wire;
use darner_service::metrics::Metrics;
use darner_service::shutdown::Shutdown;
use futures_util::{Stream, StreamExt as _};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::resolve::Resolver;
use crate::store::{Content, Store};
use crate::swarm::peers::MAX_RUN;
use crate::task::Tasks;
use crate::task::shared::Shared;

/// A request waits this long for a slot before it is told "busy": the time of a run or two, so that
/// a slot that frees is used at once.
const SLOT_PATIENCE: Duration = Duration::from_millis(50);
/// A look-up names one repository and one reference.
const MAX_REQUEST: usize = 16 << 10;

/// The listener and what it serves from.
#[derive(Debug)]
pub struct Pieces {
    listener: TcpListener,
    serving: Serving,
}

/// What requests are answered from. Clones share it.
#[derive(Debug, Clone)]
pub struct Serving {
    /// Complete content.
    pub store: Store,
    /// Content on its way.
    pub tasks: Tasks,
    /// Repositories' records.
    pub resolver: Resolver,
    /// Signs the map of content whose map was lost.
    pub signer: Arc<PieceSigner>,
    /// A seed begins what it is asked for and does not have.
    pub role: Role,
    /// Runs sent at once.
    pub slots: Arc<Semaphore>,
    /// What is counted.
    pub metrics: PiecesMetrics,
    /// The process's end.
    pub shutdown: Shutdown,
}

/// What serving peers counts. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct PiecesMetrics {
    uploaded_bytes: Counter,
    uploads: Counter,
    busy: Counter,
    uploading: Gauge,
}

impl PiecesMetrics {
    /// Runs of pieces being sent now, and the bytes of pieces sent so far.
    pub fn sending(&self) -> (u32, u64) {
        let running = u32::try_from(self.uploading.get()).unwrap_or(0);
        (running, self.uploaded_bytes.get())
    }

    /// Registers the counters.
    pub fn new(metrics: &Metrics) -> Self {
        let new = Self::default();
        metrics.register(|registry| {
            registry.register(
                "uploaded_bytes",
                "Bytes of pieces sent to peers",
                new.uploaded_bytes.clone(),
            );
            registry.register(
                "uploads",
                "Runs of pieces sent to peers",
                new.uploads.clone(),
            );
            registry.register(
                "uploads_busy",
                "Requests of peers refused for want of a slot",
                new.busy.clone(),
            );
            registry.register(
                "uploads_running",
                "Runs of pieces being sent",
                new.uploading.clone(),
            );
        });
        new
    }
}

impl Pieces {
    /// Binds the listener.
    pub async fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
        TcpListener::bind(listen).await
    }

    /// Serves peers on `listener`.
    pub fn new(listener: TcpListener, serving: Serving) -> Self {
        Self { listener, serving }
    }

    /// Serves until the process drains and running transfers are done.
    pub async fn serve(self) {
        let shutdown = self.serving.shutdown.clone();
        let routes = Router::new()
            .route(
                &format!("{PATH_PREFIX}/tasks/{{task}}/availability"),
                get(availability::follow),
            )
            .route(
                &format!("{PATH_PREFIX}/tasks/{{task}}/pieces"),
                get(send_run),
            )
            .route(&format!("{PATH_PREFIX}/tasks/{{task}}/doubt"), post(doubt))
            .route(&format!("{PATH_PREFIX}/resolve"), post(resolve))
            .layer(DefaultBodyLimit::max(MAX_REQUEST))
            .with_state(self.serving);
        let ended = axum::serve(self.listener, routes)
            .with_graceful_shutdown(async move { shutdown.draining().await })
            .await;
        if let Err(error) = ended {
            tracing::error!(%error, "the pieces listener ended");
        }
    }
}

/// Why a peer is refused.
#[derive(Debug)]
enum Refusal {
    Invalid(darner_proto::invalid::Invalid),
    NotHeld,
    Busy,
    Unreadable,
}

impl From<darner_proto::invalid::Invalid> for Refusal {
    fn from(invalid: darner_proto::invalid::Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

impl axum::response::IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Invalid(invalid) => {
                (StatusCode::BAD_REQUEST, invalid.to_string()).into_response()
            }
            Self::NotHeld => StatusCode::NOT_FOUND.into_response(),
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            Self::Unreadable => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}

async fn send_run(
    State(serving): State<Serving>,
    Path(task): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let task: Digest = task.parse()?;
    let query = query.unwrap_or_default();
    let want = want::parse(query.strip_prefix("want=").unwrap_or_default())?;
    let held = serving.held(&task).ok_or(Refusal::NotHeld)?;
    let pieces = held.choose(&want).ok_or(Refusal::NotHeld)?;
    let Ok(Ok(slot)) =
        tokio::time::timeout(SLOT_PATIENCE, serving.slots.clone().acquire_owned()).await
    else {
        serving.metrics.busy.inc();
        return Err(Refusal::Busy);
    };
    let geometry = held.geometry();
    let bytes = geometry.bytes_of_run(pieces.start, pieces.end - pieces.start);
    let length = bytes.end - bytes.start;
    let body = Upload::new(held.stream(bytes), slot, serving.metrics.clone());
    Response::builder()
        .header(header::CONTENT_LENGTH, length)
        .header(FIRST_PIECE, pieces.start)
        .header(PIECE_COUNT, pieces.end - pieces.start)
        .header(CONTENT_SIZE, geometry.size())
        .body(Body::from_stream(body.into_stream()))
        .map_err(|_| Refusal::Unreadable)
}

async fn doubt(
    State(serving): State<Serving>,
    Path(task): Path<String>,
) -> Result<StatusCode, Refusal> {
    let task: Digest = task.parse()?;
    // The check reads the whole content; the store bounds how often it does that.
    let store = serving.store.clone();
    serving
        .shutdown
        .spawn(async move { store.check(&task).await });
    Ok(StatusCode::OK)
}

async fn resolve(State(serving): State<Serving>, body: Bytes) -> Result<Response, Refusal> {
    let invalid = |error: prost::DecodeError| {
        darner_proto::invalid::Invalid::new("look-up", error.to_string())
    };
    let request = wire::ResolveRequest::decode(body).map_err(invalid)?;
    let reply = serving
        .resolver
        .answer(ResolveRequest::try_from(request)?)
        .await;
    Ok(wire::ResolveReply::from(&reply)
        .encode_to_vec()
        .into_response())
}

/// Content this node has, whole or in part.
enum Held {
    Stored(Content),
    Running(Arc<Shared>),
}

impl Serving {
    fn held(&self, task: &Digest) -> Option<Held> {
        match self.store.get(task) {
            Some(content) => Some(Held::Stored(content)),
            None => self.tasks.running(task).map(Held::Running),
        }
    }
}

impl Held {
    fn geometry(&self) -> Geometry {
        match self {
            Self::Stored(content) => Geometry::of(content.size()),
            Self::Running(shared) => shared.geometry,
        }
    }

    /// Which of the wanted pieces to send. Of content on its way, what has been sent least often;
    /// of complete content, what the child named first.
    fn choose(&self, want: &[Range<u32>]) -> Option<Range<u32>> {
        let pieces = self.geometry().pieces();
        if let Self::Running(shared) = self {
            return shared.choose(&want::within(want, pieces), MAX_RUN);
        }
        let first = want.first().filter(|first| first.end <= pieces)?;
        Some(first.start..first.end.min(first.start + MAX_RUN))
    }

    fn stream(
        self,
        bytes: Range<u64>,
    ) -> futures_util::stream::BoxStream<'static, io::Result<Bytes>> {
        match self {
            Self::Stored(content) => content.stream(bytes).boxed(),
            Self::Running(shared) => written(shared, bytes).boxed(),
        }
    }
}

/// Pieces of a growing file, one at a time.
fn written(shared: Arc<Shared>, bytes: Range<u64>) -> impl Stream<Item = io::Result<Bytes>> + Send {
    futures_util::stream::try_unfold((shared, bytes), |(shared, left)| async move {
        if left.is_empty() {
            return Ok(None);
        }
        let piece = shared
            .geometry
            .bytes_of(shared.geometry.piece_at(left.start));
        let now = left.start..left.end.min(piece.end);
        let read = shared
            .partial
            .read(now.clone())
            .await
            .map_err(io::Error::other)?;
        if read.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let rest = left.start + read.len() as u64..left.end;
        Ok(Some((read, (shared, rest))))
    })
}

/// A run being sent: holds its slot until the last byte has been taken, or the child has hung up.
struct Upload<S> {
    stream: S,
    counted: Counted,
}

struct Counted {
    metrics: PiecesMetrics,
    _slot: OwnedSemaphorePermit,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.uploading.dec();
    }
}

impl<S: Stream<Item = io::Result<Bytes>>> Upload<S> {
    fn new(stream: S, slot: OwnedSemaphorePermit, metrics: PiecesMetrics) -> Self {
        metrics.uploads.inc();
        metrics.uploading.inc();
        let counted = Counted {
            metrics,
            _slot: slot,
        };
        Self { stream, counted }
    }

    fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> {
        let counted = self.counted;
        self.stream.inspect(move |chunk| {
            if let Ok(bytes) = chunk {
                counted.metrics.uploaded_bytes.inc_by(bytes.len() as u64);
            }
        })
    }
}
