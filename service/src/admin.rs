//! The listener for operators and their tools: is the process alive, is it ready, what has it
//! counted.
//!
//! It shows nothing of content or callers and takes no orders; still it is bound to loopback unless
//! told otherwise.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::task::JoinSet;

use crate::health::Health;
use crate::listener::{Connection, Listener, WhenFull};
use crate::metrics::Metrics;
use crate::settings::Admin as Settings;

/// Probes and scrapers are few; more than this at once wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 32;
/// A connection is for one request, which takes milliseconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The admin listener, bound.
#[derive(Debug)]
pub struct Admin {
    listener: Listener,
    pages: Pages,
}

#[derive(Debug, Clone)]
struct Pages {
    metrics: Metrics,
    health: Health,
}

/// The admin listener cannot be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "the admin listener cannot be bound to {listen}; set [admin] listen to a free address, or to port 0 for any"
)]
pub struct AdminError {
    /// As configured.
    pub listen: SocketAddr,
    /// What the system says.
    #[source]
    pub source: io::Error,
}

impl Admin {
    /// Binds `[admin] listen`.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn bind(
        settings: &Settings,
        metrics: &Metrics,
        health: &Health,
    ) -> Result<Self, AdminError> {
        let listen = settings.listen;
        let listener = Listener::bind(listen, MAX_CONNECTIONS, WhenFull::Wait).await;
        Ok(Self {
            listener: listener.map_err(|source| AdminError { listen, source })?,
            pages: Pages {
                metrics: metrics.clone(),
                health: health.clone(),
            },
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Serves until dropped. The caller does that last of all: what happens while a process ends
    /// should be seen too.
    pub async fn serve(self) -> Infallible {
        let router = router(self.pages);
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let (connection, _) = self.listener.next().await;
            connections.spawn(answer(connection, router.clone()));
        }
    }
}

fn router(pages: Pages) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(pages)
}

async fn answer(connection: Connection, router: Router) {
    let connection = http1::Builder::new()
        .keep_alive(false)
        // The whole connection has a timeout.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(router));
    match tokio::time::timeout(REQUEST_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a request to the admin listener failed"),
        Err(_) => tracing::debug!("a request to the admin listener took too long"),
    }
}

/// 200 when every part of the process is ready, else 503; what is waited for, and what works with
/// something missing, either way.
async fn ready(State(pages): State<Pages>) -> Response {
    let waiting_for = pages.health.waiting_for();
    let (status, ready) = match waiting_for.is_empty() {
        true => (StatusCode::OK, true),
        false => (StatusCode::SERVICE_UNAVAILABLE, false),
    };
    let by_part = |parts: Vec<(&'static str, String)>| -> serde_json::Map<_, _> {
        let parts = parts.into_iter();
        parts
            .map(|(part, reason)| (part.to_owned(), reason.into()))
            .collect()
    };
    let body = serde_json::json!({
        "ready": ready,
        "waiting_for": by_part(waiting_for),
        "degraded": by_part(pages.health.degraded()),
    });
    (status, [(CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

async fn metrics(State(pages): State<Pages>) -> Response {
    match pages.metrics.encode() {
        Ok(text) => ([(CONTENT_TYPE, Metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn bind(health: &Health) -> Admin {
        let settings = Settings {
            listen: "127.0.0.1:0".parse().unwrap(),
        };
        Admin::bind(&settings, &Metrics::default(), health)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn pages_tell_life_readiness_and_counts() {
        let health = Health::default();
        let part = health.part("mirror");
        let admin = bind(&health).await;
        let address = admin.address();
        let asked = async {
            assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
            let waiting = get(address, "/readyz").await;
            assert!(waiting.starts_with("HTTP/1.1 503"), "{waiting}");
            assert!(waiting.contains(r#"{"mirror":"starting"}"#), "{waiting}");
            part.degraded("no disk");
            let ready = get(address, "/readyz").await;
            assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
            assert!(
                ready.contains(r#""degraded":{"mirror":"no disk"}"#),
                "{ready}"
            );
            let metrics = get(address, "/metrics").await;
            let form = "content-type: text/plain; version=0.0.4; charset=utf-8\r\n";
            assert!(metrics.contains(form), "{metrics}");
            for name in ["darner_build_info{version=", "process_cpu_seconds_total "] {
                assert!(metrics.contains(name), "no {name} in {metrics}");
            }
            assert!(get(address, "/other").await.starts_with("HTTP/1.1 404"));
        };
        tokio::select! {
            () = asked => {}
            never = admin.serve() => match never {},
        }
    }

    #[tokio::test]
    async fn connections_that_say_nothing_leave_room_for_others() {
        let admin = bind(&Health::default()).await;
        let address = admin.address();
        let asked = async {
            let mut silent = Vec::new();
            for _ in 1..MAX_CONNECTIONS {
                silent.push(TcpStream::connect(address).await.unwrap());
            }
            assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        };
        tokio::select! {
            () = asked => {}
            never = admin.serve() => match never {},
        }
    }

    #[tokio::test]
    async fn a_taken_address_is_named_with_the_setting_to_change() {
        let taken = bind(&Health::default()).await;
        let settings = Settings {
            listen: taken.address(),
        };
        let error = Admin::bind(&settings, &Metrics::default(), &Health::default())
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("[admin] listen") && text.contains("127.0.0.1:"),
            "{text}"
        );
    }
}
