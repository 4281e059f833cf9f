//! Many nodes, as a scheduler sees them: each with a connection and a stream of its own.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use darner_proto::digest::Digest;
use darner_proto::id::{Host, Role, SigningKey, TaskId};
use darner_proto::piece_set::PieceSet;
use darner_proto::scheduler::{Join, MAX_RATES, NodeMessage, Outcome, ParentRate, Progress};
use darner_proto::wire;
use darner_proto::wire::scheduler_client::SchedulerClient;
use darner_proto::wire::scheduler_message::Body;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use crate::scheduler::Scheduler;
use crate::{PIECES, Shape};

/// Messages of one node that wait to be sent.
const OUTGOING: usize = 64;
/// Connections that are made at once.
const AT_ONCE: usize = 64;
/// A node says it lives this often.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// What every parent sends a child, in bytes a second.
const RATE: u64 = 100_000_000;
/// Hosts that do the same at once.
const TOGETHER: usize = 256;
/// Keys in one part of a listing.
const PART: usize = 512;

/// All nodes.
pub(crate) struct Fleet {
    shape: Shape,
    nodes: Vec<Node>,
    counts: Arc<Counts>,
    next_selection: usize,
    running: JoinSet<()>,
}

struct Node {
    outgoing: mpsc::Sender<wire::NodeMessage>,
    pieces: u32,
    heard: Arc<Mutex<Heard>>,
}

/// What a node waits for, and what it was last told.
#[derive(Default)]
struct Heard {
    asked: Option<Instant>,
    parents: Vec<String>,
}

#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    sent: AtomicU64,
    latencies: Mutex<Vec<Duration>>,
}

/// How long answers took.
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    /// Prints p50, p99 and the longest.
    pub(crate) fn say(&self, what: &str) {
        let at = |share: usize| {
            let last = self.0.len().saturating_sub(1);
            self.0
                .get(last * share / 1000)
                .map_or(0.0, |one| one.as_secs_f64() * 1000.0)
        };
        println!(
            "{what}: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
            at(500),
            at(990),
            at(1000)
        );
    }
}

/// What the hosts hold besides what they download.
fn held_key(number: usize) -> Digest {
    Digest::sha256(format!("held {number}").as_bytes())
}

fn task(number: usize) -> TaskId {
    Digest::sha256(format!("task {number}").as_bytes())
}

impl Fleet {
    /// Connects all hosts.
    pub(crate) async fn attend(url: String, shape: Shape) -> Result<Self> {
        let counts = Arc::new(Counts::default());
        let mut fleet = Self {
            shape,
            nodes: Vec::new(),
            counts: counts.clone(),
            next_selection: 0,
            running: JoinSet::new(),
        };
        let mut number = 0;
        while number < shape.hosts {
            let some = number..(number + AT_ONCE).min(shape.hosts);
            number = some.end;
            let opening = some.map(|number| open(&url, number, counts.clone()));
            for opened in futures_util::future::try_join_all(opening).await? {
                let (node, reading, living) = opened;
                fleet.nodes.push(node);
                fleet.running.spawn(reading);
                fleet.running.spawn(living);
            }
        }
        Ok(fleet)
    }

    async fn say(&self, node: usize, message: &NodeMessage) -> Result<()> {
        self.counts.sent.fetch_add(1, Ordering::Relaxed);
        let sent = self.nodes[node].outgoing.send(message.into()).await;
        sent.context("the scheduler has ended a session")
    }

    /// When all hosts do something, they do it some at a time: nobody's sign of life is to wait behind
    /// the messages of all others.
    async fn pace(&self, node: usize, scheduler: &Scheduler) -> Result<()> {
        if node.is_multiple_of(TOGETHER) {
            self.settle(scheduler).await?;
        }
        Ok(())
    }

