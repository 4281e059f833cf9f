//! Which images a node holds, as it tells the manager (`catalog.proto`).
//!
//! An image is a manifest that lists blobs; an index is known by the images it lists. A node tells
//! of at most [`MAX_IMAGES`], and what changes in parts of bounded size. What an image consists of is
//! the same everywhere, so it is told once, by whoever the manager asks for it.

use std::sync::Arc;

use crate::digest::Digest;
use crate::invalid::Invalid;
use crate::name::{Source, Tag};
use crate::wire;

#[cfg(test)]
mod tests;

/// Images that a node tells of, those of the repositories used last: more than fit a store of usual
/// size, and with 5,000 nodes some hundred megabytes at the manager.
pub const MAX_IMAGES: usize = 512;
/// Images in one report.
pub const MAX_HELD: usize = 64;
/// Images gone in one report.
pub const MAX_GONE: usize = 256;
/// Images whose parts are in one report, or are asked for in one reply.
pub const MAX_FACTS: usize = 16;
/// Blobs of one image; of those beyond nothing is told. As many as a manifest is read for.
pub const MAX_BLOBS: usize = 1000;
/// Repositories in which one image is known.
pub const MAX_NAMES: usize = 8;
/// Tags of one image in one repository, those asked for last.
pub const MAX_TAGS: usize = 16;
/// The longest platform told.
const MAX_PLATFORM: usize = 98;
/// The largest report: facts of [`MAX_FACTS`] images with [`MAX_BLOBS`] blobs of 80 bytes, and
/// [`MAX_HELD`] images with every name and tag of the longest.
pub const MAX_REPORT: usize = 4 << 20;

/// An image as a node holds it: what anybody may read and what only some may are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageKey {
    /// Of its manifest.
    pub digest: Digest,
    /// Not everybody may read it.
    pub private: bool,
}

/// An image that a node holds, or a part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub key: ImageKey,
    /// What it is called.
    pub names: Vec<Name>,
    /// Which of its blobs are held.
    pub blobs: Share,
}

/// What an image is called in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The repository.
    pub source: Source,
    /// Its tags there.
    pub tags: Vec<TagName>,
}

/// A tag, as upstream said when it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagName {
    /// The tag.
    pub tag: Tag,
    /// What it means: the manifest, or an index that lists it.
    pub named: Digest,
    /// Unix time in ms of when upstream said so.
    pub checked_ms: u64,
}

/// Which of an image's blobs are held, in the order of its facts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Share(Box<[u8]>);

/// What an image consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Of its manifest.
    pub digest: Digest,
    /// `os/architecture[/variant]`, or nothing where that is not known.
    pub platform: String,
    /// Its blobs, each once.
    pub blobs: Vec<Blob>,
}

/// A blob of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The image's configuration, not a layer.
    pub config: bool,
}

/// A part of what a node tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HoldingsReport {
    /// One above that of the report before.
    pub sequence: u64,
    /// What was told before is to be forgotten.
    pub anew: bool,
    /// New, or otherwise than before.
    pub held: Vec<Arc<Held>>,
    /// No longer held.
    pub gone: Vec<ImageKey>,
    /// What images consist of.
    pub facts: Vec<Arc<Facts>>,
    /// Images beyond [`MAX_IMAGES`].
    pub left_off: u32,
}

/// The answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HoldingsReply {
    /// All is to be told anew.
    pub again: bool,
    /// Of which images the facts are wanted.
    pub unknown: Vec<Digest>,
}

impl Held {
    /// Whether `other` says the same, but for when upstream was asked: that is often, and changes
    /// nothing while the answers are the same.
    pub fn says_as(&self, other: &Self) -> bool {
        let names = |held: &Self| {
            let mut names = held.names.clone();
            for tag in names.iter_mut().flat_map(|name| &mut name.tags) {
                tag.checked_ms = 0;
            }
            names
        };
        self.key == other.key && self.blobs == other.blobs && names(self) == names(other)
    }
}

impl Share {
    /// One bit for each blob.
    pub fn of(held: impl IntoIterator<Item = bool>) -> Self {
        let mut bytes = Vec::new();
        let mut all = true;
        for (at, held) in held.into_iter().take(MAX_BLOBS).enumerate() {
            if at % 8 == 0 {
                bytes.push(0);
            }
            all &= held;
            if let (true, Some(last)) = (held, bytes.last_mut()) {
                *last |= 1 << (at % 8);
            }
        }
        match all {
            true => Self::default(),
            false => Self(bytes.into()),
        }
    }

    /// Whether every blob is held.
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the blob at this place is held.
    pub fn has(&self, at: usize) -> bool {
        let byte = self.0.get(at / 8);
        self.is_all() || byte.is_some_and(|byte| byte >> (at % 8) & 1 == 1)
    }
}

impl From<&HoldingsReport> for wire::HoldingsReport {
    /// Without who tells it.
    fn from(report: &HoldingsReport) -> Self {
        Self {
            id: String::new(),
            role: 0,
            sequence: report.sequence,
            anew: report.anew,
            held: report.held.iter().map(|held| (&**held).into()).collect(),
            gone: report.gone.iter().map(Into::into).collect(),
            facts: report.facts.iter().map(|facts| (&**facts).into()).collect(),
            left_off: report.left_off,
        }
    }
}

impl TryFrom<wire::HoldingsReport> for HoldingsReport {
    type Error = Invalid;

