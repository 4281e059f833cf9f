//! A registry that does what it is told, faults included, and a client that keeps count.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use darner_proto::digest::Digest;
use darner_service::shutdown::Shutdown;
use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::pull::progress::{Event, Watch};
use crate::pull::{Choice, PullError, Pulled, Request, pull};

pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What goes wrong with one answer.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// This many bytes come, then the connection breaks.
    Cut(usize),
    /// The first byte is another one.
    Wrong,
    /// A refusal.
    Status(u16),
    /// Everything comes, whatever was asked for.
    NoRange,
    /// One byte fewer is promised and sent.
    Short,
}

#[derive(Debug, Default)]
struct Script {
    manifests: HashMap<String, (&'static str, Bytes)>,
    blobs: HashMap<String, Bytes>,
    faults: HashMap<String, VecDeque<Fault>>,
    /// `<reference or digest>?<query> <range>`
    asked: Vec<String>,
    received: Received,
}

/// Bytes of each blob that clients have: a connection breaks once they have what came before.
type Received = watch::Sender<HashMap<String, u64>>;

#[derive(Debug, Clone)]
pub(super) struct Registry {
    script: Arc<Mutex<Script>>,
    address: SocketAddr,
    pub(super) shutdown: Shutdown,
}

impl Registry {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let registry = Self {
            script: Arc::default(),
            address: listener.local_addr().unwrap(),
            shutdown: Shutdown::default(),
        };
        let routes = Router::new()
            .route("/v2/team/app/manifests/{reference}", get(manifest))
            .route("/v2/team/app/blobs/{digest}", get(blob))
            .with_state(registry.script.clone());
        let ending = registry.shutdown.clone();
        registry.shutdown.spawn(async move {
            tokio::select! {
                ended = axum::serve(listener, routes) => ended.unwrap(),
                () = ending.draining() => {}
            }
        });
        registry
    }

    pub(super) fn blob(&self, bytes: impl Into<Bytes>) -> Value {
        let bytes = bytes.into();
        let digest = Digest::sha256(&bytes).to_string();
        let descriptor = json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": digest,
            "size": bytes.len(),
        });
        self.script.lock().unwrap().blobs.insert(digest, bytes);
        descriptor
    }

    pub(super) fn manifest(
        &self,
        tag: Option<&str>,
        media_type: &'static str,
        document: &Value,
    ) -> Value {
        let bytes = Bytes::from(document.to_string());
        let digest = Digest::sha256(&bytes).to_string();
        let descriptor = json!({
            "mediaType": media_type, "digest": digest, "size": bytes.len(),
        });
        let mut script = self.script.lock().unwrap();
        for reference in tag.into_iter().chain([digest.as_str()]) {
            let answer = (media_type, bytes.clone());
            script.manifests.insert(reference.to_owned(), answer);
        }
        descriptor
    }

    /// An image for `architecture` with these layers.
    pub(super) fn image(&self, tag: Option<&str>, architecture: &str, layers: &[Value]) -> Value {
        let config = json!({ "os": "linux", "architecture": architecture });
        let config = self.blob(config.to_string());
        let document = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
        });
        self.manifest(tag, MANIFEST, &document)
    }

    pub(super) fn fault(&self, descriptor: &Value, faults: &[Fault]) {
        let digest = descriptor["digest"].as_str().unwrap().to_owned();
        let faults = faults.iter().cloned().collect();
        self.script.lock().unwrap().faults.insert(digest, faults);
    }

    /// What was asked for about `descriptor` since the last time.
    pub(super) fn asked(&self, descriptor: &Value) -> Vec<String> {
        let digest = descriptor["digest"].as_str().unwrap();
        let mut script = self.script.lock().unwrap();
        let of_it = |line: &mut String| line.starts_with(digest);
        let asked = script.asked.extract_if(.., of_it);
        asked.map(|line| line[digest.len()..].to_owned()).collect()
    }

    pub(super) async fn pull(
        &self,
        image: &str,
        output: &Path,
        choice: Choice,
    ) -> Result<Pulled, PullError> {
        let image = format!("registry.example:5000/team/app{image}")
            .parse()
            .unwrap();
        let request = Request {
            image: &image,
            via: &format!("http://{}", self.address).parse().unwrap(),
            ca: None,
            output,
            choice,
        };
        let watched = Watched {
            received: self.script.lock().unwrap().received.clone(),
            ..Watched::default()
        };
        let pulled = pull(&request, &watched).await;
        if let Ok(pulled) = &pulled {
            assert_eq!(*watched.sum.lock().unwrap(), pulled.bytes, "bytes told of");
        }
        pulled
    }
}

