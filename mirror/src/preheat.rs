//! Carries out the manager's orders: brings images to this node before anybody asks for them, by the
//! resolver and the tasks that serve clients, and tells how far it is.
//!
//! An order that is no longer given is dropped; what it has begun to download comes to its end. An
//! image is done when the store holds its manifest and every blob, each of which matched its digest.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use darner_proto::digest::Digest;
use darner_proto::name::{Reference, Source};
use darner_proto::peer::{ResolveReply, Resolved};
use darner_proto::preheat::{Order, OrderId, Outcome, Platform, Progress, Report};
use darner_service::directory::orders::Orders;
use darner_service::shutdown::Shutdown;
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::bandwidth::Limit;
use crate::resolve::{Resolver, links};
use crate::store::Store;
use crate::task::{Reading, Tasks};
use crate::upstream::Upstreams;

/// Blobs of one image that come at once: as many as containerd fetches, so that an order is no
/// heavier than a pull.
const BLOBS_AT_ONCE: usize = 3;
/// Between looks at how far downloads are: as often as keep-alives tell it.
const LOOK: Duration = Duration::from_millis(250);
/// An order of which nothing has come for so long is given up, to be tried again.
const PATIENCE: Duration = Duration::from_secs(120);

/// What orders are carried out with.
#[derive(Debug, Clone)]
pub struct Preheat {
    /// What images are.
    pub resolver: Resolver,
    /// How content comes here.
    pub tasks: Tasks,
    /// Where it is then.
    pub store: Store,
    /// Which registries there are.
    pub upstreams: Upstreams,
}

/// What there is to be held of an image.
#[derive(Debug)]
struct Wanted {
    source: Source,
    manifests: Vec<Digest>,
    blobs: BTreeMap<Digest, u64>,
}

/// An order cannot be carried out.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the registry {0} is not configured on this node")]
    Unknown(String),
    #[error("upstream has no such image")]
    NotFound,
    #[error("the registry refuses anonymous readers, and only what anybody may read is preheated")]
    NotPublic,
    #[error("the image has nothing for {wanted}, only for: {there}")]
    Platform { wanted: Platform, there: String },
    #[error("the manifest is of a kind that is not understood")]
    Manifest,
    #[error("what the image is cannot be found out: {0}")]
    Unavailable(String),
    #[error("the store has no room for {0}")]
    NoRoom(Digest),
    #[error("{digest} did not come: {why}")]
    Blob { digest: Digest, why: String },
    #[error("nothing has come for two minutes")]
    Stalled,
}

/// Orders under way, and what came of them and of those before.
#[derive(Debug, Default)]
struct Desk {
    reports: BTreeMap<OrderId, Report>,
    running: HashMap<OrderId, AbortHandle>,
    /// Of jobs that are not to come as fast as they can.
    limits: HashMap<String, (NonZeroU64, Limit)>,
}

impl Failure {
    fn is_for_good(&self) -> bool {
        matches!(
            self,
            Self::Unknown(_)
                | Self::NotFound
                | Self::NotPublic
                | Self::Platform { .. }
                | Self::Manifest
        )
    }
}

impl Preheat {
    /// Carries out what `orders` say, until the process drains.
    pub async fn carry_out(self, orders: Orders, shutdown: Shutdown) {
        let desk = Arc::new(Mutex::new(Desk::default()));
        let mut given = orders.watch();
        // What is there already has not been seen.
        given.mark_changed();
        loop {
            tokio::select! {
                changed = given.changed() => if changed.is_err() { break },
                () = shutdown.draining() => break,
            }
            let now = given.borrow_and_update().clone();
            let fresh = lock(&desk).only(&now);
            for order in fresh {
                let id = order.id.clone();
                let limit = lock(&desk).limit(&order);
                let given = (order, limit);
                let running = self.begin(given, desk.clone(), orders.clone(), &shutdown);
                lock(&desk).running.insert(id, running);
            }
            orders.tell(lock(&desk).reports.values().cloned().collect());
        }
        for running in lock(&desk).running.values() {
            running.abort();
        }
    }

    fn begin(
        &self,
        (order, limit): (Order, Option<Limit>),
        desk: Arc<Mutex<Desk>>,
        orders: Orders,
        shutdown: &Shutdown,
    ) -> AbortHandle {
        let (job, attempt) = (&order.id.job, order.id.attempt);
        tracing::info!(job, image = %order.image, attempt, "bringing an image here");
        let preheat = self.clone();
        let carried_out = async move {
            let note = |progress, outcome| {
                let mut desk = lock(&desk);
                desk.note(&order.id, progress, outcome);
                orders.tell(desk.reports.values().cloned().collect());
            };
            preheat.one(&order, limit, note).await;
        };
        shutdown.spawn(carried_out).abort_handle()
    }

