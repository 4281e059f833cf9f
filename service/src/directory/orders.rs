//! What the manager orders of this host, and what the host tells of it and of itself: the link between
//! the keep-alives that carry both and whoever carries the orders out.

use std::sync::{Arc, OnceLock};

use darner_proto::figures::Figures;
use darner_proto::preheat::{MAX_ORDERS, Order, Report};
use darner_proto::removal::{MAX_REMOVALS, Removal};
use darner_proto::wire;
use tokio::sync::watch;

/// Both are levels: all orders as of the last answer, and the last word about each. Clones share
/// them.
#[derive(Debug, Clone)]
pub struct Orders {
    given: Arc<watch::Sender<Arc<Vec<Order>>>>,
    told: Arc<watch::Sender<Vec<Report>>>,
    counting: Counting,
    removals: Arc<watch::Sender<Arc<Vec<Removal>>>>,
    removed: Arc<watch::Sender<u64>>,
}

/// How what the host has counted is read.
#[derive(Clone, Default)]
struct Counting(Arc<OnceLock<Reading>>);

type Reading = Box<dyn Fn() -> Option<Figures> + Send + Sync>;

impl std::fmt::Debug for Counting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Counting")
    }
}

impl Default for Orders {
    fn default() -> Self {
        Self {
            given: Arc::new(watch::Sender::new(Arc::default())),
            told: Arc::new(watch::Sender::new(Vec::new())),
            counting: Counting::default(),
            removals: Arc::new(watch::Sender::new(Arc::default())),
            removed: Arc::new(watch::Sender::new(0)),
        }
    }
}

impl Orders {
    /// Every order of this host, now and from now on.
    pub fn watch(&self) -> watch::Receiver<Arc<Vec<Order>>> {
        self.given.subscribe()
    }

    /// What came of all of them so far: told with the next keep-alive.
    pub fn tell(&self, reports: Vec<Report>) {
        self.told.send_replace(reports);
    }

    /// From now on every keep-alive tells what `read` says that the host has counted. The first counts.
    pub fn count(&self, read: impl Fn() -> Option<Figures> + Send + Sync + 'static) {
        let _ = self.counting.0.set(Box::new(read));
    }

    /// What is to be removed and has not been, in order, now and from now on.
    pub fn removals(&self) -> watch::Receiver<Arc<Vec<Removal>>> {
        self.removals.subscribe()
    }

    /// All removals up to this number have been carried out: told with the next keep-alive.
    pub fn removed(&self, number: u64) {
        self.removed.send_replace(number);
    }

    pub(super) fn last_removed(&self) -> u64 {
        *self.removed.borrow()
    }

    /// As with orders, one that makes no sense is not one; those after it are not carried out before
    /// it either.
    pub(super) fn remove(&self, removals: Vec<wire::Removal>) {
        let removals = removals.into_iter().take(MAX_REMOVALS);
        let understood = removals.map_while(|removal| match Removal::try_from(removal) {
            Ok(removal) => Some(removal),
            Err(error) => {
                tracing::warn!(%error, "a removal of the manager's is not understood");
                None
            }
        });
        let removals: Vec<_> = understood.collect();
        if !removals.is_empty() {
            self.removals.send_replace(Arc::new(removals));
        }
    }

    pub(super) fn figures(&self) -> Option<wire::Figures> {
        let figures = self.counting.0.get()?()?;
        Some((&figures).into())
    }

    pub(super) fn reports(&self) -> Vec<wire::OrderReport> {
        self.told.borrow().iter().map(Into::into).collect()
    }

    /// Whether there is anything to do.
    pub(super) fn any(&self) -> bool {
        !self.given.borrow().is_empty()
    }

    /// An order that makes no sense is not one: a later manager may know others.
    pub(super) fn give(&self, orders: Vec<wire::Order>) {
        let orders = orders.into_iter().take(MAX_ORDERS);
        let orders = orders.filter_map(|order| match Order::try_from(order) {
            Ok(order) => Some(order),
            Err(error) => {
                tracing::warn!(%error, "an order of the manager's is not understood");
                None
            }
        });
        let orders: Vec<_> = orders.collect();
        self.given.send_if_modified(|given| {
            let changed = **given != orders;
            if changed {
                *given = Arc::new(orders);
            }
            changed
        });
    }
}
