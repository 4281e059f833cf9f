//! Content that not everybody may read, for those who may.
//!
//! Upstream is asked first, whatever is held: a refusal is upstream's own answer to the caller, the
//! same bytes whether the content is here or not. What may be read is served from the private store,
//! or comes from upstream on the caller's own credential and is kept there on its way.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use darner_proto::digest::Digest;
use darner_proto::name::{Reference, Tag};
use futures_util::stream::{self, StreamExt as _};
use tokio::time::timeout_at;

use super::blobs::{described, etag};
use super::metrics::Trouble;
use super::range::{Wanted, wanted};
use super::refusal::Refusal;
use super::relay::{Errand, collected};
use super::request::Object;
use super::serve::{CONTENT_DIGEST, Call, Front, Manifest, Reply};
use crate::access::grants::{Ask, Proof, Step, Target};
use crate::access::{Access, life};
use crate::resolve::{STRETCHED_FOR, links, now_ms};
use crate::store::{LinkRecord, StoreError, TagRecord};
use crate::task::ServedFrom;
use crate::upstream::MAX_MANIFEST;

/// Content of a private repository, as far as it is known.
struct Known {
    digest: Digest,
    link: LinkRecord,
}

impl Front {
    /// Decides about a request for what is not public, and answers it.
    pub(super) async fn private(&self, call: &Call<'_>) -> Result<Reply, Refusal> {
        let Some(access) = &self.access else {
            return self.relay(call).await;
        };
        let source = &call.question.source;
        let authorization = call.headers.get(header::AUTHORIZATION);
        let mut known = self.known(access, call);
        let ask = Ask {
            caller: access.caller(source, authorization, self.confined),
            target: match (&call.question.object, &known) {
                (Object::Manifest(Reference::Tag(_)), known) => Target::Tag {
                    known: known.is_some(),
                },
                (_, Some(_)) => Target::Linked,
                (_, None) => Target::Unlinked,
            },
        };
        let mut step = access.begin(&ask);
        if step == Step::Prove {
            let (proof, told) = self.prove(access, call).await;
            step = access.proved(&ask, proof);
            known = told.or(known);
        }
        self.metrics.decided(step);
        match (step, known) {
            (Step::Serve { stale }, Some(known)) => {
                self.serve_private(access, call, known, stale).await
            }
            // Upstream has said yes, but not what it is: it answers itself.
            (Step::Serve { .. } | Step::Relay | Step::Prove, _) => self.relay(call).await,
            (Step::StepAside, _) => {
                self.metrics.trouble(Trouble::Relay);
                Err(call.unavailable("who may read this cannot be found out here"))
            }
        }
    }

    /// What earlier answers of upstream say of what is asked for.
    fn known(&self, access: &Access, call: &Call<'_>) -> Option<Known> {
        let (store, source) = (access.store(), &call.question.source);
        let digest = match &call.question.object {
            Object::Manifest(Reference::Digest(digest)) | Object::Blob(digest) => *digest,
            Object::Manifest(Reference::Tag(tag)) => {
                let record = store.tag(source, tag)?;
                let age = now_ms().checked_sub(record.checked_ms)?;
                let upstream = self.upstreams.get(&source.registry)?;
                let limit = upstream.tag_stale().min(STRETCHED_FOR);
                (u128::from(age) < limit.as_millis()).then_some(record.digest)?
            }
            Object::Tags | Object::Referrers(_) => return None,
        };
        let link = store.link(source, &digest)?;
        let manifest = matches!(call.question.object, Object::Manifest(_));
        (link.manifest == manifest).then_some(Known { digest, link })
    }

    /// Shows upstream the caller's credential, and keeps what it says of the content.
    async fn prove(&self, access: &Access, call: &Call<'_>) -> (Proof, Option<Known>) {
        let errand = Errand {
            method: Method::HEAD,
            path: call.question.object.to_string(),
            query: None,
            accept: None,
        };
        let Ok(answer) = self.ask_upstream(call, errand).await else {
            return (Proof::Unreachable, None);
        };
        let status = answer.status();
        if !status.is_success() {
            let refused = [
                StatusCode::UNAUTHORIZED,
                StatusCode::FORBIDDEN,
                StatusCode::NOT_FOUND,
            ];
            return match refused.contains(&status) {
                true => (Proof::Refused, None),
                false => (Proof::Unreachable, None),
            };
        }
        let life = life(call.headers.get(header::AUTHORIZATION));
        let known = described_by(&answer.headers, &call.question.object);
        if let Some(known) = &known {
            let (store, source) = (access.store(), &call.question.source);
            kept(store.add_links(source, &[(known.digest, known.link.clone())]));
            if let Object::Manifest(Reference::Tag(tag)) = &call.question.object {
                self.keep_tag(access, call, tag, known.digest);
            }
        }
        (Proof::Granted { life }, known)
    }

    fn keep_tag(&self, access: &Access, call: &Call<'_>, tag: &Tag, digest: Digest) {
        let record = TagRecord {
            digest,
            checked_ms: now_ms(),
        };
        let source = &call.question.source;
        kept(access.store().set_tag(source, tag, &record));
    }

    async fn serve_private(
        &self,
        access: &Access,
        call: &Call<'_>,
        known: Known,
        stale: bool,
    ) -> Result<Reply, Refusal> {
        match &call.question.object {
            Object::Manifest(_) => self.private_manifest(access, call, known, stale).await,
            _ => self.private_blob(access, call, &known).await,
        }
    }

