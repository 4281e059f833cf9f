//! What is known of repositories, seen as a whole by who tells others what is here. Looking is no use
//! of anything.

use std::io::Read as _;

use bytes::Bytes;
use darner_proto::digest::Digest;
use darner_proto::name::{Source, Tag};

use super::records::Records;
use super::{Store, TagRecord, disk, lock};

/// What is known of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryRecords {
    /// Which.
    pub source: Source,
    /// Upstream has let anybody read it.
    pub public: bool,
    /// Its manifests, the one heard of last first.
    pub manifests: Vec<Digest>,
    /// Its tags.
    pub tags: Vec<(Tag, TagRecord)>,
}

impl Store {
    /// Every repository with its manifests and tags, the one used last first.
    pub fn repositories(&self) -> Vec<RepositoryRecords> {
        let mut found = lock(&self.inner.records).catalog();
        found.sort_by_key(|(used_ms, _)| std::cmp::Reverse(*used_ms));
        found.into_iter().map(|(_, records)| records).collect()
    }

    /// Held content of at most `most` bytes, if it has its digest. Blocks.
    pub fn peek(&self, digest: &Digest, most: u64) -> Option<Bytes> {
        let size = self.size_of(digest).filter(|size| *size <= most)?;
        let file = disk::open(&self.inner.layout.blob(digest)).ok()?;
        let mut bytes = Vec::with_capacity(usize::try_from(size).ok()?);
        file.take(size).read_to_end(&mut bytes).ok()?;
        digest.matches(&bytes).then(|| bytes.into())
    }
}

impl Records {
    fn catalog(&self) -> Vec<(u64, RepositoryRecords)> {
        let repositories = self.repositories.iter().map(|(source, repository)| {
            let manifests = repository.links.iter();
            let manifests = manifests.filter(|(_, link)| link.record.manifest);
            let mut manifests: Vec<_> = manifests
                .map(|(digest, link)| (link.set_at, *digest))
                .collect();
            manifests.sort_unstable_by_key(|(set_at, _)| std::cmp::Reverse(*set_at));
            let tags = repository.tags.iter();
            let records = RepositoryRecords {
                source: source.clone(),
                public: repository.public_ms.is_some(),
                manifests: manifests.into_iter().map(|(_, digest)| digest).collect(),
                tags: tags
                    .map(|(tag, aged)| (tag.clone(), aged.record.clone()))
                    .collect(),
            };
            (repository.used_ms, records)
        });
        repositories.collect()
    }
}
