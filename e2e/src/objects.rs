//! A storage of objects as a cloud has one: it answers signed URLs, for as long as their signature is right
//! and counts, and lists a bucket to who shows its credentials.
//!
//! Here is what they have in common: objects, versions, ranges. How each of them signs, lists and refuses
//! is in the files below.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::Result;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use reqwest::Url;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::scene::Scene;

mod azure;
mod google;
mod s3;
mod v4;

/// Its one bucket.
const BUCKET: &str = "models";
/// When all objects were changed last, as HTTP and as lists have it.
const CHANGED: (&str, &str) = ("Thu, 01 Jan 2026 00:00:00 GMT", "2026-01-01T00:00:00.000Z");

/// A running storage; it ends with this.
#[derive(Debug)]
pub struct Objects {
    address: SocketAddr,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    service: Box<dyn Service>,
    objects: Mutex<BTreeMap<String, Bytes>>,
    sent: Mutex<BTreeMap<String, u64>>,
}

/// With whose credentials it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Those that may read.
    Reader,
    /// Others, that look the same.
    Stranger,
}

/// What tells one cloud's storage from another's.
trait Service: Debug + Send + Sync {
    /// Of the URLs that its objects are called by.
    fn scheme(&self) -> &'static str;
    /// The path of the bucket.
    fn root(&self) -> String;
    /// Whether the object may be read: whether its URL is signed, and for this.
    fn is_signed(&self, asked: &Asked) -> bool;
    /// Whether who asks may list.
    fn may_list(&self, asked: &Asked) -> bool;
    /// A list of objects and their sizes, all of it on one page.
    fn page(&self, listed: &[(&str, usize)]) -> String;
    /// What it says of an object that is not there, and of credentials that are not right.
    fn codes(&self) -> (&'static str, &'static str);
    /// What the tools of the cloud are told by.
    fn environment(&self, url: String, whose: Whose) -> Vec<(&'static str, String)>;
    /// What nobody may find anywhere.
    fn secrets(&self) -> Vec<String>;
}

/// A request.
#[derive(Debug)]
struct Asked {
    method: Method,
    /// As it was sent.
    path: String,
    /// By name, decoded.
    query: BTreeMap<String, String>,
    headers: HeaderMap,
}

impl Asked {
    fn of(request: &Request) -> Option<Self> {
        let url = Url::parse(&format!("http://storage{}", request.uri())).ok()?;
        Some(Self {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            query: url.query_pairs().into_owned().collect(),
            headers: request.headers().clone(),
        })
    }

    fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// What is said for a name in the query.
    fn said(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// The path, decoded.
    fn name(&self) -> String {
        percent_decode_str(&self.path)
            .decode_utf8_lossy()
            .into_owned()
    }
}

impl Objects {
    /// One as Amazon's, empty.
    pub async fn s3() -> Result<Self> {
        Self::start(s3::S3).await
    }

    /// One as Google's, empty; with files of its accounts in the scene.
    pub async fn google(scene: &Scene) -> Result<Self> {
        Self::start(google::Google::new(scene)?).await
    }

    /// One as Azure's, empty.
    pub async fn azure() -> Result<Self> {
        Self::start(azure::Azure).await
    }

    async fn start(service: impl Service + 'static) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            service: Box::new(service),
            objects: Mutex::default(),
            sent: Mutex::default(),
        });
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

    /// What an object is called by.
    pub fn url(&self, key: &str) -> String {
        format!("{}://{BUCKET}/{key}", self.shared.service.scheme())
    }

    /// What the tools of the cloud are told by.
    pub fn environment(&self, whose: Whose) -> Vec<(&'static str, String)> {
        let url = format!("http://{}", self.host());
        self.shared.service.environment(url, whose)
    }