/// Adds up what it is told of each blob: kept, left by an earlier pull, or received.
#[derive(Debug, Default)]
struct Watched {
    blobs: Mutex<HashMap<Digest, u64>>,
    sum: Mutex<u64>,
    received: Received,
}

impl Watch for Watched {
    fn see(&self, event: Event<'_>) {
        let mut blobs = self.blobs.lock().unwrap();
        match event {
            Event::Kept { blob } => drop(blobs.insert(blob.digest, blob.size)),
            Event::Opened { blob, at, source } => {
                assert_eq!(source, Some("peer"));
                blobs.insert(blob.digest, at);
            }
            Event::Received { blob, bytes } => {
                *blobs.get_mut(&blob.digest).unwrap() += bytes;
                let digest = blob.digest.to_string();
                self.received
                    .send_modify(|received| *received.entry(digest).or_default() += bytes);
            }
            Event::Done { .. } => *self.sum.lock().unwrap() = blobs.values().sum(),
            _ => {}
        }
    }
}

fn note(script: &mut Script, name: &str, query: Option<String>, headers: &HeaderMap) {
    let range = headers
        .get(header::RANGE)
        .map_or("", |range| range.to_str().unwrap());
    let query = query.unwrap_or_default();
    script.asked.push(format!("{name}?{query} {range}"));
}

async fn manifest(
    State(script): State<Arc<Mutex<Script>>>,
    UrlPath(reference): UrlPath<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let mut script = script.lock().unwrap();
    note(&mut script, &reference, query, &headers);
    match script
        .faults
        .get_mut(&reference)
        .and_then(VecDeque::pop_front)
    {
        Some(Fault::Status(status)) => return refusal(status),
        Some(Fault::Wrong) => return Bytes::from_static(b"{}").into_response(),
        _ => {}
    }
    match script.manifests.get(&reference).cloned() {
        Some((media_type, bytes)) => ([(header::CONTENT_TYPE, media_type)], bytes).into_response(),
        None => refusal(404),
    }
}

async fn blob(
    State(script): State<Arc<Mutex<Script>>>,
    UrlPath(digest): UrlPath<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let mut script = script.lock().unwrap();
    note(&mut script, &digest, query, &headers);
    let Some(bytes) = script.blobs.get(&digest).cloned() else {
        return refusal(404);
    };
    let fault = script.faults.get_mut(&digest).and_then(VecDeque::pop_front);
    let first = headers.get(header::RANGE).map(|range| {
        let first = range.to_str().unwrap().strip_prefix("bytes=").unwrap();
        first.strip_suffix('-').unwrap().parse::<usize>().unwrap()
    });
    let size = bytes.len();
    let first = first.filter(|_| !matches!(fault, Some(Fault::NoRange)));
    let mut part = bytes.slice(first.unwrap_or(0)..).to_vec();
    let length = part.len();
    let mut response = Response::builder();
    if let Some(first) = first {
        let range = format!("bytes {first}-{}/{size}", size - 1);
        response = response.status(206).header(header::CONTENT_RANGE, range);
    }
    let (length, body) = match fault {
        Some(Fault::Status(status)) => return refusal(status),
        Some(Fault::Cut(at)) => {
            let first = stream::iter([Ok(Bytes::from(part).slice(..at))]);
            let had = script.received.subscribe();
            let last = stream::once(broken(had, digest, at as u64));
            (length, Body::from_stream(first.chain(last)))
        }
        Some(Fault::Short) => (length - 1, Body::from(part.split_off(1))),
        Some(Fault::Wrong) => {
            part[0] ^= 1;
            (length, part.into())
        }
        Some(Fault::NoRange) | None => (length, part.into()),
    };
    let response = response.header(header::CONTENT_LENGTH, length);
    response
        .header("x-darner-source", "peer")
        .body(body)
        .unwrap()
}

/// Fails once the client has received `bytes` more of the blob.
fn broken(
    mut had: watch::Receiver<HashMap<String, u64>>,
    digest: String,
    bytes: u64,
) -> impl Future<Output = io::Result<Bytes>> {
    let of_it = move |had: &HashMap<String, u64>| had.get(&digest).copied().unwrap_or_default();
    let before = of_it(&had.borrow());
    async move {
        let arrived = had.wait_for(|had| of_it(had) >= before + bytes).await;
        arrived.map_err(io::Error::other)?;
        Err(io::Error::other("cut"))
    }
}

fn refusal(status: u16) -> Response {
    let body = json!({ "errors": [{ "code": "DENIED", "message": "by the\u{7} script" }] });
    (StatusCode::from_u16(status).unwrap(), body.to_string()).into_response()
}
