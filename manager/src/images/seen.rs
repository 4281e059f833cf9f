//! The catalog as somebody sees it: lists with filters, one image, who holds it.
//!
//! What not everybody may read is seen by those who [`Sees::All`]; to others it is not there.

use std::ops::Bound::{Excluded, Unbounded};

use darner_proto::digest::Digest;
use darner_proto::holdings::{Blob, Facts, ImageKey, Share};
use darner_proto::id::{HostId, Role};
use darner_proto::name::{RegistryName, RepositoryName, Source};

use super::catalog::{Catalog, Image};

/// Who looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sees {
    /// Everything.
    All,
    /// What anybody may read.
    Public,
}

/// Which images are looked for.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// In `registry/repository:tag`, or without a tag.
    pub name: Option<String>,
    /// Of the manifest or of a blob.
    pub digest: Option<Digest>,
    /// Held by this node.
    pub node: Option<HostId>,
}

/// Where a list goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    source: Source,
    key: ImageKey,
}

/// An image in a repository.
#[derive(Debug, Clone)]
pub struct Row {
    /// The repository, and which image.
    pub at: Cursor,
    /// Its tags there.
    pub tags: Vec<String>,
    /// What it consists of, where that is known.
    pub facts: Option<std::sync::Arc<Facts>>,
    /// Nodes that hold a part of it.
    pub nodes: usize,
    /// Nodes that hold all of it.
    pub complete: usize,
}

/// An image, with all its names.
#[derive(Debug, Clone)]
pub struct ImageSeen {
    /// Of its manifest.
    pub digest: Digest,
    /// Not everybody may read it anywhere.
    pub private: bool,
    /// What it is called.
    pub names: Vec<NameSeen>,
    /// `os/architecture[/variant]`, where that is known.
    pub platform: String,
    /// Its blobs, where they are known.
    pub blobs: Vec<BlobSeen>,
    /// Nodes that hold a part of it.
    pub nodes: usize,
    /// Nodes that hold all of it.
    pub complete: usize,
}

/// What an image is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameSeen {
    /// The repository.
    pub source: Source,
    /// Its tags there.
    pub tags: Vec<String>,
    /// Not everybody may read it there.
    pub private: bool,
}

/// A blob, and how many nodes hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobSeen {
    /// The blob.
    pub blob: Blob,
    /// How many.
    pub nodes: usize,
}

/// A node that holds an image, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The node.
    pub node: HostId,
    /// Whether it is a seed.
    pub seed: bool,
    /// In the order of the image's blobs.
    pub share: Vec<bool>,
}

impl Sees {
    fn sees(self, image: &Image) -> bool {
        self == Self::All || !image.key.private
    }
}

impl Catalog {
    /// At most `most` of the images that `filter` looks for, in the order of their names, after
    /// `after` where it is given.
    pub fn list(
        &self,
        sees: Sees,
        filter: &Filter,
        after: Option<&Cursor>,
        most: usize,
    ) -> Vec<Row> {
        let from = after.map_or(Unbounded, |after| {
            Excluded((after.source.clone(), after.key))
        });
        let rows = self.by_name.range((from, Unbounded));
        let rows = rows.filter_map(|((source, _), id)| {
            let image = self.images.get(id).filter(|image| sees.sees(image))?;
            let tags = self.tags_of(image, source);
            self.is_wanted(filter, image, source, &tags).then(|| Row {
                at: Cursor {
                    source: source.clone(),
                    key: image.key,
                },
                tags,
                facts: image.facts.clone(),
                nodes: image.holders.len(),
                complete: image.complete,
            })
        });
        rows.take(most).collect()
    }

    /// The image of this digest.
    pub fn image(&self, sees: Sees, digest: &Digest) -> Option<ImageSeen> {
        let images = self.both(sees, digest);
        let first = images.first()?;
        let names = images.iter().flat_map(|image| {
            image.names.keys().map(|source| NameSeen {
                source: source.clone(),
                tags: self.tags_of(image, source),
                private: image.key.private,
            })
        });
        let facts = images.iter().find_map(|image| image.facts.as_ref());
        let holders = self.holders(sees, digest);
        let blobs = facts.map_or(&[][..], |facts| &facts.blobs);
        let held = |at: usize| holders.iter().filter(|one| one.share[at]).count();
        Some(ImageSeen {
            digest: *digest,
            private: first.key.private,
            names: names.collect(),
            platform: facts
                .map(|facts| facts.platform.clone())
                .unwrap_or_default(),
            blobs: (0..)
                .zip(blobs)
                .map(|(at, blob)| BlobSeen {
                    blob: *blob,
                    nodes: held(at),
                })
                .collect(),
            nodes: holders.len(),
            complete: holders.iter().filter(|one| one.is_complete()).count(),
        })
    }

