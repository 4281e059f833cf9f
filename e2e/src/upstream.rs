//! The upstream as mirrors see it: a proxy in front of the real registry that counts what leaves
//! it, breaks what it is told to break, and can be off.
//!
//! It listens twice: as the registry, and as the other host that [`Fault::Redirect`] sends to.

mod body;
mod fault;
mod guard;
mod ledger;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use axum::body::Body;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub use fault::{Fault, Rule};
pub use guard::{Guard, TOKEN};
pub use ledger::{Ledger, Request as LoggedRequest};

use crate::image::{Image, Images};
use crate::place;
use crate::registry::Registry;
use crate::scene::Scene;
use body::Link;

/// The registry's name, as clients call it. No such host exists, so that whoever goes past the
/// mirror fails.
pub const NAME: &str = "registry.test";
/// What entitles whoever has it to read where a redirect leads, as storage services sign addresses.
pub const SIGNATURE: &str = "canary-signature-of-an-address";

/// A registry with a proxy in front of it.
#[derive(Debug)]
pub struct Upstream {
    /// What it holds.
    pub images: Images,
    _registry: Registry,
    state: Arc<State>,
    front: Listening,
    other: Listening,
}

/// One of the proxy's listeners.
#[derive(Debug)]
struct Listening {
    address: SocketAddr,
    connections: Option<JoinSet<()>>,
}

#[derive(Debug)]
struct State {
    http: reqwest::Client,
    registry: SocketAddr,
    ledger: Ledger,
    rules: Mutex<Vec<Rule>>,
    guard: Mutex<Guard>,
    link: Arc<Link>,
    /// The proxy's own addresses: the registry, and the other host.
    front: SocketAddr,
    other: SocketAddr,
}

/// Which of the two hosts was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host {
    Front,
    Other,
}

impl Upstream {
    /// Whether the image has left upstream once, and no more than a hundredth of it again.
    pub fn read_once(&self, image: &Image) -> Result<()> {
        let ratio = self.ledger().ratio(image);
        ensure!(ratio <= 1.01, "{ratio}:\n{}", self.ledger().describe());
        Ok(())
    }

    /// Starts the registry with all images, and the proxy, without any fault.
    pub async fn start(scene: &Scene) -> Result<Self> {
        let storage = &scene.images().storage;
        let registry = Registry::start(&scene.path(""), storage, true).await?;
        Self::before(scene, registry).await
    }

    /// As [`Upstream::start`], in front of a registry with the same images, which is shown what
    /// credentials a request comes with unless the proxy itself asks for some.
    pub async fn before(scene: &Scene, registry: Registry) -> Result<Self> {
        let images = scene.images().clone();
        // The same again after it was off.
        let front = TcpListener::bind(place::fixed_port()?).await?;
        let other = TcpListener::bind(place::fixed_port()?).await?;
        let state = Arc::new(State {
            http: reqwest::Client::builder().no_proxy().build()?,
            registry: registry.address(),
            ledger: Ledger::default(),
            rules: Mutex::default(),
            guard: Mutex::default(),
            link: Arc::default(),
            front: front.local_addr()?,
            other: other.local_addr()?,
        });
        Ok(Self {
            images,
            _registry: registry,
            front: Listening::on(front, Host::Front, &state)?,
            other: Listening::on(other, Host::Other, &state)?,
            state,
        })
    }

    /// For `[[upstream]] url`.
    pub fn url(&self) -> String {
        format!("http://{}", self.front.address)
    }

    /// What has been asked for and sent.
    pub fn ledger(&self) -> &Ledger {
        &self.state.ledger
    }

    /// Adds a rule; of several that match, the first holds.
    pub fn rule(&self, rule: Rule) {
        lock(&self.state.rules).push(rule);
    }

    /// Forgets all rules.
    pub fn clear_rules(&self) {
        lock(&self.state.rules).clear();
    }

    /// Asks for credentials from now on.
    pub fn guard(&self, guard: Guard) {
        *lock(&self.state.guard) = guard;
    }

    /// All bodies together get this many bytes a second; `None`: as many as there are.
    pub fn throttle(&self, bytes_per_second: Option<u64>) {
        self.state.link.throttle(bytes_per_second);
    }

