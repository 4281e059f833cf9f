//! Content that a disk has lost is had again, from other nodes or else from upstream, before
//! somebody asks for it. The store says what was lost; what cannot be had now is had when it is asked
//! for.

use std::time::Duration;

use darner_proto::digest::Digest;
use darner_proto::name::{Reference, Source};
use darner_proto::peer::ResolveReply;
use darner_service::metrics::Metrics;
use darner_service::shutdown::Shutdown;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use crate::resolve::Resolver;
use crate::store::{LinkRecord, Store, StoreEvent};
use crate::task::{Reading, Tasks};

/// Contents that wait to be had again; of a disk that loses more the rest is had when asked for.
const WAITING: usize = 1024;
/// Repositories that one content is tried from.
const MAX_SOURCES: usize = 4;
/// Pauses before each further attempt: for nodes that start again, and for registries that are away.
const PAUSES: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(120)];

/// Has lost content again.
#[derive(Debug)]
pub struct Repair {
    store: Store,
    tasks: Tasks,
    resolver: Resolver,
    repairs: Family<Label, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    outcome: &'static str,
}

impl Repair {
    /// What `store` loses will come by `tasks`, and manifests by `resolver`.
    pub fn new(store: Store, tasks: Tasks, resolver: Resolver, metrics: &Metrics) -> Self {
        let repairs = Family::<Label, Counter>::default();
        // Both are there from the start, so that a first failure shows as a change.
        for outcome in ["repaired", "failed"] {
            drop(repairs.get_or_create(&Label { outcome }));
        }
        metrics.register(|registry| {
            registry.register(
                "store_repairs",
                "Contents that the disk had lost, by whether they were had again",
                repairs.clone(),
            );
        });
        Self {
            store,
            tasks,
            resolver,
            repairs,
        }
    }

    /// Repairs until the process drains.
    pub async fn run(self, shutdown: Shutdown) {
        let (lost, waiting) = mpsc::channel(WAITING);
        let listening = listen(self.store.clone(), lost);
        tokio::select! {
            () = listening => {}
            () = self.work(waiting) => {}
            () = shutdown.draining() => {}
        }
    }

    async fn work(&self, mut waiting: mpsc::Receiver<(Digest, u64)>) {
        while let Some((digest, size)) = waiting.recv().await {
            let repaired = self.repair(&digest, size).await;
            let outcome = if repaired { "repaired" } else { "failed" };
            self.repairs.get_or_create(&Label { outcome }).inc();
            if repaired {
                tracing::info!(%digest, size, "content that the disk had lost is here again");
            } else {
                tracing::warn!(%digest, size, "content that the disk has lost cannot be had now; it is when it is asked for");
            }
        }
    }

    async fn repair(&self, digest: &Digest, size: u64) -> bool {
        let sources = self.sources(digest);
        let attempts = 0..=PAUSES.len();
        for attempt in attempts {
            if let Some(pause) = attempt.checked_sub(1).and_then(|last| PAUSES.get(last)) {
                tokio::time::sleep(*pause).await;
            }
            for (source, link) in &sources {
                self.fetch(digest, size, source, link.manifest).await;
                if self.store.size_of(digest).is_some() {
                    return true;
                }
            }
        }
        false
    }

    /// Where it may be read, those first that anybody was last seen to read.
    fn sources(&self, digest: &Digest) -> Vec<(Source, LinkRecord)> {
        let mut links = self.store.links_to(digest);
        let public = |source: &Source| self.store.public_since(source).unwrap_or(0);
        links.sort_by_key(|(source, _)| std::cmp::Reverse(public(source)));
        links.truncate(MAX_SOURCES);
        links
    }

    async fn fetch(&self, digest: &Digest, size: u64, source: &Source, manifest: bool) {
        if manifest {
            let reference = Reference::Digest(*digest);
            let reply = self.resolver.manifest(source, &reference).await;
            if !matches!(reply, ResolveReply::Found(_)) {
                tracing::debug!(%digest, %source, "a lost manifest cannot be had");
            }
            return;
        }
        let came = match self.tasks.open(digest, size, source).await {
            Ok(Reading::Arriving(arriving)) => arriving.stored().await,
            Ok(Reading::Stored(_) | Reading::Bypass) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = came {
            tracing::debug!(%digest, %source, %error, "lost content cannot be had");
        }
    }
}

/// Hears what was lost while something else is being repaired.
async fn listen(store: Store, lost: mpsc::Sender<(Digest, u64)>) {
    let mut events = store.events();
    loop {
        match events.recv().await {
            Ok(StoreEvent::Damaged(digest, size)) => {
                // Beyond the bound it is had when it is asked for.
                let _ = lost.try_send((digest, size));
            }
            Ok(StoreEvent::Held(_) | StoreEvent::Withdrawn(_)) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}
