//! A registry, or a token service, or a storage host, that answers as it is told and remembers what
//! it was asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use darner_service::shutdown::Shutdown;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Method};

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
}

/// The server. It ends with the test's runtime.
pub(super) struct Scripted {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Seen {
    /// A header's text, empty without it.
    pub(super) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    /// A parameter of the query.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        url::form_urlencoded::parse(self.query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }
}

impl Scripted {
    /// Answers each request with what `script` makes of it and of how many came before it.
    pub(super) async fn start<F>(script: F) -> Self
    where
        F: Fn(&Seen, usize) -> Response + Send + Sync + 'static,
    {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (script, log) = (Arc::new(script), seen.clone());
        let router = axum::Router::new().fallback(move |request: Request| {
            let (script, log) = (script.clone(), log.clone());
            async move {
                let request = Seen {
                    method: request.method().clone(),
                    path: request.uri().path().to_owned(),
                    query: request.uri().query().unwrap_or_default().to_owned(),
                    headers: request.headers().clone(),
                };
                let before = {
                    let mut log = log.lock().unwrap();
                    log.push(request.clone());
                    log.len() - 1
                };
                Ok::<_, Infallible>(script(&request, before))
            }
        });
        Shutdown::default().spawn(async move { axum::serve(listener, router).await });
        Self { address, seen }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The address under another name of this machine: another host to whoever compares them.
    pub(super) fn url_as_localhost(&self) -> String {
        format!("http://localhost:{}", self.address.port())
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// An answer.
pub(super) fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).unwrap()
}

/// A body of these bytes whose connection then breaks.
pub(super) fn cut(bytes: &'static [u8]) -> Body {
    let part = stream::iter([Ok(Bytes::from_static(bytes))]);
    let broken = stream::once(async {
        // An error overtakes what is still in the server's buffer; a body that has nothing to say
        // for a moment has it written out.
        tokio::task::yield_now().await;
        Err(std::io::Error::other("cut"))
    });
    Body::from_stream(part.chain(broken))
}

/// A body that is sent without being announced by its length.
pub(super) fn chunked(bytes: Vec<u8>) -> Body {
    Body::from_stream(stream::iter([Ok::<_, Infallible>(Bytes::from(bytes))]))
}

/// A body that begins and then says nothing more.
pub(super) fn hanging(bytes: &'static [u8]) -> Body {
    let begun = stream::iter([Ok::<_, Infallible>(Bytes::from_static(bytes))]);
    Body::from_stream(begun.chain(stream::pending()))
}
