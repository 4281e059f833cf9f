//! Tells the manager which images this node holds, and which of their blobs: read from the stores'
//! records whenever the stores have changed. What was told already, and when to tell the rest, is
//! [`darner_service::directory::holdings`]' business.

mod manifest;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use darner_proto::digest::Digest;
use darner_proto::holdings::{
    Facts, Held, ImageKey, MAX_IMAGES, MAX_NAMES, MAX_TAGS, Name, Share, TagName,
};
use darner_service::directory::holdings::{Holdings, Snapshot};
use darner_service::shutdown::Shutdown;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{MissedTickBehavior, interval};

use crate::resolve::MAX_MANIFEST;
use crate::store::{RepositoryRecords, Store, StoreEvent};
pub(crate) use manifest::Manifest;
use manifest::platform_of;

/// After a change, others are waited for this long: a pull is one look, or a few.
const SETTLE: Duration = Duration::from_secs(1);
/// What changes without anything stored, such as what a tag means, is seen this late.
const LOOK: Duration = Duration::from_secs(30);

/// The stores, and who is told of them.
#[derive(Debug)]
pub(crate) struct Shelf {
    store: Store,
    private: Option<Store>,
    holdings: Holdings,
}

/// Manifests that have been read: they never change.
type Known = HashMap<Digest, Manifest>;

impl Shelf {
    pub(crate) fn new(store: Store, private: Option<Store>, holdings: Holdings) -> Self {
        Self {
            store,
            private,
            holdings,
        }
    }

    /// Looks whenever a store has changed, until the process drains.
    pub(crate) async fn tell(self, shutdown: Shutdown) {
        let mut public = self.store.events();
        let mut private = self.private.as_ref().map(Store::events);
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut known = Known::new();
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = changed(&mut public) => {}
                () = async { match &mut private {
                    Some(private) => changed(private).await,
                    None => std::future::pending().await,
                } } => {}
                () = shutdown.draining() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(SETTLE) => {}
                () = shutdown.draining() => return,
            }
            public = public.resubscribe();
            private = private.map(|events| events.resubscribe());
            let stores = (self.store.clone(), self.private.clone());
            let looked = tokio::task::spawn_blocking(move || {
                let snapshot = look(&stores, &mut known);
                (snapshot, known)
            });
            let Ok((snapshot, read)) = looked.await else {
                return;
            };
            known = read;
            self.holdings.hold(snapshot);
        }
    }
}

/// Until something is held or gone.
async fn changed(events: &mut Receiver<StoreEvent>) {
    if let Err(RecvError::Closed) = events.recv().await {
        std::future::pending::<()>().await;
    }
}

/// What is held now. `known` is what was read before, and what is worth reading again.
fn look((store, private): &(Store, Option<Store>), known: &mut Known) -> Snapshot {
    let mut looking = Looking {
        before: std::mem::take(known),
        known: Known::new(),
        told: Snapshot::default(),
    };
    for repository in store.repositories() {
        looking.add(store, &repository, !repository.public);
    }
    if let Some(store) = private {
        for repository in store.repositories() {
            looking.add(store, &repository, true);
        }
    }
    *known = looking.known;
    looking.told
}

struct Looking {
    before: Known,
    known: Known,
    told: Snapshot,
}

impl Looking {
    fn add(&mut self, store: &Store, repository: &RepositoryRecords, private: bool) {
        let mut platforms: HashMap<Digest, String> = HashMap::new();
        // By what upstream may call it, for what it is listed in.
        let mut listed: BTreeMap<Digest, Vec<Digest>> = BTreeMap::new();
        let mut images = Vec::new();
        for digest in &repository.manifests {
            match self.manifest(store, digest) {
                Some(Manifest::Image(facts)) => images.push(facts),
                Some(Manifest::Index(entries)) => {
                    for (child, platform) in entries {
                        listed.entry(child).or_default().push(*digest);
                        platforms.insert(child, platform);
                    }
                }
                Some(Manifest::Other) | None => {}
            }
        }
        for facts in images {
            let indexes = listed.get(&facts.digest).map_or(&[][..], Vec::as_slice);
            let name = name(repository, &facts.digest, indexes);
            let platform = platforms.get(&facts.digest).map(String::as_str);
            let facts = self.with_platform(store, facts, platform);
            let digest = facts.digest;
            self.image(store, ImageKey { digest, private }, name, facts);
        }
    }

    fn manifest(&mut self, store: &Store, digest: &Digest) -> Option<Manifest> {
        if let Some(known) = self.known.get(digest) {
            store.size_of(digest)?;
            return Some(known.clone());
        }
        let read = || Some(Manifest::read(digest, &store.peek(digest, MAX_MANIFEST)?));
        let manifest = match self.before.remove(digest) {
            Some(known) => store.size_of(digest).map(|_| known),
            None => read(),
        };
        let manifest = manifest?;
        self.known.insert(*digest, manifest.clone());
        Some(manifest)
    }

    /// The platform is an index's word, or else that of the image's own configuration.
    fn with_platform(
        &mut self,
        store: &Store,
        facts: Arc<Facts>,
        listed: Option<&str>,
    ) -> Arc<Facts> {
        if !facts.platform.is_empty() {
            return facts;
        }
        let own = || {
            let config = facts.blobs.iter().find(|blob| blob.config)?;
            platform_of(&store.peek(&config.digest, MAX_MANIFEST)?)
        };
        let listed = listed.filter(|platform| !platform.is_empty());
        let Some(platform) = listed.map(str::to_owned).or_else(own) else {
            return facts;
        };
        let facts = Arc::new(Facts {
            platform,
            ..(*facts).clone()
        });
        self.known
            .insert(facts.digest, Manifest::Image(facts.clone()));
        facts
    }

    fn image(&mut self, store: &Store, key: ImageKey, name: Name, facts: Arc<Facts>) {
        let told = &mut self.told;
        if let Some(held) = told.images.get_mut(&key) {
            let held = Arc::make_mut(held);
            if held.names.len() < MAX_NAMES {
                held.names.push(name);
            }
            // An index of this repository may have named the platform that no other did.
            told.facts.insert(facts.digest, facts);
            return;
        }
        if told.images.len() >= MAX_IMAGES {
            told.left_off = told.left_off.saturating_add(1);
            return;
        }
        let blobs = facts.blobs.iter();
        let held = Held {
            key,
            names: vec![name],
            blobs: Share::of(blobs.map(|blob| store.size_of(&blob.digest).is_some())),
        };
        told.images.insert(key, Arc::new(held));
        told.facts.insert(facts.digest, facts);
    }
}

/// What a repository calls an image: its tags, and those of the indexes that list it.
fn name(repository: &RepositoryRecords, image: &Digest, indexes: &[Digest]) -> Name {
    let tags = repository.tags.iter();
    let tags =
        tags.filter(|(_, record)| record.digest == *image || indexes.contains(&record.digest));
    let mut tags: Vec<_> = tags
        .map(|(tag, record)| TagName {
            tag: tag.clone(),
            named: record.digest,
            checked_ms: record.checked_ms,
        })
        .collect();
    tags.sort_by_key(|tag| std::cmp::Reverse(tag.checked_ms));
    tags.truncate(MAX_TAGS);
    tags.sort_by(|one, other| one.tag.cmp(&other.tag));
    Name {
        source: repository.source.clone(),
        tags,
    }
}