    async fn one(&self, order: &Order, limit: Option<Limit>, note: impl Fn(Progress, Outcome)) {
        let held = self.hold(order, limit, |progress| note(progress, Outcome::Running));
        match held.await {
            Ok(progress) => {
                tracing::info!(image = %order.image, bytes = progress.bytes, "the image is here");
                note(progress, Outcome::Done);
            }
            Err(failure) => {
                tracing::warn!(image = %order.image, %failure, "the image does not come");
                let why = failure.to_string();
                let for_good = failure.is_for_good();
                note(Progress::default(), Outcome::Failed { why, for_good });
            }
        }
    }

    async fn hold(
        &self,
        order: &Order,
        limit: Option<Limit>,
        note: impl Fn(Progress),
    ) -> Result<Progress, Failure> {
        let wanted = self.describe(order).await?;
        let blobs: Vec<_> = wanted.blobs.clone().into_iter().collect();
        let blobs = blobs.into_iter().map(|(digest, size)| {
            let (preheat, source) = (self.clone(), wanted.source.clone());
            let limit = limit.clone();
            async move {
                let came = preheat.blob(&digest, size, &source, limit).await;
                came.map(|()| digest)
            }
        });
        let mut coming = stream::iter(blobs).buffer_unordered(BLOBS_AT_ONCE);
        let mut here = HashSet::new();
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut last, mut moved) = (Progress::default(), Instant::now());
        loop {
            tokio::select! {
                come = coming.next() => match come {
                    Some(come) => { here.insert(come?); }
                    None => break,
                },
                _ = looks.tick() => {}
            }
            let now = self.progress(&wanted, &here);
            if now != last {
                (last, moved) = (now, Instant::now());
                note(now);
            } else if moved.elapsed() > PATIENCE {
                return Err(Failure::Stalled);
            }
        }
        let mut all = wanted.manifests.iter().chain(wanted.blobs.keys());
        match all.find(|digest| self.store.size_of(digest).is_none()) {
            Some(gone) => Err(Failure::NoRoom(*gone)),
            None => Ok(self.progress(&wanted, &here)),
        }
    }

    /// What the image consists of; its manifests are in the store then.
    async fn describe(&self, order: &Order) -> Result<Wanted, Failure> {
        let image = &order.image;
        let registry = &image.source.registry;
        if self.upstreams.get(registry).is_none() {
            return Err(Failure::Unknown(registry.to_string()));
        }
        let mut found = self.manifest(&image.source, &image.reference).await?;
        let mut manifests = vec![found.digest];
        if links(&found.content).iter().any(|(_, link)| link.manifest) {
            let wanted = order.platform.clone().unwrap_or_else(own_platform);
            let chosen = chosen(&found.content, wanted)?;
            found = self
                .manifest(&image.source, &Reference::Digest(chosen))
                .await?;
            manifests.push(found.digest);
        }
        let links = links(&found.content).into_iter();
        let blobs = links.filter(|(_, link)| !link.manifest);
        let blobs: BTreeMap<_, _> = blobs.map(|(digest, link)| (digest, link.size)).collect();
        if blobs.is_empty() {
            return Err(Failure::Manifest);
        }
        let source = image.source.clone();
        Ok(Wanted {
            source,
            manifests,
            blobs,
        })
    }

    async fn manifest(&self, source: &Source, reference: &Reference) -> Result<Resolved, Failure> {
        match self.resolver.manifest(source, reference).await {
            ResolveReply::Found(found) => Ok(found),
            ResolveReply::NotFound => Err(Failure::NotFound),
            ResolveReply::NotPublic => Err(Failure::NotPublic),
            ResolveReply::Unavailable { detail, .. } => Err(Failure::Unavailable(detail)),
        }
    }

    async fn blob(
        &self,
        digest: &Digest,
        size: u64,
        source: &Source,
        limit: Option<Limit>,
    ) -> Result<(), Failure> {
        let failed = |error: crate::task::TaskError| Failure::Blob {
            digest: *digest,
            why: error.to_string(),
        };
        let opened = match limit {
            Some(limit) => self.tasks.open_slowly(digest, size, source, limit).await,
            None => self.tasks.open(digest, size, source).await,
        };
        match opened.map_err(failed)? {
            Reading::Stored(_) => Ok(()),
            Reading::Arriving(arriving) => arriving.stored().await.map_err(failed),
            Reading::Bypass => Err(Failure::NoRoom(*digest)),
        }
    }

    /// What is here, verified: whole blobs, and pieces of those that are coming.
    fn progress(&self, wanted: &Wanted, here: &HashSet<Digest>) -> Progress {
        let held = |(digest, size): (&Digest, &u64)| match here.contains(digest) {
            true => *size,
            false => self
                .tasks
                .running(digest)
                .map_or(0, |shared| shared.held_bytes()),
        };
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Progress {
            bytes: wanted.blobs.iter().map(held).sum(),
            total_bytes: wanted.blobs.values().sum(),
            blobs: count(here.len()),
            total_blobs: count(wanted.blobs.len()),
        }
    }
}

