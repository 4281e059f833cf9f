//! The front end for other peers: pieces of what this node holds or is getting, what it has of a
//! content as that grows, and answers from the repositories it owns. Paths are in
//! [`darner_proto::peer`].
//!
//! What is sent to whom, and when, [`uploads`] decides and [`desk`] waits for. What is public was
//! decided when content entered the store: it goes to any member. What is not is in another store,
//! and [`private`] asks for a ticket.

mod availability;
pub mod desk;
mod gossip;
pub mod hold;
mod paced;
pub mod private;
pub mod uploads;
mod want;

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, RawQuery, State};
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use darner_proto::digest::Digest;
use darner_proto::geometry::Geometry;
use darner_proto::gossip::PATH;
use darner_proto::id::Role;
use darner_proto::invalid::Invalid;
use darner_proto::peer::{
    BUSY_FOR, CHILD, CONTENT_SIZE, FIRST_PIECE, PATH_PREFIX, PIECE_COUNT, ResolveRequest, Wait,
};
use darner_proto::piece_map::PieceSigner;
use darner_proto::piece_set::PieceSet;
use darner_proto::wire;
use darner_service::gossip::Gossip;
use darner_service::identity::Identity;
use darner_service::metrics::Metrics;
use darner_service::shutdown::Shutdown;
use futures_util::{Stream, StreamExt as _, stream::BoxStream};
use hyper::body::Incoming;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tower::ServiceExt as _;

use crate::bandwidth::{Bandwidth, Urgency};
use crate::listen::{self, ListenMetrics, Outlet};
use crate::resolve::Resolver;
use crate::store::{Content, Span, Store};
use crate::task::Tasks;
use crate::task::shared::Shared;
use crate::upstream::files::Files;
use desk::{Desk, Slot, Turned};
use paced::paced;
use uploads::{Child, Holding};

/// A look-up names one repository and one reference.
const MAX_REQUEST: usize = 16 << 10;
/// It is one packet.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The listener and what it serves from.
#[derive(Debug)]
pub struct Pieces {
    listener: TcpListener,
    identity: Identity,
    serving: Serving,
    private: Option<private::Private>,
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
    /// Which files may be read for others.
    pub files: Files,
    /// Signs the map of content whose map was lost.
    pub signer: Arc<PieceSigner>,
    /// A seed begins what it is asked for and does not have.
    pub role: Role,
    /// Where requests for pieces wait for their turn.
    pub desk: Desk,
    /// Places for what other nodes want held here.
    pub holds: Arc<Semaphore>,
    /// How fast pieces go out.
    pub bandwidth: Bandwidth,
    /// What is counted.
    pub metrics: PiecesMetrics,
    /// Membership without servers, where this node takes part in it.
    pub gossip: Option<Gossip>,
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
    tickets: Counter,
    no_right: Counter,
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
            registry.register(
                "private_tickets",
                "Tickets given to nodes for private content, after a proof of the right to it",
                new.tickets.clone(),
            );
            registry.register(
                "private_refused",
                "Requests of nodes for private content refused for want of a proof or a ticket",
                new.no_right.clone(),
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

    /// Serves peers on `listener`; a seed also what is `private`.
    pub fn new(
        listener: TcpListener,
        identity: Identity,
        serving: Serving,
        private: Option<private::Private>,
    ) -> Self {
        Self {
            listener,
            identity,
            serving,
            private,
        }
    }

    /// Serves until the process drains and running transfers are done.
    pub async fn serve(self, metrics: ListenMetrics) {
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
            .route(
                &format!("{PATH_PREFIX}/tasks/{{task}}/hold"),
                post(hold::hold),
            )
            .route(&format!("{PATH_PREFIX}/resolve"), post(resolve))
            .route(PATH, get(gossip::list).post(gossip::receive))
            .with_state(self.serving)
            .merge(self.private.map(private::routes).unwrap_or_default());
        let front = Front {
            routes,
            identity: self.identity,
        };
        listen::accept(self.listener, front, metrics, shutdown).await;
    }
}

/// Answers peers.
struct Front {
    routes: Router,
    identity: Identity,
}

impl listen::Front for Front {
    type Body = Body;

    const NAME: &'static str = "pieces";
    /// A peer has an availability stream and a few requests open for each content it gets from here.
    const MAX_CONNECTIONS: usize = 8192;
    /// A child that takes nothing for so long holds a slot that others wait for.
    const STALL_TIMEOUT: Duration = Duration::from_secs(20);
    /// What the system takes counts as sent: a megabyte of it for each child would hide how slow a link is, and
    /// a piece that is chosen so early may be one that the child could have had elsewhere by then.
    const AHEAD: Option<u32> = Some(256 << 10);

    fn members(&self) -> Option<&Identity> {
        Some(&self.identity)
    }