    /// Who holds the image of this digest, by name.
    pub fn holders(&self, sees: Sees, digest: &Digest) -> Vec<Holder> {
        let mut holders = std::collections::BTreeMap::new();
        for image in self.both(sees, digest) {
            let blobs = image.facts.as_ref().map_or(0, |facts| facts.blobs.len());
            for (id, share) in &image.holders {
                let Some(node) = self.nodes.get(id) else {
                    continue;
                };
                let holder = holders.entry(&node.key).or_insert_with(|| Holder {
                    node: node.key.id.clone(),
                    seed: node.key.role == Role::Seed,
                    share: vec![false; blobs],
                });
                holder.add(share);
            }
        }
        holders.into_values().collect()
    }

    /// As it is public, and as it is not.
    fn both(&self, sees: Sees, digest: &Digest) -> Vec<&Image> {
        let keys = [false, true].map(|private| ImageKey {
            digest: *digest,
            private,
        });
        let ids = keys.iter().filter_map(|key| self.ids.get(key));
        let images = ids.filter_map(|id| self.images.get(id));
        images.filter(|image| sees.sees(image)).collect()
    }

    fn tags_of(&self, image: &Image, source: &Source) -> Vec<String> {
        let tags = image.names.get(source).into_iter().flatten();
        let tags = tags.filter(|(tag, meaning)| self.is_current(source, tag, meaning));
        tags.map(|(tag, _)| tag.to_string()).collect()
    }

    fn is_wanted(&self, filter: &Filter, image: &Image, source: &Source, tags: &[String]) -> bool {
        let named = filter.name.as_ref().is_none_or(|wanted| {
            let repository = source.to_string();
            repository.contains(wanted.as_str())
                || tags
                    .iter()
                    .any(|tag| format!("{repository}:{tag}").contains(wanted.as_str()))
        });
        let digested = filter.digest.is_none_or(|wanted| {
            let facts = image.facts.iter();
            let mut blobs = facts.flat_map(|facts| &facts.blobs);
            image.key.digest == wanted || blobs.any(|blob| blob.digest == wanted)
        });
        let held = filter.node.as_ref().is_none_or(|wanted| {
            let mut holders = image.holders.keys().filter_map(|id| self.nodes.get(id));
            holders.any(|node| node.key.id == *wanted)
        });
        named && digested && held
    }
}

impl Holder {
    /// Whether it holds all of it.
    pub fn is_complete(&self) -> bool {
        self.share.iter().all(|held| *held)
    }

    fn add(&mut self, share: &Share) {
        for (at, held) in self.share.iter_mut().enumerate() {
            *held |= share.has(at);
        }
    }
}

impl Row {
    /// The manifest.
    pub fn digest(&self) -> Digest {
        self.at.key.digest
    }

    /// The repository.
    pub fn source(&self) -> &Source {
        &self.at.source
    }

    /// Not everybody may read it there.
    pub fn private(&self) -> bool {
        self.at.key.private
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mark = if self.key.private { "!" } else { "" };
        write!(f, "{}@{}{mark}", self.source, self.key.digest)
    }
}

impl std::str::FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (text, private) = match text.strip_suffix('!') {
            Some(text) => (text, true),
            None => (text, false),
        };
        let (name, digest) = text.split_once('@').ok_or(())?;
        let (registry, repository) = name.split_once('/').ok_or(())?;
        let registry: RegistryName = registry.parse().map_err(|_| ())?;
        let repository: RepositoryName = repository.parse().map_err(|_| ())?;
        let digest = digest.parse().map_err(|_| ())?;
        Ok(Self {
            source: Source {
                registry,
                repository,
            },
            key: ImageKey { digest, private },
        })
    }
}