impl Desk {
    /// Drops what is not among `orders`. Says which of them are new.
    fn only(&mut self, orders: &[Order]) -> Vec<Order> {
        let given = |id: &OrderId| orders.iter().any(|order| order.id == *id);
        self.reports.retain(|id, _| given(id));
        self.running.retain(|id, running| {
            let stays = given(id);
            if !stays {
                running.abort();
            }
            stays
        });
        let fresh = orders
            .iter()
            .filter(|order| !self.reports.contains_key(&order.id));
        let fresh: Vec<_> = fresh.cloned().collect();
        self.limits
            .retain(|job, _| orders.iter().any(|order| order.id.job == *job));
        for order in &fresh {
            let report = Report {
                id: order.id.clone(),
                progress: Progress::default(),
                outcome: Outcome::Running,
            };
            self.reports.insert(order.id.clone(), report);
        }
        fresh
    }

    /// What the orders of one job share.
    fn limit(&mut self, order: &Order) -> Option<Limit> {
        let rate = order.bytes_per_second?;
        let job = self.limits.entry(order.id.job.clone());
        let (of, limit) = job.or_insert_with(|| (rate, Limit::of(rate.get())));
        if *of != rate {
            (*of, *limit) = (rate, Limit::of(rate.get()));
        }
        Some(limit.clone())
    }

    /// Of an order that was dropped nothing is to be told.
    fn note(&mut self, id: &OrderId, progress: Progress, outcome: Outcome) {
        if let Some(report) = self.reports.get_mut(id) {
            report.progress = progress;
            report.outcome = outcome;
        }
    }
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    digest: String,
    platform: Option<Described>,
}

#[derive(Deserialize)]
struct Described {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

impl Described {
    fn is(&self, wanted: &Platform) -> bool {
        let variant = wanted.variant.as_ref();
        self.os == wanted.os
            && self.architecture == wanted.architecture
            && variant.is_none_or(|variant| *variant == self.variant)
    }
}

/// The first manifest in an index that is for `wanted`.
fn chosen(index: &[u8], wanted: Platform) -> Result<Digest, Failure> {
    let index: Index = serde_json::from_slice(index).map_err(|_| Failure::Manifest)?;
    let is_for = |entry: &&Entry| {
        let platform = entry.platform.as_ref();
        platform.is_some_and(|platform| platform.is(&wanted))
    };
    match index.manifests.iter().find(is_for) {
        Some(entry) => entry.digest.parse().map_err(|_| Failure::Manifest),
        None => {
            let there = index.manifests.iter().filter_map(|entry| {
                let platform = entry.platform.as_ref()?;
                Some(format!("{}/{}", platform.os, platform.architecture))
            });
            let there = there.collect::<Vec<_>>().join(", ");
            Err(Failure::Platform { wanted, there })
        }
    }
}

/// What a runtime on this node would choose, in the words of the image specification.
fn own_platform() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    };
    Platform {
        os: "linux".to_owned(),
        architecture: architecture.to_owned(),
        variant: None,
    }
}

fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(digest: &Digest, architecture: &str, variant: &str) -> serde_json::Value {
        json!({ "digest": digest.to_string(), "size": 1,
            "platform": { "os": "linux", "architecture": architecture, "variant": variant } })
    }

    #[test]
    fn an_index_is_resolved_by_platform() {
        let digests: Vec<_> = (0..3u8).map(|n| Digest::sha256(&[n])).collect();
        let index = json!({ "schemaVersion": 2, "manifests": [
            entry(&digests[0], "arm", "v6"),
            entry(&digests[1], "arm", "v7"),
            entry(&digests[2], "amd64", ""),
        ]});
        let index = index.to_string().into_bytes();
        for (platform, expected) in [("linux/arm", 0), ("linux/arm/v7", 1), ("linux/amd64", 2)] {
            let found = chosen(&index, platform.parse().unwrap()).unwrap();
            assert_eq!(found, digests[expected], "{platform}");
        }
        let none = chosen(&index, "windows/amd64".parse().unwrap()).unwrap_err();
        assert!(none.is_for_good());
        assert!(
            none.to_string()
                .contains("linux/arm, linux/arm, linux/amd64"),
            "{none}"
        );
    }

    #[test]
    fn an_order_is_begun_once_and_dropped_when_it_is_not_given_any_more() {
        let order = |attempt| Order {
            id: OrderId {
                job: "a".to_owned(),
                image: 0,
                attempt,
            },
            image: "r.test/a:b".parse().unwrap(),
            platform: None,
            bytes_per_second: None,
        };
        let mut desk = Desk::default();
        assert_eq!(desk.only(&[order(1)]), [order(1)]);
        assert_eq!(desk.only(&[order(1)]), []);
        desk.note(&order(1).id, Progress::default(), Outcome::Done);
        assert_eq!(
            desk.only(&[order(1)]),
            [],
            "what is done is told until it is heard"
        );
        assert_eq!(desk.only(&[order(2)]), [order(2)]);
        desk.note(&order(1).id, Progress::default(), Outcome::Done);
        assert_eq!(desk.reports.len(), 1);
    }
}
