//! What peers tell each other over the pieces listener, checked: the domain form of `peer.proto`,
//! and the paths and headers of that listener.

use std::ops::Range;
use std::time::Duration;

use crate::digest::Digest;
use crate::geometry::{Geometry, MAX_SIZE};
use crate::invalid::Invalid;
use crate::name::{Reference, Source};
use crate::piece_map::PieceRun;
use crate::piece_set::{PieceSet, ranges_to_wire};
use crate::wire;

/// `GET /v1/tasks/<digest>/availability`: a stream of [`Availability`] frames for as long as the
/// content arrives. With `?size=&registry=&repository=` a seed that has no such task starts one.
/// `GET /v1/tasks/<digest>/pieces?want=0-3,7`: one run of the wanted pieces, chosen by the parent.
/// `POST /v1/tasks/<digest>/hold?size=…[&seconds=…]`: the peer is to hold content, and says how much
/// of it is there.
/// `POST /v1/resolve`: [`ResolveRequest`] in, [`ResolveReply`] out.
pub const PATH_PREFIX: &str = "/v1";
/// Below it the same paths for what is not public, at a seed alone. `resolve` takes a
/// [`PrivateRequest`] and answers a [`PrivateReply`]; all else needs a ticket from there.
pub const PRIVATE_PREFIX: &str = "/v1/private";
/// The ticket for a private content, as a [`PrivateReply`] gave it.
pub const TICKET: &str = "darner-ticket";
/// First piece of the run in the answer to a pieces request.
pub const FIRST_PIECE: &str = "darner-first-piece";
/// How many pieces that run has.
pub const PIECE_COUNT: &str = "darner-piece-count";
/// The content's size, for a check before the first byte is read.
pub const CONTENT_SIZE: &str = "darner-content-size";
/// Who asks, by its host id: a parent sees to it that no child takes every place in its queue.
pub const CHILD: &str = "darner-child";
/// With a request for pieces that nobody waits for: what others wait for goes before it.
pub const PATIENT: &str = "darner-patient";
/// With a request for pieces that wait elsewhere already: they are sent at once or not at all.
pub const AT_ONCE: &str = "darner-at-once";
/// With a "busy" (503) answer: milliseconds after which to ask again.
pub const BUSY_FOR: &str = "darner-busy-for-ms";
/// Bytes of a content that a peer holds, in answer to the request that it hold it.
pub const HELD_BYTES: &str = "darner-held-bytes";
/// With an availability stream: milliseconds after which the content is to go.
pub const ENDS_IN: &str = "darner-ends-in-ms";
/// No frame of an availability stream is longer than this many bytes.
pub const MAX_FRAME: usize = 1 << 20;

/// How a child waits for pieces that it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Nobody waits for them there: the request gives way to what somebody waits for.
    Idly,
    /// The request takes its place in the queue.
    InTurn,
    /// Not at all: they wait elsewhere already.
    Not,
}

impl Wait {
    /// The header that says so, if it takes one.
    pub fn header(self) -> Option<&'static str> {
        match self {
            Self::Idly => Some(PATIENT),
            Self::InTurn => None,
            Self::Not => Some(AT_ONCE),
        }
    }

    /// As a request says that has the headers for which `has` is true.
    pub fn of(has: impl Fn(&str) -> bool) -> Self {
        if has(PATIENT) {
            Self::Idly
        } else if has(AT_ONCE) {
            Self::Not
        } else {
            Self::InTurn
        }
    }
}

/// Nobody can have the others leave a registry alone for longer.
pub const MAX_QUIET: Duration = Duration::from_secs(60);

/// What has become available at a peer since its last frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Availability {
    /// Bytes of the content.
    pub size: u64,
    /// Pieces that have become available since the last frame.
    pub available: Vec<Range<u32>>,
    /// What is stated about them; a statement may cover more pieces than are available.
    pub runs: Vec<PieceRun>,
    /// The peer holds the whole content.
    pub complete: bool,
    /// Bytes the peer has received so far, whole pieces or not.
    pub received_bytes: u64,
}

/// What a repository's owner is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolveRequest {
    /// The repository.
    pub source: Source,
    /// What of it.
    pub target: Target,
    /// Whether to answer only from what is held, without upstream.
    pub held_only: bool,
    /// For how long the registry has asked the sender to send it nothing.
    pub quiet: Duration,
}