    fn try_from(report: wire::HoldingsReport) -> Result<Self, Invalid> {
        Ok(Self {
            sequence: report.sequence,
            anew: report.anew,
            held: shared(all(report.held, MAX_HELD)?),
            gone: all(report.gone, MAX_GONE)?,
            facts: shared(all(report.facts, MAX_FACTS)?),
            left_off: report.left_off,
        })
    }
}

/// At most `most` of them; one that is wrong makes all wrong.
fn all<W, T: TryFrom<W, Error = Invalid>>(told: Vec<W>, most: usize) -> Result<Vec<T>, Invalid> {
    told.into_iter().take(most).map(T::try_from).collect()
}

fn shared<T>(all: Vec<T>) -> Vec<Arc<T>> {
    all.into_iter().map(Arc::new).collect()
}

impl From<&HoldingsReply> for wire::HoldingsReply {
    fn from(reply: &HoldingsReply) -> Self {
        Self {
            again: reply.again,
            unknown: reply.unknown.iter().map(digest).collect(),
        }
    }
}

impl TryFrom<wire::HoldingsReply> for HoldingsReply {
    type Error = Invalid;

    fn try_from(reply: wire::HoldingsReply) -> Result<Self, Invalid> {
        let unknown = reply.unknown.iter().take(MAX_FACTS);
        Ok(Self {
            again: reply.again,
            unknown: unknown
                .map(|digest| Digest::from_wire(digest))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl From<&ImageKey> for wire::ImageKey {
    fn from(key: &ImageKey) -> Self {
        Self {
            digest: digest(&key.digest),
            private: key.private,
        }
    }
}

impl TryFrom<wire::ImageKey> for ImageKey {
    type Error = Invalid;

    fn try_from(key: wire::ImageKey) -> Result<Self, Invalid> {
        Ok(Self {
            digest: Digest::from_wire(&key.digest)?,
            private: key.private,
        })
    }
}

impl From<&Held> for wire::HeldImage {
    fn from(held: &Held) -> Self {
        Self {
            key: Some((&held.key).into()),
            names: held.names.iter().take(MAX_NAMES).map(Into::into).collect(),
            blobs: held.blobs.0.to_vec().into(),
        }
    }
}

impl TryFrom<wire::HeldImage> for Held {
    type Error = Invalid;

    fn try_from(held: wire::HeldImage) -> Result<Self, Invalid> {
        let key = held
            .key
            .ok_or_else(|| Invalid::new("image", "has no key"))?;
        if held.blobs.len() > MAX_BLOBS.div_ceil(8) {
            return Err(Invalid::new("image", "has more blobs than any may have"));
        }
        Ok(Self {
            key: key.try_into()?,
            names: all(held.names, MAX_NAMES)?,
            blobs: Share(held.blobs.to_vec().into()),
        })
    }
}

impl From<&Name> for wire::ImageName {
    fn from(name: &Name) -> Self {
        let tags = name.tags.iter().take(MAX_TAGS).map(|tag| wire::ImageTag {
            tag: tag.tag.to_string(),
            named: digest(&tag.named),
            checked_ms: tag.checked_ms,
        });
        Self {
            source: Some((&name.source).into()),
            tags: tags.collect(),
        }
    }
}

impl TryFrom<wire::ImageName> for Name {
    type Error = Invalid;

    fn try_from(name: wire::ImageName) -> Result<Self, Invalid> {
        let source = name.source;
        let source = source.ok_or_else(|| Invalid::new("image name", "has no repository"))?;
        Ok(Self {
            source: source.try_into()?,
            tags: all(name.tags, MAX_TAGS)?,
        })
    }
}

impl TryFrom<wire::ImageTag> for TagName {
    type Error = Invalid;

    fn try_from(tag: wire::ImageTag) -> Result<Self, Invalid> {
        Ok(Self {
            tag: tag.tag.parse()?,
            named: Digest::from_wire(&tag.named)?,
            checked_ms: tag.checked_ms,
        })
    }
}

impl From<&Facts> for wire::ImageFacts {
    fn from(facts: &Facts) -> Self {
        let blobs = facts.blobs.iter().take(MAX_BLOBS);
        Self {
            digest: digest(&facts.digest),
            platform: facts.platform.clone(),
            blobs: blobs
                .map(|blob| wire::ImageBlob {
                    digest: digest(&blob.digest),
                    size: blob.size,
                    config: blob.config,
                })
                .collect(),
        }
    }
}

impl TryFrom<wire::ImageFacts> for Facts {
    type Error = Invalid;

    fn try_from(facts: wire::ImageFacts) -> Result<Self, Invalid> {
        let platform = facts.platform;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
        let is_platform = platform.len() <= MAX_PLATFORM && platform.bytes().all(fits);
        Ok(Self {
            digest: Digest::from_wire(&facts.digest)?,
            platform: match is_platform {
                true => platform,
                false => String::new(),
            },
            blobs: all(facts.blobs, MAX_BLOBS)?,
        })
    }
}

impl TryFrom<wire::ImageBlob> for Blob {
    type Error = Invalid;

    fn try_from(blob: wire::ImageBlob) -> Result<Self, Invalid> {
        Ok(Self {
            digest: Digest::from_wire(&blob.digest)?,
            size: blob.size,
            config: blob.config,
        })
    }
}

fn digest(digest: &Digest) -> bytes::Bytes {
    digest.to_wire().into()
}
