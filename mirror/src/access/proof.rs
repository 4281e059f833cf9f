//! Finds out whether a caller may read something of a repository that is not public, and what that
//! is: asks upstream what [`super::grants`] wants to know, and keeps what upstream says.
//!
//! The front end asks for its clients, and a seed for the nodes that show it their clients'
//! credentials. Sending what may be read is theirs.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use darner_proto::digest::Digest;
use darner_proto::name::{Reference, Source, Tag};
use darner_proto::peer::Target;
use darner_service::telemetry::with_causes;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tokio::time::{Instant, timeout_at};

use super::grants::{self, Ask, Caller, Proof, Step};
use super::tickets::TICKET_FOR;
use super::{Access, life};
use crate::resolve::{STRETCHED_FOR, links, now_ms};
use crate::store::{LinkRecord, StoreError, TagRecord};
use crate::task::ServedFrom;
use crate::upstream::{MAX_MANIFEST, Relay, Relayed, Upstreams};

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A request for what is not public.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The repository.
    pub source: &'a Source,
    /// What of it.
    pub target: &'a Target,
    /// The caller's `Accept` and `Authorization`; nothing else of it is looked at.
    pub headers: &'a HeaderMap,
    /// What is sent between the caller and this process stays on this machine.
    pub confined: bool,
    /// By then there is an answer.
    pub deadline: Instant,
}

/// Content of a private repository, as far as it is known.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its digest.
    pub digest: Digest,
    /// What upstream has said of it.
    pub link: LinkRecord,
}

/// What is to be done about a request.
#[derive(Debug)]
pub struct Decision {
    /// What is decided; never [`Step::Prove`].
    pub step: Step,
    /// What it is about, if upstream has ever said.
    pub known: Option<Known>,
    /// For how long the yes counts.
    pub left: Duration,
}

/// A private manifest.
#[derive(Debug)]
pub struct Manifest {
    /// As upstream sent it.
    pub media_type: String,
    /// They have the digest.
    pub bytes: Bytes,
    /// Where they came from.
    pub from: ServedFrom,
}

/// A private manifest cannot be had.
#[derive(Debug)]
pub enum NoManifest {
    /// Upstream's own refusal, for the caller.
    Refused(Box<Relayed>),
    /// It does not come.
    Unavailable,
}

/// Asks upstream in callers' names. Clones share everything.
#[derive(Debug, Clone)]
pub struct Prover {
    access: Arc<Access>,
    upstreams: Upstreams,
}

impl Prover {
    /// One that decides by `access`.
    pub fn new(access: Arc<Access>, upstreams: Upstreams) -> Self {
        Self { access, upstreams }
    }

    /// What it decides by.
    pub fn access(&self) -> &Arc<Access> {
        &self.access
    }

    /// Decides about a request; asks upstream if that is needed.
    pub async fn decide(&self, asked: &Asked<'_>) -> Decision {
        let shown = asked.headers.get(header::AUTHORIZATION);
        let mut known = self.known(asked);
        let ask = Ask {
            caller: self.access.caller(asked.source, shown, asked.confined),
            target: match (asked.target, &known) {
                (Target::Manifest(Reference::Tag(_)), known) => grants::Target::Tag {
                    known: known.is_some(),
                },
                (_, Some(_)) => grants::Target::Linked,
                (_, None) => grants::Target::Unlinked,
            },
        };
        let mut step = self.access.begin(&ask);
        if step == Step::Prove && self.is_away(asked.source) {
            step = self.access.without_upstream(&ask);
        }
        if step == Step::Prove {
            let (proof, told) = self.prove(asked).await;
            step = self.access.proved(&ask, proof);
            known = told.or(known);
        }
        let left = self.note(asked.source, shown, (ask.caller, step));
        Decision { step, known, left }
    }

    fn is_away(&self, source: &Source) -> bool {
        let upstream = self.upstreams.get(&source.registry);
        upstream.is_some_and(|upstream| upstream.is_away())
    }

