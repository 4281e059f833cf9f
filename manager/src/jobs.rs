//! Jobs: images and files that are to be on nodes ahead of time.
//!
//! [`job`] is what is remembered, [`board`] decides, [`kept`] is the database. This gives the board
//! the clock and the members, and hands out its orders in the answers to keep-alives
//! ([`crate::rpc`]). Everything about a running job happens in memory; what changed is written within
//! a second. A manager that starts takes up what it finds, and several over one database tell each
//! other by it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use darner_proto::file::FileUrl;
use darner_proto::id::Role;
use darner_proto::invalid::Invalid;
use darner_proto::preheat::{Image, Order, Platform, Report};
use darner_service::shutdown::Shutdown;
use darner_service::telemetry::with_causes;
use tokio::time::{MissedTickBehavior, interval};

use crate::database::{Database, DatabaseError};
use crate::members::Members;
use crate::membership::MemberKey;
use crate::random;
use crate::users::{Name, hash_of};

pub mod board;
pub mod cron;
pub mod job;
mod kept;
pub mod plan;
pub mod schedules;
#[cfg(test)]
mod tests;
mod to;

use board::{Action, Board, Event};
use job::{Item, Job, Limits, Phase, Summary};
use kept::Audited;
pub use to::To;

/// Between looks at the database and at the members.
const TICK: Duration = Duration::from_secs(1);
/// Jobs that have not ended; more are refused.
pub const MAX_RUNNING: usize = 64;
/// Images of one job, and files.
pub const MAX_IMAGES: usize = 32;
/// Images on nodes of one job: its document is a few megabytes then.
pub const MAX_ITEMS: usize = 20_000;
/// Tries to write a job that another manager writes, too.
const WRITES: usize = 5;

/// The jobs. Clones share them.
#[derive(Debug, Clone)]
pub struct Jobs {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    board: Mutex<Board>,
    /// Jobs to be written.
    changed: Mutex<BTreeSet<String>>,
    database: Database,
    members: Members,
}

/// A job to be begun.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The images.
    pub images: Vec<Image>,
    /// The files.
    pub files: Vec<FileUrl>,
    /// Of an index, this platform.
    pub platform: Option<Platform>,
    /// Where to.
    pub to: To,
    /// How much of the cluster it may take up.
    pub limits: Limits,
}

/// Which jobs; without anything all.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter<'a> {
    /// Those that are so far.
    pub phase: Option<Phase>,
    /// Those that this actor asked for; of an account, with its tokens too.
    pub by: Option<&'a str>,
}

/// Who begins a job.
#[derive(Debug, Clone, Copy)]
pub struct By<'a> {
    /// For the audit.
    pub actor: &'a str,
    /// What the caller calls this request: asked again, it is the same job.
    pub request: Option<&'a RequestKey>,
}

/// What a caller calls a request of its own, so that asking again begins nothing anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey(String);

/// A job that was asked for.
#[derive(Debug, Clone)]
pub enum Begun {
    /// It was begun.
    New(Job),
    /// It was begun by the same request before.
    Before(Job),
}

/// A job is not begun, or not changed.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Nothing can be remembered.
    #[error("the database fails")]
    Database(#[from] DatabaseError),
    /// No node is meant.
    #[error("to: there is no such node in the cluster")]
    Nobody,
    /// Too much at once.
    #[error("{what}: there are {count}, more than {most}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// At most.
        most: usize,
    },
    /// There is no such job.
    #[error("there is no such job")]
    Absent,
    /// A limit that cannot be.
    #[error(transparent)]
    Limit(#[from] Invalid),
    /// The request was another one before.
    #[error("this Idempotency-Key was used for a job with other images, platform or nodes")]
    OtherRequest,
    /// Another manager is at it.
    #[error("another manager is changing this job: try again")]
    Busy,
}

impl Jobs {
    /// Nothing is known until [`Jobs::run`] has looked.
    pub fn new(database: Database, members: Members) -> Self {
        Self {
            shared: Arc::new(Shared {
                board: Mutex::default(),
                changed: Mutex::default(),
                database,
                members,
            }),
        }
    }

    /// A node lives, and this came of its orders. Says what it is to do now.
    pub async fn heard(&self, key: &MemberKey, reports: Vec<Report>) -> Vec<Order> {
        if key.role == Role::Scheduler {
            return Vec::new();
        }
        self.learn_of(&reports).await;
        let node = key.id.to_string();
        self.apply(Event::Heard { node, reports })
    }

    /// A node that comes over from a manager that died tells of jobs which this one has not looked up
    /// yet: without a look now it would drop their orders, and begin them anew a moment later.
    async fn learn_of(&self, reports: &[Report]) {
        let jobs: BTreeSet<_> = reports.iter().map(|report| &report.id.job).collect();
        for id in jobs {
            if lock(&self.shared.board).get(id).is_some() {
                continue;
            }
            match kept::get(&self.shared.database, id).await {
                Ok(Some(job)) => drop(self.apply(Event::Take(job))),
                Ok(None) => {}
                Err(error) => {
                    let error = with_causes(&error);
                    tracing::warn!(
                        job = id,
                        error,
                        "a job that a node is at cannot be looked up"
                    );
                }
            }
        }
    }