    async fn answer(&self, request: Request<Incoming>, outlet: Outlet) -> Response {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(outlet);
        let Ok(response) = self.routes.clone().oneshot(request).await;
        response
    }
}

/// Why a peer is refused.
#[derive(Debug)]
enum Refusal {
    Invalid(Invalid),
    NotHeld,
    /// Until then.
    Busy(Duration),
    Unreadable,
    /// What it shows is no right to this.
    NoRight,
    /// It cannot be held here.
    NoRoom,
}

impl From<Turned> for Refusal {
    fn from(turned: Turned) -> Self {
        match turned {
            Turned::Busy(again) => Self::Busy(again),
            Turned::NotHeld => Self::NotHeld,
        }
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
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
            Self::NoRight => StatusCode::FORBIDDEN.into_response(),
            Self::NoRoom => StatusCode::INSUFFICIENT_STORAGE.into_response(),
            Self::Busy(again) => {
                let again = [(BUSY_FOR, again.as_millis().to_string())];
                (StatusCode::SERVICE_UNAVAILABLE, again).into_response()
            }
            Self::Unreadable => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}

async fn send_run(
    State(serving): State<Serving>,
    Path(task): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    Extension(outlet): Extension<Outlet>,
) -> Result<Response, Refusal> {
    let task = Digest::parse_key(&task)?;
    let query = query.unwrap_or_default();
    let want = want::parse(query.strip_prefix("want=").unwrap_or_default())?;
    let held = serving.held(&task).ok_or(Refusal::NotHeld)?;
    let (here, source) = held.here(serving.role);
    let geometry = held.geometry();
    let holding = Holding {
        task,
        geometry,
        held: &here,
        source,
    };
    let wait = Wait::of(|name| headers.contains_key(name));
    let awaited = wait != Wait::Idly;
    if awaited {
        serving.tasks.wanted(&task);
    }
    let child = child(&headers);
    let asked = serving.desk.ask((child, wait), holding, &want).await;
    let slot = asked.inspect_err(|turned| {
        if matches!(turned, Turned::Busy(_)) {
            serving.metrics.busy.inc();
        }
    })?;
    let pieces = slot.pieces();
    let bytes = geometry.bytes_of_run(pieces.start, pieces.end - pieces.start);
    let length = bytes.end - bytes.start;
    let limit = serving.bandwidth.upload.for_urgency(&Urgency::new(awaited));
    let spans = paced(held.spans(bytes), limit);
    let body = Upload::new(outlet.body(spans), slot, task, &serving);
    Response::builder()
        .header(header::CONTENT_LENGTH, length)
        .header(FIRST_PIECE, pieces.start)
        .header(PIECE_COUNT, pieces.end - pieces.start)
        .header(CONTENT_SIZE, geometry.size())
        .body(Body::from_stream(body.into_stream()))
        .map_err(|_| Refusal::Unreadable)
}

/// Who asks, by its own word: it only takes places in a queue with it.
fn child(headers: &HeaderMap) -> Child {
    let name = headers.get(CHILD).map(|value| value.as_bytes());
    Child::named(name.unwrap_or_default())
}

async fn doubt(
    State(serving): State<Serving>,
    Path(task): Path<String>,
) -> Result<StatusCode, Refusal> {
    let task = Digest::parse_key(&task)?;
    // The check reads the whole content; the store bounds how often it does that.
    let store = serving.store.clone();
    serving
        .shutdown
        .spawn(async move { store.check(&task).await });
    Ok(StatusCode::OK)
}

async fn resolve(State(serving): State<Serving>, body: Body) -> Result<Response, Refusal> {
    let request: wire::ResolveRequest = message(body, MAX_REQUEST).await?;
    let reply = serving
        .resolver
        .answer(ResolveRequest::try_from(request)?)
        .await;
    Ok(wire::ResolveReply::from(&reply)
        .encode_to_vec()
        .into_response())
}

/// The message that a request's body is, of at most `limit` bytes.
async fn message<M: prost::Message + Default>(body: Body, limit: usize) -> Result<M, Refusal> {
    let body = timeout(REQUEST_TIMEOUT, axum::body::to_bytes(body, limit)).await;
    let Ok(Ok(body)) = body else {
        return Err(Invalid::new("look-up", "does not come, or is too long").into());
    };
    // What is wrong with it is not told in its own words, which may be secret.
    M::decode(body).map_err(|_| Invalid::new("look-up", "is no such message").into())
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

    /// What is here of it, and whether pieces enter the swarm here.
    fn here(&self, role: Role) -> (PieceSet, bool) {
        match self {
            Self::Stored(_) => (PieceSet::full(self.geometry().pieces()), role == Role::Seed),
            Self::Running(shared) => {
                let view = shared.view();
                (view.held.clone(), role == Role::Seed || view.reads)
            }
        }
    }

    fn spans(self, bytes: Range<u64>) -> BoxStream<'static, io::Result<Span>> {
        match self {
            Self::Stored(content) => content.spans(bytes).boxed(),
            Self::Running(shared) => shared.partial.clone().spans(bytes).boxed(),
        }
    }
}

/// A run being sent: holds its slot until the last byte has been taken, or the child has hung up.
struct Upload<S> {
    stream: S,
    counted: Counted,
}

struct Counted {
    metrics: PiecesMetrics,
    slot: Slot,
    tasks: Tasks,
    task: Digest,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.uploading.dec();
        if self.slot.is_sent() {
            self.tasks.copied(&self.task, self.slot.pieces());
        }
    }
}

impl<S: Stream<Item = io::Result<Bytes>>> Upload<S> {
    fn new(stream: S, slot: Slot, task: Digest, serving: &Serving) -> Self {
        let metrics = serving.metrics.clone();
        metrics.uploads.inc();
        metrics.uploading.inc();
        let counted = Counted {
            metrics,
            slot,
            tasks: serving.tasks.clone(),
            task,
        };
        Self { stream, counted }
    }

    fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> {
        let mut counted = self.counted;
        self.stream.inspect(move |chunk| {
            if let Ok(bytes) = chunk {
                counted.slot.took(bytes.len() as u64);
                counted.metrics.uploaded_bytes.inc_by(bytes.len() as u64);
            }
        })
    }
}
