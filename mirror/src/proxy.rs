//! The forward proxy of this machine (`HTTP_PROXY`, `HTTPS_PROXY`): what programs ask of the web goes
//! where the operator's routes say, and nowhere else.
//!
//! ```text
//! GET http://…   a configured registry's content --> the registry front end, as if asked there
//!                anything else                    --> [`crate::files`], by its route
//! CONNECT host   a name of the operator's authority --> looked into, and answered as the above
//!                a route, or a registry           --> connected, and not looked into
//! ```
//! Without a route only the hosts of configured registries may be asked. Names are resolved and
//! judged here, and what was judged is what is connected to.

mod intercept;
mod target;
mod tunnel;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode};
use darner_service::settings::{self, RouteTo};
use darner_service::shutdown::Shutdown;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use intercept::{InterceptError, Interceptor};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
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
    front: Arc<Front>,
}

/// What requests are answered from.
#[derive(Debug)]
struct Front {
    files: FileFront,
    images: Images,
    upstreams: Upstreams,
    tunnels: Arc<Semaphore>,
    interceptor: Option<Interceptor>,
    shutdown: Shutdown,
}

/// What is said within a connection that is looked into.
#[derive(Debug)]
struct Within {
    front: Arc<Front>,
    /// The host that the client means.
    base: Url,
}

/// The proxy cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The address cannot be bound.
    #[error("{0} cannot be listened on; set [proxy] listen to a free address")]
    Bind(SocketAddr, #[source] io::Error),
    /// The operator's authority is not one to use.
    #[error("https:// cannot be looked into")]
    Intercept(#[from] InterceptError),
}

impl Proxy {
    /// Listens; connections wait until [`Proxy::serve`].
    pub(crate) async fn bind(
        (listen, settings): (SocketAddr, &settings::Proxy),
        registry: &Registry,
        tasks: &Tasks,
    ) -> Result<Self, ProxyError> {
        let parts = tasks.parts();
        let failed = |error| ProxyError::Bind(listen, error);
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let authority = settings.authority.as_ref();
        Ok(Self {
            address: listener.local_addr().map_err(failed)?,
            listener,
            front: Arc::new(Front {
                interceptor: authority.map(Interceptor::new).transpose()?,
                files: registry.files(),
                images: registry.images(),
                upstreams: parts.upstreams.clone(),
                tunnels: Arc::new(Semaphore::new(MAX_TUNNELS)),
                shutdown: parts.shutdown.clone(),
            }),
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

impl listen::Front for Arc<Front> {
    type Body = Body;

    const NAME: &'static str = "proxy";
    /// More than the programs of one machine open.
    const MAX_CONNECTIONS: usize = 2048;
    const STALL_TIMEOUT: Duration = Duration::from_secs(60);

    async fn answer(&self, request: Request<Incoming>, outlet: Outlet) -> Response<Body> {
        let answered = if request.method() == Method::CONNECT {
            self.connect(request).await
        } else {
            match target::absolute(request.uri()) {
                Ok(url) => self.forward(url, request, &outlet).await,
                Err(refusal) => Err(refusal),
            }
        };
        answered.unwrap_or_else(refused)
    }
}

impl listen::Front for Within {
    type Body = Body;

    const NAME: &'static str = "proxy_tls";
    const MAX_CONNECTIONS: usize = <Arc<Front> as listen::Front>::MAX_CONNECTIONS;
    const STALL_TIMEOUT: Duration = <Arc<Front> as listen::Front>::STALL_TIMEOUT;

    async fn answer(&self, request: Request<Incoming>, outlet: Outlet) -> Response<Body> {
        let answered = match target::within(&self.base, request.uri()) {
            Ok(url) => self.front.forward(url, request, &outlet).await,
            Err(refusal) => Err(refusal),
        };
        answered.unwrap_or_else(refused)
    }
}

fn refused(refusal: Refusal) -> Response<Body> {
    tracing::warn!(status = %refusal.status, reason = refusal.message, "a request to the proxy is refused");
    refusal.into_response()
}

impl Front {
    /// A request for what is at a URL.
    async fn forward(
        &self,
        url: Url,
        request: Request<Incoming>,
        outlet: &Outlet,
    ) -> Result<Response<Body>, Refusal> {
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
    async fn connect(
        self: &Arc<Self>,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let url = target::authority(request.uri())?;
        let host = url.host_str().unwrap_or_default();
        let interceptor = self.interceptor.as_ref();
        let interceptor = interceptor.filter(|interceptor| interceptor.is_for(host));
        let own = self.upstreams.own_url(&url);
        self.check(
            own.as_ref()
                .filter(|_| interceptor.is_some())
                .unwrap_or(&url),
        )?;
        let place = self.tunnels.clone().try_acquire_owned();
        let place = place.map_err(|_| {
            let message = "too many connections are open";
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message)
        })?;
        if let Some(interceptor) = interceptor {
            let acceptor = interceptor.acceptor(host).await.map_err(|error| {
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
            })?;
            self.look_into(acceptor, url, (request, place));
            return Ok(Response::new(Body::empty()));
        }
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

    /// Answers what is asked within a connection in its host's place.
    fn look_into(
        self: &Arc<Self>,
        acceptor: TlsAcceptor,
        base: Url,
        (mut request, place): (Request<Incoming>, OwnedSemaphorePermit),
    ) {
        let kept_open = request.extensions_mut().remove::<KeptOpen>();
        let upgrade = hyper::upgrade::on(request);
        let (front, shutdown) = (self.clone(), self.shutdown.clone());
        self.shutdown.spawn(async move {
            let _held = (place, kept_open);
            let Ok(client) = upgrade.await else { return };
            let handshake = acceptor.accept(TokioIo::new(client));
            match timeout(ANSWER_TIMEOUT, handshake).await {
                Ok(Ok(stream)) => {
                    let within = Arc::new(Within { front, base });
                    listen::serve_within(stream, within, shutdown).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "a client does not take our certificate"),
                Err(_) => {}
            }
        });
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
