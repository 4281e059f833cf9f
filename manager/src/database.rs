//! What the manager remembers: in a SQLite file that only its owner can read, or in PostgreSQL for
//! several managers at once.
//!
//! SQL is written once for both, with `$1` for what is bound, `BIGINT` or `INTEGER` for numbers and
//! `TEXT` and `BLOB` or `BYTEA` for the rest; only the schema (`migrations/`) and what opens a
//! database ([`sqlite`], [`postgres`]) differ. Who remembers what has the statements for it: members
//! in [`members`].
//!
//! A write is one transaction, from [`Database::begin`] to its commit. A database that is away, full
//! or locked fails it within seconds; nothing is kept waiting, and what was not committed was not
//! written.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use darner_service::secret::Secret;
use darner_service::settings::Settings;
use prometheus_client::metrics::counter::Counter;
use sqlx::migrate::Migrator;
use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, AnyPool, Transaction};
use tokio::sync::Mutex;

pub(crate) mod authority;
pub mod backup;
pub(crate) mod conditions;
mod error;
pub(crate) mod follow;
pub mod keeper;
pub mod members;
pub mod named;
mod postgres;
mod sqlite;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use error::DatabaseError;
pub use members::LAST_SEEN_STEP;

/// The SQLite file's name in the data directory.
const FILE: &str = "manager.db";
/// Connections to one database at once: requests of people and the few tasks of this process. A
/// SQLite file has one writer at a time whatever this is.
const CONNECTIONS: u32 = 8;

/// Which database.
#[derive(Debug, Clone)]
pub enum Location {
    /// A SQLite file.
    File(PathBuf),
    /// The URL of a PostgreSQL database.
    Postgres(Secret),
}

/// A database that can be used. Clones share it.
#[derive(Debug, Clone)]
pub struct Database {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    location: Location,
    /// Behind a lock so that one opens it anew, and the others wait for that.
    open: Mutex<Open>,
    openings: AtomicU64,
    errors: Counter,
}

#[derive(Debug)]
struct Open {
    pool: AnyPool,
    /// Of a SQLite file.
    file: Option<sqlite::File>,
    generation: u64,
}

/// A transaction that was begun to write in. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct Writing {
    transaction: Transaction<'static, Any>,
    generation: u64,
}

impl Location {
    /// Where `settings` say that it is.
    pub fn of(settings: &Settings) -> Self {
        let manager = &settings.manager;
        match &manager.postgres_url {
            Some(url) => Self::Postgres(url.clone()),
            None => {
                let default = || settings.data_dir.join(FILE);
                Self::File(manager.database.clone().unwrap_or_else(default))
            }
        }
    }

    /// What to call it in messages: never with a password.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Postgres(url) => postgres::name(url),
        }
    }

    /// Whether several managers may use it at once.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }
}

impl Database {
    /// Opens it, creating a SQLite file (mode 0600) and its directory (mode 0700) where they are
    /// absent, and brings its schema up to date. `errors` counts what goes wrong from here on.
    ///
    /// # Errors
    /// A database of a later version, which is not changed; one that is damaged; or what the file
    /// system, SQLite or PostgreSQL say.
    pub async fn open(location: Location, errors: Counter) -> Result<Self, DatabaseError> {
        let open = open(&location, 0).await?;
        Ok(Self {
            shared: Arc::new(Shared {
                location,
                open: Mutex::new(open),
                openings: AtomicU64::new(0),
                errors,
            }),
        })
    }

    /// What to call it in messages.
    pub fn name(&self) -> String {
        self.shared.location.name()
    }

    /// Whether several managers may use it at once.
    pub fn is_shared(&self) -> bool {
        self.shared.location.is_shared()
    }

    /// Counts up whenever the database was opened anew: what was known of its content is void then.
    pub fn generation(&self) -> u64 {
        self.shared.openings.load(Ordering::Acquire)
    }

    /// Begins to write: what this transaction reads nobody else changes before it ends. In PostgreSQL
    /// that holds for rows it has written or read `FOR UPDATE`, and for those only.
    ///
    /// # Errors
    /// The database is away, locked by others for too long, or cannot be opened anew.
    pub async fn begin(&self) -> Result<Writing, DatabaseError> {
        let (pool, generation) = self.pool().await?;
        let statement = match self.shared.location {
            Location::File(_) => "BEGIN IMMEDIATE",
            Location::Postgres(_) => "BEGIN",
        };
        let begun = pool.begin_with(statement).await;
        Ok(Writing {
            transaction: begun.map_err(|error| self.failed(error))?,
            generation,
        })
    }

