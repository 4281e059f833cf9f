//! What this node knows of repositories: reads and writes the store's records of them.
//!
//! A record answers only as far as [`Limit`] lets it, only while its repository counts as public,
//! and for a manifest only together with the manifest's bytes.

use std::time::Duration;

use bytes::Bytes;
use darner_proto::digest::Digest;
use darner_proto::name::{Reference, Source};
use darner_proto::peer::Target;

use super::answer::Found;
use super::freshness::{self, PUBLIC_FOR, STRETCHED_FOR, Standing, Statement};
use super::{MAX_MANIFEST, children};
use crate::store::{LinkRecord, Store, StoreError, TagRecord};
use crate::task::ServedFrom;

/// How old an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// Within its freshness time.
    Fresh,
    /// Beyond it, because upstream cannot be asked.
    Stretched,
}

/// For how long what upstream said of a tag counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct TagLives {
    /// Without asking again.
    pub(super) fresh: Duration,
    /// While upstream cannot be asked.
    pub(super) stretched: Duration,
}

impl Limit {
    fn admits(self, standing: Standing) -> bool {
        match self {
            Self::Fresh => standing == Standing::Fresh,
            Self::Stretched => standing <= Standing::Stretched,
        }
    }
}

/// The records. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Records {
    store: Store,
}

impl Records {
    pub(super) fn new(store: Store) -> Self {
        Self { store }
    }

    /// The answer that is held, if there is one.
    pub(super) async fn look(
        &self,
        source: &Source,
        target: &Target,
        limit: Limit,
        tags: TagLives,
    ) -> Option<Found> {
        let now = freshness::now_ms();
        let lives = (PUBLIC_FOR, STRETCHED_FOR);
        let public = freshness::judge(self.store.public_since(source)?, now, lives);
        if !limit.admits(public.standing) {
            return None;
        }
        match target {
            Target::Manifest(Reference::Tag(tag)) => {
                let record = self.store.tag(source, tag)?;
                let said = freshness::judge(record.checked_ms, now, (tags.fresh, tags.stretched));
                if !limit.admits(said.standing) {
                    return None;
                }
                self.manifest(source, &record.digest, said, public).await
            }
            Target::Manifest(Reference::Digest(digest)) => {
                self.manifest(source, digest, public, public).await
            }
            Target::Blob(digest) => {
                let link = self.store.link(source, digest)?;
                let known = !link.manifest;
                known.then(|| found(*digest, String::new(), link.size, (public, public)))
            }
        }
    }

    async fn manifest(
        &self,
        source: &Source,
        digest: &Digest,
        said: Statement,
        public: Statement,
    ) -> Option<Found> {
        let link = self.store.link(source, digest)?;
        if !link.manifest {
            return None;
        }
        let content = self.bytes(digest).await?;
        let size = content.len() as u64;
        let found = found(*digest, link.media_type, size, (said, public));
        Some(Found { content, ..found })
    }

    /// Whether content of this digest is held that could be a manifest.
    pub(super) fn holds_manifest(&self, digest: &Digest) -> bool {
        let size = self.store.size_of(digest);
        size.is_some_and(|size| size <= MAX_MANIFEST)
    }

    /// Held content that could be a manifest.
    pub(super) async fn bytes(&self, digest: &Digest) -> Option<Bytes> {
        let content = self.store.get(digest)?;
        // A link may call anything a manifest: a layer must not end up in memory.
        if content.size() > MAX_MANIFEST {
            return None;
        }
        match content.read(0..content.size()).await {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                tracing::warn!(%digest, %error, "a held manifest cannot be read; it is asked for anew");
                None
            }
        }
    }

    /// Whether `digest` is known to be part of the repository.
    pub(super) fn linked(&self, source: &Source, digest: &Digest) -> Option<LinkRecord> {
        self.store.link(source, digest)
    }

    /// Keeps a manifest and what it says about its parts. A store that has no room keeps what it
    /// can: the answer does not depend on it.
    pub(super) async fn keep_manifest(
        &self,
        source: &Source,
        digest: &Digest,
        media_type: &str,
        bytes: &Bytes,
    ) {
        if self.store.size_of(digest).is_none() {
            kept(source, self.store.put(digest, bytes.clone()).await);
        }
        let mut links = children::links(bytes);
        let longest = children::MAX_MEDIA_TYPE.min(media_type.len());
        let itself = LinkRecord {
            manifest: true,
            media_type: media_type.get(..longest).unwrap_or_default().to_owned(),
            size: bytes.len() as u64,
        };
        links.push((*digest, itself));
        kept(source, self.store.add_links(source, &links));
    }

    /// Keeps that a blob of this size is part of the repository.
    pub(super) fn keep_blob(&self, source: &Source, digest: &Digest, size: u64) {
        let link = LinkRecord {
            manifest: false,
            media_type: String::new(),
            size,
        };
        kept(source, self.store.add_links(source, &[(*digest, link)]));
    }

    /// Keeps what upstream said a tag means, unless something newer is known.
    pub(super) fn keep_tag(
        &self,
        source: &Source,
        tag: &darner_proto::name::Tag,
        digest: Digest,
        checked_ms: u64,
    ) {
        let known = self.store.tag(source, tag);
        if known.is_none_or(|known| known.checked_ms <= checked_ms) {
            let record = TagRecord { digest, checked_ms };
            kept(source, self.store.set_tag(source, tag, &record));
        }
    }

    /// Keeps that anyone could read the repository at `since_ms`. Says whether these are the first
    /// records of it.
    pub(super) fn keep_public(&self, source: &Source, since_ms: u64) -> bool {
        let known = self.store.public_since(source);
        if known.is_none_or(|known| known < since_ms) {
            kept(source, self.store.set_public(source, since_ms));
        }
        known.is_none()
    }

    /// For how long the repository still counts as public, fresh or for a stale answer.
    pub(super) fn public_left(&self, source: &Source) -> u64 {
        let since = self.store.public_since(source).unwrap_or(0);
        let age = freshness::now_ms().saturating_sub(since);
        freshness::public_left(age, false)
    }

    /// Anonymous readers are refused from now on.
    pub(super) fn forget_public(&self, source: &Source) {
        if self.store.public_since(source).is_some() {
            kept(source, self.store.forget_public(source));
        }
    }
}

fn found(
    digest: Digest,
    media_type: String,
    size: u64,
    (said, public): (Statement, Statement),
) -> Found {
    let stale = said.standing != Standing::Fresh || public.standing != Standing::Fresh;
    Found {
        digest,
        media_type,
        size,
        content: Bytes::new(),
        from: ServedFrom::Store,
        age_ms: said.age_ms,
        public_ms: freshness::public_left(public.age_ms, stale),
        stale,
    }
}

fn kept(source: &Source, result: Result<(), StoreError>) {
    match result {
        Ok(()) => {}
        Err(StoreError::Full { .. }) => {
            tracing::debug!(%source, "the store has no room for a record")
        }
        Err(error) => tracing::warn!(%source, %error, "a record is not kept"),
    }
}