    /// Begins a job, or finds the one that the same request has begun.
    ///
    /// # Errors
    /// It asks for too much or is for nobody, or the database fails.
    pub async fn create(&self, wanted: Wanted, by: By<'_>) -> Result<Begun, JobError> {
        if let Some(before) = self.begun_before(&wanted, by.request).await? {
            return Ok(Begun::Before(before));
        }
        let job = self.job(&wanted, by.actor)?;
        let audited = Audited {
            actor: by.actor,
            action: "job.create",
        };
        let request = by.request.map(|key| key.0.as_str());
        match kept::create(&self.shared.database, &job, request, audited).await {
            // The same request came twice at once.
            Err(error) if error.is_duplicate() => {
                let before = self.begun_before(&wanted, by.request).await?;
                return Ok(Begun::Before(before.ok_or(JobError::Busy)?));
            }
            created => created?,
        }
        self.apply(Event::Take(job.clone()));
        Ok(Begun::New(job))
    }

    /// The job that a request of this key has begun, if it asked for the same.
    async fn begun_before(
        &self,
        wanted: &Wanted,
        request: Option<&RequestKey>,
    ) -> Result<Option<Job>, JobError> {
        let Some(RequestKey(hash)) = request else {
            return Ok(None);
        };
        let found = kept::made_by(&self.shared.database, hash).await?;
        match found {
            Some(job) if !wanted.is_of(&job) => Err(JobError::OtherRequest),
            found => Ok(found),
        }
    }

    fn job(&self, wanted: &Wanted, by: &str) -> Result<Job, JobError> {
        let count = wanted.images.len() + wanted.files.len();
        within("images and files", count, MAX_IMAGES)?;
        wanted.limits.check()?;
        within(
            "jobs under way",
            lock(&self.shared.board).count() + 1,
            MAX_RUNNING,
        )?;
        let nodes = self.nodes(&wanted.to);
        if nodes.is_empty() || count == 0 {
            return Err(JobError::Nobody);
        }
        within("images and files on nodes", nodes.len() * count, MAX_ITEMS)?;
        let created_ms = now();
        let of_image = |image| {
            let nodes = nodes.iter();
            nodes.map(move |(node, seed)| Item::new(image, node.clone(), *seed))
        };
        Ok(Job {
            id: format!("{created_ms:011x}{}", random::hexadecimal::<4>()),
            created_ms,
            by: by.to_owned(),
            items: (0..).take(count).flat_map(of_image).collect(),
            images: wanted.images.iter().map(ToString::to_string).collect(),
            files: wanted.urls().collect(),
            platform: wanted.platform.as_ref().map(ToString::to_string),
            to: wanted.to.to_string(),
            limits: wanted.limits,
        })
    }

    /// Calls a job off.
    ///
    /// # Errors
    /// There is none, or the database fails.
    pub async fn cancel(&self, id: &str, by: &str) -> Result<Job, JobError> {
        self.change(id, by, "job.cancel", Job::cancel).await
    }

    /// Begins again with what failed or was called off.
    ///
    /// # Errors
    /// There is none, or the database fails.
    pub async fn retry(&self, id: &str, by: &str) -> Result<Job, JobError> {
        self.change(id, by, "job.retry", Job::retry).await
    }

    /// How many have not ended.
    pub fn running(&self) -> usize {
        lock(&self.shared.board).count()
    }

