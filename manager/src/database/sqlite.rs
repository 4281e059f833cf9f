//! A SQLite file: private, with a write-ahead log where the disk has room for one.
//!
//! A log needs room to be opened, even to read. On a full disk the file is therefore opened by one
//! connection that keeps it to itself and the log's index in memory: what is there can be read, what
//! cannot be written fails, and once there is room the file is opened properly.

use std::fs::TryLockError;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::Migrator;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AnyConnection, AnyPool, ConnectOptions as _, Connection as _};
use tokio::fs;

use super::{CONNECTIONS, DatabaseError};

/// The schema, version by version. What is released here is never changed, only added to.
pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// Somebody else (a backup, an operator's shell) may hold the file's lock this long. The same holds
/// for waiting on a connection.
const PATIENCE: Duration = Duration::from_secs(2);
/// Another process that changes the schema is done by then.
const TURN_PATIENCE: Duration = Duration::from_secs(30);
/// Whether it is, is looked at so often.
const TURN_LOOK: Duration = Duration::from_millis(20);
/// For every connection: [`PATIENCE`]; and a commit is on the disk when it returns.
const PRAGMAS: &str = "PRAGMA busy_timeout = 2000; PRAGMA synchronous = FULL;";
/// Before the first look at the file, so that its log is never shared.
const ALONE: &str =
    "PRAGMA locking_mode = EXCLUSIVE; PRAGMA busy_timeout = 2000; PRAGMA synchronous = FULL;";

/// The file a database is in, and how it was opened.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    id: FileId,
    journal: Journal,
}

/// Which file it is, whatever its name: device and inode.
type FileId = (u64, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Journal {
    /// A write-ahead log, as meant.
    Log,
    /// What the file system can do: one that cannot share memory has no log.
    Rollback,
    /// No room for a log.
    Alone,
}

impl File {
    /// Whether its name still leads to it.
    pub(super) async fn is_in_place(&self) -> bool {
        file_id(&self.path).await.ok() == Some(self.id)
    }

    /// What is missing though it works.
    pub(super) fn shortcoming(&self) -> Option<&'static str> {
        match self.journal {
            Journal::Log | Journal::Rollback => None,
            Journal::Alone => Some("there is no room for its log: it can be read only"),
        }
    }
}

pub(super) async fn open(path: &Path) -> Result<(AnyPool, File), DatabaseError> {
    let name = || path.display().to_string();
    let failed = |source| DatabaseError::File {
        path: path.to_owned(),
        source,
    };
    refuse_newer(path).await?;
    let id = private_file(path).await.map_err(failed)?;
    let turn = turn(path).await;
    let (pool, journal) = connect(path).await.map_err(|source| DatabaseError::Open {
        name: name(),
        source,
    })?;
    let migrated = MIGRATIONS.run(&pool).await;
    migrated.map_err(|source| DatabaseError::Migrate {
        name: name(),
        source,
    })?;
    drop(turn);
    let path = path.to_owned();
    Ok((pool, File { path, id, journal }))
}

/// Held while a schema is changed, so that of several processes one does it: a lock on the directory,
/// since one on the file itself would be in the way of the database's own. Where it cannot be had, the
/// change is begun without, and fails if another is at it.
async fn turn(path: &Path) -> Option<std::fs::File> {
    let directory = std::fs::File::open(path.parent()?).ok()?;
    let end = Instant::now() + TURN_PATIENCE;
    while let Err(TryLockError::WouldBlock) = directory.try_lock() {
        if Instant::now() >= end {
            return None;
        }
        tokio::time::sleep(TURN_LOOK).await;
    }
    Some(directory)
}

/// Connections to the file, with a log if there can be one.
async fn connect(path: &Path) -> Result<(AnyPool, Journal), sqlx::Error> {
    // By a single connection: a pool tries again, and does not say what was wrong.
    let error = match has_log(path).await {
        Ok(true) => return Ok((pool(path, PRAGMAS, CONNECTIONS)?, Journal::Log)),
        Ok(false) => {
            tracing::warn!(
                path = %path.display(),
                "this file system has no write-ahead log; the database has a rollback journal"
            );
            return Ok((pool(path, PRAGMAS, CONNECTIONS)?, Journal::Rollback));
        }
        Err(error) => error,
    };
    if !may_be_full(&error) {
        return Err(error);
    }
    let alone = pool(path, ALONE, 1)?;
    match look(&alone).await {
        Ok(()) => {
            tracing::warn!(path = %path.display(), %error, "no room for the database's log");
            Ok((alone, Journal::Alone))
        }
        Err(error) => {
            alone.close().await;
            Err(error)
        }
    }
}

