//! What is known of repositories: kept in memory, and written to the index as it changes.
//!
//! Bounded: of too many repositories the least recently used go; of too many records in one
//! repository the least recently set.

use std::collections::HashMap;

use darner_proto::digest::Digest;
use darner_proto::name::{Source, Tag};

use super::encoding::RepositoryRecord;
use super::index::{Change, Loaded, Table};
use super::{LinkRecord, TagRecord};

/// More repositories than a node pulls from in its life.
const MAX_REPOSITORIES: usize = 4096;
/// Tags and links of one repository: a thousand images of fifty contents.
const MAX_PER_REPOSITORY: usize = 50_000;
/// Tags and links in all: some tens of megabytes.
const MAX_RECORDS: usize = 200_000;
/// A use is written when the last one written is older than this.
const USE_GRAIN_MS: u64 = 60 * 60 * 1000;

/// The bounds, so that tests can reach them.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    repositories: usize,
    per_repository: usize,
    records: usize,
}

const BOUNDS: Bounds = Bounds {
    repositories: MAX_REPOSITORIES,
    per_repository: MAX_PER_REPOSITORY,
    records: MAX_RECORDS,
};

/// All records.
#[derive(Debug)]
pub(super) struct Records {
    pub(super) repositories: HashMap<Source, Repository>,
    count: usize,
    /// Grows with every record set.
    age: u64,
    bounds: Bounds,
}

#[derive(Debug, Default)]
pub(super) struct Repository {
    pub(super) public_ms: Option<u64>,
    pub(super) used_ms: u64,
    /// The last use that is written; `None` when what is written is out of date.
    saved_ms: Option<u64>,
    pub(super) tags: HashMap<Tag, Aged<TagRecord>>,
    pub(super) links: HashMap<Digest, Aged<LinkRecord>>,
}

#[derive(Debug)]
pub(super) struct Aged<T> {
    pub(super) record: T,
    pub(super) set_at: u64,
}

impl Records {
    /// The records of an index.
    pub(super) fn load(loaded: &Loaded) -> Self {
        let mut records = Self {
            repositories: HashMap::new(),
            count: 0,
            age: 0,
            bounds: BOUNDS,
        };
        for (key, value) in &loaded.repositories {
            if let (Some(source), Some(record)) =
                (parse_source(key), RepositoryRecord::decode(value))
            {
                let repository = records.repositories.entry(source).or_default();
                repository.public_ms = record.public_ms;
                repository.used_ms = record.used_ms;
                repository.saved_ms = Some(record.used_ms);
            }
        }
        for (key, value) in &loaded.tags {
            let tag = split(key).and_then(|(source, tag)| {
                let tag = std::str::from_utf8(tag).ok()?.parse().ok()?;
                Some((source, tag, TagRecord::decode(value)?))
            });
            if let Some((source, tag, record)) = tag {
                records.put_tag(&source, tag, record);
            }
        }
        for (key, value) in &loaded.links {
            let link = split(key).and_then(|(source, digest)| {
                Some((
                    source,
                    Digest::from_wire(digest).ok()?,
                    LinkRecord::decode(value)?,
                ))
            });
            if let Some((source, digest, record)) = link {
                records.put_link(&source, digest, record);
            }
        }
        records
    }

    pub(super) fn sources(&self) -> Vec<Source> {
        self.repositories.keys().cloned().collect()
    }

    pub(super) fn tag(&mut self, source: &Source, tag: &Tag, now_ms: u64) -> Option<TagRecord> {
        let repository = self.repositories.get_mut(source)?;
        repository.used_ms = now_ms;
        Some(repository.tags.get(tag)?.record.clone())
    }

    pub(super) fn link(
        &mut self,
        source: &Source,
        digest: &Digest,
        now_ms: u64,
    ) -> Option<LinkRecord> {
        let repository = self.repositories.get_mut(source)?;
        repository.used_ms = now_ms;
        Some(repository.links.get(digest)?.record.clone())
    }

    /// Every repository that has the content. Not a use of any of them.
    pub(super) fn links_to(&self, digest: &Digest) -> Vec<(Source, LinkRecord)> {
        let links = self.repositories.iter().filter_map(|(source, repository)| {
            let link = repository.links.get(digest)?;
            Some((source.clone(), link.record.clone()))
        });
        links.collect()
    }

    pub(super) fn public_since(&self, source: &Source) -> Option<u64> {
        self.repositories.get(source)?.public_ms
    }

    pub(super) fn set_tag(
        &mut self,
        source: &Source,
        tag: &Tag,
        record: &TagRecord,
        now_ms: u64,
    ) -> Vec<Change> {
        self.put_tag(source, tag.clone(), record.clone());
        let mut changes = vec![Change::set(
            Table::Tags,
            tag_key(source, tag),
            record.encode(),
        )];
        self.used(source, now_ms, &mut changes);
        changes
    }

    pub(super) fn add_links(
        &mut self,
        source: &Source,
        links: &[(Digest, LinkRecord)],
        now_ms: u64,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for (digest, record) in links {
            if self.put_link(source, *digest, record.clone()) {
                let key = link_key(source, digest);
                changes.push(Change::set(Table::Links, key, record.encode()));
            }
        }
        self.used(source, now_ms, &mut changes);
        changes
    }

