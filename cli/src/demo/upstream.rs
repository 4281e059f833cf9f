//! The demonstration's upstream registry: one public image, sent no faster than told, every byte
//! counted.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Range, Sub};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use darner_service::shutdown::Shutdown;
use futures_util::stream::{self, Stream};
use oci_distribution::manifest::OCI_IMAGE_MEDIA_TYPE;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::image::{Image, REPOSITORY, TAG};

/// Bytes sent at a time; small enough for the rate to be even.
const CHUNK: usize = 64 << 10;
/// What was not sent in this time may be made up for: timers are not exact.
const SLACK: Duration = Duration::from_millis(20);

/// The registry, serving.
#[derive(Debug)]
pub(super) struct Upstream {
    address: SocketAddr,
    registry: Arc<Registry>,
}

/// What has left the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    /// Bodies of blobs.
    pub(super) blob_bytes: u64,
    /// GETs of blobs.
    pub(super) blob_requests: u64,
    /// GETs and HEADs of manifests.
    pub(super) manifest_requests: u64,
}

#[derive(Debug)]
struct Registry {
    image: Image,
    pace: Pace,
    blob_bytes: AtomicU64,
    blob_requests: AtomicU64,
    manifest_requests: AtomicU64,
}

/// One rate for all connections together.
#[derive(Debug)]
struct Pace {
    /// Bytes a second; 0 is without limit.
    rate: u64,
    /// When what has been let go is through.
    free: Mutex<Instant>,
}

impl Upstream {
    /// Serves `image` on a port of its own until `shutdown` drains.
    pub(super) async fn start(image: Image, rate: u64, shutdown: &Shutdown) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let registry = Arc::new(Registry {
            image,
            pace: Pace {
                rate,
                free: Mutex::new(Instant::now()),
            },
            blob_bytes: AtomicU64::new(0),
            blob_requests: AtomicU64::new(0),
            manifest_requests: AtomicU64::new(0),
        });
        let routes = Router::new()
            .route("/v2/", get(async || "{}"))
            .route(
                &format!("/v2/{REPOSITORY}/manifests/{{reference}}"),
                get(manifest),
            )
            .route(&format!("/v2/{REPOSITORY}/blobs/{{digest}}"), get(blob))
            .with_state(registry.clone());
        let ending = shutdown.clone();
        shutdown.spawn(async move {
            let serving = axum::serve(listener, routes);
            // Connections that are open end with the demonstration.
            tokio::select! {
                ended = serving => if let Err(error) = ended {
                    tracing::error!(%error, "the upstream registry has ended");
                },
                () = ending.draining() => {}
            }
        });
        Ok(Self { address, registry })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has sent so far.
    pub(super) fn sent(&self) -> Sent {
        Sent {
            blob_bytes: self.registry.blob_bytes.load(Ordering::Relaxed),
            blob_requests: self.registry.blob_requests.load(Ordering::Relaxed),
            manifest_requests: self.registry.manifest_requests.load(Ordering::Relaxed),
        }
    }
}

impl Sub for Sent {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            blob_bytes: self.blob_bytes - before.blob_bytes,
            blob_requests: self.blob_requests - before.blob_requests,
            manifest_requests: self.manifest_requests - before.manifest_requests,
        }
    }
}

impl Pace {
    /// When `bytes` may go.
    fn admit(&self, bytes: usize, now: Instant) -> Instant {
        if self.rate == 0 {
            return now;
        }
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(SLACK).unwrap_or(now);
        let begin = (*free).max(earliest);
        *free = begin + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        *free
    }
}

async fn manifest(
    State(registry): State<Arc<Registry>>,
    Path(reference): Path<String>,
) -> Response {
    registry.manifest_requests.fetch_add(1, Ordering::Relaxed);
    let digest = registry.image.digest().to_string();
    if reference != TAG && reference != digest {
        return refusal("MANIFEST_UNKNOWN");
    }
    let headers = [
        (header::CONTENT_TYPE.as_str(), OCI_IMAGE_MEDIA_TYPE),
        ("docker-content-digest", digest.as_str()),
    ];
    (headers, registry.image.manifest().clone()).into_response()
}

