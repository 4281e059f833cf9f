//! What was asked of the upstream and what it sent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use darner_proto::digest::Digest;
use http::{Method, StatusCode, header};

use crate::image::Image;

/// Every request so far.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: Mutex<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    request: Request,
    bytes: Arc<AtomicU64>,
}

/// A request and what came of it.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its method.
    pub method: Method,
    /// Its path.
    pub path: String,
    /// Its `Range` header.
    pub range: Option<String>,
    /// Its `Authorization` header.
    pub authorization: Option<String>,
    /// It came to the host that redirects lead to.
    pub redirected: bool,
    /// The answer's status, once there is an answer.
    pub status: u16,
    /// Bytes of the body that have gone out.
    pub bytes: u64,
}

impl Ledger {
    pub(super) fn begin<B>(&self, request: &http::Request<B>, redirected: bool) -> usize {
        let header = |name| {
            let value = request.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let request = Request {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            range: header(header::RANGE),
            authorization: header(header::AUTHORIZATION),
            redirected,
            status: 0,
            bytes: 0,
        };
        let mut entries = self.lock();
        entries.push(Entry {
            request,
            bytes: Arc::default(),
        });
        entries.len() - 1
    }

    pub(super) fn answered(&self, index: usize, status: StatusCode) {
        if let Some(entry) = self.lock().get_mut(index) {
            entry.request.status = status.as_u16();
        }
    }

    pub(super) fn counter(&self, index: usize) -> Arc<AtomicU64> {
        let entries = self.lock();
        let entry = entries.get(index);
        entry.map(|entry| entry.bytes.clone()).unwrap_or_default()
    }

    /// All requests, in the order they came.
    pub fn requests(&self) -> Vec<Request> {
        let entries = self.lock();
        let with_bytes = entries.iter().map(|entry| Request {
            bytes: entry.bytes.load(Ordering::Relaxed),
            ..entry.request.clone()
        });
        with_bytes.collect()
    }

    /// How many requests came so far.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Requests about `digest`, as a blob.
    pub fn of_blob(&self, digest: &Digest) -> Vec<Request> {
        let end = format!("/blobs/{digest}");
        let mut requests = self.requests();
        requests.retain(|request| request.path.ends_with(&end));
        requests
    }

    /// Bytes of an image's blobs that have gone out.
    pub fn blob_bytes(&self, image: &Image) -> u64 {
        let of_blobs = image
            .blobs
            .iter()
            .flat_map(|blob| self.of_blob(&blob.digest));
        of_blobs.map(|request| request.bytes).sum()
    }

    /// Bytes of blobs that have gone out over the bytes the image's blobs have.
    pub fn ratio(&self, image: &Image) -> f64 {
        self.blob_bytes(image) as f64 / image.bytes() as f64
    }

    /// The requests, one a line, for messages.
    pub fn describe(&self) -> String {
        let lines = self.requests().into_iter().map(|request| {
            let range = request.range.unwrap_or_default();
            let host = if request.redirected { "other " } else { "" };
            let (method, path) = (request.method, request.path);
            let (status, bytes) = (request.status, request.bytes);
            format!("  {host}{method} {path} {range} -> {status}, {bytes} bytes\n")
        });
        lines.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
