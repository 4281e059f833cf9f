//! Content that every node is to remove, and how far they are.
//!
//! A removal is numbered and written down. A node says with each keep-alive up to which number it has
//! carried removals out, and is told those beyond in the answer; so one that was away does its part
//! when it is back, for as long as removals stand ([`STANDS`]). Several managers over one database
//! each know how far the nodes are that they hear.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use darner_proto::digest::Digest;
use darner_proto::id::Role;
use darner_proto::removal::{MAX_REMOVALS, Removal};
use darner_service::shutdown::Shutdown;

use crate::database::follow::look_every;
use crate::database::{Database, DatabaseError};
use crate::members::Members;
use crate::membership::{MemberKey, ROLES};
use crate::users::now;

mod kept;
#[cfg(test)]
mod tests;

/// Between looks at the database and at the members.
const STEP: Duration = Duration::from_secs(2);
/// A node that is away for longer keeps what it has.
pub const STANDS: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Removals that stand at once; more are refused. A node that starts anew is told all of them.
pub const MAX_STANDING: usize = 1000;
/// Tries to write one while other managers write others.
const WRITES: usize = 5;
/// Numbers beyond are no count's, whoever says them.
const MAX_NUMBER: u64 = 1 << 53;

/// The removals. Clones share them.
#[derive(Debug, Clone)]
pub struct Removals {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    board: Mutex<Board>,
    database: Database,
    members: Members,
}

/// A removal that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Grows from one to the next.
    pub number: u64,
    /// What is to go.
    pub key: Digest,
    /// What it was called.
    pub name: String,
    /// Who asked.
    pub actor: String,
    /// Unix time in ms.
    pub asked_ms: i64,
}

/// Which of the nodes that are in the cluster now have done it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// All of them.
    pub nodes: usize,
    /// Those that have.
    pub done: usize,
    /// Those that have not, by name.
    pub waiting: Vec<String>,
}

/// What is to be removed.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The content.
    pub key: Digest,
    /// What it is called.
    pub name: String,
}

/// A removal is not taken down.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    /// Nothing can be remembered.
    #[error("the database fails")]
    Database(#[from] DatabaseError),
    /// Too many.
    #[error("{MAX_STANDING} removals stand already: wait until the oldest is a week old")]
    Full,
    /// Other managers take down others all the time.
    #[error("another manager is taking down a removal: try again")]
    Busy,
}

#[derive(Debug, Default)]
struct Board {
    standing: Vec<Asked>,
    /// Up to which number each node has carried removals out.
    done: BTreeMap<MemberKey, u64>,
}

impl Board {
    /// What `key`, which has carried out everything up to `done`, is to do at `now`.
    fn heard(&mut self, key: &MemberKey, done: u64, now: i64) -> Vec<Removal> {
        self.done.insert(key.clone(), done);
        let beyond = self.standing.iter().filter(|asked| asked.number > done);
        let told = beyond.take(MAX_REMOVALS).map(|asked| Removal {
            number: asked.number,
            key: asked.key,
            age: Duration::from_millis((now - asked.asked_ms).max(0).unsigned_abs()),
        });
        told.collect()
    }

    /// The last number that any node has carried out.
    fn above(&self) -> u64 {
        let told = self.done.values().filter(|done| **done < MAX_NUMBER);
        told.max().copied().unwrap_or(0)
    }

    fn progress(&self, number: u64, present: &BTreeSet<MemberKey>) -> Progress {
        let has = |key: &&MemberKey| self.done.get(*key).is_some_and(|done| *done >= number);
        Progress {
            nodes: present.len(),
            done: present.iter().filter(has).count(),
            waiting: present
                .iter()
                .filter(|key| !has(key))
                .map(|key| key.id.to_string())
                .collect(),
        }
    }
}

impl Removals {
    /// Nothing is known until [`Removals::run`] has looked.
    pub fn new(database: Database, members: Members) -> Self {
        Self {
            shared: Arc::new(Shared {
                board: Mutex::default(),
                database,
                members,
            }),
        }
    }

    /// A node lives, and has carried out everything up to `done`. Says what it is to do now.
    pub fn heard(&self, key: &MemberKey, done: u64) -> Vec<Removal> {
        match key.role {
            Role::Scheduler => Vec::new(),
            Role::Mirror | Role::Seed => self.lock().heard(key, done, now()),
        }
    }

    /// Has every node remove it.
    ///
    /// # Errors
    /// There are too many removals, or the database fails.
    pub async fn ask(&self, wanted: &Wanted, actor: &str) -> Result<Asked, RemovalError> {
        if self.lock().standing.len() >= MAX_STANDING {
            return Err(RemovalError::Full);
        }
        for _ in 0..WRITES {
            // A database of an older day may have lost some that nodes have carried out.
            let above = self.lock().above();
            let at = (now(), above);
            let written = kept::add(&self.shared.database, wanted, actor, at).await;
            match written {
                Ok(asked) => {
                    self.look().await?;
                    return Ok(asked);
                }
                Err(error) if error.is_duplicate() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RemovalError::Busy)
    }

    /// Those that stand, the latest first.
    pub fn standing(&self) -> Vec<(Asked, Progress)> {
        let present = self.present();
        let board = self.lock();
        let latest = board.standing.iter().rev();
        let with_progress = latest.map(|asked| {
            let progress = board.progress(asked.number, &present);
            (asked.clone(), progress)
        });
        with_progress.collect()
    }

    /// One that stands.
    pub fn get(&self, number: u64) -> Option<(Asked, Progress)> {
        let present = self.present();
        let board = self.lock();
        let asked = board.standing.iter().find(|asked| asked.number == number)?;
        Some((asked.clone(), board.progress(number, &present)))
    }

    /// Keeps in step with the database until the process drains.
    pub async fn run(self, shutdown: Shutdown) {
        let trouble = "removals cannot be read; going on from memory";
        look_every(STEP, &shutdown, trouble, || self.look()).await;
    }

    async fn look(&self) -> Result<(), DatabaseError> {
        let since = now().saturating_sub(kept::life_ms());
        let standing = kept::read(&self.shared.database, since).await?;
        let present = self.present();
        let mut board = self.lock();
        board.standing = standing;
        board.done.retain(|key, _| present.contains(key));
        Ok(())
    }

    fn present(&self) -> BTreeSet<MemberKey> {
        self.shared.members.look(|membership| {
            let roles = ROLES.iter().filter(|role| **role != Role::Scheduler);
            let records = roles.flat_map(|role| membership.of_role(*role, None));
            records.map(|record| MemberKey::of(&record.host)).collect()
        })
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        let board = self.shared.board.lock();
        board.unwrap_or_else(PoisonError::into_inner)
    }
}
