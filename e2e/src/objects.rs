//! A storage of objects as S3 is one: it answers signed URLs for `GET` alone, for as long as their
//! signature is right and counts, and lists a bucket to who shows its access key.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use aws_lc_rs::hmac;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Whoever may read.
pub const ACCESS_KEY: &str = "AKIATESTTESTTEST";
/// And what it signs with.
pub const SECRET: &str = "canary-secret-of-the-storage";
/// Where it is said to be.
pub const REGION: &str = "eu-test-1";
/// Its one bucket.
pub const BUCKET: &str = "models";

/// A running storage; it ends with this.
#[derive(Debug)]
pub struct Objects {
    address: SocketAddr,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Shared {
    objects: Mutex<BTreeMap<String, Bytes>>,
    sent: Mutex<BTreeMap<String, u64>>,
}

impl Objects {
    /// Starts it, empty.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::<Shared>::default();
        let router = Router::new().fallback(answer).with_state(shared.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            // It is aborted.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            address,
            shared,
            _serving: serving,
        })
    }

    /// `localhost:port`, where it is.
    pub fn host(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// What the tools of the cloud are told by.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT", format!("http://{}", self.host())),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ]
    }

    /// Puts an object there.
    pub fn put(&self, key: &str, content: impl Into<Bytes>) {
        lock(&self.shared.objects).insert(key.to_owned(), content.into());
    }

    /// Bytes sent of an object.
    pub fn sent(&self, key: &str) -> u64 {
        lock(&self.shared.sent).get(key).copied().unwrap_or(0)
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let path = parts.uri.path().trim_start_matches('/');
    let key = path.strip_prefix(BUCKET).unwrap_or_default();
    let key = key.trim_start_matches('/').replace("%20", " ");
    if key.is_empty() {
        return list(&shared, &parts.uri, &parts.headers);
    }
    // Signed is the GET.
    if parts.method != Method::GET || !is_signed(&parts.uri, &parts.headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let content = lock(&shared.objects).get(&key).cloned();
    let Some(content) = content else {
        return StatusCode::NOT_FOUND.into_response();
    };
    object(&shared, &key, &content, &parts.headers)
}

fn object(shared: &Shared, key: &str, content: &Bytes, headers: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", hex(&Sha256::digest(content)[..16]));
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_MATCH).is_some_and(|expected| expected != tag) {
        return StatusCode::PRECONDITION_FAILED.into_response();
    }
    let size = content.len();
    let range = text(header::RANGE).and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        let last: usize = last.parse().unwrap_or(size - 1);
        Some((first.parse().ok()?, last.min(size - 1)))
    });
    let (first, last): (usize, usize) = range.unwrap_or((0, size - 1));
    let part = content.slice(first..=last);
    *lock(&shared.sent).entry(key.to_owned()).or_default() += part.len() as u64;
    let mut answer = Response::new(Body::from(part));
    if range.is_some() {
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = format!("bytes {first}-{last}/{size}");
        if let Ok(range) = range.parse() {
            answer.headers_mut().insert(header::CONTENT_RANGE, range);
        }
    }
    if let Ok(tag) = tag.parse() {
        answer.headers_mut().insert(header::ETAG, tag);
    }
    answer
}

/// `ListObjectsV2`, as far as it is needed: all of it on one page.
fn list(shared: &Shared, uri: &Uri, headers: &HeaderMap) -> Response {
    let shown = headers.get(header::AUTHORIZATION);
    let shown = shown.and_then(|value| value.to_str().ok());
    if !shown.is_some_and(|shown| shown.contains(ACCESS_KEY)) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let pairs = pairs(uri);
    let prefix = pairs.get("prefix").map(|prefix| prefix.replace("%2F", "/"));
    let prefix = prefix.unwrap_or_default();
    let objects = lock(&shared.objects);
    let listed = objects.iter().filter(|(key, _)| key.starts_with(&prefix));
    let listed = listed.map(|(key, content)| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"x\"</ETag><Size>{}</Size></Contents>",
            content.len()
        )
    });
    let page = format!(
        "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>false</IsTruncated>{}</ListBucketResult>",
        listed.collect::<String>()
    );
    ([(header::CONTENT_TYPE, "application/xml")], page).into_response()
}

/// Signature version 4 of a query, as its specification has it.
fn is_signed(uri: &Uri, headers: &HeaderMap) -> bool {
    let mut pairs = pairs(uri);
    let given = pairs.remove("X-Amz-Signature").unwrap_or_default();
    let credential = pairs
        .get("X-Amz-Credential")
        .map(|text| text.replace("%2F", "/"));
    let Some((key, scope)) = credential.as_deref().and_then(|text| text.split_once('/')) else {
        return false;
    };
    let date = pairs.get("X-Amz-Date").cloned().unwrap_or_default();
    let host = headers
        .get(header::HOST)
        .and_then(|value| value.to_str().ok());
    let query: Vec<_> = pairs
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let canonical = format!(
        "GET\n{}\n{}\nhost:{}\n\nhost\nUNSIGNED-PAYLOAD",
        uri.path(),
        query.join("&"),
        host.unwrap_or_default()
    );
    let canonical = hex(&Sha256::digest(canonical));
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{canonical}");
    let mut secret = format!("AWS4{SECRET}").into_bytes();
    for part in scope.split('/') {
        secret = signed(&secret, part);
    }
    key == ACCESS_KEY && given == hex(&signed(&secret, &text))
}

fn signed(secret: &[u8], text: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

/// The query in order, as it was written.
fn pairs(uri: &Uri) -> BTreeMap<String, String> {
    let query = uri.query().unwrap_or_default().split('&');
    let pairs = query.filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