/// What is looked up in a repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// A manifest by tag or digest.
    Manifest(Reference),
    /// A blob: its size, and that it belongs to the repository.
    Blob(Digest),
}

/// What a repository's owner answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResolveReply {
    /// It is there, and public.
    Found(Resolved),
    /// Anonymous readers are refused.
    NotPublic,
    /// Upstream has no such thing.
    NotFound,
    /// Upstream cannot be asked and nothing is held.
    Unavailable {
        /// Why, for the log and the client.
        detail: String,
        /// For how long the registry has asked to be left alone.
        quiet: Duration,
    },
}

/// Content that anyone may read, as upstream described it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Its digest.
    pub digest: Digest,
    /// Its media type as upstream sent it; empty for a blob.
    pub media_type: String,
    /// Bytes.
    pub size: u64,
    /// Milliseconds since upstream said so.
    pub age_ms: u64,
    /// Milliseconds for which the repository still counts as public.
    pub public_ms: u64,
    /// Served beyond its freshness time because upstream cannot be asked.
    pub stale: bool,
    /// The manifest's bytes, which have the digest; empty for a blob.
    pub content: Vec<u8>,
}

/// A look-up in a repository that is not public, for a client that shows a credential. Its `Debug`
/// does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateRequest {
    /// What is looked up.
    pub request: ResolveRequest,
    /// The client's credential, as in the header of that name.
    pub authorization: String,
}

impl std::fmt::Debug for PrivateRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("PrivateRequest");
        shown
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

/// What a seed answers to a [`PrivateRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateReply {
    /// `NotPublic` when upstream refuses the credential.
    pub reply: ResolveReply,
    /// For a blob that was found: a ticket, and for how long it is good.
    pub ticket: Option<(String, Duration)>,
}

fn millis(quiet: Duration) -> u32 {
    u32::try_from(quiet.as_millis()).unwrap_or(u32::MAX)
}

fn quiet(ms: u32) -> Duration {
    Duration::from_millis(ms.into()).min(MAX_QUIET)
}

impl From<&Availability> for wire::Availability {
    fn from(frame: &Availability) -> Self {
        Self {
            size: frame.size,
            piece_length: Geometry::of(frame.size).piece_length(),
            available: ranges_to_wire(&frame.available),
            runs: frame.runs.iter().map(Into::into).collect(),
            complete: frame.complete,
            received_bytes: frame.received_bytes,
        }
    }
}

impl TryFrom<wire::Availability> for Availability {
    type Error = Invalid;

    fn try_from(frame: wire::Availability) -> Result<Self, Invalid> {
        let geometry = Geometry::of(frame.size);
        if frame.size > MAX_SIZE || frame.piece_length != geometry.piece_length() {
            return Err(Invalid::new("availability", "cuts the content differently"));
        }
        let runs = frame
            .runs
            .into_iter()
            .map(|run| PieceRun::from_wire(run, &geometry));
        Ok(Self {
            available: PieceSet::from_wire(&frame.available, geometry.pieces())?.runs(),
            size: frame.size,
            runs: runs.collect::<Result<_, _>>()?,
            complete: frame.complete,
            received_bytes: frame.received_bytes,
        })
    }
}

impl From<&ResolveRequest> for wire::ResolveRequest {
    fn from(request: &ResolveRequest) -> Self {
        use wire::resolve_request::Reference as Wire;
        let reference = match &request.target {
            Target::Manifest(Reference::Tag(tag)) => Wire::Tag(tag.to_string()),
            Target::Manifest(Reference::Digest(digest)) => Wire::Manifest(digest.to_wire().into()),
            Target::Blob(digest) => Wire::Blob(digest.to_wire().into()),
        };
        Self {
            repository: Some((&request.source).into()),
            reference: Some(reference),
            held_only: request.held_only,
            quiet_ms: millis(request.quiet),
        }
    }
}

impl TryFrom<wire::ResolveRequest> for ResolveRequest {
    type Error = Invalid;

    fn try_from(request: wire::ResolveRequest) -> Result<Self, Invalid> {
        use wire::resolve_request::Reference as Wire;
        let missing = |what| Invalid::new(what, "is missing");
        let target = match request.reference.ok_or_else(|| missing("reference"))? {
            Wire::Tag(tag) => Target::Manifest(Reference::Tag(tag.parse()?)),
            Wire::Manifest(digest) => {
                Target::Manifest(Reference::Digest(Digest::from_wire(&digest)?))
            }
            Wire::Blob(digest) => Target::Blob(Digest::from_wire(&digest)?),
        };
        Ok(Self {
            source: request
                .repository
                .ok_or_else(|| missing("repository"))?
                .try_into()?,
            target,
            held_only: request.held_only,
            quiet: quiet(request.quiet_ms),
        })
    }
}