    /// Keeps the credential of who may read for as long as that counts, and drops one that does not.
    fn note(
        &self,
        source: &Source,
        shown: Option<&HeaderValue>,
        (caller, step): (Caller, Step),
    ) -> Duration {
        let Some(shown) = shown else {
            return Duration::ZERO;
        };
        let wallet = self.access.wallet();
        let left = match step {
            Step::Serve { stale: false } => self.access.left(caller),
            Step::Serve { stale: true } => TICKET_FOR,
            Step::Relay | Step::StepAside | Step::Prove => {
                wallet.drop_refused(source, shown);
                return Duration::ZERO;
            }
        };
        wallet.put(source, shown, left);
        left
    }

    /// What earlier answers of upstream say of what is asked for.
    fn known(&self, asked: &Asked<'_>) -> Option<Known> {
        let (store, source) = (self.access.store(), asked.source);
        let digest = match asked.target {
            Target::Manifest(Reference::Digest(digest)) | Target::Blob(digest) => *digest,
            Target::Manifest(Reference::Tag(tag)) => {
                let record = store.tag(source, tag)?;
                let age = now_ms().checked_sub(record.checked_ms)?;
                let upstream = self.upstreams.get(&source.registry)?;
                let limit = upstream.tag_stale().min(STRETCHED_FOR);
                (u128::from(age) < limit.as_millis()).then_some(record.digest)?
            }
        };
        let link = store.link(source, &digest)?;
        let manifest = matches!(asked.target, Target::Manifest(_));
        (link.manifest == manifest).then_some(Known { digest, link })
    }

    /// Shows upstream the caller's credential, and keeps what it says of the content.
    async fn prove(&self, asked: &Asked<'_>) -> (Proof, Option<Known>) {
        let Some(answer) = self.ask(asked, Method::HEAD, path_of(asked.target)).await else {
            return (Proof::Unreachable, None);
        };
        if !(200..300).contains(&answer.status) {
            let refused = [
                StatusCode::UNAUTHORIZED,
                StatusCode::FORBIDDEN,
                StatusCode::NOT_FOUND,
            ];
            if refused.iter().any(|status| *status == answer.status) {
                return (Proof::Refused, None);
            }
            let (source, status) = (asked.source, answer.status);
            tracing::warn!(%source, error = format!("it answered {status}"), "upstream does not say whether a caller may read");
            return (Proof::Unreachable, None);
        }
        let life = life(asked.headers.get(header::AUTHORIZATION));
        let known = described_by(&answer.headers, asked.target);
        if let Some(known) = &known {
            let (store, source) = (self.access.store(), asked.source);
            kept(store.add_links(source, &[(known.digest, known.link.clone())]));
            if let Target::Manifest(Reference::Tag(tag)) = asked.target {
                self.keep_tag(source, tag, known.digest);
            }
        }
        (Proof::Granted { life }, known)
    }

    fn keep_tag(&self, source: &Source, tag: &Tag, digest: Digest) {
        let record = TagRecord {
            digest,
            checked_ms: now_ms(),
        };
        kept(self.access.store().set_tag(source, tag, &record));
    }

    /// The held bytes of a manifest.
    pub async fn held_manifest(&self, digest: &Digest) -> Option<Bytes> {
        let content = self.access.store().get(digest)?;
        match content.size() <= MAX_MANIFEST as u64 {
            true => content.read(0..content.size()).await.ok(),
            false => None,
        }
    }

