//! The registry front end: speaks the OCI distribution API to the container runtimes of this node.
//!
//! In the order of a request: [`crate::listen`] accepts the connection, [`request`] parses what is asked
//! for, [`serve`] lets it in and has the resolver say what the name means, [`blobs`] opens the
//! content; [`relay`] lets upstream answer what is not public. What a name means is
//! [`crate::resolve`]'s business, how content gets here [`crate::task`]'s.
//!
//! What clients were seen to do with every kind of answer decides its form: what cannot be served is
//! refused so that the client turns to the registry itself (404 for a blob, 503 for anything else,
//! never 429), within [`settings::Registry::first_byte_timeout`], and what breaks off later breaks
//! the connection.

mod admission;
mod blobs;
mod holders;
mod link;
mod logins;
mod metrics;
mod outgoing;
mod private;
pub(crate) mod range;
mod referrers;
mod refusal;
mod relay;
mod request;
mod serve;
mod tags;
#[cfg(test)]
mod tests;
mod through;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Response;
use axum::http::request::Parts as Head;
use darner_service::identity::local::Local;
use darner_service::metrics::Metrics;
use darner_service::settings;
use darner_service::shutdown::Shutdown;
use tokio::net::TcpListener;

use crate::access::NoRandom;
use crate::files::FileFront;
use crate::listen::{self, ListenMetrics, Outlet};
use crate::resolve::Resolver;
use crate::rules::Blocked;
use crate::task::Tasks;
use crate::upstream::Upstreams;
use admission::Admission;
use logins::Logins;
use metrics::RegistryMetrics;
pub use private::Private;
use serve::Front;

/// That a repository is not public is remembered for this long, for callers who show credentials.
const NOT_PUBLIC_FOR: Duration = Duration::from_secs(60);
/// Such repositories remembered.
const NOT_PUBLIC: u64 = 10_000;

/// What the front end answers from.
#[derive(Debug)]
pub struct Parts {
    /// What names mean.
    pub resolver: Resolver,
    /// How content gets here.
    pub tasks: Tasks,
    /// The registries themselves.
    pub upstreams: Upstreams,
    /// What serves what is not public; without it that passes through.
    pub private: Option<Private>,
    /// What is not served.
    pub blocked: Blocked,
    /// What is no image.
    pub files: FileFront,
    /// Clients that speak TLS are answered by this.
    pub tls: Option<Local>,
}

/// The front end, listening.
#[derive(Debug)]
pub struct Registry {
    listener: TcpListener,
    address: SocketAddr,
    front: Arc<Front>,
    shutdown: Shutdown,
}

/// The content of images, for who is asked for it elsewhere than at the listener. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Images(Arc<Front>);

impl Images {
    /// Answers a request as the listener would.
    pub(crate) async fn answer(&self, parts: Head, outlet: &Outlet) -> Response<Body> {
        self.0.respond(parts, outlet).await.map(Body::new)
    }
}

/// The front end cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The address cannot be bound.
    #[error("{listen} cannot be listened on")]
    Bind {
        /// What was asked for.
        listen: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Clients' accounts cannot be sealed.
    #[error("credentials that clients keep for this mirror cannot be taken")]
    Logins(#[source] NoRandom),
    /// Requests that name no registry would have none.
    #[error("the default upstream {0} is not configured; add an [[upstream]] of that name")]
    DefaultUpstream(darner_proto::name::RegistryName),
}

impl Registry {
    /// Listens; connections wait until [`Registry::serve`].
    pub async fn bind(
        settings: &settings::Registry,
        metrics: &Metrics,
        shutdown: &Shutdown,
        parts: Parts,
    ) -> Result<Self, RegistryError> {
        let Parts {
            resolver,
            tasks,
            upstreams,
            private,
            blocked,
            files,
            tls,
        } = parts;
        let listen = settings.listen;
        let failed = |source| RegistryError::Bind { listen, source };
        if upstreams.get(&settings.default_upstream).is_none() {
            let name = settings.default_upstream.clone();
            return Err(RegistryError::DefaultUpstream(name));
        }
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let logins = Logins::new(&settings.logins, &settings.default_upstream, &upstreams);
        let front = Front {
            logins: logins.map_err(RegistryError::Logins)?,
            resolver,
            tasks,
            upstreams,
            default_upstream: settings.default_upstream.clone(),
            first_byte_timeout: settings.first_byte_timeout,
            admission: Admission::new(settings.max_requests),
            metrics: RegistryMetrics::new(metrics),
            private,
            blocked,
            files,
            on_this_machine: address.ip().is_loopback(),
            tls,
            not_public: moka::future::Cache::builder()
                .max_capacity(NOT_PUBLIC)
                .time_to_live(NOT_PUBLIC_FOR)
                .build(),
        };
        Ok(Self {
            listener,
            address,
            front: Arc::new(front),
            shutdown: shutdown.clone(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What answers for files.
    pub(crate) fn files(&self) -> FileFront {
        self.front.files.clone()
    }

    /// What it answers from.
    pub(crate) fn images(&self) -> Images {
        Images(self.front.clone())
    }

    /// Serves until the process drains; requests that are being answered go on as tasks of the
    /// process.
    pub async fn serve(self, metrics: ListenMetrics) {
        listen::accept(self.listener, self.front, metrics, self.shutdown).await;
    }
}