    /// What nobody but the reader may see.
    pub fn secrets(&self) -> Vec<String> {
        self.shared.service.secrets()
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
    let Some(asked) = Asked::of(&request) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let (missing, denied) = shared.service.codes();
    let name = asked.name();
    let Some(key) = name.strip_prefix(&shared.service.root()) else {
        return refusal(StatusCode::NOT_FOUND, missing);
    };
    let key = key.trim_start_matches('/');
    if key.is_empty() {
        return match shared.service.may_list(&asked) {
            true => list(&shared, &asked),
            false => refusal(StatusCode::FORBIDDEN, denied),
        };
    }
    if !shared.service.is_signed(&asked) {
        return refusal(StatusCode::FORBIDDEN, denied);
    }
    let content = lock(&shared.objects).get(key).cloned();
    match content {
        Some(content) => object(&shared, key, &content, &asked),
        None => refusal(StatusCode::NOT_FOUND, missing),
    }
}

fn refusal(status: StatusCode, code: &str) -> Response {
    let page = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
    (status, [(header::CONTENT_TYPE, "application/xml")], page).into_response()
}

fn object(shared: &Shared, key: &str, content: &Bytes, asked: &Asked) -> Response {
    let tag = format!("\"{}\"", hex(&Sha256::digest(content)[..16]));
    let expected = asked.header(header::IF_MATCH);
    if expected.is_some_and(|expected| expected != tag) {
        return StatusCode::PRECONDITION_FAILED.into_response();
    }
    let version = [
        (header::ETAG, tag.as_str()),
        (header::LAST_MODIFIED, CHANGED.0),
        (header::CONTENT_TYPE, "application/octet-stream"),
    ];
    if asked.header(header::IF_MODIFIED_SINCE) == Some(CHANGED.0) {
        return (StatusCode::NOT_MODIFIED, version).into_response();
    }
    if asked.method == Method::HEAD {
        let length = [(header::CONTENT_LENGTH, content.len().to_string())];
        return (version, length, Body::empty()).into_response();
    }
    let part = part(asked, content.len());
    let (first, last) = part.unwrap_or((0, content.len() - 1));
    let bytes = content.slice(first..=last);
    *lock(&shared.sent).entry(key.to_owned()).or_default() += bytes.len() as u64;
    if part.is_none() {
        return (version, bytes).into_response();
    }
    let range = format!("bytes {first}-{last}/{}", content.len());
    let range = [(header::CONTENT_RANGE, range)];
    (StatusCode::PARTIAL_CONTENT, version, range, bytes).into_response()
}

/// The first and the last byte that are wanted, if not all are.
fn part(asked: &Asked, size: usize) -> Option<(usize, usize)> {
    let range = asked.header(header::RANGE)?.strip_prefix("bytes=")?;
    let (first, last) = range.split_once('-')?;
    let last: usize = last.parse().unwrap_or(size - 1);
    Some((first.parse().ok()?, last.min(size - 1)))
}

fn list(shared: &Shared, asked: &Asked) -> Response {
    let objects = lock(&shared.objects);
    let listed = objects.iter().map(|(key, content)| (&**key, content.len()));
    let listed: Vec<_> = listed
        .filter(|(key, _)| key.starts_with(asked.said("prefix")))
        .collect();
    let page = shared.service.page(&listed);
    ([(header::CONTENT_TYPE, "application/xml")], page).into_response()
}

/// `ListObjectsV2`, as far as it is needed.
fn list_version_2(listed: &[(&str, usize)]) -> String {
    let listed = listed.iter().map(|(key, size)| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>{}</LastModified><ETag>\"x\"</ETag><Size>{size}</Size></Contents>",
            CHANGED.1
        )
    });
    format!(
        "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>false</IsTruncated>{}</ListBucketResult>",
        listed.collect::<String>()
    )
}

/// Whether now is in a time that is told as RFC 3339 has it.
fn is_now(from: &str, to: &str) -> bool {
    let time = |text| humantime::parse_rfc3339(text).ok();
    let now = SystemTime::now();
    time(from).is_some_and(|from| from <= now) && time(to).is_some_and(|to| now < to)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
