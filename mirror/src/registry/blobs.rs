//! Blobs: whole or in part, out of the store, behind a download, or past a store that has no room.

use std::io;
use std::ops::Range;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response, StatusCode, header};
use darner_proto::digest::Digest;
use darner_proto::peer::Target;
use darner_service::telemetry::with_causes;
use futures_util::stream::{self, BoxStream, Stream, StreamExt as _};
use tokio::time::timeout_at;

use super::metrics::Trouble;
use super::range::{Wanted, wanted};
use super::refusal::Refusal;
use super::serve::{CONTENT_DIGEST, Call, Front, Reply, Verdict, insert};
use super::through;
use crate::store::{Span, Store};
use crate::task::{Arriving, Ended, Reading, ServedFrom, TaskError};

/// Content whose first byte can be sent.
struct Opened {
    body: Body,
    from: ServedFrom,
}

/// What comes of reading behind a download.
pub(super) enum Behind {
    /// Its first byte can be sent.
    Opened(Body, ServedFrom),
    /// The disk is at fault, not the content: it may be read without being kept.
    NoRoom,
    Refused(Refusal),
}

impl Front {
    pub(super) async fn blob(&self, call: &Call<'_>, digest: &Digest) -> Result<Reply, Refusal> {
        let found = match self.resolve(call, Target::Blob(*digest)).await? {
            Verdict::Serve(found) => found,
            Verdict::Relay => return self.private(call).await,
        };
        let size = found.size;
        if call.is_head() {
            return Ok(described_only(&self.tasks.parts().store, digest, size));
        }
        let part = match wanted(call.headers, size, &etag(digest)) {
            Wanted::Whole => None,
            Wanted::Part(part) => Some(part),
            Wanted::Outside => return Err(Refusal::outside(size)),
        };
        let range = part.clone().unwrap_or(0..size);
        let opened = match self.open(call, digest, size, range).await {
            Ok(opened) => opened,
            Err(refusal) => {
                self.metrics.trouble(Trouble::Source);
                return Err(refusal);
            }
        };
        Ok(Reply {
            response: described(opened.body, digest, size, part),
            source: Some(opened.from),
        })
    }

    async fn open(
        &self,
        call: &Call<'_>,
        digest: &Digest,
        size: u64,
        range: Range<u64>,
    ) -> Result<Opened, Refusal> {
        let source = &call.question.source;
        let reading = timeout_at(call.deadline, self.tasks.open(digest, size, source)).await;
        match reading {
            Ok(Ok(Reading::Stored(content))) if content.size() == size => Ok(Opened {
                body: call.content(content.spans(range)),
                from: ServedFrom::Store,
            }),
            Ok(Ok(Reading::Arriving(arriving))) if arriving.size() == size => {
                match self.follow(call, digest, arriving, range.clone()).await {
                    Behind::Opened(body, from) => Ok(Opened { body, from }),
                    Behind::NoRoom => self.pass_through(call, digest, size, range).await,
                    Behind::Refused(refusal) => Err(refusal),
                }
            }
            // Either there is no room, or one of two manifests lies about the size: upstream knows.
            Ok(Ok(_)) => self.pass_through(call, digest, size, range).await,
            Ok(Err(error)) => {
                tracing::error!(%source, %digest, %error, "a blob cannot be opened");
                Err(call.unavailable("the blob cannot be read"))
            }
            Err(_) => Err(call.unavailable("the blob cannot be opened in time")),
        }
    }

    /// Reads behind a download once it has something to give.
    pub(super) async fn follow(
        &self,
        call: &Call<'_>,
        digest: &Digest,
        mut arriving: Arriving,
        range: Range<u64>,
    ) -> Behind {
        let first = timeout_at(call.deadline, arriving.first_source(range.clone())).await;
        match first {
            Ok(Ok(from)) => Behind::Opened(call.content(arriving.spans(range)), from),
            Ok(Err(TaskError::Ended(Ended::Store))) => Behind::NoRoom,
            Ok(Err(error)) => {
                tracing::warn!(source = %call.question.source, %digest, %error, "a blob did not come");
                Behind::Refused(call.unavailable("no source could deliver the blob"))
            }
            Err(_) => {
                tracing::warn!(source = %call.question.source, %digest, "a blob did not come in time");
                Behind::Refused(call.unavailable("no source delivers the blob in time"))
            }
        }
    }

    /// Reads from upstream what the store cannot take.
    async fn pass_through(
        &self,
        call: &Call<'_>,
        digest: &Digest,
        size: u64,
        range: Range<u64>,
    ) -> Result<Opened, Refusal> {
        let source = &call.question.source;
        let upstream = self
            .upstreams
            .get(&source.registry)
            .ok_or_else(|| call.unavailable("its registry is not configured"))?;
        let first = async {
            let body = upstream
                .blob(&source.repository, digest, range.clone(), size)
                .await
                .map_err(io::Error::other)?;
            let chunks = body.stream.map(|chunk| chunk.map_err(io::Error::other));
            let cut = through::cut(chunks, body.range.start, range.clone());
            let mut bytes: BoxStream<'static, io::Result<Bytes>> = if range == (0..size) {
                through::checked(cut, *digest).boxed()
            } else {
                cut.boxed()
            };
            let first = bytes.next().await.transpose()?;
            Ok::<_, io::Error>(stream::iter(first.map(Ok)).chain(bytes))
        };
        match timeout_at(call.deadline, first).await {
            Ok(Ok(bytes)) => Ok(Opened {
                body: Body::from_stream(bytes),
                from: ServedFrom::Upstream,
            }),
            Ok(Err(error)) => {
                tracing::warn!(%source, %digest, error = %with_causes(&error), "a blob cannot be passed through");
                Err(call.unavailable("the registry does not deliver the blob"))
            }
            Err(_) => Err(call.unavailable("the registry does not deliver the blob in time")),
        }
    }
}

impl Call<'_> {
    /// Content as the body of the answer.
    pub(super) fn content(
        &self,
        spans: impl Stream<Item = io::Result<Span>> + Send + 'static,
    ) -> Body {
        Body::from_stream(self.outlet.clone().body(spans))
    }
}

pub(super) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// The answer to a HEAD. Of what is not held nothing has come from anywhere yet.
pub(super) fn described_only(store: &Store, digest: &Digest, size: u64) -> Reply {
    let held = store.size_of(digest) == Some(size);
    Reply {
        response: described(Body::empty(), digest, size, None),
        source: held.then_some(ServedFrom::Store),
    }
}

/// An answer with a blob, or the part of it in `part`.
pub(super) fn described(
    body: Body,
    digest: &Digest,
    size: u64,
    part: Option<Range<u64>>,
) -> Response<Body> {
    let mut response = Response::new(body);
    let mut length = size;
    if let Some(part) = &part {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        length = part.end - part.start;
    }
    let headers = response.headers_mut();
    if let Some(part) = part {
        let range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
        insert(headers, header::CONTENT_RANGE, range);
    }
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    insert(headers, CONTENT_DIGEST, digest.to_string());
    insert(headers, header::ETAG, etag(digest));
    response
}