    async fn private_manifest(
        &self,
        access: &Access,
        call: &Call<'_>,
        known: Known,
        stale: bool,
    ) -> Result<Reply, Refusal> {
        let Known { digest, link } = known;
        let held = match access.store().get(&digest) {
            Some(content) if content.size() <= MAX_MANIFEST as u64 => {
                content.read(0..content.size()).await.ok()
            }
            _ => None,
        };
        let (bytes, media_type, from) = match held {
            Some(bytes) => (bytes, link.media_type, ServedFrom::Store),
            None => {
                let errand = Errand {
                    method: Method::GET,
                    path: format!("manifests/{digest}"),
                    query: None,
                    accept: None,
                };
                let read = self.ask_upstream(call, errand).await?;
                if !read.status().is_success() {
                    return self.pass(call, read).await;
                }
                let media_type = media_type(&read.headers).unwrap_or(link.media_type);
                let bytes = collected(read, MAX_MANIFEST, call.deadline).await;
                let bytes = bytes.filter(|bytes| digest.matches(bytes));
                let bytes = bytes.ok_or_else(|| call.unavailable("the manifest does not come"))?;
                let (store, source) = (access.store(), &call.question.source);
                kept(store.put(&digest, bytes.clone()).await);
                let mut linked = links(&bytes);
                linked.push((digest, manifest_link(&media_type, bytes.len() as u64)));
                kept(store.add_links(source, &linked));
                (bytes, media_type, ServedFrom::Upstream)
            }
        };
        let manifest = Manifest {
            digest,
            media_type: &media_type,
            content: bytes,
            from,
            stale: stale && matches!(call.question.object, Object::Manifest(Reference::Tag(_))),
        };
        Ok(call.manifest_reply(manifest))
    }

    async fn private_blob(
        &self,
        access: &Access,
        call: &Call<'_>,
        known: &Known,
    ) -> Result<Reply, Refusal> {
        let (digest, size) = (&known.digest, known.link.size);
        let held = access.store().get(digest);
        let held = held.filter(|content| content.size() == size);
        if call.is_head() {
            return Ok(Reply {
                response: described(Body::empty(), digest, size, None),
                source: Some(match held {
                    Some(_) => ServedFrom::Store,
                    None => ServedFrom::Upstream,
                }),
            });
        }
        let part = match wanted(call.headers, size, &etag(digest)) {
            Wanted::Whole => None,
            Wanted::Part(part) => Some(part),
            Wanted::Outside => return Err(Refusal::outside(size)),
        };
        if let Some(content) = held {
            let range = part.clone().unwrap_or(0..size);
            return Ok(Reply {
                response: described(call.content(content.spans(range)), digest, size, part),
                source: Some(ServedFrom::Store),
            });
        }
        if part.is_some() {
            return self.relay(call).await;
        }
        let errand = Errand {
            method: Method::GET,
            path: call.question.object.to_string(),
            query: None,
            accept: None,
        };
        let relayed = self.ask_upstream(call, errand).await?;
        if relayed.status() != StatusCode::OK {
            return self.pass(call, relayed).await;
        }
        let partial = self.keeping.begin(access.store(), digest, size).await;
        let mut bytes = super::keep::through(relayed.body, partial, (*digest, size)).boxed();
        // A failure before the first byte is one that the client can be told.
        let first = match timeout_at(call.deadline, bytes.next()).await {
            Ok(Some(Err(_))) | Err(_) => {
                self.metrics.trouble(Trouble::Source);
                return Err(call.unavailable("the registry does not deliver the blob"));
            }
            Ok(first) => first,
        };
        let bytes = stream::iter(first).chain(bytes);
        Ok(Reply {
            response: described(Body::from_stream(bytes), digest, size, None),
            source: Some(ServedFrom::Upstream),
        })
    }
}

/// What the headers of upstream's answer say of the content that was asked for.
fn described_by(headers: &HeaderMap, object: &Object) -> Option<Known> {
    let told = || headers.get(CONTENT_DIGEST)?.to_str().ok()?.parse().ok();
    let length = headers.get(header::CONTENT_LENGTH)?.to_str().ok()?;
    let size = length.parse().ok()?;
    match object {
        Object::Manifest(reference) => {
            let digest = match reference {
                Reference::Digest(digest) => *digest,
                Reference::Tag(_) => told()?,
            };
            let link = manifest_link(&media_type(headers)?, size);
            Some(Known { digest, link })
        }
        Object::Blob(digest) => Some(Known {
            digest: *digest,
            link: LinkRecord {
                manifest: false,
                media_type: String::new(),
                size,
            },
        }),
        Object::Tags | Object::Referrers(_) => None,
    }
}

fn manifest_link(media_type: &str, size: u64) -> LinkRecord {
    LinkRecord {
        manifest: true,
        media_type: media_type.to_owned(),
        size,
    }
}

fn media_type(headers: &HeaderMap) -> Option<String> {
    let value: &HeaderValue = headers.get(header::CONTENT_TYPE)?;
    let essence = value.to_str().ok()?.split(';').next()?.trim();
    (!essence.is_empty() && essence.len() <= 255).then(|| essence.to_owned())
}

fn kept(result: Result<(), StoreError>) {
    match result {
        Ok(()) | Err(StoreError::Held(_) | StoreError::Full { .. }) => {}
        Err(error) => tracing::warn!(%error, "something private is not kept"),
    }
}

impl Call<'_> {
    /// A manifest as an answer.
    pub(super) fn manifest_reply(&self, manifest: Manifest<'_>) -> Reply {
        let size = manifest.content.len();
        let body = match self.is_head() {
            true => Body::empty(),
            false => Body::from(manifest.content),
        };
        let mut response = Response::new(body);
        super::serve::describe_manifest(
            response.headers_mut(),
            (&manifest.digest, manifest.media_type, size as u64),
            manifest.stale,
        );
        Reply {
            response,
            source: Some(manifest.from),
        }
    }
}
