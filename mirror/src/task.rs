//! Brings one content to this node, however many clients ask for it.
//!
//! [`Tasks::open`] finds the content in the store, joins the download that is under way, or begins
//! one. A download is decided by [`state`] (pure), carried out by `driver`, and seen through
//! [`shared`]; a client reads behind it with [`follower`]. This is the only place where the swarm,
//! the upstream registries and the store meet.

pub mod buffers;
mod driver;
mod fetch;
pub mod follower;
pub mod metrics;
mod pace;
mod precedence;
mod read;
pub mod shared;
pub mod state;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use darner_proto::digest::Digest;
use darner_proto::file::Supply;
use darner_proto::name::Source;
use darner_proto::piece_map::PieceSigner;
use darner_proto::scheduler::{Lease, ReturnReason};
use darner_service::shutdown::Shutdown;
use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};
use tokio::sync::{OnceCell, mpsc};
use tokio_util::task::TaskTracker;

use crate::access::wallet::Wallet;
use crate::bandwidth::{Bandwidth, Limit, Urgency};
use crate::store::{Content, Partial, Store, StoreError};
use crate::swarm::sessions::{Input, TaskEvent};
use crate::swarm::{Peers, Swarm};
use crate::upstream::Upstreams;
use buffers::Buffers;
use driver::{Beginning, Context};
pub use follower::Arriving;
use metrics::TaskMetrics;
use precedence::Precedence;
pub use shared::Ended;
use shared::{Phase, Shared};
use state::Event;

/// Where bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServedFrom {
    /// This node's store.
    Store,
    /// Another mirror.
    Peer,
    /// A seed.
    Seed,
    /// The upstream registry.
    Upstream,
}

impl ServedFrom {
    /// As it stands in `X-Darner-Source`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Peer => "peer",
            Self::Seed => "seed",
            Self::Upstream => "upstream",
        }
    }
}

impl EncodeLabelValue for ServedFrom {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.as_str().encode(encoder)
    }
}

/// A way to read content.
#[derive(Debug)]
pub enum Reading {
    /// It is in the store.
    Stored(Content),
    /// It is on its way.
    Arriving(Arriving),
    /// The store cannot take it: read it from upstream directly.
    Bypass,
}

/// The content cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The download has ended without it.
    #[error("the download ended without the content ({0:?})")]
    Ended(Ended),
    /// The store refused it for another reason than want of room.
    #[error("the store cannot hold the content")]
    Store(#[source] StoreError),
}

/// All downloads of this node. Clones share them.
#[derive(Debug, Clone)]
pub struct Tasks {
    inner: Arc<Inner>,
}

/// What downloads need.
#[derive(Debug)]
pub struct Parts {
    /// Where content ends up.
    pub store: Store,
    /// Where it comes from first.
    pub upstreams: Upstreams,
    /// Who else has it.
    pub swarm: Swarm,
    /// How to ask them.
    pub peers: Peers,
    /// What pieces are received into.
    pub buffers: Buffers,
    /// How fast pieces may come.
    pub bandwidth: Bandwidth,
    /// For what is not public: what upstream is read with in callers' names. Without it everything
    /// is read in the operator's.
    pub wallet: Option<Wallet>,
    /// What this node's statements about pieces are signed with.
    pub signer: Arc<PieceSigner>,
    /// What is counted.
    pub metrics: TaskMetrics,
    /// The process's end.
    pub shutdown: Shutdown,
}

#[derive(Debug)]
struct Inner {
    parts: Parts,
    live: Mutex<HashMap<Digest, Arc<OnceCell<Live>>>>,
    next_reader: AtomicU64,
    tracker: TaskTracker,
    precedence: Precedence,
}

/// A download under way.
#[derive(Debug, Clone)]
struct Live {
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
}

type Prepared = (Live, Context, mpsc::Receiver<Event>, mpsc::Receiver<Ended>);

impl Tasks {
    /// No downloads yet.
    pub fn new(parts: Parts) -> Self {
        Self {
            inner: Arc::new(Inner {
                parts,
                live: Mutex::default(),
                next_reader: AtomicU64::new(1),
                tracker: TaskTracker::new(),
                precedence: Precedence::default(),
            }),
        }
    }

    /// What downloads run on.
    pub(crate) fn parts(&self) -> &Parts {
        &self.inner.parts
    }

    /// Brings the content here, or finds it here. One download per digest however many call.
    pub async fn open(
        &self,
        digest: &Digest,
        size: u64,
        source: &Source,
    ) -> Result<Reading, TaskError> {
        let sources = vec![source.clone().into()];
        self.open_from(digest, size, sources).await
    }