    pub(super) fn set_public(
        &mut self,
        source: &Source,
        public_ms: Option<u64>,
        now_ms: u64,
    ) -> Vec<Change> {
        let repository = self.repositories.entry(source.clone()).or_default();
        repository.public_ms = public_ms;
        repository.saved_ms = None;
        let mut changes = Vec::new();
        self.used(source, now_ms, &mut changes);
        changes
    }

    fn put_tag(&mut self, source: &Source, tag: Tag, record: TagRecord) {
        self.age += 1;
        let set_at = self.age;
        let repository = self.repositories.entry(source.clone()).or_default();
        let old = repository.tags.insert(tag, Aged { record, set_at });
        self.count += usize::from(old.is_none());
    }

    /// Says whether that changes anything.
    fn put_link(&mut self, source: &Source, digest: Digest, record: LinkRecord) -> bool {
        self.age += 1;
        let set_at = self.age;
        let repository = self.repositories.entry(source.clone()).or_default();
        match repository.links.get_mut(&digest) {
            Some(known) => {
                let changes = known.record != record;
                *known = Aged { record, set_at };
                changes
            }
            None => {
                repository.links.insert(digest, Aged { record, set_at });
                self.count += 1;
                true
            }
        }
    }

    /// Notes that a repository was written to, and keeps to the bounds.
    fn used(&mut self, source: &Source, now_ms: u64, changes: &mut Vec<Change>) {
        if let Some(repository) = self.repositories.get_mut(source) {
            repository.used_ms = now_ms;
            let age = |saved_ms| now_ms.saturating_sub(saved_ms);
            if repository
                .saved_ms
                .is_none_or(|saved_ms| age(saved_ms) >= USE_GRAIN_MS)
            {
                repository.saved_ms = Some(now_ms);
                changes.push(repository.change(source));
            }
        }
        self.trim(source, changes);
        while self.repositories.len() > self.bounds.repositories
            || (self.count > self.bounds.records && self.repositories.len() > 1)
        {
            let oldest = self
                .repositories
                .iter()
                .filter(|(other, _)| *other != source)
                .min_by_key(|(_, repository)| repository.used_ms)
                .map(|(source, _)| source.clone());
            match oldest {
                Some(oldest) => self.forget(&oldest, changes),
                None => break,
            }
        }
    }

    /// Halves a repository that has too many records.
    fn trim(&mut self, source: &Source, changes: &mut Vec<Change>) {
        let most = self.bounds.per_repository;
        let Some(repository) = self.repositories.get_mut(source) else {
            return;
        };
        let before = repository.tags.len() + repository.links.len();
        if before <= most {
            return;
        }
        let tags = repository.tags.values().map(|tag| tag.set_at);
        let links = repository.links.values().map(|link| link.set_at);
        let mut ages: Vec<u64> = tags.chain(links).collect();
        ages.sort_unstable();
        let oldest = ages.get(before - most / 2).copied().unwrap_or(u64::MAX);
        repository.tags.retain(|tag, aged| {
            let stays = aged.set_at >= oldest;
            if !stays {
                changes.push(Change::remove(Table::Tags, tag_key(source, tag)));
            }
            stays
        });
        repository.links.retain(|digest, aged| {
            let stays = aged.set_at >= oldest;
            if !stays {
                changes.push(Change::remove(Table::Links, link_key(source, digest)));
            }
            stays
        });
        self.count -= before - (repository.tags.len() + repository.links.len());
    }

    fn forget(&mut self, source: &Source, changes: &mut Vec<Change>) {
        let Some(repository) = self.repositories.remove(source) else {
            return;
        };
        self.count -= repository.tags.len() + repository.links.len();
        changes.push(Change::remove(Table::Repositories, source_key(source)));
        let tags = repository.tags.keys();
        changes.extend(tags.map(|tag| Change::remove(Table::Tags, tag_key(source, tag))));
        let links = repository.links.keys();
        changes.extend(links.map(|digest| Change::remove(Table::Links, link_key(source, digest))));
    }

    /// The uses that are not written yet.
    pub(super) fn unsaved_uses(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (source, repository) in &mut self.repositories {
            if repository.saved_ms != Some(repository.used_ms) {
                repository.saved_ms = Some(repository.used_ms);
                changes.push(repository.change(source));
            }
        }
        changes
    }
}

impl Repository {
    fn change(&self, source: &Source) -> Change {
        let record = RepositoryRecord {
            public_ms: self.public_ms,
            used_ms: self.used_ms,
        };
        Change::set(Table::Repositories, source_key(source), record.encode())
    }
}

fn source_key(source: &Source) -> Vec<u8> {
    source.to_string().into_bytes()
}

/// A source has no zero byte in it, so the key can be cut again.
fn key(source: &Source, rest: &[u8]) -> Vec<u8> {
    let mut key = source_key(source);
    key.push(0);
    key.extend_from_slice(rest);
    key
}

fn tag_key(source: &Source, tag: &Tag) -> Vec<u8> {
    key(source, tag.as_str().as_bytes())
}

fn link_key(source: &Source, digest: &Digest) -> Vec<u8> {
    key(source, &digest.to_wire())
}

fn parse_source(key: &[u8]) -> Option<Source> {
    let (registry, repository) = std::str::from_utf8(key).ok()?.split_once('/')?;
    Some(Source {
        registry: registry.parse().ok()?,
        repository: repository.parse().ok()?,
    })
}

fn split(key: &[u8]) -> Option<(Source, &[u8])> {
    let end = key.iter().position(|byte| *byte == 0)?;
    Some((parse_source(&key[..end])?, &key[end + 1..]))
}

#[cfg(test)]
mod tests;