async fn blob(
    State(registry): State<Arc<Registry>>,
    Path(digest): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let Some(bytes) = registry.image.blob(&digest).cloned() else {
        return refusal("BLOB_UNKNOWN");
    };
    let size = bytes.len();
    let part = headers
        .get(header::RANGE)
        .and_then(|value| range(value.to_str().ok()?, size));
    let (status, range) = match part {
        None => (StatusCode::OK, 0..size),
        Some(range) if range.is_empty() => {
            let headers = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            return (StatusCode::RANGE_NOT_SATISFIABLE, headers).into_response();
        }
        Some(range) => (StatusCode::PARTIAL_CONTENT, range),
    };
    let mut answer = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_LENGTH, range.len())
        .header("docker-content-digest", &digest);
    if status == StatusCode::PARTIAL_CONTENT {
        let (first, last) = (range.start, range.end - 1);
        answer = answer.header(
            header::CONTENT_RANGE,
            format!("bytes {first}-{last}/{size}"),
        );
    }
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        registry.blob_requests.fetch_add(1, Ordering::Relaxed);
        Body::from_stream(paced(registry, bytes.slice(range)))
    };
    // Of checked parts: nothing in it can be refused.
    let answer = answer.body(body);
    answer.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// The bytes, no faster than the registry's pace, counted as they go.
fn paced(registry: Arc<Registry>, bytes: Bytes) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold((registry, bytes), async |(registry, mut left)| {
        if left.is_empty() {
            return None;
        }
        let chunk = left.split_to(CHUNK.min(left.len()));
        let at = registry.pace.admit(chunk.len(), Instant::now());
        tokio::time::sleep_until(at).await;
        let sent = chunk.len() as u64;
        registry.blob_bytes.fetch_add(sent, Ordering::Relaxed);
        Some((Ok(chunk), (registry, left)))
    })
}

/// `bytes=A-B` or `bytes=A-` within a blob of `size`; empty when it lies outside. Other forms are
/// ignored, as a server may.
fn range(text: &str, size: usize) -> Option<Range<usize>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let first: usize = first.parse().ok()?;
    let end = match last {
        "" => size,
        last => last.parse::<usize>().ok()?.checked_add(1)?.min(size),
    };
    Some(first.min(end)..end)
}

fn refusal(code: &str) -> Response {
    let body =
        serde_json::json!({ "errors": [{ "code": code, "message": "not in this registry" }] });
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (StatusCode::NOT_FOUND, headers, body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_http() {
        for (text, expected) in [
            ("bytes=0-", Some(0..10)),
            ("bytes=3-5", Some(3..6)),
            ("bytes=3-99", Some(3..10)),
            ("bytes=10-", Some(10..10)),
            ("bytes=50-60", Some(10..10)),
            ("bytes=-3", None),
            ("bytes=5-x", None),
            ("bytes=0-1,4-5", None),
            ("pages=0-1", None),
        ] {
            assert_eq!(range(text, 10), expected, "{text}");
        }
    }

    #[test]
    fn connections_share_one_rate() {
        let start = Instant::now() + SLACK;
        let pace = Pace {
            rate: 1000,
            free: Mutex::new(start),
        };
        let ends: Vec<_> = (0..4).map(|_| pace.admit(500, start)).collect();
        assert_eq!(ends[3], start + Duration::from_secs(2));
        // What was not used long ago is gone.
        let later = start + Duration::from_secs(10);
        assert_eq!(
            pace.admit(1000, later),
            later + Duration::from_secs(1) - SLACK
        );
    }

    #[tokio::test]
    async fn what_leaves_it_is_counted() {
        let image = Image::generate(1 << 20);
        let shutdown = Shutdown::default();
        let upstream = Upstream::start(image.clone(), 0, &shutdown).await.unwrap();
        let base = format!("http://{}/v2/{REPOSITORY}", upstream.address());
        let manifest = reqwest::get(format!("{base}/manifests/{TAG}"))
            .await
            .unwrap();
        assert_eq!(manifest.bytes().await.unwrap(), image.manifest());
        let client = reqwest::Client::new();
        for (digest, bytes) in image.blobs() {
            let url = format!("{base}/blobs/{digest}");
            let size = client.head(&url).send().await.unwrap();
            assert_eq!(size.headers()["content-length"], bytes.len().to_string());
            let part = client.get(&url).header("range", "bytes=5-").send();
            let part = part.await.unwrap();
            assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
            assert_eq!(part.bytes().await.unwrap(), bytes.slice(5..));
        }
        let blobs = image.blobs().count() as u64;
        let expected = Sent {
            blob_bytes: image.size() - 5 * blobs,
            blob_requests: blobs,
            manifest_requests: 1,
        };
        assert_eq!(upstream.sent(), expected);
        assert!(shutdown.finish(Duration::from_secs(5)).await);
    }
}
