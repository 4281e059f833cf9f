//! Tells the manager which images this host holds: all of it once, then what changes, in parts, soon
//! but not at once.
//!
//! [`Teller`] decides what is to be told next; [`Holdings`] is the link between whoever knows what
//! is held and the connection to the manager. The manager keeps nothing of it on disk. That it has
//! forgotten shows in its answers to keep-alives and reports, and then everything is told anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use darner_proto::digest::Digest;
use darner_proto::holdings::{
    Facts, Held, HoldingsReply, HoldingsReport, ImageKey, MAX_FACTS, MAX_GONE, MAX_HELD, MAX_REPORT,
};
use darner_proto::id::Host;
use darner_proto::wire;
use darner_proto::wire::catalog_client::CatalogClient;
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::Status;
use tonic::transport::Channel;

use super::session::answered;

#[cfg(test)]
mod tests;

/// What changes is told within this time, at a moment of each host's own: thousands may have got
/// the same image at once.
const SPREAD: Duration = Duration::from_secs(2);
/// Between parts.
const PAUSE: Duration = Duration::from_millis(100);
/// After a failure, and where all is told anew: a manager that was restarted hears from everybody.
const SPREAD_ANEW: Duration = Duration::from_secs(5);

/// What is held at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// The images.
    pub images: BTreeMap<ImageKey, Arc<Held>>,
    /// What each consists of.
    pub facts: HashMap<Digest, Arc<Facts>>,
    /// Images that are held and not among these.
    pub left_off: u32,
}

/// What is held, now and from now on. Clones share it.
#[derive(Debug, Clone)]
pub struct Holdings {
    now: Arc<watch::Sender<Option<Arc<Snapshot>>>>,
    /// The last report the manager says it has heard, and the last that was sent when it was asked.
    heard: Arc<watch::Sender<(u64, u64)>>,
    sent: Arc<watch::Sender<u64>>,
}

impl Default for Holdings {
    fn default() -> Self {
        Self {
            now: Arc::new(watch::Sender::new(None)),
            heard: Arc::new(watch::Sender::new((0, 0))),
            sent: Arc::new(watch::Sender::new(0)),
        }
    }
}

impl Holdings {
    /// This is held from now on.
    pub fn hold(&self, snapshot: Snapshot) {
        self.now.send_if_modified(|now| {
            let changed = now.as_deref() != Some(&snapshot);
            if changed {
                *now = Some(Arc::new(snapshot));
            }
            changed
        });
    }

    /// The last report that the manager has answered.
    pub(super) fn sent(&self) -> u64 {
        *self.sent.borrow()
    }

    /// In answer to a keep-alive from when [`Holdings::sent`] was `sent`, the manager says that it
    /// has heard reports up to `heard`.
    pub(super) fn heard(&self, heard: u64, sent: u64) {
        if heard < sent {
            self.heard.send_replace((heard, sent));
        }
    }

    /// Tells the manager until the task is dropped.
    pub(super) async fn tell(&self, channel: Channel, host: &Host) {
        let mut client = CatalogClient::new(channel).max_encoding_message_size(MAX_REPORT);
        let mut now = self.now.subscribe();
        let mut lost = self.heard.subscribe();
        let mut teller = Teller::default();
        loop {
            let snapshot = now.borrow_and_update().clone();
            if let Some(snapshot) = snapshot
                && let Err(status) = self
                    .tell_all(&mut client, host, &mut teller, &snapshot)
                    .await
            {
                tracing::debug!(code = ?status.code(), "the manager does not hear what is held");
                teller.forget();
                sleep(within(SPREAD_ANEW)).await;
                continue;
            }
            tokio::select! {
                changed = now.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    sleep(within(SPREAD)).await;
                }
                changed = lost.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if teller.is_lost(*lost.borrow_and_update()) {
                        teller.forget();
                        sleep(within(SPREAD_ANEW)).await;
                    }
                }
            }
        }
    }

    async fn tell_all(
        &self,
        client: &mut CatalogClient<Channel>,
        host: &Host,
        teller: &mut Teller,
        snapshot: &Snapshot,
    ) -> Result<(), Status> {
        while let Some(report) = teller.next(snapshot) {
            let message = wire::HoldingsReport {
                id: host.id.to_string(),
                role: wire::Role::from(host.role).into(),
                ..(&report).into()
            };
            let reply = answered(client.tell(message)).await?.into_inner();
            teller.answered(report, &HoldingsReply::try_from(reply)?);
            self.sent.send_replace(teller.sequence);
            sleep(PAUSE).await;
        }
        Ok(())
    }
}

/// A part of `longest`, by chance.
fn within(longest: Duration) -> Duration {
    let mut random = [0];
    // Without randomness all wait as long as one another, which is bearable.
    let _ = aws_lc_rs::rand::fill(&mut random);
    longest * u32::from(random[0]) / u32::from(u8::MAX)
}

/// What the manager has been told, and what it wants to know.
#[derive(Debug, Default)]
struct Teller {
    /// The last report that was answered.
    sequence: u64,
    /// The manager knows nothing.
    anew: Anew,
    told: BTreeMap<ImageKey, Arc<Held>>,
    left_off: u32,
    wanted: BTreeSet<Digest>,
    described: HashMap<Digest, Arc<Facts>>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Anew {
    #[default]
    Yes,
    No,
}

impl Teller {
    /// The next part of what the manager does not know of `now`.
    fn next(&self, now: &Snapshot) -> Option<HoldingsReport> {
        let news = now.images.iter();
        let news = news.filter(|(key, held)| {
            let told = self.told.get(key);
            !told.is_some_and(|told| Arc::ptr_eq(told, held) || told.says_as(held))
        });
        let gone = self.told.keys().filter(|key| !now.images.contains_key(key));
        let facts = now.facts.iter().filter(|(digest, facts)| {
            let known = self.described.get(digest);
            self.wanted.contains(digest) || known.is_some_and(|known| known != *facts)
        });
        let report = HoldingsReport {
            sequence: self.sequence + 1,
            anew: self.anew == Anew::Yes,
            held: news.map(|(_, held)| held.clone()).take(MAX_HELD).collect(),
            gone: gone.copied().take(MAX_GONE).collect(),
            facts: facts
                .map(|(_, facts)| facts.clone())
                .take(MAX_FACTS)
                .collect(),
            left_off: now.left_off,
        };
        let says_nothing = report.held.is_empty()
            && report.gone.is_empty()
            && report.facts.is_empty()
            && report.left_off == self.left_off;
        (report.anew || !says_nothing).then_some(report)
    }

    /// `report` was heard.
    fn answered(&mut self, report: HoldingsReport, reply: &HoldingsReply) {
        self.sequence = report.sequence;
        if reply.again {
            self.forget();
            return;
        }
        self.anew = Anew::No;
        self.left_off = report.left_off;
        for held in report.held {
            self.told.insert(held.key, held);
        }
        for key in &report.gone {
            self.told.remove(key);
            self.described.remove(&key.digest);
        }
        for facts in report.facts {
            self.wanted.remove(&facts.digest);
            self.described.insert(facts.digest, facts);
        }
        // What is asked for again and again is told no more often than anything else.
        self.wanted = reply.unknown.iter().copied().collect();
    }

    /// Whether the manager has lost what it was told, by its answer to a keep-alive.
    fn is_lost(&self, (heard, sent): (u64, u64)) -> bool {
        self.anew == Anew::No && heard < sent
    }

    /// All is to be told anew. Reports are counted on, so that late answers are seen to be late.
    fn forget(&mut self) {
        *self = Self {
            sequence: self.sequence,
            ..Self::default()
        };
    }
}