    /// As [`Tasks::open_from`], for who does not wait: no faster than `limit`, unless somebody else wants it.
    pub async fn open_slowly(
        &self,
        digest: &Digest,
        size: u64,
        sources: Vec<Supply>,
        limit: Limit,
    ) -> Result<Reading, TaskError> {
        self.open_at(digest, size, sources, Some(limit)).await
    }

    /// As [`Tasks::open`], to be read at any of `sources`; without one, only from other nodes.
    pub async fn open_from(
        &self,
        digest: &Digest,
        size: u64,
        sources: Vec<Supply>,
    ) -> Result<Reading, TaskError> {
        self.open_at(digest, size, sources, None).await
    }

    async fn open_at(
        &self,
        digest: &Digest,
        size: u64,
        sources: Vec<Supply>,
        limit: Option<Limit>,
    ) -> Result<Reading, TaskError> {
        if let Some(content) = self.inner.parts.store.get(digest) {
            return Ok(Reading::Stored(content));
        }
        if size == 0 {
            return self.empty(digest).await;
        }
        let beginning = Beginning {
            sources,
            lease: None,
            clean: false,
        };
        match self.live(digest, size, beginning).await {
            Ok(live) => {
                match limit {
                    Some(limit) => live.shared.pace.slow_down(limit),
                    None => live.shared.pace.hurry(),
                }
                let reader = self.inner.next_reader.fetch_add(1, Ordering::Relaxed);
                Ok(Reading::Arriving(Arriving::new(
                    live.shared,
                    live.events,
                    reader,
                )))
            }
            // It was committed between the look into the store and the attempt to begin.
            Err(error) => match self.inner.parts.store.get(digest) {
                Some(content) => Ok(Reading::Stored(content)),
                None if matches!(error, StoreError::Full { .. }) => Ok(Reading::Bypass),
                None => {
                    tracing::error!(%digest, %error, "content passes without being kept");
                    Ok(Reading::Bypass)
                }
            },
        }
    }

    /// What is visible of a download under way.
    pub fn running(&self, digest: &Digest) -> Option<Arc<Shared>> {
        let cell = lock(&self.inner.live).get(digest).cloned()?;
        Some(cell.get()?.shared.clone())
    }

    /// Children have had these pieces from here.
    pub fn copied(&self, digest: &Digest, pieces: Range<u32>) {
        self.note(digest, Event::Copied { pieces });
    }

    /// A child wants pieces of this for somebody who waits.
    pub fn wanted(&self, digest: &Digest) {
        self.note(digest, Event::Wanted);
    }

    /// So many children follow what is here.
    pub fn followed(&self, digest: &Digest, children: u32) {
        self.note(digest, Event::Followed { children });
    }

    /// A download under way can read at `supply`, too.
    pub async fn supply(&self, digest: &Digest, supply: Supply) {
        let cell = lock(&self.inner.live).get(digest).cloned();
        if let Some(live) = cell.as_ref().and_then(|cell| cell.get()) {
            // One that has ended needs none.
            let _ = live.events.send(Event::Supplied(supply)).await;
        }
    }

    /// What only steers a download, and does no harm when it is lost because too much happens.
    fn note(&self, digest: &Digest, event: Event) {
        let cell = lock(&self.inner.live).get(digest).cloned();
        if let Some(live) = cell.as_ref().and_then(|cell| cell.get()) {
            let _ = live.events.try_send(event);
        }
    }

    /// Completes when the process drains and no download is under way any more.
    pub async fn idle(&self) {
        self.inner.tracker.close();
        self.inner.tracker.wait().await;
    }

    /// Begins what schedulers lease to this node unasked, for as long as they do.
    pub async fn take_leases(self, mut leases: mpsc::Receiver<Lease>) {
        while let Some(lease) = leases.recv().await {
            let tasks = self.clone();
            self.inner
                .parts
                .shutdown
                .spawn(async move { tasks.take_lease(lease).await });
        }
    }