fn pool(path: &Path, pragmas: &'static str, most: u32) -> Result<AnyPool, sqlx::Error> {
    let options = options(&SqliteConnectOptions::new().filename(path))?;
    let pool = AnyPoolOptions::new()
        .max_connections(most)
        .acquire_timeout(PATIENCE)
        .idle_timeout(None)
        .max_lifetime(None)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                sqlx::raw_sql(pragmas).execute(connection).await?;
                Ok(())
            })
        });
    Ok(pool.connect_lazy_with(options))
}

fn options(options: &SqliteConnectOptions) -> Result<AnyConnectOptions, sqlx::Error> {
    AnyConnectOptions::from_url(&options.to_url_lossy())
}

/// Asks for a log, and looks whether the file can be read with it.
async fn has_log(path: &Path) -> Result<bool, sqlx::Error> {
    let options = options(&SqliteConnectOptions::new().filename(path))?;
    let mut connection = options.connect().await?;
    let asked = async {
        sqlx::raw_sql(PRAGMAS).execute(&mut connection).await?;
        let journal: String = sqlx::query_scalar("PRAGMA journal_mode = WAL")
            .fetch_one(&mut connection)
            .await?;
        look(&mut connection).await?;
        Ok::<_, sqlx::Error>(journal == "wal")
    };
    let asked = asked.await;
    let closed = connection.close().await;
    let has = asked?;
    closed.map(|()| has)
}

async fn look(with: impl sqlx::Executor<'_, Database = sqlx::Any>) -> Result<(), sqlx::Error> {
    let sql = "SELECT count(*) FROM sqlite_master";
    let _: i64 = sqlx::query_scalar(sql).fetch_one(with).await?;
    Ok(())
}

/// Full, failed input or output, or not to be created: what SQLite makes of a full disk.
fn may_be_full(error: &sqlx::Error) -> bool {
    const PRIMARY: i32 = 0xff;
    let code = error.as_database_error().and_then(|error| error.code());
    let code: Option<i32> = code.and_then(|code| code.parse().ok());
    matches!(code.map(|code| code & PRIMARY), Some(10 | 13 | 14))
}

/// Looks at the version before anything that could change the file is done to it: even a change of
/// the journal's kind is a write.
async fn refuse_newer(path: &Path) -> Result<(), DatabaseError> {
    if !matches!(fs::metadata(path).await, Ok(file) if file.len() > 0) {
        return Ok(());
    }
    let name = path.display().to_string();
    let found = match found_version(path, true).await {
        // A log that cannot be opened, or a journal to roll back: see the top of this file.
        Err(error) if may_be_full(&error) || is_read_only(&error) => {
            found_version(path, false).await
        }
        found => found,
    };
    match found {
        Ok(found) => super::refuse_newer(name, found, &MIGRATIONS),
        Err(source) => Err(DatabaseError::Open { name, source }),
    }
}

fn is_read_only(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code.parse::<i32>().is_ok_and(|code| code & 0xff == 8))
}

async fn found_version(path: &Path, read_only: bool) -> Result<Option<i64>, sqlx::Error> {
    // A crash in the middle of a write leaves its journal, which has to be rolled back to read.
    let mut journal = path.as_os_str().to_owned();
    journal.push("-journal");
    let crashed = fs::try_exists(journal).await.unwrap_or(true);
    let read_only = read_only && !crashed;
    let file = SqliteConnectOptions::new()
        .filename(path)
        .read_only(read_only);
    let mut connection = options(&file)?.connect().await?;
    if !read_only {
        sqlx::raw_sql(ALONE).execute(&mut connection).await?;
    }
    let version = schema_version(&mut connection).await;
    connection.close().await?;
    version
}

/// The schema's version; `None` in a database without one.
async fn schema_version(connection: &mut AnyConnection) -> Result<Option<i64>, sqlx::Error> {
    let has =
        "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = '_sqlx_migrations'";
    let tables: i64 = sqlx::query_scalar(has).fetch_one(&mut *connection).await?;
    if tables == 0 {
        return Ok(None);
    }
    sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
        .fetch_one(connection)
        .await
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
