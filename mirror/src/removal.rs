//! Carries out the removals that the manager orders: an image with the blobs that no other image
//! here needs, or any one content, as it was held when the removal was asked for.
//!
//! What tags led to it is forgotten, too, so that upstream is asked anew. What is being downloaded is
//! left alone: it came later.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use darner_proto::digest::Digest;
use darner_proto::removal::Removal;
use darner_service::directory::orders::Orders;
use darner_service::shutdown::Shutdown;

use crate::holdings::Manifest;
use crate::resolve::MAX_MANIFEST;
use crate::store::{Forgotten, RepositoryRecords, Store, StoreError};

#[cfg(test)]
mod tests;

/// After a failure, until the removal is tried again.
const PAUSE: Duration = Duration::from_secs(5);

/// The stores, and who says what is to go from them.
#[derive(Debug)]
pub(crate) struct Remover {
    stores: Vec<Store>,
    orders: Orders,
}

/// What goes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    contents: Vec<Digest>,
    records: Forgotten,
}

impl Remover {
    pub(crate) fn new(store: Store, private: Option<Store>, orders: Orders) -> Self {
        Self {
            stores: [store].into_iter().chain(private).collect(),
            orders,
        }
    }

    /// Carries out what is ordered until the process drains.
    pub(crate) async fn carry_out(self, shutdown: Shutdown) {
        let mut ordered = self.orders.removals();
        let mut done = 0;
        loop {
            let now = ordered.borrow_and_update().clone();
            for removal in now.iter().copied() {
                if removal.number <= done {
                    continue;
                }
                while !self.one(removal).await {
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE) => {}
                        () = shutdown.draining() => return,
                    }
                }
                done = removal.number;
                self.orders.removed(done);
            }
            tokio::select! {
                changed = ordered.changed() => if changed.is_err() { return },
                () = shutdown.draining() => return,
            }
        }
    }

    /// Says whether it is done.
    async fn one(&self, removal: Removal) -> bool {
        let before = SystemTime::now().checked_sub(removal.age);
        let Some(before) = before else {
            return true;
        };
        let stores = self.stores.clone();
        let removed = tokio::task::spawn_blocking(move || {
            let removed = stores
                .iter()
                .map(|store| remove(store, &removal.key, before));
            removed.sum::<Result<u64, StoreError>>()
        });
        match removed.await {
            Ok(Ok(0)) => true,
            Ok(Ok(bytes)) => {
                tracing::info!(number = removal.number, digest = %removal.key, bytes, "removed, as ordered");
                true
            }
            Ok(Err(error)) => {
                tracing::warn!(digest = %removal.key, %error, "what is to be removed cannot be");
                false
            }
            // The process ends.
            Err(_) => false,
        }
    }
}

/// Removes what `key` is, if it was here `before`. Says how many bytes went. Blocks.
fn remove(store: &Store, key: &Digest, before: SystemTime) -> Result<u64, StoreError> {
    match store.written_at(key) {
        Some(written) if written <= before => {}
        _ => return Ok(0),
    }
    let plan = plan(store, key);
    // Records first: nobody is to be told of an image whose parts are going.
    store.forget(&plan.records)?;
    Ok(store.remove(&plan.contents))
}

fn plan(store: &Store, key: &Digest) -> Plan {
    let repositories = store.repositories();
    let manifests = manifests(store, &repositories);
    let Some(manifest) = manifests.get(key) else {
        return with_records(&repositories, [*key].into(), &BTreeSet::new());
    };
    let mut images = BTreeSet::from([*key]);
    if let Manifest::Index(listed) = manifest {
        let listed_elsewhere = |child: &Digest| {
            let mut others = manifests.iter().filter(|(digest, _)| *digest != key);
            others.any(|(_, other)| lists(other, child))
        };
        let children = listed.iter().map(|(child, _)| *child);
        images.extend(children.filter(|child| !listed_elsewhere(child)));
    }
    // By these upstream was said to mean it.
    let indexes = manifests.iter().filter(|(_, other)| lists(other, key));
    let mut gone: BTreeSet<_> = indexes.map(|(digest, _)| *digest).collect();
    gone.extend(&images);
    let needed: BTreeSet<_> = manifests
        .iter()
        .filter(|(digest, _)| !gone.contains(*digest))
        .flat_map(|(_, other)| blobs(other))
        .collect();
    let blobs: BTreeSet<_> = images
        .iter()
        .filter_map(|image| manifests.get(image))
        .flat_map(blobs)
        .filter(|blob| !needed.contains(blob))
        .collect();
    with_records(&repositories, gone, &blobs)
}

/// Every manifest that is held.
fn manifests(store: &Store, repositories: &[RepositoryRecords]) -> BTreeMap<Digest, Manifest> {
    let all = repositories.iter().flat_map(|known| &known.manifests);
    let all: BTreeSet<_> = all.collect();
    let read = all.into_iter().filter_map(|digest| {
        let bytes = store.peek(digest, MAX_MANIFEST)?;
        Some((*digest, Manifest::read(digest, &bytes)))
    });
    read.collect()
}

fn lists(manifest: &Manifest, child: &Digest) -> bool {
    match manifest {
        Manifest::Index(listed) => listed.iter().any(|(digest, _)| digest == child),
        Manifest::Image(_) | Manifest::Other => false,
    }
}

fn blobs(manifest: &Manifest) -> Vec<Digest> {
    match manifest {
        Manifest::Image(facts) => facts.blobs.iter().map(|blob| blob.digest).collect(),
        Manifest::Index(_) | Manifest::Other => Vec::new(),
    }
}

/// `manifests` and `blobs`, with what repositories know of them.
fn with_records(
    repositories: &[RepositoryRecords],
    manifests: BTreeSet<Digest>,
    blobs: &BTreeSet<Digest>,
) -> Plan {
    let mut records = Forgotten::default();
    for repository in repositories {
        let source = &repository.source;
        let tags = repository.tags.iter();
        let tags = tags.filter(|(_, meaning)| manifests.contains(&meaning.digest));
        records
            .tags
            .extend(tags.map(|(tag, _)| (source.clone(), tag.clone())));
        let links = manifests.iter().chain(blobs);
        records
            .links
            .extend(links.map(|digest| (source.clone(), *digest)));
    }
    Plan {
        contents: manifests.into_iter().chain(blobs.iter().copied()).collect(),
        records,
    }
}
