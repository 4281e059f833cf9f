//! Gives [`crate::membership`] the clock, and carries out what it decides: the configuration goes to
//! all watchers, the rest to whoever called.
//!
//! Everything here answers from memory. Remembering is somebody else's, who looks at
//! [`Members::snapshot`] when [`Members::changes`] says so.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use darner_proto::id::{Host, Role};
use darner_proto::manager::Configuration;
use darner_proto::trust::Trust;
use darner_service::shutdown::Shutdown;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::clusters::set::ClusterSet;
use crate::membership::{
    Action, Elsewhere, Event, MemberKey, Membership, ROLES, Refusal, Snapshot, Time, Timing,
};
use crate::metrics::ManagerMetrics;

/// How often deadlines are looked at. A dead host is dropped at most this much too late.
const TICK: Duration = Duration::from_millis(500);

/// The members. Clones share them.
#[derive(Debug, Clone)]
pub struct Members {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    membership: Mutex<Membership>,
    began: Instant,
    told: watch::Sender<Arc<Configuration>>,
    settled: watch::Sender<bool>,
    /// Counts what is to be stored. A level: however much changes, there is one thing to do.
    changes: watch::Sender<u64>,
    metrics: ManagerMetrics,
}

/// How a watcher is answered.
#[derive(Debug)]
pub struct Watching {
    /// False while the watcher is to wait.
    pub settled: watch::Receiver<bool>,
    /// Whether it has to wait for that.
    pub waits: bool,
    /// What is told, now and from now on.
    pub told: watch::Receiver<Arc<Configuration>>,
}

impl Members {
    /// Begins with what was remembered; `elsewhere` is whether all of it is other managers' word.
    pub fn new(
        snapshot: Snapshot,
        elsewhere: bool,
        timing: Timing,
        metrics: ManagerMetrics,
    ) -> Self {
        let began = Instant::now();
        let membership = Membership::new(snapshot, elsewhere, timing, time(began));
        let told = watch::Sender::new(membership.told().clone());
        let members = Self {
            shared: Arc::new(Shared {
                membership: Mutex::new(membership),
                began,
                told,
                settled: watch::Sender::new(false),
                changes: watch::Sender::new(0),
                metrics,
            }),
        };
        members.measure(&members.read());
        members
    }

    /// Takes note of a host. Says how often it is to be heard from.
    ///
    /// # Errors
    /// There are as many hosts of its role as there can be.
    pub fn register(&self, host: Host) -> Result<Duration, Refusal> {
        let role = host.role;
        let actions = self.apply(Event::Register(host));
        refusal(&actions)?;
        self.shared.metrics.registrations.inc();
        Ok(self.read().keep_alive_of(role))
    }

    /// A host lives. Says how often it is to be heard from if it is a member.
    pub fn keep_alive(&self, key: MemberKey) -> Option<Duration> {
        let role = key.role;
        let unknown = self.apply(Event::KeepAlive(key)).contains(&Action::Unknown);
        (!unknown).then(|| self.read().keep_alive_of(role))
    }

    /// A host goes away in order.
    pub fn deregister(&self, key: MemberKey) {
        self.apply(Event::Deregister(key));
    }

    /// Tells everybody whose certificates count, when that is not what they have been told.
    pub fn trust(&self, trust: Trust) {
        if *self.read().told().trust != trust {
            self.apply(Event::Trust(trust));
        }
    }

    /// Divides the hosts from now on.
    pub fn divide(&self, clusters: ClusterSet) {
        self.apply(Event::Divide(clusters));
    }

    /// Takes note of what other managers over the same database hear.
    pub fn elsewhere(&self, elsewhere: Elsewhere) {
        self.apply(Event::Elsewhere(elsewhere));
    }

    /// Somebody who holds `known_version` wants to follow the configuration.
    ///
    /// # Errors
    /// That is no version a manager has told.
    pub fn watch(&self, known_version: u64) -> Result<Watching, Refusal> {
        // Subscribed first, so that nothing falls between the decision and the subscription.
        let settled = self.shared.settled.subscribe();
        let told = self.shared.told.subscribe();
        let actions = self.apply(Event::Watch { known_version });
        refusal(&actions)?;
        Ok(Watching {
            settled,
            waits: actions.contains(&Action::Wait),
            told,
        })
    }

    /// Tells `heard` every `step` which mirrors and seeds are members, until the process drains.
    pub async fn each_step(
        &self,
        step: Duration,
        shutdown: &Shutdown,
        mut heard: impl FnMut(&BTreeSet<MemberKey>),
    ) {
        let mut ticks = interval(step);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.draining() => return,
            }
            heard(&self.look(|membership| {
                let roles = [Role::Mirror, Role::Seed].into_iter();
                let records = roles.flat_map(|role| membership.of_role(role, None));
                records.map(|record| MemberKey::of(&record.host)).collect()
            }));
        }
    }

    /// Lets `read` look at the members. It must be quick: everybody else waits.
    pub fn look<T>(&self, read: impl FnOnce(&Membership) -> T) -> T {
        read(&self.read())
    }

    /// What is to outlive the process.
    pub fn snapshot(&self) -> Snapshot {
        self.read().snapshot()
    }

    /// Changes whenever [`Members::snapshot`] does, other than by keep-alives.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Looks at the deadlines until the process drains.
    pub async fn keep_time(self, shutdown: Shutdown) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => { self.apply(Event::Tick); }
                () = shutdown.draining() => return,
            }
        }
    }

    fn read(&self) -> MutexGuard<'_, Membership> {
        let membership = self.shared.membership.lock();
        membership.unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, event: Event) -> Vec<Action> {
        let shared = &self.shared;
        // Told under the lock, so that watchers hear versions in order.
        let mut membership = self.read();
        let actions = membership.apply(time(shared.began), event);
        for action in &actions {
            match action {
                Action::Publish(configuration) => {
                    let (version, schedulers, seeds) = (
                        configuration.version,
                        configuration.schedulers.len(),
                        configuration.seeds.len(),
                    );
                    tracing::info!(version, schedulers, seeds, "configuration");
                    shared.told.send_replace(configuration.clone());
                }
                Action::Settled => {
                    shared.settled.send_replace(true);
                }
                Action::Store => {
                    shared.changes.send_modify(|count| *count += 1);
                    self.measure(&membership);
                }
                Action::Wait | Action::Unknown | Action::Refuse(_) => {}
            }
        }
        actions
    }

    fn measure(&self, membership: &Membership) {
        let metrics = &self.shared.metrics;
        metrics.version(membership.told().version);
        for role in ROLES {
            metrics.hosts(role, membership.count(role));
        }
    }
}

fn refusal(actions: &[Action]) -> Result<(), Refusal> {
    let refusal = actions.iter().find_map(|action| match action {
        Action::Refuse(refusal) => Some(refusal.clone()),
        _ => None,
    });
    refusal.map_or(Ok(()), Err)
}

fn time(began: Instant) -> Time {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH);
    let unix_ms = unix.map_or(0, |since| since.as_millis());
    Time {
        up: began.elapsed(),
        unix_ms: u64::try_from(unix_ms).unwrap_or(u64::MAX),
    }
}
