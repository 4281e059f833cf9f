//! What the manager remembers: one SQLite file that only its owner can read.
//!
//! The file follows [`Snapshot`]s: [`Database::write`] makes it hold what it is given, by writing
//! what differs from what it held. So a failed write is simply tried again with whatever is true by
//! then. [`keeper`] does the trying.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection, SqlitePool};
use tokio::fs;

use crate::membership::{MemberKey, Record, Snapshot};

pub mod keeper;
mod row;
#[cfg(test)]
mod tests;

/// The schema, version by version. What is released here is never changed, only added to.
static MIGRATIONS: Migrator = sqlx::migrate!();

/// Somebody else (a backup, an operator's shell) may hold the file's lock this long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// When a host was last heard is kept to this, so that keep-alives do not become disk writes.
pub const LAST_SEEN_STEP: Duration = Duration::from_secs(60);

/// The open database, and what is in it.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    file: FileId,
    connection: SqliteConnection,
    stored: Snapshot,
}

/// Which file it is, whatever its name: device and inode.
type FileId = (u64, u64);

/// The database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// Its directory or the file itself cannot be had.
    #[error("{path} cannot be created or read; check the directory's owner and free space")]
    File {
        /// The database.
        path: PathBuf,
        /// What the file system says.
        #[source]
        source: io::Error,
    },
    /// A later version of Darner wrote it. It is left as it is.
    #[error(
        "{path} has schema version {found}, this version of darner knows up to {known}; it was left untouched: run a later version, or set [manager] database to another file"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// It is no database of ours, is damaged, or is locked.
    #[error("{path} cannot be opened")]
    Open {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: sqlx::Error,
    },
    /// Its schema cannot be brought up to date.
    #[error("the schema of {path} cannot be brought up to date")]
    Migrate {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: MigrateError,
    },
    /// It cannot be written.
    #[error("{path} cannot be written")]
    Write {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: sqlx::Error,
    },
}

impl Database {
    /// Opens the database at `path`, creating it (mode 0600) and its directory (mode 0700) where
    /// they are absent, and reads it.
    ///
    /// # Errors
    /// A database of a later version, one that is damaged, or what the file system says. A later
    /// version's is not changed.
    pub async fn open(path: &Path) -> Result<Self, DatabaseError> {
        let at = || path.to_owned();
        let failed = |source| DatabaseError::File { path: at(), source };
        let unopened = |source| DatabaseError::Open { path: at(), source };
        refuse_newer(path).await?;
        let file = private_file(path).await.map_err(failed)?;
        let pool = pool(path).await.map_err(unopened)?;
        MIGRATIONS
            .run(&pool)
            .await
            .map_err(|source| DatabaseError::Migrate { path: at(), source })?;
        let mut connection = pool.acquire().await.map_err(unopened)?.detach();
        let stored = read(&mut connection).await.map_err(unopened)?;
        Ok(Self {
            path: at(),
            file,
            connection,
            stored,
        })
    }

    /// What it holds.
    pub fn stored(&self) -> &Snapshot {
        &self.stored
    }

    /// Whether its name still leads to it. What is written to a file that was deleted or replaced
    /// goes nowhere.
    pub async fn is_in_place(&self) -> bool {
        file_id(&self.path).await.ok() == Some(self.file)
    }

    /// Makes it hold `wanted`, in one step: all of it or nothing.
    ///
    /// # Errors
    /// It still holds what it held. It has to be closed and opened again before the next try.
    pub async fn write(&mut self, wanted: &Snapshot) -> Result<(), DatabaseError> {
        let changes = Changes::between(&self.stored, wanted);
        if changes.is_empty() {
            return Ok(());
        }
        let written = changes.write(&mut self.connection).await;
        written.map_err(|source| DatabaseError::Write {
            path: self.path.clone(),
            source,
        })?;
        changes.note(&mut self.stored);
        Ok(())
    }

    /// Folds the log into the file. To be awaited before the same name is opened again: SQLite
    /// removes the log by its name.
    ///
    /// # Errors
    /// What SQLite says; nothing is lost by it.
    pub async fn close(self) -> Result<(), DatabaseError> {
        let closed = self.connection.close().await;
        closed.map_err(|source| DatabaseError::Write {
            path: self.path,
            source,
        })
    }
}