    /// A connection to read from.
    ///
    /// # Errors
    /// The database is away or cannot be opened anew.
    pub async fn read(&self) -> Result<PoolConnection<Any>, DatabaseError> {
        let (pool, _) = self.pool().await?;
        pool.acquire().await.map_err(|error| self.failed(error))
    }

    /// What to say when a statement failed, or the commit.
    pub fn failed(&self, source: sqlx::Error) -> DatabaseError {
        self.shared.errors.inc();
        DatabaseError::Failed {
            name: self.name(),
            source,
        }
    }

    /// How often members are written though nothing has changed.
    fn beat(&self) -> Duration {
        if self.is_shared() {
            members::BEAT
        } else {
            LAST_SEEN_STEP
        }
    }

    /// What is missing from it though it works.
    pub async fn shortcoming(&self) -> Option<&'static str> {
        let open = self.shared.open.lock().await;
        open.file.as_ref().and_then(sqlite::File::shortcoming)
    }

    /// Opens it anew when it had to be opened in a lesser way, and that may be over.
    ///
    /// # Errors
    /// It cannot be opened at all any more.
    pub async fn improve(&self) -> Result<(), DatabaseError> {
        let mut open = self.shared.open.lock().await;
        let lesser = open.file.as_ref().and_then(sqlite::File::shortcoming);
        match lesser {
            Some(_) => self.reopen(&mut open).await,
            None => Ok(()),
        }
    }

    /// Ends every connection. A SQLite file is whole afterwards, without a log beside it.
    pub async fn close(&self) {
        self.shared.open.lock().await.pool.close().await;
    }

    /// The database's connections. What is written to a file that was deleted or replaced goes
    /// nowhere, so its name is looked at first.
    async fn pool(&self) -> Result<(AnyPool, u64), DatabaseError> {
        let mut open = self.shared.open.lock().await;
        let in_place = match &open.file {
            Some(file) => file.is_in_place().await,
            None => true,
        };
        if !in_place {
            self.shared.errors.inc();
            let name = self.name();
            tracing::error!(name, "database was deleted or replaced; opening it anew");
            self.reopen(&mut open).await?;
        }
        Ok((open.pool.clone(), open.generation))
    }

    /// SQLite removes a log by its name, so the old connections end before the new ones begin.
    async fn reopen(&self, open: &mut Open) -> Result<(), DatabaseError> {
        open.pool.close().await;
        let generation = open.generation + 1;
        *open = self::open(&self.shared.location, generation).await?;
        self.shared.openings.store(generation, Ordering::Release);
        Ok(())
    }
}

impl Writing {
    /// As [`Database::generation`], of the database this writes to.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Makes it last.
    ///
    /// # Errors
    /// Nothing was written, as far as anybody can tell.
    pub async fn commit(self, database: &Database) -> Result<(), DatabaseError> {
        let committed = self.transaction.commit().await;
        committed.map_err(|error| database.failed(error))
    }
}

impl std::ops::Deref for Writing {
    type Target = AnyConnection;

    fn deref(&self) -> &AnyConnection {
        &self.transaction
    }
}

impl std::ops::DerefMut for Writing {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        &mut self.transaction
    }
}

async fn open(location: &Location, generation: u64) -> Result<Open, DatabaseError> {
    sqlx::any::install_default_drivers();
    let (pool, file) = match location {
        Location::File(path) => {
            let (pool, file) = sqlite::open(path).await?;
            (pool, Some(file))
        }
        Location::Postgres(url) => (postgres::open(url).await?, None),
    };
    Ok(Open {
        pool,
        file,
        generation,
    })
}

/// A later version may mean something else by any row.
fn refuse_newer(
    name: String,
    found: Option<i64>,
    migrations: &Migrator,
) -> Result<(), DatabaseError> {
    let known = migrations.iter().map(|step| step.version).max();
    match (found, known.unwrap_or(0)) {
        (Some(found), known) if found > known => Err(DatabaseError::Newer { name, found, known }),
        _ => Ok(()),
    }
}
