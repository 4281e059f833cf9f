//! Files that are known by their digest: put into the cluster here, and had from wherever they are.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Method, Response, StatusCode};
use darner_proto::digest::Digest;
use darner_proto::geometry::MAX_SIZE;
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout, timeout_at};

use super::keep::Writing;
use super::metrics::Outcome;
use super::{FileFront, Refusal, SOURCE, insert, open, outside, part_of};
use crate::listen::Outlet;
use crate::registry::range::{Wanted, wanted};
use crate::store::{StoreError, Term};

/// Holders asked for the size of a file: more than one only when the first does not answer.
const HOLDERS_ASKED: usize = 3;
/// A client that sends nothing of a file for so long has gone.
const PUT_STALL: Duration = Duration::from_secs(30);

/// A request for a file by its digest.
#[derive(Debug)]
pub(super) struct ByDigest<'a> {
    pub(super) digest: Digest,
    pub(super) method: &'a Method,
    pub(super) headers: &'a HeaderMap,
    pub(super) deadline: Instant,
}

/// How what is put is to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Keeping {
    /// For so long it is not evicted, and then it goes.
    pub(super) term: Option<Duration>,
    /// So many other nodes hold it, too.
    pub(super) replicas: usize,
}

impl FileFront {
    /// What is known by a digest, from this node or from those that hold it.
    pub(super) async fn held(
        &self,
        asked: &ByDigest<'_>,
        outlet: &Outlet,
    ) -> Result<Response<Body>, Refusal> {
        let digest = &asked.digest;
        let late = || {
            let message = "nobody who holds it answers in time";
            Refusal::new(StatusCode::GATEWAY_TIMEOUT, message)
        };
        let size = timeout_at(asked.deadline, self.size_of(digest)).await;
        let size = size.map_err(|_| late())?.ok_or_else(|| {
            let message = format!("nobody in the cluster holds {digest}");
            Refusal::new(StatusCode::NOT_FOUND, message)
        })?;
        let tag = format!("\"{digest}\"");
        let part = match wanted(asked.headers, size, &tag) {
            Wanted::Whole => None,
            Wanted::Part(part) => Some(part),
            Wanted::Outside => return Ok(outside(size)),
        };
        let range = part.clone().unwrap_or(0..size);
        let mut from = None;
        let body = if *asked.method == Method::HEAD || size == 0 {
            Body::empty()
        } else {
            let opened = timeout_at(
                asked.deadline,
                open(&self.tasks, (digest, size), Vec::new(), range),
            );
            let opened = opened.await.map_err(|_| late())?;
            let (source, spans) = opened.ok_or_else(|| {
                let message = format!("{digest} does not come from those who hold it");
                Refusal::new(StatusCode::BAD_GATEWAY, message)
            })?;
            from = Some(source);
            self.body(outlet, spans, source)
        };
        self.metrics.answered(Outcome::Shared);
        let mut response = part_of(body, size, part);
        insert(response.headers_mut(), axum::http::header::ETAG, &tag);
        if let Some(from) = from {
            insert(response.headers_mut(), SOURCE, from.as_str());
        }
        Ok(response)
    }

    /// The size of what is known by `digest`, by the word of who holds it.
    async fn size_of(&self, digest: &Digest) -> Option<u64> {
        if let Some(size) = self.tasks.parts().store.size_of(digest) {
            return Some(size);
        }
        if let Some(running) = self.tasks.running(digest) {
            return Some(running.geometry.size());
        }
        let me = &self.tasks.parts().swarm.me().id;
        let holders = self.tasks.parts().swarm.find(digest).await;
        let others = holders.iter().filter(|host| host.id != *me);
        for host in others.take(HOLDERS_ASKED) {
            match self.tasks.parts().peers.size(host, digest).await {
                Ok((size, ends_in)) => {
                    self.ends_in(digest, size, ends_in);
                    return Some(size);
                }
                Err(error) => {
                    tracing::debug!(%digest, host = %host.id, %error, "a holder does not tell the size");
                }
            }
        }
        None
    }

    /// What goes elsewhere after a time goes here then, too.
    fn ends_in(&self, digest: &Digest, size: u64, time: Option<Duration>) {
        let Some(time) = time else { return };
        let term = Term::lasting(time, false);
        if let Err(error) = self.tasks.parts().store.set_term(digest, size, term) {
            tracing::debug!(%digest, %error, "content stays here for as long as there is room");
        }
    }

    /// Takes a file into the store, from where the cluster can have it.
    pub(super) async fn put(
        &self,
        (digest, size): (Digest, u64),
        keeping: Keeping,
        body: Body,
    ) -> Result<Response<Body>, Refusal> {
        if size > MAX_SIZE {
            let message = "files of more than 64 GiB are not taken";
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        if self.tasks.parts().store.size_of(&digest) != Some(size) {
            self.take_in(digest, size, body).await?;
        }
        if let Some(time) = keeping.term {
            let term = Term::lasting(time, true);
            let set = self.tasks.parts().store.set_term(&digest, size, term);
            set.map_err(|error| Refusal::new(StatusCode::INSUFFICIENT_STORAGE, error.to_string()))?;
        }
        if keeping.replicas > 0 {
            let wanted = (keeping.replicas, keeping.term);
            self.replicate(&digest, size, wanted).await?;
        }
        let mut response = Response::new(Body::from(format!("{digest}\n")));
        *response.status_mut() = StatusCode::CREATED;
        Ok(response)
    }

    async fn take_in(&self, digest: Digest, size: u64, body: Body) -> Result<(), Refusal> {
        let store = &self.tasks.parts().store;
        let kept = |error: StoreError| match error {
            StoreError::Mismatch { .. } => {
                let message = format!("what was sent does not have the digest {digest}");
                Refusal::new(StatusCode::BAD_REQUEST, message)
            }
            StoreError::Full { .. } => {
                Refusal::new(StatusCode::INSUFFICIENT_STORAGE, error.to_string())
            }
            error => Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        };
        if size == 0 {
            return store.put(&digest, bytes::Bytes::new()).await.map_err(kept);
        }
        let signer = self.tasks.parts().signer.clone();
        let writing = Writing::begin(store, signer, digest, size).await;
        let mut writing = writing.map_err(kept)?;
        let mut chunks = body.into_data_stream();
        let mut came = 0u64;
        loop {
            let chunk = timeout(PUT_STALL, chunks.next()).await;
            let Ok(chunk) = chunk else {
                let message = "nothing more of the file came";
                return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, message));
            };
            let Some(chunk) = chunk else { break };
            let chunk = chunk.map_err(|_| {
                Refusal::new(StatusCode::BAD_REQUEST, "the file was cut on its way")
            })?;
            came += chunk.len() as u64;
            if came > size {
                break;
            }
            writing.push(chunk).await.map_err(kept)?;
        }
        if came != size {
            let message = "what was sent has not the size that Content-Length tells";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
        }
        let runs = writing.finish().await.map_err(kept)?;
        if let Err(error) = store.set_piece_map(&digest, &runs) {
            tracing::warn!(%digest, %error, "the piece map is not kept; it is made anew when asked for");
        }
        Ok(())
    }
}
