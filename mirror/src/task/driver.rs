//! The asynchronous half of a download: waits for what happens, asks [`super::state`] what to do,
//! and does it. No decision is made here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use darner_proto::file::Supply;
use darner_proto::id::HostId;
use darner_proto::name::Source;
use darner_proto::piece_map::{PieceRun, PieceSigner, TrustedSigners};
use darner_proto::piece_set::PieceSet;
use darner_proto::scheduler::{Join, Lease, LeaseClaim, Outcome};
use darner_service::shutdown::Shutdown;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::buffers::Buffers;
use super::metrics::TaskMetrics;
use super::precedence::{Precedence, Standing};
use super::shared::{Ended, Phase, Shared};
use super::state::{Action, Event, Task};
use super::{ServedFrom, fetch, read};
use crate::access::wallet::Wallet;
use crate::bandwidth::{Bandwidth, Urgency};
use crate::store::{Store, StoreError};
use crate::swarm::sessions::{Input, TaskEvent};
use crate::swarm::{Peers, Swarm};
use crate::upstream::Upstreams;

/// Time passes for a task this often: the grain of its timers.
const TICK: Duration = Duration::from_millis(100);
/// Who opens a download moves its cursor within this time: until then it counts as waited for.
const COMING: Duration = Duration::from_millis(100);
/// What a node is told to read is waited for elsewhere, or not: who waits asks for pieces before long.
const TOLD: Duration = Duration::from_secs(2);
/// What transfers have done that the driver has not yet taken in; they wait when it is full.
pub(super) const EVENTS: usize = 512;

/// What every part of one download works with.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) shared: Arc<Shared>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) stops: mpsc::Sender<Ended>,
    pub(super) store: Store,
    pub(super) upstreams: Upstreams,
    pub(super) swarm: Swarm,
    pub(super) peers: Peers,
    pub(super) buffers: Buffers,
    pub(super) bandwidth: Bandwidth,
    /// Whether somebody waits for this download, here or at a child.
    pub(super) urgency: Urgency,
    pub(super) wallet: Option<Wallet>,
    pub(super) signer: Arc<PieceSigner>,
    pub(super) signers: Arc<RwLock<TrustedSigners>>,
    pub(super) vouched: Arc<Mutex<HashMap<u32, Arc<PieceRun>>>>,
    pub(super) metrics: TaskMetrics,
    pub(super) precedence: Precedence,
    pub(super) shutdown: Shutdown,
}

impl Context {
    pub(super) async fn tell(&self, event: Event) {
        // The driver ends before its transfers only when the download does.
        let _ = self.events.send(event).await;
    }

    /// Ends the download for a reason that no other source would mend.
    pub(super) async fn stop(&self, ended: Ended) {
        let _ = self.stops.send(ended).await;
    }

    /// Bytes have come from upstream.
    pub(super) async fn received(&self, bytes: u64) {
        self.shared.change(|view| view.received_bytes += bytes);
        self.tell(Event::ReadBytes { bytes }).await;
    }

    /// A piece has been verified and written.
    pub(super) fn gained(&self, index: u32, run: Arc<PieceRun>, from: ServedFrom, bytes: u64) {
        self.metrics.piece(from, bytes);
        self.shared.gain(index, run, from);
        if from != ServedFrom::Upstream {
            self.shared.change(|view| view.received_bytes += bytes);
        }
    }

    pub(super) fn signers(&self) -> TrustedSigners {
        self.signers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The trusted statement that says the same as `run`, if there is one.
    pub(super) fn known(&self, run: &PieceRun) -> Option<Arc<PieceRun>> {
        let vouched = self.vouched.lock().unwrap_or_else(PoisonError::into_inner);
        vouched
            .get(&run.first)
            .filter(|known| known.hashes == run.hashes)
            .cloned()
    }

    /// Keeps a trusted statement for [`Context::known`].
    pub(super) fn remember(&self, run: &Arc<PieceRun>) {
        let mut vouched = self.vouched.lock().unwrap_or_else(PoisonError::into_inner);
        vouched.insert(run.first, run.clone());
    }
}

/// What a download begins with.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) sources: Vec<Supply>,
    /// The lease it begins under, for a node that was told to read.
    pub(super) lease: Option<Lease>,
    /// Read upstream alone: what the swarm had did not have the digest.
    pub(super) clean: bool,
}

struct Driver {
    context: Context,
    task: Task,
    links: HashMap<HostId, CancellationToken>,
    fetches: HashMap<u64, CancellationToken>,
    reads: HashMap<u64, CancellationToken>,
    /// Downloads under way on this node when the task was last told.
    beside: u32,
    standing: Standing,
    /// Until then it counts as waited for.
    coming: Duration,
}

