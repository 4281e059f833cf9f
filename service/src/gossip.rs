//! Membership without servers: who lives, by word of mouth among the members themselves, and so who
//! keeps the table of who holds what.
//!
//! [`members`] decides, as SWIM does; [`exchange`] carries packets over this cluster's own mutual TLS,
//! to the pieces listeners of other members; [`join`] finds somebody to begin with. This file joins
//! them. It is for its users to give what the pieces listener is asked to [`Gossip::receive`].

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use darner_proto::gossip::{Member, Place};
use darner_proto::id::HostId;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{sleep, sleep_until, timeout};

use crate::identity::{Caller, Identity};
use crate::shutdown::Shutdown;

mod endpoint_slices;
mod exchange;
mod join;
pub mod members;
mod metrics;
mod node;

pub use endpoint_slices::KubernetesService;
use exchange::{Answer, ExchangeError, Exchanges};
use members::{Action, Event, Members};
pub use metrics::GossipMetrics;

/// What has come and is not taken in yet. Beyond it whoever sends is told to come later.
const HEARD: usize = 1024;
/// Packets on their way at once; the protocol gets over what is not sent.
const EXCHANGES: usize = 64;
/// Whoever asks for an answer has it by then, or none.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// News of a farewell gets this long.
const FAREWELL: Duration = Duration::from_millis(500);

/// This process's part in the membership. Clones share it.
#[derive(Debug, Clone)]
pub struct Gossip {
    heard: mpsc::Sender<Heard>,
    keepers: watch::Receiver<Vec<Arc<Member>>>,
}

/// What reaches the one task that decides.
#[derive(Debug)]
enum Heard {
    /// A member has sent a packet and waits for what there is for it.
    Request(Option<HostId>, Bytes, oneshot::Sender<Vec<Bytes>>),
    /// Somebody wants to know who lives.
    Listing(oneshot::Sender<Vec<Arc<Member>>>),
    /// What a member has answered.
    Answered(Arc<Member>, Answer),
    /// Nobody listens where this member should be, or takes connections there.
    Unreachable(Arc<Member>),
    /// Somebody has said whom it knows.
    Introduced(Vec<Arc<Member>>),
}

/// Who this process is for the others, and where it finds them.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its node id.
    pub id: HostId,
    /// Where it is.
    pub place: Place,
    /// `host:port` of pieces listeners to begin with; a name may have many addresses.
    pub join: Vec<String>,
    /// A Kubernetes service that all of them are behind.
    pub service: Option<KubernetesService>,
}

impl Gossip {
    /// Begins to find the others, until the process drains; then says farewell.
    pub fn start(
        options: Options,
        identity: &Identity,
        metrics: GossipMetrics,
        shutdown: &Shutdown,
    ) -> Self {
        let (heard, incoming) = mpsc::channel(HEARD);
        let epoch = unix_ms();
        let me = Member {
            id: options.id,
            generation: epoch,
            place: Some(options.place),
        };
        let members = Members::new(Duration::ZERO, me, epoch, random());
        metrics.members(members.count());
        let (published, keepers) = watch::channel(members.keepers().to_vec());
        let gossip = Self { heard, keepers };
        let driver = Driver {
            members,
            started: Instant::now(),
            exchanges: Exchanges::new(identity, metrics.clone()),
            places: Arc::new(Semaphore::new(EXCHANGES)),
            published,
            heard: gossip.heard.clone(),
            metrics,
            shutdown: shutdown.clone(),
        };
        let joining = join::Joining {
            addresses: options.join,
            service: options.service,
            exchanges: driver.exchanges.clone(),
            gossip: gossip.clone(),
        };
        shutdown.spawn(driver.run(incoming));
        let ending = shutdown.clone();
        shutdown.spawn(async move {
            tokio::select! {
                () = joining.run() => {}
                () = ending.draining() => {}
            }
        });
        gossip
    }

    /// Who keeps the table, now and from now on; by id.
    pub fn keepers(&self) -> watch::Receiver<Vec<Arc<Member>>> {
        self.keepers.clone()
    }

    /// Takes in a packet of `from` and answers it; `None` when there is too much to do.
    pub async fn receive(&self, from: &Caller, packet: Bytes) -> Option<Bytes> {
        let (answer, answered) = oneshot::channel();
        let heard = Heard::Request(exchange::proved(from), packet, answer);
        self.heard.try_send(heard).ok()?;
        let packets = answered_in_time(answered).await?;
        Some(exchange::framed(&packets))
    }

    /// Everybody who lives, this process first, as it goes over the wire.
    pub async fn listing(&self) -> Option<Bytes> {
        Some(exchange::listed(&self.live().await?))
    }