    /// Breaks all connections and refuses new ones.
    pub fn off(&mut self) {
        self.front.connections = None;
        self.other.connections = None;
    }

    /// Takes connections again, on the same ports.
    pub async fn on(&mut self) -> Result<()> {
        for (listening, host) in [
            (&mut self.front, Host::Front),
            (&mut self.other, Host::Other),
        ] {
            let listener = TcpListener::bind(listening.address).await?;
            *listening = Listening::on(listener, host, &self.state)?;
        }
        Ok(())
    }
}

impl Listening {
    fn on(listener: TcpListener, host: Host, state: &Arc<State>) -> Result<Self> {
        let address = listener.local_addr()?;
        let mut connections = JoinSet::new();
        connections.spawn(accept(listener, host, state.clone()));
        Ok(Self {
            address,
            connections: Some(connections),
        })
    }
}

/// Takes connections; they end when this ends.
async fn accept(listener: TcpListener, host: Host, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, _)) = accepted else {
            continue;
        };
        let state = state.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let state = state.clone();
                async move { Ok::<_, Infallible>(answer(&state, host, request).await) }
            });
            // A connection that ends early is what half of the faults are about.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(state: &State, host: Host, request: Request<Incoming>) -> Response<Body> {
    let logged = state.ledger.begin(&request, host == Host::Other);
    let answered = match host {
        Host::Front => front(state, &request, logged).await,
        Host::Other => forward(state, &request, logged, None).await,
    };
    let response = answered.unwrap_or_else(|error| {
        let mut response = Response::new(Body::from(format!("{error:#}")));
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    });
    state.ledger.answered(logged, response.status());
    response
}

/// The registry's own host: what is broken for everybody, who may read, what else is broken, then the
/// registry's answer.
async fn front(
    state: &State,
    request: &Request<Incoming>,
    logged: usize,
) -> Result<Response<Body>> {
    let early = fault::take(&mut lock(&state.rules), request, true);
    let guard = lock(&state.guard).clone();
    if early.is_none()
        && let Some(refusal) = guard.answer(request, state.front)
    {
        return Ok(refusal);
    }
    let fault = early.or_else(|| fault::take(&mut lock(&state.rules), request, false));
    match fault {
        Some(Fault::Status(status)) => {
            let mut response = Response::new(Body::from(fault::error_body(status)));
            *response.status_mut() = StatusCode::from_u16(status)?;
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            Ok(response)
        }
        Some(Fault::Redirect) => {
            let separator = if request.uri().query().is_some() {
                '&'
            } else {
                '?'
            };
            let (other, asked) = (state.other, request.uri());
            let location = format!("http://{other}{asked}{separator}signature={SIGNATURE}");
            Ok(Response::builder()
                .status(StatusCode::TEMPORARY_REDIRECT)
                .header(header::LOCATION, location)
                .body(Body::empty())?)
        }
        Some(Fault::Silent) => std::future::pending().await,
        fault => forward(state, request, logged, fault).await,
    }
}

async fn forward(
    state: &State,
    request: &Request<Incoming>,
    logged: usize,
    fault: Option<Fault>,
) -> Result<Response<Body>> {
    let path = request.uri().path_and_query().context("no path")?;
    let url = format!("http://{}{path}", state.registry);
    let open = matches!(*lock(&state.guard), Guard::Open);
    let mut asked = state.http.request(request.method().clone(), url);
    for (name, value) in request.headers() {
        let dropped = name == header::HOST
            || (name == header::AUTHORIZATION && !open)
            || (name == header::RANGE && fault == Some(Fault::IgnoreRange));
        if !dropped {
            asked = asked.header(name, value);
        }
    }
    let answer = asked.send().await.context("the registry")?;
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers() {
        if name != header::CONNECTION && name != header::TRANSFER_ENCODING {
            response = response.header(name, value);
        }
    }
    if request.method() == Method::HEAD {
        return Ok(response.body(Body::empty())?);
    }
    let counter = state.ledger.counter(logged);
    let body = body::send(answer, fault, state.link.clone(), counter);
    Ok(response.body(Body::from_stream(body))?)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