/// Runs the download to its end. The view's phase tells how it ended.
pub(super) async fn run(
    context: Context,
    beginning: Beginning,
    events: mpsc::Receiver<Event>,
    stops: mpsc::Receiver<Ended>,
) {
    let shared = context.shared.clone();
    let ended = download(context.clone(), beginning, events, stops).await;
    let outcome = match ended {
        Ok(()) => finish(&context).await,
        Err(ended) => Err(ended),
    };
    let told = match outcome {
        Ok(()) => Outcome::Complete,
        Err(ended) => {
            tracing::warn!(task = %shared.task, ?ended, "a download ended without its content");
            shared.change(|view| view.phase = Phase::Failed(ended));
            Outcome::Failed
        }
    };
    context.metrics.ended(told);
    context.swarm.tell(Input::Leave(shared.task, told)).await;
}

/// Every piece is held: the whole digest decides, then the store makes it durable and visible.
async fn finish(context: &Context) -> Result<(), Ended> {
    let shared = &context.shared;
    match shared.partial.verify().await {
        Ok(()) => {}
        // The store has discarded it.
        Err(StoreError::Mismatch { .. }) => return Err(Ended::Mismatch),
        Err(StoreError::Stopping) => return Err(Ended::Stopping),
        Err(error) => {
            tracing::error!(task = %shared.task, %error, "what arrived cannot be read back");
            return Err(Ended::Store);
        }
    }
    shared.change(|view| view.phase = Phase::Verified);
    let runs = shared.runs_of(&PieceSet::full(shared.geometry.pieces()));
    let runs = context
        .signer
        .join(&shared.task, shared.geometry.size(), runs);
    match shared.partial.clone().commit().await {
        Ok(content) => {
            if let Err(error) = context.store.set_piece_map(&shared.task, &runs) {
                tracing::warn!(task = %shared.task, %error, "the piece map is not kept; it is made anew when asked for");
            }
            shared.change(|view| view.phase = Phase::Stored(content));
            Ok(())
        }
        Err(error) => {
            tracing::error!(task = %shared.task, %error, "verified content cannot be committed");
            Err(Ended::Store)
        }
    }
}

async fn download(
    context: Context,
    beginning: Beginning,
    mut events: mpsc::Receiver<Event>,
    mut stops: mpsc::Receiver<Ended>,
) -> Result<(), Ended> {
    let shared = context.shared.clone();
    let held = shared.view().held.clone();
    if held.is_full() {
        return Ok(());
    }
    let join = Join {
        task: shared.task,
        size: shared.geometry.size(),
        sources: repositories(&beginning.sources),
        held: held.clone(),
        lease: beginning.lease.as_ref().map(|lease| LeaseClaim {
            lease: lease.lease,
            ranges: lease.ranges.clone(),
        }),
    };
    let started = Instant::now();
    let mut driver = Driver::new(context.clone(), held, beginning.sources);
    if beginning.lease.is_some() {
        driver.coming = TOLD;
    }
    let mut heard = context.swarm.join(join).await;
    let mut tick = tokio::time::interval(TICK);
    let mut actions = driver.task.start(Duration::ZERO, beginning.clean);
    if let Some(lease) = beginning.lease {
        let leased = Event::Scheduler(TaskEvent::Lease(lease));
        actions.extend(driver.task.apply(Duration::ZERO, leased));
    }
    let ended = loop {
        let now = started.elapsed();
        driver.stand(now);
        actions.extend(driver.share(now));
        if let Some(end) = driver.carry_out_all(actions).await {
            break end;
        }
        // A busy parent can be asked again sooner than the next tick.
        let wake = driver.task.wake_at();
        let pause = wake.unwrap_or_default().saturating_sub(started.elapsed());
        let event = tokio::select! {
            Some(event) = heard.recv() => {
                driver.note_signers(&event);
                Event::Scheduler(event)
            }
            Some(event) = events.recv() => event,
            Some(ended) = stops.recv() => break Err(ended),
            _ = tick.tick() => {
                // What was received stays on disk for the next start.
                if context.shutdown.is_draining() && !driver.task.has_readers() {
                    break Err(Ended::Stopping);
                }
                Event::Tick
            }
            () = tokio::time::sleep(pause), if wake.is_some() => Event::Tick,
            () = context.shutdown.cancelled() => break Err(Ended::Stopping),
        };
        actions = driver.task.apply(started.elapsed(), event);
    };
    driver.cancel_all();
    ended
}

