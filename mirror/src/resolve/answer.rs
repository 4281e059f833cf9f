//! What a look-up ends in, and its form between nodes.

use bytes::Bytes;
use darner_proto::digest::Digest;
use darner_proto::id::{Host, Role};
use darner_proto::name::Reference;
use darner_proto::peer::{ResolveReply, Resolved, Target};

use super::MAX_MANIFEST;
use crate::task::ServedFrom;

/// What a name means, and whether anyone may read it.
#[derive(Debug, Clone)]
pub enum Answer {
    /// It is there, and public.
    Found(Found),
    /// Anonymous readers are refused: only upstream can say whether this caller may read it.
    NotPublic,
    /// Upstream says to anonymous readers that there is no such thing.
    NotFound,
    /// Upstream cannot be asked and nothing is held.
    Unavailable {
        /// Why, for the log.
        detail: String,
    },
}

/// Public content, as upstream described it.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its digest.
    pub digest: Digest,
    /// As upstream sent it; empty for a blob.
    pub media_type: String,
    /// Bytes.
    pub size: u64,
    /// A manifest's bytes, which have the digest; empty for a blob.
    pub content: Bytes,
    /// Where those bytes, or for a blob the word of it, came from.
    pub from: ServedFrom,
    /// Milliseconds since upstream said so.
    pub age_ms: u64,
    /// Milliseconds for which the repository still counts as public.
    pub public_ms: u64,
    /// Beyond its freshness time; upstream cannot be asked.
    pub stale: bool,
}

impl From<Answer> for ResolveReply {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Found(found) => Self::Found(Resolved {
                digest: found.digest,
                media_type: found.media_type,
                size: found.size,
                age_ms: found.age_ms,
                public_ms: found.public_ms,
                stale: found.stale,
                content: found.content.into(),
            }),
            Answer::NotPublic => Self::NotPublic,
            Answer::NotFound => Self::NotFound,
            Answer::Unavailable { detail } => Self::Unavailable {
                detail,
                quiet: std::time::Duration::ZERO,
            },
        }
    }
}

/// The digest that `target` names, if it names one.
pub(super) fn digest_of(target: &Target) -> Option<&Digest> {
    match target {
        Target::Manifest(Reference::Digest(digest)) | Target::Blob(digest) => Some(digest),
        Target::Manifest(Reference::Tag(_)) => None,
    }
}

/// What another node said, if it fits the question. The bytes were checked against their digest
/// when they arrived.
pub(super) fn accept(reply: ResolveReply, target: &Target, host: &Host) -> Option<Answer> {
    let found = match reply {
        ResolveReply::Found(found) => found,
        ResolveReply::NotPublic => return Some(Answer::NotPublic),
        ResolveReply::NotFound => return Some(Answer::NotFound),
        ResolveReply::Unavailable { detail, .. } => return Some(Answer::Unavailable { detail }),
    };
    let length = found.content.len() as u64;
    let fits = match target {
        Target::Manifest(_) => (1..=MAX_MANIFEST).contains(&length) && found.size == length,
        Target::Blob(_) => length == 0,
    };
    if !fits || digest_of(target).is_some_and(|asked| *asked != found.digest) {
        return None;
    }
    let from = match host.role {
        Role::Seed => ServedFrom::Seed,
        Role::Mirror | Role::Scheduler => ServedFrom::Peer,
    };
    Some(Answer::Found(Found {
        digest: found.digest,
        media_type: found.media_type,
        size: found.size,
        content: found.content.into(),
        from,
        age_ms: found.age_ms,
        public_ms: found.public_ms,
        stale: found.stale,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(role: Role) -> Host {
        Host {
            id: "other".parse().unwrap(),
            address: "127.0.0.1:1".to_owned(),
            role,
            labels: Default::default(),
            signing_key: None,
            upload_slots: 1,
        }
    }

    fn reply(content: &[u8], size: u64) -> ResolveReply {
        ResolveReply::Found(Resolved {
            digest: Digest::sha256(content),
            media_type: "application/x".to_owned(),
            size,
            age_ms: 5,
            public_ms: 6,
            stale: false,
            content: content.to_vec(),
        })
    }

    #[test]
    fn an_answer_to_another_question_is_not_taken() {
        let tag = Target::Manifest(Reference::Tag("v1".parse().unwrap()));
        let by_digest = |bytes: &[u8]| Target::Manifest(Reference::Digest(Digest::sha256(bytes)));
        let blob = Target::Blob(Digest::sha256(b""));
        let seed = host(Role::Seed);
        assert!(accept(reply(b"m", 1), &tag, &seed).is_some());
        assert!(accept(reply(b"m", 1), &by_digest(b"m"), &seed).is_some());
        assert!(accept(reply(b"m", 1), &by_digest(b"n"), &seed).is_none());
        assert!(accept(reply(b"m", 2), &tag, &seed).is_none());
        assert!(accept(reply(b"", 0), &tag, &seed).is_none());
        assert!(accept(reply(b"", 7), &blob, &seed).is_some());
        assert!(accept(reply(b"m", 1), &blob, &seed).is_none());
    }

    #[test]
    fn who_answered_is_remembered() {
        let tag = Target::Manifest(Reference::Tag("v1".parse().unwrap()));
        let from = |role| match accept(reply(b"m", 1), &tag, &host(role)) {
            Some(Answer::Found(found)) => found.from,
            other => panic!("{other:?}"),
        };
        assert_eq!(from(Role::Seed), ServedFrom::Seed);
        assert_eq!(from(Role::Mirror), ServedFrom::Peer);
    }
}
