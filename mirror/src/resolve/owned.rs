//! A look-up by the repository's owner: asks upstream, anonymously and on behalf of everybody.
//!
//! Upstream's answer to any anonymous request for content of the repository is also its word that
//! the repository is public.

use std::time::Duration;

use darner_proto::digest::Digest;
use darner_proto::name::{Reference, Source, Tag};
use darner_proto::peer::Target;
use darner_service::telemetry::with_causes;
use tokio::time::Instant;

use super::Resolver;
use super::answer::{Answer, Found};
use super::freshness;
use super::records::Limit;
use crate::task::ServedFrom;
use crate::upstream::{Access, Manifest, Upstream, UpstreamError, UpstreamErrorKind};

/// Upstream gets this long before old records are used in its place.
const UPSTREAM_PATIENCE: Duration = Duration::from_secs(5);

/// Looks `target` up in the node's records, then upstream.
pub(super) async fn look_up(resolver: &Resolver, source: &Source, target: &Target) -> Answer {
    let Some(upstream) = resolver.inner.upstreams.get(&source.registry) else {
        let detail = format!(
            "{} is not configured on the node that was asked",
            source.registry
        );
        return Answer::Unavailable { detail };
    };
    // Another look-up may just have ended.
    if let Some(found) = resolver.held(source, target, Limit::Fresh).await {
        return Answer::Found(found);
    }
    let asking = Asking {
        resolver,
        upstream,
        source,
    };
    // Nobody waits for it again so soon where what it last said will do.
    if asking.upstream.is_out_of_reach()
        && let Some(found) = resolver.held(source, target, Limit::Stretched).await
    {
        return Answer::Found(found);
    }
    let began = Instant::now();
    let asked = tokio::time::timeout(UPSTREAM_PATIENCE, asking.ask(target)).await;
    let answer = match asked {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => asking.refused(target, &error).await,
        Err(_) => {
            asking.upstream.given_up(began);
            Answer::Unavailable {
                detail: "upstream does not answer in time".to_owned(),
            }
        }
    };
    match answer {
        Answer::Unavailable { detail } => {
            match resolver.held(source, target, Limit::Stretched).await {
                Some(found) => Answer::Found(found),
                None => Answer::Unavailable { detail },
            }
        }
        answer => answer,
    }
}

struct Asking<'a> {
    resolver: &'a Resolver,
    upstream: Upstream,
    source: &'a Source,
}

