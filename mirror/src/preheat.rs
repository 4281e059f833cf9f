//! Carries out the manager's orders: brings images and files to this node before anybody asks for
//! them, by the resolver and the tasks that serve clients, and tells how far it is.
//!
//! An order that is no longer given is dropped; what it has begun to download comes to its end. An
//! image is done when the store holds its manifest and every blob, each of which matched its digest; a
//! file, when the store holds the version that its host had when the order began.

mod platform;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use darner_proto::digest::Digest;
use darner_proto::file::{FileUrl, Supply};
use darner_proto::name::{Reference, Source};
use darner_proto::peer::{ResolveReply, Resolved};
use darner_proto::preheat::{
    Coming, Image, MAX_COMING, Order, OrderId, Outcome, Platform, Progress, Report, Target,
};
use darner_service::directory::orders::Orders;
use darner_service::settings::RouteTo;
use darner_service::shutdown::Shutdown;
use darner_service::telemetry::with_causes;
use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use platform::{chosen, own_platform};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::bandwidth::Limit;
use crate::files::version::Version;
use crate::resolve::{Resolver, links};
use crate::rules::Blocked;
use crate::store::Store;
use crate::task::{Reading, Tasks};
use crate::upstream::{UpstreamError, Upstreams};

/// Blobs of one image that come at once: as many as containerd fetches, so that an order is no
/// heavier than a pull.
const BLOBS_AT_ONCE: usize = MAX_COMING;
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
    /// What is not served.
    pub blocked: Blocked,
}

/// What there is to be held.
#[derive(Debug)]
struct Wanted {
    /// Where the blobs are to be read.
    sources: Vec<Supply>,
    manifests: Vec<Digest>,
    blobs: BTreeMap<Digest, u64>,
}

/// An order cannot be carried out.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the registry {0} is not configured on this node")]
    Unknown(String),
    #[error("the rules of this cluster do not let it be served")]
    Blocked,
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
    #[error("a [[route]] of this node does not let it be shared")]
    Route,
    #[error("its host answers {0}, and only what anybody may read is preheated")]
    Refused(StatusCode),
    #[error("its host tells no version of it to go by, or that it is not to be shared")]
    NotShared,
    #[error("its host cannot be asked")]
    Host(#[from] UpstreamError),
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
                | Self::Blocked
                | Self::NotFound
                | Self::NotPublic
                | Self::Platform { .. }
                | Self::Manifest
                | Self::Route
                | Self::NotShared
        ) || matches!(self, Self::Refused(status) if !is_passing(*status))
    }
}

/// Whether another answer may come later.
fn is_passing(status: StatusCode) -> bool {
    let later = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_EARLY,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    status.is_server_error() || later.contains(&status)
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
        tracing::info!(job, what = %order.target, attempt, "bringing something here");
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
                tracing::info!(what = %order.target, bytes = progress.bytes, "it is here");
                note(progress, Outcome::Done);
            }
            Err(failure) => {
                let why = with_causes(&failure);
                tracing::warn!(what = %order.target, why, "it does not come");
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
        let wanted = match &order.target {
            Target::Image { image, platform } => self.image(image, platform.as_ref()).await?,
            Target::File(url) => self.file(url).await?,
        };
        let blobs: Vec<_> = wanted.blobs.clone().into_iter().collect();
        let blobs = blobs.into_iter().map(|(digest, size)| {
            let (preheat, sources) = (self.clone(), wanted.sources.clone());
            let limit = limit.clone();
            async move {
                let came = preheat.blob(&digest, size, sources, limit).await;
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
                (last, moved) = (now.clone(), Instant::now());
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
    async fn image(&self, image: &Image, platform: Option<&Platform>) -> Result<Wanted, Failure> {
        let registry = &image.source.registry;
        if self.upstreams.get(registry).is_none() {
            return Err(Failure::Unknown(registry.to_string()));
        }
        if self.blocked.repository(&image.source) {
            return Err(Failure::Blocked);
        }
        let mut found = self.manifest(&image.source, &image.reference).await?;
        let mut manifests = vec![found.digest];
        if links(&found.content).iter().any(|(_, link)| link.manifest) {
            let wanted = platform.cloned().unwrap_or_else(own_platform);
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
        if blobs.keys().any(|digest| self.blocked.digest(digest)) {
            return Err(Failure::Blocked);
        }
        Ok(Wanted {
            sources: vec![image.source.clone().into()],
            manifests,
            blobs,
        })
    }

    /// The version of a file that its host has now.
    async fn file(&self, url: &FileUrl) -> Result<Wanted, Failure> {
        let (hosts, url) = (self.upstreams.files(), url.url());
        if !matches!(hosts.route(url), None | Some(RouteTo::Swarm)) {
            return Err(Failure::Route);
        }
        let head = hosts.head(url).await?;
        if head.status != StatusCode::OK {
            return Err(Failure::Refused(head.status));
        }
        let version = Version::of(head, hosts, (url, None)).ok_or(Failure::NotShared)?;
        Ok(Wanted {
            sources: version.sources,
            manifests: Vec::new(),
            blobs: BTreeMap::from([(version.key, version.size)]),
        })
    }

    async fn manifest(&self, source: &Source, reference: &Reference) -> Result<Resolved, Failure> {
        match self.resolver.manifest(source, reference).await {
            ResolveReply::Found(found) if self.blocked.digest(&found.digest) => {
                Err(Failure::Blocked)
            }
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
        sources: Vec<Supply>,
        limit: Option<Limit>,
    ) -> Result<(), Failure> {
        let failed = |error: crate::task::TaskError| Failure::Blob {
            digest: *digest,
            why: error.to_string(),
        };
        let opened = match limit {
            Some(limit) => self.tasks.open_slowly(digest, size, sources, limit).await,
            None => self.tasks.open_from(digest, size, sources).await,
        };
        match opened.map_err(failed)? {
            Reading::Stored(_) => Ok(()),
            Reading::Arriving(arriving) => arriving.stored().await.map_err(failed),
            Reading::Bypass => Err(Failure::NoRoom(*digest)),
        }
    }

    /// What is here, verified: whole blobs, and pieces of those that are coming.
    fn progress(&self, wanted: &Wanted, here: &HashSet<Digest>) -> Progress {
        let mut coming = Vec::new();
        let mut bytes = 0;
        for (digest, size) in &wanted.blobs {
            if here.contains(digest) {
                bytes += size;
            } else if let Some(shared) = self.tasks.running(digest) {
                let held = shared.held_bytes();
                bytes += held;
                coming.push(Coming {
                    digest: *digest,
                    bytes: held,
                    total_bytes: *size,
                });
            }
        }
        // Others may be brought here for clients: those that have most are told of.
        coming.sort_by_key(|coming| Reverse(coming.bytes));
        coming.truncate(MAX_COMING);
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Progress {
            bytes,
            total_bytes: wanted.blobs.values().sum(),
            blobs: count(here.len()),
            total_blobs: count(wanted.blobs.len()),
            coming,
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

fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use darner_proto::preheat::Target;

    #[test]
    fn an_order_is_begun_once_and_dropped_when_it_is_not_given_any_more() {
        let order = |attempt| Order {
            id: OrderId {
                job: "a".to_owned(),
                image: 0,
                attempt,
            },
            target: Target::Image {
                image: "r.test/a:b".parse().unwrap(),
                platform: None,
            },
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