    /// Everybody who lives, this process first.
    pub async fn live(&self) -> Option<Vec<Arc<Member>>> {
        let (answer, answered) = oneshot::channel();
        self.heard.try_send(Heard::Listing(answer)).ok()?;
        answered_in_time(answered).await
    }

    async fn introduce(&self, members: Vec<Arc<Member>>) {
        // The driver ends only with the process.
        let _ = self.heard.send(Heard::Introduced(members)).await;
    }
}

async fn answered_in_time<T>(answered: oneshot::Receiver<T>) -> Option<T> {
    timeout(ANSWER_TIME, answered).await.ok()?.ok()
}

struct Driver {
    members: Members,
    started: Instant,
    exchanges: Exchanges,
    places: Arc<Semaphore>,
    published: watch::Sender<Vec<Arc<Member>>>,
    heard: mpsc::Sender<Heard>,
    metrics: GossipMetrics,
    shutdown: Shutdown,
}

impl Driver {
    async fn run(mut self, mut incoming: mpsc::Receiver<Heard>) {
        loop {
            let due = self.members.next_due().map(|due| self.started + due);
            tokio::select! {
                () = self.shutdown.draining() => break,
                Some(heard) = incoming.recv() => self.hear(heard),
                () = until(due) => self.apply(Event::Tick, None),
            }
        }
        self.leave().await;
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Request(from, packet, answer) => {
                let mut packets = Vec::new();
                let event = Event::Packet {
                    from: from.clone(),
                    packet,
                };
                match from {
                    Some(from) => self.apply(event, Some((&from, &mut packets))),
                    // Nobody says who waits; it is told as anybody is.
                    None => self.apply(event, None),
                }
                // Whoever asked may have given up.
                let _ = answer.send(packets);
            }
            Heard::Listing(answer) => {
                let _ = answer.send(self.members.live().cloned().collect());
            }
            Heard::Answered(member, Answer { from, packets }) => {
                self.apply(Event::Answered(member), None);
                for packet in packets {
                    let from = from.clone();
                    self.apply(Event::Packet { from, packet }, None);
                }
            }
            Heard::Unreachable(member) => self.apply(Event::Unreachable(member), None),
            Heard::Introduced(members) => self.apply(Event::Introduced(members), None),
        }
    }

    /// Packets for whoever waits for an answer go there.
    fn apply(&mut self, event: Event, mut waiting: Option<(&HostId, &mut Vec<Bytes>)>) {
        let actions = self.members.apply(self.started.elapsed(), event);
        for action in actions {
            match action {
                Action::Send { to, packet } => match &mut waiting {
                    Some((who, packets)) if to.id == **who => packets.push(packet),
                    _ => drop(self.send(to, packet)),
                },
                Action::Keepers(keepers) => {
                    tracing::info!(
                        members = self.members.count(),
                        keepers = keepers.len(),
                        "who keeps the table has changed"
                    );
                    self.published.send_replace(keepers);
                }
            }
        }
        self.metrics.members(self.members.count());
        self.metrics.refused(self.members.refused());
    }

    fn send(&self, to: Arc<Member>, packet: Bytes) -> Option<tokio::task::JoinHandle<()>> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        let (exchanges, heard) = (self.exchanges.clone(), self.heard.clone());
        Some(self.shutdown.spawn(async move {
            let _place = place;
            let heard_back = match exchanges.exchange(&to, packet).await {
                Ok(answer) => Heard::Answered(to, answer),
                Err(ExchangeError::Unreachable) => Heard::Unreachable(to),
                Err(ExchangeError::Silent) if !exchanges.is_taken(&to).await => {
                    Heard::Unreachable(to)
                }
                Err(error) => {
                    tracing::trace!(member = %to.id, %error, "a packet was lost");
                    return;
                }
            };
            // What is too much now comes again.
            let _ = heard.try_send(heard_back);
        }))
    }

    async fn leave(mut self) {
        let actions = self.members.apply(self.started.elapsed(), Event::Leave);
        let farewells: Vec<_> = actions
            .into_iter()
            .filter_map(|action| match action {
                Action::Send { to, packet } => self.send(to, packet),
                Action::Keepers(_) => None,
            })
            .collect();
        let _ = timeout(FAREWELL, async {
            for farewell in farewells {
                let _ = farewell.await;
            }
        })
        .await;
    }
}

/// For ever where nothing is due.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}

/// Members that choose alike would all ask the same one; nothing secret hangs on it.
fn random() -> u64 {
    let mut bytes = [0; 8];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => u64::from_be_bytes(bytes),
        Err(_) => unix_ms(),
    }
}

/// Waits with a jitter of as much again, from what is random anyway.
async fn pause(about: Duration) {
    let share = (random() % 1000) as f64 / 1000.0;
    sleep(about + about.mul_f64(share)).await;
}