    /// Every host lists what it holds: the same contents.
    pub(crate) async fn list_held(
        &self,
        contents: Range<usize>,
        scheduler: &Scheduler,
    ) -> Result<()> {
        let keys: Vec<_> = contents.map(held_key).collect();
        for node in 0..self.nodes.len() {
            self.pace(node, scheduler).await?;
            for part in keys.chunks(PART) {
                let keys = part.to_vec();
                let listed = false;
                self.say(node, &NodeMessage::Inventory { keys, listed })
                    .await?;
            }
            let keys = Vec::new();
            self.say(node, &NodeMessage::Inventory { keys, listed: true })
                .await?;
        }
        Ok(())
    }

    /// One host has the whole of each task, so that nobody is to read upstream. It is none that
    /// downloads it: those are `tasks` apart, in every round.
    pub(crate) async fn hold_tasks(&self) -> Result<()> {
        for number in 0..self.shape.tasks {
            let holder = (number + self.shape.tasks / 2) % self.nodes.len();
            let keys = vec![task(number)];
            self.say(holder, &NodeMessage::Inventory { keys, listed: true })
                .await?;
        }
        Ok(())
    }

    fn task_of(&self, node: usize, round: usize) -> usize {
        (node + round * self.shape.tasks / 11) % self.shape.tasks
    }

    /// Every host joins a task, another one in every round.
    pub(crate) async fn join_all(&self, round: usize, scheduler: &Scheduler) -> Result<()> {
        for node in 0..self.nodes.len() {
            self.pace(node, scheduler).await?;
            self.join(node, self.task_of(node, round), 0).await?;
        }
        Ok(())
    }

    /// Every host leaves its task of that round.
    pub(crate) async fn leave_all(&self, round: usize, scheduler: &Scheduler) -> Result<()> {
        for node in 0..self.nodes.len() {
            self.pace(node, scheduler).await?;
            let task = task(self.task_of(node, round));
            let outcome = Outcome::Abandoned;
            self.say(node, &NodeMessage::Leave { task, outcome })
                .await?;
        }
        Ok(())
    }

    async fn join(&self, node: usize, number: usize, pieces: u32) -> Result<()> {
        let mut held = PieceSet::empty(PIECES);
        held.insert_range(0..pieces);
        let join = Join {
            task: task(number),
            size: u64::from(PIECES) << 20,
            sources: Vec::new(),
            held,
            lease: None,
        };
        self.say(node, &NodeMessage::Join(join)).await
    }

    /// These hosts complete `run` pieces each. Returns how many that were.
    pub(crate) async fn complete(&mut self, hosts: Range<u64>, run: u32) -> Result<u64> {
        let mut told = 0;
        for node in hosts {
            let node = usize::try_from(node)?;
            let number = node % self.shape.tasks;
            let pieces = self.nodes[node].pieces;
            if pieces + run > PIECES {
                // It begins anew, as if it were the next host.
                self.nodes[node].pieces = 0;
                let leave = NodeMessage::Leave {
                    task: task(number),
                    outcome: Outcome::Abandoned,
                };
                self.say(node, &leave).await?;
                self.join(node, number, 0).await?;
                continue;
            }
            let progress = Progress {
                task: task(number),
                gained: vec![pieces..pieces + run],
                upstream_bytes: 0,
                upstream_ranges: None,
                rates: self.rates(node),
            };
            self.say(node, &NodeMessage::Progress(progress)).await?;
            self.nodes[node].pieces += run;
            told += u64::from(run);
        }
        Ok(told)
    }

    /// What a node says of every parent it has.
    fn rates(&self, node: usize) -> Vec<ParentRate> {
        let heard = lock(&self.nodes[node].heard);
        let rates = heard.parents.iter().filter_map(|parent| {
            Some(ParentRate {
                parent: parent.parse().ok()?,
                bytes_per_second: RATE,
            })
        });
        rates.take(MAX_RATES).collect()
    }