    async fn take_lease(&self, lease: Lease) {
        let Parts { store, swarm, .. } = &self.inner.parts;
        if store.size_of(&lease.task).is_some() {
            return swarm.tell(Input::Held(vec![lease.task])).await;
        }
        let beginning = Beginning {
            sources: lease.sources.iter().cloned().map(Into::into).collect(),
            // Without ranges it is an invitation.
            lease: (!lease.ranges.is_empty()).then(|| lease.clone()),
            clean: false,
        };
        let fresh = !lock(&self.inner.live).contains_key(&lease.task);
        match self.live(&lease.task, lease.size, beginning).await {
            Ok(live) if !fresh && !lease.ranges.is_empty() => {
                let _ = live
                    .events
                    .send(Event::Scheduler(TaskEvent::Lease(lease)))
                    .await;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(task = %lease.task, %error, "a lease is returned: the store cannot take the content");
                swarm
                    .tell(Input::LeaseReturn(
                        lease.task,
                        lease.lease,
                        ReturnReason::Reader,
                    ))
                    .await;
            }
        }
    }

    async fn empty(&self, digest: &Digest) -> Result<Reading, TaskError> {
        let store = &self.inner.parts.store;
        store
            .put(digest, bytes::Bytes::new())
            .await
            .map_err(TaskError::Store)?;
        Ok(store.get(digest).map_or(Reading::Bypass, Reading::Stored))
    }

    async fn live(
        &self,
        digest: &Digest,
        size: u64,
        beginning: Beginning,
    ) -> Result<Live, StoreError> {
        let cell = lock(&self.inner.live).entry(*digest).or_default().clone();
        let live = cell
            .get_or_try_init(|| self.begin(digest, size, beginning))
            .await
            .cloned();
        if live.is_err() {
            self.forget(digest, &cell);
        }
        live
    }

    fn forget(&self, digest: &Digest, cell: &Arc<OnceCell<Live>>) {
        let mut live = lock(&self.inner.live);
        if live
            .get(digest)
            .is_some_and(|present| Arc::ptr_eq(present, cell))
        {
            live.remove(digest);
        }
    }

    async fn begin(
        &self,
        digest: &Digest,
        size: u64,
        beginning: Beginning,
    ) -> Result<Live, StoreError> {
        let partial = self.inner.parts.store.begin(digest, size).await?;
        let (live, context, events, stops) = self.prepare(digest, partial);
        self.inner.parts.metrics.began();
        let tasks = self.clone();
        let sources = beginning.sources.clone();
        let download = async move {
            driver::run(context.clone(), beginning, events, stops).await;
            let cell = lock(&tasks.inner.live).remove(&context.shared.task);
            drop(cell);
            if matches!(context.shared.view().phase, Phase::Failed(Ended::Mismatch)) {
                tasks.read_clean(&context.shared.task, size, sources).await;
            }
        };
        let tracked = self.inner.tracker.track_future(download);
        self.inner.parts.shutdown.spawn(tracked);
        Ok(live)
    }

    /// What came did not have the digest, whoever is to blame: once more, from upstream alone.
    async fn read_clean(&self, digest: &Digest, size: u64, sources: Vec<Supply>) {
        let Ok(partial) = self.inner.parts.store.begin(digest, size).await else {
            return;
        };
        let (live, context, events, stops) = self.prepare(digest, partial);
        match lock(&self.inner.live).entry(*digest) {
            // A client came first: its download is as good as this one would be.
            Entry::Occupied(_) => return,
            Entry::Vacant(place) => place.insert(Arc::new(OnceCell::new_with(Some(live)))),
        };
        self.inner.parts.metrics.began();
        let beginning = Beginning {
            sources,
            lease: None,
            clean: true,
        };
        driver::run(context, beginning, events, stops).await;
        lock(&self.inner.live).remove(digest);
    }

    /// A download into `partial`: what others see of it, and what its driver runs on.
    fn prepare(&self, digest: &Digest, partial: Partial) -> Prepared {
        let parts = &self.inner.parts;
        let shared = Arc::new(Shared::new(*digest, partial));
        let (events, incoming) = mpsc::channel(driver::EVENTS);
        let (stops, stopped) = mpsc::channel(1);
        let live = Live {
            shared: shared.clone(),
            events: events.clone(),
        };
        let urgency = Urgency::default();
        let bandwidth = parts.bandwidth.for_urgency(&urgency);
        let context = Context {
            shared,
            events,
            stops,
            store: parts.store.clone(),
            upstreams: parts.upstreams.clone().limited(bandwidth.clone()),
            swarm: parts.swarm.clone(),
            peers: parts.peers.clone(),
            buffers: parts.buffers.clone(),
            bandwidth,
            urgency,
            wallet: parts.wallet.clone(),
            signer: parts.signer.clone(),
            signers: Arc::default(),
            vouched: Arc::default(),
            metrics: parts.metrics.clone(),
            precedence: self.inner.precedence.clone(),
            shutdown: parts.shutdown.clone(),
        };
        (live, context, incoming, stopped)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