/// What is to be written. Rows stand for themselves, so writing twice does no harm.
struct Changes {
    version: Option<u64>,
    put: BTreeMap<MemberKey, Record>,
    remove: Vec<MemberKey>,
}

impl Changes {
    fn between(stored: &Snapshot, wanted: &Snapshot) -> Self {
        let is_stored = |key: &MemberKey, record: &Record| {
            let stored = stored.hosts.get(key);
            stored.is_some_and(|stored| is_as_good(stored, record))
        };
        let put = wanted
            .hosts
            .iter()
            .filter(|(key, record)| !is_stored(key, record));
        let gone = stored.hosts.keys();
        Self {
            version: (wanted.version != stored.version).then_some(wanted.version),
            put: put
                .map(|(key, record)| (key.clone(), record.clone()))
                .collect(),
            remove: gone
                .filter(|key| !wanted.hosts.contains_key(key))
                .cloned()
                .collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.version.is_none() && self.put.is_empty() && self.remove.is_empty()
    }

    async fn write(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let mut step = connection.begin_with("BEGIN IMMEDIATE").await?;
        for key in &self.remove {
            row::remove(&mut step, key).await?;
        }
        for record in self.put.values() {
            row::put(&mut step, record).await?;
        }
        if let Some(version) = self.version {
            row::put_version(&mut step, version).await?;
        }
        step.commit().await
    }

    fn note(self, stored: &mut Snapshot) {
        stored.version = self.version.unwrap_or(stored.version);
        stored.hosts.extend(self.put);
        for key in self.remove {
            stored.hosts.remove(&key);
        }
    }
}

fn is_as_good(stored: &Record, wanted: &Record) -> bool {
    let apart = Duration::from_millis(stored.last_seen.abs_diff(wanted.last_seen));
    stored.host == wanted.host && apart < LAST_SEEN_STEP
}

/// The migrator takes a pool: its future over a borrowed connection is not known to be `Send`. One
/// connection is all there ever is.
async fn pool(path: &Path) -> Result<SqlitePool, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        // Unlike a write-ahead log, opened on a full disk too.
        .journal_mode(SqliteJournalMode::Delete)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT);
    let pool = SqlitePoolOptions::new().max_connections(1);
    pool.connect_with(options).await
}

/// Looks at the version before anything that could change the file is done to it: even a change of
/// the journal's kind is a write.
async fn refuse_newer(path: &Path) -> Result<(), DatabaseError> {
    if !matches!(fs::metadata(path).await, Ok(file) if file.len() > 0) {
        return Ok(());
    }
    let found = found_version(path)
        .await
        .map_err(|source| DatabaseError::Open {
            path: path.to_owned(),
            source,
        })?;
    let known = MIGRATIONS.iter().map(|step| step.version).max();
    match (found, known.unwrap_or(0)) {
        (Some(found), known) if found > known => Err(DatabaseError::Newer {
            path: path.to_owned(),
            found,
            known,
        }),
        _ => Ok(()),
    }
}

async fn found_version(path: &Path) -> Result<Option<i64>, sqlx::Error> {
    // A crash in the middle of a write leaves its journal, which has to be rolled back to read.
    let mut journal = path.as_os_str().to_owned();
    journal.push("-journal");
    let crashed = fs::try_exists(journal).await.unwrap_or(true);
    let options = SqliteConnectOptions::new()
        .filename(path)
        .read_only(!crashed)
        .busy_timeout(BUSY_TIMEOUT);
    let mut connection = options.connect().await?;
    let version = row::schema_version(&mut connection).await;
    connection.close().await?;
    version
}

/// Creates the file before SQLite does, which would let everybody read it. SQLite gives its
/// log files the mode of the database.
async fn private_file(path: &Path) -> io::Result<FileId> {
    if let Some(directory) = path.parent().filter(|path| !path.as_os_str().is_empty()) {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(directory).await?;
    }
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    let file = options.open(path).await?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))
        .await?;
    file_id(path).await
}

async fn file_id(path: &Path) -> io::Result<FileId> {
    let metadata = fs::metadata(path).await?;
    Ok((metadata.dev(), metadata.ino()))
}

async fn read(connection: &mut SqliteConnection) -> Result<Snapshot, sqlx::Error> {
    Ok(Snapshot {
        version: row::version(connection).await?,
        hosts: row::hosts(connection).await?,
    })
}