    /// A manifest that the caller may read, from the store or from upstream.
    ///
    /// # Errors
    /// Upstream refuses it after all, or it does not come.
    pub async fn manifest(&self, asked: &Asked<'_>, known: &Known) -> Result<Manifest, NoManifest> {
        let digest = &known.digest;
        if let Some(bytes) = self.held_manifest(digest).await {
            let media_type = known.link.media_type.clone();
            return Ok(Manifest {
                media_type,
                bytes,
                from: ServedFrom::Store,
            });
        }
        let read = self.ask(asked, Method::GET, format!("manifests/{digest}"));
        let read = read.await.ok_or(NoManifest::Unavailable)?;
        if !(200..300).contains(&read.status) {
            return Err(NoManifest::Refused(Box::new(read)));
        }
        let media_type = media_type(&read.headers).unwrap_or(known.link.media_type.clone());
        let bytes = collected(read, MAX_MANIFEST, asked.deadline).await;
        let bytes = bytes.filter(|bytes| digest.matches(bytes));
        let bytes = bytes.ok_or(NoManifest::Unavailable)?;
        self.keep_manifest(asked.source, (digest, &media_type), &bytes)
            .await;
        Ok(Manifest {
            media_type,
            bytes,
            from: ServedFrom::Upstream,
        })
    }

    /// Keeps a manifest of the repository, which has the digest, and what it says of its parts.
    pub async fn keep_manifest(
        &self,
        source: &Source,
        (digest, media_type): (&Digest, &str),
        bytes: &Bytes,
    ) {
        let store = self.access.store();
        kept(store.put(digest, bytes.clone()).await);
        let mut linked = links(bytes);
        linked.push((*digest, manifest_link(media_type, bytes.len() as u64)));
        kept(store.add_links(source, &linked));
    }

    async fn ask(&self, asked: &Asked<'_>, method: Method, path: String) -> Option<Relayed> {
        let source = asked.source;
        let upstream = self.upstreams.get(&source.registry)?;
        let request = Relay {
            method,
            path: format!("{}/{path}", source.repository),
            query: None,
            headers: shown(asked.headers),
        };
        let began = Instant::now();
        match timeout_at(asked.deadline, upstream.relay(request)).await {
            Ok(Ok(relayed)) => Some(relayed),
            Ok(Err(error)) => {
                tracing::warn!(%source, error = %with_causes(&error), "upstream cannot be asked whether a caller may read");
                None
            }
            Err(_) => {
                upstream.given_up(began);
                None
            }
        }
    }
}

/// What a proof needs of a caller's headers: never `Range`, which would change what upstream says of
/// the content's size.
fn shown(headers: &HeaderMap) -> HeaderMap {
    let mut shown = HeaderMap::new();
    for name in [header::ACCEPT, header::AUTHORIZATION] {
        if let Some(value) = headers.get(&name) {
            shown.insert(name, value.clone());
        }
    }
    shown
}

fn path_of(target: &Target) -> String {
    match target {
        Target::Manifest(reference) => format!("manifests/{reference}"),
        Target::Blob(digest) => format!("blobs/{digest}"),
    }
}

/// A body of at most `limit` bytes, when it is there by `deadline`.
pub async fn collected(relayed: Relayed, limit: usize, deadline: Instant) -> Option<Bytes> {
    let mut body = relayed.body;
    let read = async {
        let mut whole = BytesMut::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.ok()?;
            if whole.len() + chunk.len() > limit {
                return None;
            }
            whole.extend_from_slice(&chunk);
        }
        Some(whole.freeze())
    };
    timeout_at(deadline, read).await.ok().flatten()
}

/// What the headers of upstream's answer say of the content that was asked for.
fn described_by(headers: &HeaderMap, target: &Target) -> Option<Known> {
    let told = || headers.get(CONTENT_DIGEST)?.to_str().ok()?.parse().ok();
    let length = headers.get(header::CONTENT_LENGTH)?.to_str().ok()?;
    let size = length.parse().ok()?;
    match target {
        Target::Manifest(reference) => {
            let digest = match reference {
                Reference::Digest(digest) => *digest,
                Reference::Tag(_) => told()?,
            };
            let link = manifest_link(&media_type(headers)?, size);
            Some(Known { digest, link })
        }
        Target::Blob(digest) => Some(Known {
            digest: *digest,
            link: LinkRecord {
                manifest: false,
                media_type: String::new(),
                size,
            },
        }),
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