    /// So many hosts leave their task and join it again: each is told parents anew.
    pub(crate) async fn select(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            self.next_selection = (self.next_selection + 7919) % self.nodes.len();
            let node = self.next_selection;
            let number = node % self.shape.tasks;
            let leave = NodeMessage::Leave {
                task: task(number),
                outcome: Outcome::Abandoned,
            };
            self.say(node, &leave).await?;
            lock(&self.nodes[node].heard).asked = Some(Instant::now());
            self.join(node, number, self.nodes[node].pieces).await?;
        }
        Ok(())
    }

    /// Waits until the scheduler has heard everything.
    pub(crate) async fn settle(&self, scheduler: &Scheduler) -> Result<()> {
        let sent = self.counts.sent.load(Ordering::Relaxed) as f64;
        let begun = Instant::now();
        while scheduler.heard().await? < sent {
            ensure!(
                begun.elapsed() < Duration::from_secs(60),
                "messages are lost"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Selections told so far: every message that names parents.
    pub(crate) fn answered(&self) -> u64 {
        self.counts.answered.load(Ordering::Relaxed)
    }

    /// How long answers have taken since this was last asked for.
    pub(crate) fn take_latencies(&self) -> Option<Latencies> {
        let mut all = std::mem::take(&mut *lock(&self.counts.latencies));
        all.sort_unstable();
        Some(Latencies(all))
    }
}

async fn open(
    url: &str,
    number: usize,
    counts: Arc<Counts>,
) -> Result<(
    Node,
    impl Future<Output = ()> + use<>,
    impl Future<Output = ()> + use<>,
)> {
    let channel = Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true);
    let channel = channel.connect().await.context("connecting")?;
    let mut client = SchedulerClient::new(channel);
    let (outgoing, queue) = mpsc::channel(OUTGOING);
    outgoing
        .send((&NodeMessage::Hello(host(number)?)).into())
        .await?;
    counts.sent.fetch_add(1, Ordering::Relaxed);
    let mut incoming = client
        .attend(ReceiverStream::new(queue))
        .await?
        .into_inner();
    let heard: Arc<Mutex<Heard>> = Arc::default();
    let (hears, told) = (heard.clone(), counts.clone());
    let reading = async move {
        while let Ok(Some(message)) = incoming.message().await {
            let Some(Body::Parents(parents)) = message.body else {
                continue;
            };
            told.answered.fetch_add(1, Ordering::Relaxed);
            let mut heard = lock(&hears);
            let parents = parents.parents.into_iter();
            heard.parents = parents.filter_map(|one| Some(one.host?.id)).collect();
            if let Some(since) = heard.asked.take() {
                lock(&told.latencies).push(since.elapsed());
            }
        }
    };
    let lives = outgoing.clone();
    let living = async move {
        // Not all at the same moment.
        tokio::time::sleep(HEARTBEAT / 1000 * u32::try_from(number % 1000).unwrap_or(0)).await;
        let mut clock = tokio::time::interval(HEARTBEAT);
        loop {
            clock.tick().await;
            counts.sent.fetch_add(1, Ordering::Relaxed);
            if lives.send((&NodeMessage::Heartbeat).into()).await.is_err() {
                return;
            }
        }
    };
    let node = Node {
        outgoing,
        pieces: 0,
        heard,
    };
    Ok((node, reading, living))
}

fn host(number: usize) -> Result<Host> {
    let role = if number < 5 { Role::Seed } else { Role::Mirror };
    let mut key = [0; 32];
    key[..8].copy_from_slice(&(number as u64).to_be_bytes());
    Ok(Host {
        id: format!("node-{number:05}").parse()?,
        address: format!("10.0.{}.{}:7421", number / 250, number % 250),
        role,
        labels: [
            ("zone".to_owned(), format!("zone-{}", number % 3)),
            ("rack".to_owned(), format!("rack-{}", number % 120)),
        ]
        .into(),
        signing_key: Some(SigningKey(key)),
        upload_slots: 16,
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