impl Asking<'_> {
    async fn ask(&self, target: &Target) -> Result<Answer, UpstreamError> {
        match target {
            Target::Manifest(Reference::Tag(tag)) => self.tag(tag).await,
            Target::Manifest(Reference::Digest(digest)) => {
                self.manifest(digest).await.map(Answer::Found)
            }
            Target::Blob(digest) => self.blob(digest).await.map(Answer::Found),
        }
    }

    async fn refused(&self, target: &Target, error: &UpstreamError) -> Answer {
        match error.kind() {
            UpstreamErrorKind::Denied => {
                self.resolver.inner.records.forget_public(self.source);
                Answer::NotPublic
            }
            UpstreamErrorKind::NotFound => {
                if let Target::Manifest(Reference::Tag(tag)) = target {
                    let key = (self.source.clone(), tag.clone());
                    self.resolver.inner.missing.insert(key, ()).await;
                }
                Answer::NotFound
            }
            UpstreamErrorKind::Unavailable | UpstreamErrorKind::Invalid => {
                tracing::warn!(source = %self.source, error = %with_causes(error), "upstream cannot be asked about a repository");
                Answer::Unavailable {
                    detail: error.to_string(),
                }
            }
        }
    }

    /// One `HEAD` for everybody; the manifest itself is read only if it is not held.
    async fn tag(&self, tag: &Tag) -> Result<Answer, UpstreamError> {
        let missing = &self.resolver.inner.missing;
        if missing.contains_key(&(self.source.clone(), tag.clone())) {
            return Ok(Answer::NotFound);
        }
        let asked_ms = freshness::now_ms();
        let reference = Reference::Tag(tag.clone());
        let repository = &self.source.repository;
        let head = self
            .upstream
            .head_manifest(repository, &reference, Access::Anonymous)
            .await?;
        let answer = match head.digest {
            Some(digest) => {
                self.public(asked_ms);
                self.named(&digest, &head.media_type).await
            }
            // An old registry: only the manifest itself says what it is.
            None => {
                let read = self
                    .upstream
                    .manifest(repository, &reference, Access::Anonymous)
                    .await?;
                Answer::Found(self.read(read, asked_ms).await)
            }
        };
        let Answer::Found(found) = answer else {
            return Ok(answer);
        };
        let records = &self.resolver.inner.records;
        records.keep_tag(self.source, tag, found.digest, asked_ms);
        let age_ms = freshness::now_ms().saturating_sub(asked_ms);
        Ok(Answer::Found(Found { age_ms, ..found }))
    }

    /// The manifest that upstream has just named.
    async fn named(&self, digest: &Digest, media_type: &str) -> Answer {
        if let Some(found) = self.held_manifest(digest, media_type).await {
            return Answer::Found(found);
        }
        let target = Target::Manifest(Reference::Digest(*digest));
        self.resolver.owned(self.source.clone(), target).await
    }

    async fn manifest(&self, digest: &Digest) -> Result<Found, UpstreamError> {
        let asked_ms = freshness::now_ms();
        let reference = Reference::Digest(*digest);
        let repository = &self.source.repository;
        // The bytes are here: what is missing is upstream's word that they are this repository's.
        if self.resolver.inner.records.holds_manifest(digest) {
            let head = self
                .upstream
                .head_manifest(repository, &reference, Access::Anonymous)
                .await?;
            self.public(asked_ms);
            if let Some(found) = self.held_manifest(digest, &head.media_type).await {
                return Ok(found);
            }
        }
        let read = self
            .upstream
            .manifest(repository, &reference, Access::Anonymous)
            .await?;
        Ok(self.read(read, asked_ms).await)
    }

    async fn blob(&self, digest: &Digest) -> Result<Found, UpstreamError> {
        let asked_ms = freshness::now_ms();
        let size = self
            .upstream
            .head_blob(&self.source.repository, digest, Access::Anonymous)
            .await?;
        self.public(asked_ms);
        let records = &self.resolver.inner.records;
        if records
            .linked(self.source, digest)
            .is_none_or(|link| link.size != size)
        {
            records.keep_blob(self.source, digest, size);
        }
        Ok(Found {
            digest: *digest,
            media_type: String::new(),
            size,
            content: bytes::Bytes::new(),
            from: ServedFrom::Upstream,
            age_ms: freshness::now_ms().saturating_sub(asked_ms),
            public_ms: freshness::public_left(freshness::now_ms().saturating_sub(asked_ms), false),
            stale: false,
        })
    }

    /// Held bytes that upstream says are a manifest of this repository.
    async fn held_manifest(&self, digest: &Digest, media_type: &str) -> Option<Found> {
        let records = &self.resolver.inner.records;
        let content = records.bytes(digest).await?;
        records
            .keep_manifest(self.source, digest, media_type, &content)
            .await;
        Some(Found {
            digest: *digest,
            media_type: media_type.to_owned(),
            size: content.len() as u64,
            content,
            from: ServedFrom::Store,
            age_ms: 0,
            public_ms: records.public_left(self.source),
            stale: false,
        })
    }

    /// A manifest that upstream has just sent.
    async fn read(&self, manifest: Manifest, asked_ms: u64) -> Found {
        self.public(asked_ms);
        let records = &self.resolver.inner.records;
        records
            .keep_manifest(
                self.source,
                &manifest.digest,
                &manifest.media_type,
                &manifest.bytes,
            )
            .await;
        let age_ms = freshness::now_ms().saturating_sub(asked_ms);
        Found {
            digest: manifest.digest,
            media_type: manifest.media_type,
            size: manifest.bytes.len() as u64,
            content: manifest.bytes,
            from: ServedFrom::Upstream,
            age_ms,
            public_ms: freshness::public_left(age_ms, false),
            stale: false,
        }
    }

    fn public(&self, asked_ms: u64) {
        self.resolver.keep_public(self.source, asked_ms);
    }
}
