//! The forward proxy of this machine (`HTTP_PROXY`, `HTTPS_PROXY`): what programs ask of the web goes
//! where the operator's routes say, and nowhere else.
//!
//! ```text
//! GET http://…   a configured registry's content --> the registry front end, as if asked there
//!                anything else                    --> [`crate::files`], by its route
//! CONNECT host   a route, or a registry           --> connected, and not looked into
//! ```
//! Without a route only the hosts of configured registries may be asked. Names are resolved and
//! judged here, and what was judged is what is connected to.

mod target;
mod tunnel;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode};
use darner_service::settings::RouteTo;
use darner_service::shutdown::Shutdown;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::files::{Asked, FileFront, Refusal};
use crate::listen::{self, KeptOpen, ListenMetrics, Outlet};
use crate::registry::{Images, Registry};
use crate::task::Tasks;
use crate::upstream::Upstreams;

/// From the request to headers or an error.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Tunnels at once: as many as connections to the listener.
const MAX_TUNNELS: usize = 2048;

/// The listener and what it answers from.
#[derive(Debug)]
pub struct Proxy {
    listener: TcpListener,
    address: SocketAddr,
    front: Front,
}

/// What requests are answered from.
#[derive(Debug)]
struct Front {
    files: FileFront,
    images: Images,
    upstreams: Upstreams,
    tunnels: Arc<Semaphore>,
    shutdown: Shutdown,
}

impl Proxy {
    /// Listens; connections wait until [`Proxy::serve`].
    pub(crate) async fn bind(
        listen: SocketAddr,
        registry: &Registry,
        tasks: &Tasks,
    ) -> io::Result<Self> {
        let parts = tasks.parts();
        let listener = TcpListener::bind(listen).await?;
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            front: Front {
                files: registry.files(),
                images: registry.images(),
                upstreams: parts.upstreams.clone(),
                tunnels: Arc::new(Semaphore::new(MAX_TUNNELS)),
                shutdown: parts.shutdown.clone(),
            },
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the process drains.
    pub async fn serve(self, metrics: ListenMetrics) {
        let shutdown = self.front.shutdown.clone();
        listen::accept(self.listener, self.front, metrics, shutdown).await;
    }
}

impl listen::Front for Front {
    type Body = Body;

    const NAME: &'static str = "proxy";
    /// More than the programs of one machine open.
    const MAX_CONNECTIONS: usize = 2048;
    const STALL_TIMEOUT: Duration = Duration::from_secs(60);

    async fn answer(&self, request: Request<Incoming>, outlet: Outlet) -> Response<Body> {
        let answered = if request.method() == Method::CONNECT {
            self.connect(request).await
        } else {
            self.forward(request, &outlet).await
        };
        answered.unwrap_or_else(|refusal| {
            tracing::warn!(status = %refusal.status, reason = refusal.message, "a request to the proxy is refused");
            refusal.into_response()
        })
    }
}

impl Front {
    /// A request in absolute form.
    async fn forward(
        &self,
        request: Request<Incoming>,
        outlet: &Outlet,
    ) -> Result<Response<Body>, Refusal> {
        let url = target::absolute(request.uri())?;
        let url = self.upstreams.own_url(&url).unwrap_or(url);
        self.check(&url)?;
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let registry = self.upstreams.registry_at(&url);
        if let Some(registry) = registry.filter(|_| reads && target::is_of_image(&url)) {
            let (mut parts, _) = request.into_parts();
            parts.uri = target::at_front(&url, &registry)?;
            return Ok(self.images.answer(parts, outlet).await);
        }
        let (parts, body) = request.into_parts();
        let has_body = !http_body::Body::is_end_stream(&body);
        let asked = Asked {
            method: &parts.method,
            url: &url,
            headers: &parts.headers,
            digest: None,
            deadline: Instant::now() + ANSWER_TIMEOUT,
        };
        let body = has_body.then(|| Body::new(body));
        Ok(self
            .files
            .answer(&asked, RouteTo::Refuse, body, outlet)
            .await)
    }

    /// A request for a connection.
    async fn connect(&self, mut request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let url = target::authority(request.uri())?;
        self.check(&url)?;
        let place = self.tunnels.clone().try_acquire_owned();
        let place = place.map_err(|_| {
            let message = "too many connections are open";
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message)
        })?;
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let stream = timeout_at(deadline, self.open(&url)).await;
        let stream = stream.map_err(|_| {
            let message = "the host does not answer in time";
            Refusal::new(StatusCode::GATEWAY_TIMEOUT, message)
        })??;
        // As long as it is there, the listener does not take the connection for idle.
        let kept_open = request.extensions_mut().remove::<KeptOpen>();
        let upgrade = hyper::upgrade::on(request);
        let shutdown = self.shutdown.clone();
        self.shutdown.spawn(async move {
            let _held = (place, kept_open);
            tunnel::run(upgrade, stream, shutdown).await;
        });
        Ok(Response::new(Body::empty()))
    }

    /// Whether a host is one that may be asked through here.
    fn check(&self, url: &Url) -> Result<(), Refusal> {
        let hosts = self.files.hosts();
        let forbidden = |message: String| Refusal::new(StatusCode::FORBIDDEN, message);
        if matches!(hosts.route(url), None | Some(RouteTo::Refuse)) {
            let host = url.host_str().unwrap_or_default();
            return Err(forbidden(format!(
                "{host} is neither a configured registry nor the host of a [[route]] to the swarm or straight"
            )));
        }
        hosts
            .check(url)
            .map_err(|error| forbidden(error.to_string()))
    }

    async fn open(&self, url: &Url) -> Result<tokio::net::TcpStream, Refusal> {
        let addresses = self.files.hosts().addresses(url).await;
        let addresses =
            addresses.map_err(|error| Refusal::new(StatusCode::FORBIDDEN, error.to_string()))?;
        tunnel::dial(&addresses).await.map_err(|error| {
            let host = url.host_str().unwrap_or_default();
            let message = format!("{host} cannot be reached: {error}");
            Refusal::new(StatusCode::BAD_GATEWAY, message)
        })
    }
}
