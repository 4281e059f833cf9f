//! Content that not everybody may read, for those who may.
//!
//! Upstream is asked first, whatever is held: a refusal is upstream's own answer to the caller, the
//! same bytes whether the content is here or not. What may be read is served from the private store,
//! or comes from a seed that has convinced itself of the caller's right, or from upstream on the
//! caller's own credential.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Response, header};
use darner_proto::digest::Digest;
use darner_proto::name::Reference;
use darner_proto::peer::{PrivateRequest, ResolveReply, ResolveRequest, Target};
use tokio::time::{Instant, timeout_at};

use super::blobs::{Behind, described, described_only, etag};
use super::metrics::Trouble;
use super::range::{Wanted, wanted};
use super::refusal::Refusal;
use super::request::Object;
use super::serve::{Call, Front, Manifest, Reply};
use crate::access::grants::Step;
use crate::access::is_basic;
use crate::access::proof::{self, Asked, Decision, Known, NoManifest, Prover};
use crate::swarm::{Peers, Seeds};
use crate::task::{Reading, ServedFrom, Tasks};

/// A seed is given this long for a manifest; then there is time left to ask upstream.
const SEED_PATIENCE: Duration = Duration::from_secs(3);

/// What serves content that is not public.
#[derive(Debug)]
pub struct Private {
    /// Finds out who may read.
    pub prover: Prover,
    /// How content gets here.
    pub tasks: Tasks,
    /// Whom it comes from.
    pub seeds: Seeds,
    /// How they are asked.
    pub peers: Peers,
}

impl Front {
    /// Decides about a request for what is not public, and answers it.
    pub(super) async fn private(&self, call: &Call<'_>) -> Result<Reply, Refusal> {
        let target = match &call.question.object {
            Object::Manifest(reference) => Target::Manifest(reference.clone()),
            Object::Blob(digest) => Target::Blob(*digest),
            Object::Tags | Object::Referrers(_) => return self.relay(call).await,
        };
        let Some(private) = &self.private else {
            return self.relay(call).await;
        };
        let headers = self.shown(call).await;
        let asked = Asked {
            source: &call.question.source,
            target: &target,
            headers: &headers,
            confined: self.confined(),
            deadline: call.deadline,
        };
        let Decision { step, known, .. } = private.prover.decide(&asked).await;
        self.metrics.decided(step);
        if matches!(step, Step::Serve { .. }) {
            // It was known to be for some only, and still is: upstream has just said so, or cannot.
            self.not_public.insert(asked.source.clone(), ()).await;
        }
        match (step, known) {
            (Step::Serve { stale }, Some(known)) => match &target {
                Target::Manifest(_) => {
                    self.check(call, &known.digest)?;
                    let manifest = self.private_manifest(private, &asked, &known).await;
                    self.reply_with(call, manifest, (known.digest, stale)).await
                }
                Target::Blob(_) => self.private_blob(private, call, &known).await,
            },
            // Upstream has said yes, but not what it is: it answers itself.
            (Step::Serve { .. } | Step::Relay | Step::Prove, _) => self.relay(call).await,
            (Step::StepAside, _) => {
                self.metrics.trouble(Trouble::Relay);
                Err(call.unavailable("who may read this cannot be found out here"))
            }
        }
    }

    async fn reply_with(
        &self,
        call: &Call<'_>,
        manifest: Result<proof::Manifest, NoManifest>,
        (digest, stale): (Digest, bool),
    ) -> Result<Reply, Refusal> {
        let by_tag = matches!(call.question.object, Object::Manifest(Reference::Tag(_)));
        match manifest {
            Ok(manifest) => Ok(call.manifest_reply(Manifest {
                digest,
                media_type: &manifest.media_type,
                content: manifest.bytes,
                from: manifest.from,
                stale: stale && by_tag,
            })),
            Err(NoManifest::Refused(relayed)) => self.pass(call, *relayed).await,
            Err(NoManifest::Unavailable) => Err(call.unavailable("the manifest does not come")),
        }
    }

    /// The store's, a seed's, or upstream's.
    async fn private_manifest(
        &self,
        private: &Private,
        asked: &Asked<'_>,
        known: &Known,
    ) -> Result<proof::Manifest, NoManifest> {
        let prover = &private.prover;
        if prover.held_manifest(&known.digest).await.is_none()
            && let Some((media_type, bytes)) = private.of_seed(asked, &known.digest).await
        {
            prover
                .keep_manifest(asked.source, (&known.digest, &media_type), &bytes)
                .await;
            return Ok(proof::Manifest {
                media_type,
                bytes,
                from: ServedFrom::Seed,
            });
        }
        prover.manifest(asked, known).await
    }

    async fn private_blob(
        &self,
        private: &Private,
        call: &Call<'_>,
        known: &Known,
    ) -> Result<Reply, Refusal> {
        let (digest, size) = (&known.digest, known.link.size);
        if call.is_head() {
            let store = private.prover.access().store();
            return Ok(described_only(store, digest, size));
        }
        let part = match wanted(call.headers, size, &etag(digest)) {
            Wanted::Whole => None,
            Wanted::Part(part) => Some(part),
            Wanted::Outside => return Err(Refusal::outside(size)),
        };
        let range = part.clone().unwrap_or(0..size);
        let source = &call.question.source;
        let reading = timeout_at(call.deadline, private.tasks.open(digest, size, source)).await;
        let behind = match reading {
            Ok(Ok(Reading::Stored(content))) if content.size() == size => {
                Behind::Opened(call.content(content.spans(range)), ServedFrom::Store)
            }
            Ok(Ok(Reading::Arriving(arriving))) if arriving.size() == size => {
                self.follow(call, digest, arriving, range).await
            }
            // There is no room, or the sizes do not agree.
            _ => Behind::NoRoom,
        };
        match behind {
            Behind::Opened(body, from) => Ok(Reply {
                response: described(body, digest, size, part),
                source: Some(from),
            }),
            Behind::NoRoom => self.relay(call).await,
            Behind::Refused(refusal) => {
                self.metrics.trouble(Trouble::Source);
                Err(refusal)
            }
        }
    }
}

impl Private {
    /// The manifest as the first seed for the repository has it, read there in the caller's name.
    async fn of_seed(&self, asked: &Asked<'_>, digest: &Digest) -> Option<(String, Bytes)> {
        let seed = self.seeds.before_me(asked.source).into_iter().next()?;
        let shown = asked.headers.get(header::AUTHORIZATION)?;
        if is_basic(shown) {
            return None;
        }
        let request = PrivateRequest {
            request: ResolveRequest {
                source: asked.source.clone(),
                target: Target::Manifest(Reference::Digest(*digest)),
                held_only: false,
                quiet: Duration::ZERO,
            },
            authorization: shown.to_str().ok()?.to_owned(),
        };
        let deadline = asked.deadline.min(Instant::now() + SEED_PATIENCE);
        let answer = timeout_at(deadline, self.peers.resolve_private(&seed, &request)).await;
        let reply = match answer {
            Ok(Ok(answer)) => answer.reply,
            Ok(Err(error)) => {
                tracing::debug!(seed = %seed.id, source = %asked.source, %error, "a seed does not give a private manifest");
                return None;
            }
            Err(_) => return None,
        };
        // That the bytes have the digest they came with was checked when they came.
        match reply {
            ResolveReply::Found(found) if found.digest == *digest && !found.content.is_empty() => {
                Some((found.media_type, found.content.into()))
            }
            _ => None,
        }
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