    /// A job.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn get(&self, id: &str) -> Result<Option<Job>, DatabaseError> {
        let mut found = kept::get(&self.shared.database, id).await?;
        if let (Some(found), Some(known)) = (&mut found, lock(&self.shared.board).get(id)) {
            found.merge(known);
        }
        Ok(found)
    }

    /// Jobs that are meant at a glance, the latest first: those before `before` where it is given.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn list(
        &self,
        filter: Filter<'_>,
        before: Option<&str>,
        most: i64,
    ) -> Result<Vec<Summary>, DatabaseError> {
        kept::list(&self.shared.database, filter, before, most).await
    }

    /// Keeps board and database in step until the process drains, and once more then.
    pub async fn run(self, shutdown: Shutdown) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looked = false;
        let mut failing = false;
        loop {
            let draining = tokio::select! {
                _ = ticks.tick() => false,
                () = shutdown.draining() => true,
            };
            let step = self.step(&mut looked).await;
            if let (Err(error), false) = (&step, failing) {
                let error = with_causes(error);
                tracing::error!(
                    error,
                    "jobs are not kept; nodes go on with what they were given, and tell its end until it is kept"
                );
            }
            failing = step.is_err();
            if draining {
                return;
            }
        }
    }

    /// Reads what others changed, looks who is there, and writes what has changed here.
    async fn step(&self, looked: &mut bool) -> Result<(), DatabaseError> {
        let database = &self.shared.database;
        let looked_ms = now();
        if !*looked || database.is_shared() {
            let mut jobs = kept::running(database).await?;
            let found: BTreeSet<_> = jobs.iter().map(|job| job.id.clone()).collect();
            let known = lock(&self.shared.board).ids();
            for id in known.iter().filter(|id| !found.contains(*id)) {
                jobs.extend(kept::get(database, id).await?);
            }
            for job in jobs {
                let (id, ended) = (job.id.clone(), job.is_ended());
                self.apply(Event::Take(job));
                if ended {
                    lock(&self.shared.board).forget_ended(&id);
                }
            }
            *looked = true;
        }
        // It is the list of all nodes, each second.
        let jobs = lock(&self.shared.board).count();
        let present = (jobs > 0).then(|| self.nodes(&To::Nodes));
        let present = present.into_iter().flatten().map(|(id, _)| id).collect();
        self.apply(Event::Tick { present, looked_ms });
        self.write().await
    }

    async fn write(&self) -> Result<(), DatabaseError> {
        let changed = std::mem::take(&mut *lock(&self.shared.changed));
        let mut ended = Ok(());
        for id in changed {
            let known = lock(&self.shared.board).get(&id).cloned();
            let Some(known) = known else {
                continue;
            };
            match kept::write(&self.shared.database, &id, Some(&known), None).await {
                Ok(Some(job)) => {
                    let ended = job.is_ended();
                    self.apply(Event::Take(job));
                    if ended {
                        lock(&self.shared.board).forget_ended(&id);
                    }
                }
                Ok(None) => {
                    lock(&self.shared.changed).insert(id);
                }
                Err(error) => {
                    lock(&self.shared.changed).insert(id);
                    ended = Err(error);
                }
            }
        }
        ended
    }

    async fn change(
        &self,
        id: &str,
        actor: &str,
        action: &'static str,
        change: fn(&mut Job),
    ) -> Result<Job, JobError> {
        let database = &self.shared.database;
        for _ in 0..WRITES {
            let known = lock(&self.shared.board).get(id).cloned();
            let audited = Audited { actor, action };
            let change = Some((audited, change));
            if let Some(job) = kept::write(database, id, known.as_ref(), change).await? {
                self.apply(Event::Take(job.clone()));
                return Ok(job);
            }
            if kept::get(database, id).await?.is_none() {
                return Err(JobError::Absent);
            }
        }
        Err(JobError::Busy)
    }

    /// The nodes that are meant now: names, and whether each is a seed.
    fn nodes(&self, to: &To) -> Vec<(String, bool)> {
        self.shared.members.look(|members| {
            let roles = [Role::Mirror, Role::Seed].into_iter();
            let hosts = roles.flat_map(|role| members.of_role(role, None));
            let meant = hosts
                .map(|record| &record.host)
                .filter(|host| to.means(host));
            // The same name in two roles is one node here.
            let meant = meant.map(|host| (host.id.to_string(), host.role == Role::Seed));
            meant.collect::<BTreeMap<_, _>>().into_iter().collect()
        })
    }

    /// The orders for the node that was heard, if one was.
    fn apply(&self, event: Event) -> Vec<Order> {
        let actions = lock(&self.shared.board).apply(now(), event);
        let mut orders = Vec::new();
        for action in actions {
            match action {
                Action::Order(given) => orders = given,
                Action::Store(id) => {
                    lock(&self.shared.changed).insert(id);
                }
            }
        }
        orders
    }
}

impl RequestKey {
    /// `key` as `account` uses it.
    pub fn new(account: &Name, key: &str) -> Self {
        let hash = hash_of(&format!("{account} {key}"));
        Self(random::hex(&hash))
    }
}

impl RequestKey {
    /// Of a request that nobody in person makes: the `number`-th of `name`, which is a `kind`.
    pub fn of(kind: &str, name: &str, number: i64) -> Self {
        // No account has a name with this sign.
        let hash = hash_of(&format!("{kind}/{name} {number}"));
        Self(random::hex(&hash))
    }
}

impl Begun {
    /// The job.
    pub fn job(self) -> Job {
        match self {
            Self::New(job) | Self::Before(job) => job,
        }
    }
}

impl Wanted {
    fn urls(&self) -> impl Iterator<Item = String> {
        self.files.iter().map(|file| file.url().to_string())
    }

    /// Whether `job` is what comes of it; which nodes there are may have changed.
    fn is_of(&self, job: &Job) -> bool {
        let images = self.images.iter().map(ToString::to_string);
        images.eq(job.images.iter().cloned())
            && self.urls().eq(job.files.iter().cloned())
            && self.platform.as_ref().map(ToString::to_string) == job.platform
            && self.to.to_string() == job.to
            && self.limits == job.limits
    }
}

fn within(what: &'static str, count: usize, most: usize) -> Result<(), JobError> {
    match count <= most {
        true => Ok(()),
        false => Err(JobError::TooMany { what, count, most }),
    }
}

/// Unix time in ms.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