impl From<&ResolveReply> for wire::ResolveReply {
    fn from(reply: &ResolveReply) -> Self {
        let outcome = |outcome: wire::ResolveOutcome| Self {
            outcome: outcome.into(),
            ..Self::default()
        };
        match reply {
            ResolveReply::Found(found) => Self {
                digest: found.digest.to_wire().into(),
                media_type: found.media_type.clone(),
                size: found.size,
                age_ms: found.age_ms,
                public_ms: found.public_ms,
                content: found.content.clone().into(),
                stale: found.stale,
                ..outcome(wire::ResolveOutcome::Found)
            },
            ResolveReply::NotPublic => outcome(wire::ResolveOutcome::NotPublic),
            ResolveReply::NotFound => outcome(wire::ResolveOutcome::NotFound),
            ResolveReply::Unavailable { detail, quiet } => Self {
                detail: detail.clone(),
                quiet_ms: millis(*quiet),
                ..outcome(wire::ResolveOutcome::Unavailable)
            },
        }
    }
}

impl TryFrom<wire::ResolveReply> for ResolveReply {
    type Error = Invalid;

    /// A manifest whose bytes do not have the digest they came with is refused here.
    fn try_from(reply: wire::ResolveReply) -> Result<Self, Invalid> {
        match reply.outcome() {
            wire::ResolveOutcome::Found => {
                let digest = Digest::from_wire(&reply.digest)?;
                if !reply.content.is_empty() && !digest.matches(&reply.content) {
                    return Err(Invalid::new(
                        "manifest",
                        "does not have the digest it came with",
                    ));
                }
                if reply.size > MAX_SIZE {
                    return Err(Invalid::new("size", "is above 64 GiB"));
                }
                Ok(Self::Found(Resolved {
                    digest,
                    media_type: reply.media_type,
                    size: reply.size,
                    age_ms: reply.age_ms,
                    public_ms: reply.public_ms,
                    stale: reply.stale,
                    content: reply.content.to_vec(),
                }))
            }
            wire::ResolveOutcome::NotPublic => Ok(Self::NotPublic),
            wire::ResolveOutcome::NotFound => Ok(Self::NotFound),
            wire::ResolveOutcome::Unavailable => Ok(Self::Unavailable {
                detail: reply.detail,
                quiet: quiet(reply.quiet_ms),
            }),
            wire::ResolveOutcome::Unspecified => Err(Invalid::new("outcome", "is missing")),
        }
    }
}

impl From<&PrivateRequest> for wire::PrivateRequest {
    fn from(request: &PrivateRequest) -> Self {
        Self {
            request: Some((&request.request).into()),
            authorization: request.authorization.clone(),
        }
    }
}

impl TryFrom<wire::PrivateRequest> for PrivateRequest {
    type Error = Invalid;

    fn try_from(request: wire::PrivateRequest) -> Result<Self, Invalid> {
        let asked = request.request;
        let asked = asked.ok_or_else(|| Invalid::new("request", "is missing"))?;
        Ok(Self {
            request: asked.try_into()?,
            authorization: request.authorization,
        })
    }
}

impl From<&PrivateReply> for wire::PrivateReply {
    fn from(reply: &PrivateReply) -> Self {
        let (ticket, life) = reply.ticket.clone().unwrap_or_default();
        Self {
            reply: Some((&reply.reply).into()),
            ticket,
            ticket_ms: millis(life),
        }
    }
}

impl TryFrom<wire::PrivateReply> for PrivateReply {
    type Error = Invalid;

    fn try_from(reply: wire::PrivateReply) -> Result<Self, Invalid> {
        let answer = reply.reply;
        let answer = answer.ok_or_else(|| Invalid::new("reply", "is missing"))?;
        let ticket = (reply.ticket, Duration::from_millis(reply.ticket_ms.into()));
        Ok(Self {
            reply: answer.try_into()?,
            ticket: (!ticket.0.is_empty()).then_some(ticket),
        })
    }
}