impl Driver {
    fn new(context: Context, held: PieceSet, sources: Vec<Supply>) -> Self {
        let me = context.swarm.me().id.clone();
        let (task, geometry) = (context.shared.task, context.shared.geometry);
        Self {
            task: Task::new(Duration::ZERO, task, me, held, geometry, sources),
            standing: context.precedence.stand(),
            coming: COMING,
            context,
            links: HashMap::new(),
            fetches: HashMap::new(),
            reads: HashMap::new(),
            beside: 0,
        }
    }

    /// Finds out whether somebody waits, and for whom the download gives way.
    fn stand(&mut self, now: Duration) {
        let awaited = now < self.coming || self.task.is_awaited(now);
        self.context.urgency.set(awaited);
        let gives_way = self.standing.gives_way(awaited);
        self.task.give_way(gives_way);
    }

    /// Tells the task how many downloads share this node, if that has changed.
    fn share(&mut self, now: Duration) -> Vec<Action> {
        let downloads = self.context.metrics.running().max(1);
        if std::mem::replace(&mut self.beside, downloads) == downloads {
            return Vec::new();
        }
        self.task.apply(now, Event::Beside { downloads })
    }

    /// Whoever the scheduler names as a signer counts; without a scheduler, whoever it named before
    /// and the seeds themselves.
    fn note_signers(&self, event: &TaskEvent) {
        let mut trusted = self
            .context
            .signers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match event {
            TaskEvent::Parents { signers, .. } => {
                trusted.0.extend(signers.iter().cloned());
            }
            TaskEvent::Alone { owners, .. } => {
                let keys = owners
                    .iter()
                    .filter_map(|owner| Some((owner.id.clone(), owner.signing_key?)));
                trusted.0.extend(keys);
            }
            _ => {}
        }
    }

    async fn carry_out_all(&mut self, actions: Vec<Action>) -> Option<Result<(), Ended>> {
        for action in actions {
            let end = self.carry_out(action).await;
            if end.is_some() {
                return end;
            }
        }
        None
    }

    /// Does what was decided. `Some` when that ends the download.
    async fn carry_out(&mut self, action: Action) -> Option<Result<(), Ended>> {
        let context = self.context.clone();
        match action {
            Action::Subscribe(parent) => {
                let stop = self.stop_for(|driver| &mut driver.links, parent.id.clone());
                let sources = self.task.sources().to_vec();
                self.spawn(stop, fetch::subscribe(context, parent, sources));
            }
            Action::Unsubscribe(parent) => cancel(&mut self.links, &parent),
            Action::Fetch {
                request,
                parent,
                want,
                at_once,
            } => {
                let stop = self.stop_for(|driver| &mut driver.fetches, request);
                let request = (request, at_once);
                self.spawn(stop, fetch::fetch(context, request, parent, want));
            }
            Action::CancelFetch(request) => cancel(&mut self.fetches, &request),
            Action::Read {
                read,
                pieces,
                sources,
            } => {
                let stop = self.stop_for(|driver| &mut driver.reads, read);
                self.spawn(stop, read::read(context, read, pieces, sources));
            }
            Action::CancelRead(read) => cancel(&mut self.reads, &read),
            Action::Tell(input) => context.swarm.tell(input).await,
            Action::Doubt(parent) => {
                let task = context.shared.task;
                let stop = context.shutdown.cancellation();
                self.spawn(
                    stop,
                    async move { context.peers.doubt(&parent, &task).await },
                );
            }
            Action::Unvouch => context.shared.change(|view| view.unvouched = true),
            Action::Complete => return Some(Ok(())),
            Action::Fail(failure) => return Some(Err(Ended::Source(failure))),
        }
        None
    }

    fn stop_for<K: std::hash::Hash + Eq>(
        &mut self,
        tokens: impl FnOnce(&mut Self) -> &mut HashMap<K, CancellationToken>,
        key: K,
    ) -> CancellationToken {
        let stop = self.context.shutdown.cancellation().child_token();
        if let Some(old) = tokens(self).insert(key, stop.clone()) {
            old.cancel();
        }
        stop
    }

    fn spawn(&self, stop: CancellationToken, transfer: impl Future<Output = ()> + Send + 'static) {
        self.context.shutdown.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = transfer => {}
            }
        });
    }

    fn cancel_all(&mut self) {
        let links = self.links.values();
        for stop in links
            .chain(self.fetches.values())
            .chain(self.reads.values())
        {
            stop.cancel();
        }
    }
}

/// What a scheduler is told of where content can be read.
fn repositories(sources: &[Supply]) -> Vec<Source> {
    let repositories = sources.iter().filter_map(Supply::repository);
    repositories.cloned().collect()
}

fn cancel<K: std::hash::Hash + Eq>(tokens: &mut HashMap<K, CancellationToken>, key: &K) {
    if let Some(stop) = tokens.remove(key) {
        stop.cancel();
    }
}
