//! A copy of a SQLite database, made while a manager uses it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sqlx::any::AnyConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::fs;

use super::{DatabaseError, Location};

/// Copies the database to the file `to`, which must not exist and will be readable by its owner only.
/// What is committed before this is called is in the copy; nothing is waited for and nobody is held
/// up. Says how many bytes the copy has.
///
/// # Errors
/// There is no database, it cannot be read, or the copy cannot be written, which leaves no file. A
/// PostgreSQL database is copied with its own tools.
pub async fn backup(from: &Location, to: &Path) -> Result<u64, DatabaseError> {
    let Location::File(path) = from else {
        return Err(DatabaseError::Backup(
            "the manager's database is in PostgreSQL: copy it with pg_dump".to_owned(),
        ));
    };
    if !fs::try_exists(path).await.unwrap_or(false) {
        return Err(DatabaseError::Backup(format!(
            "there is no database at {}: set [manager] database or data_dir to where it is",
            path.display()
        )));
    }
    sqlx::any::install_default_drivers();
    let copied = async {
        reserve(to).await?;
        let copied = copy(path, to).await;
        if copied.is_err() {
            let _ = fs::remove_file(to).await;
        }
        copied.map_err(|error| format!("the copy cannot be made: {error}"))
    };
    let failed = |why: String| DatabaseError::Backup(format!("{}: {why}", to.display()));
    copied.await.map_err(failed)?;
    let metadata = fs::metadata(to).await;
    metadata
        .map(|file| file.len())
        .map_err(|error| failed(error.to_string()))
}

/// Makes the file before SQLite does, which would let everybody read it. An empty file counts as none
/// to SQLite.
async fn reserve(to: &Path) -> Result<(), String> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let made = options.open(to).await;
    let file = made.map_err(|error| format!("cannot be made: {error}"))?;
    let private = std::fs::Permissions::from_mode(0o600);
    let set = file.set_permissions(private).await;
    set.map_err(|error| format!("cannot be made private: {error}"))
}

/// `VACUUM INTO` reads in one transaction, so the copy is of one moment, whole, and without a log.
async fn copy(from: &Path, to: &Path) -> Result<(), sqlx::Error> {
    let to = to.to_str().ok_or_else(|| {
        let why = "its name is no UTF-8".to_owned();
        sqlx::Error::Configuration(why.into())
    })?;
    let options = SqliteConnectOptions::new().filename(from);
    let options = AnyConnectOptions::from_url(&options.to_url_lossy())?;
    let mut connection = options.connect().await?;
    let copied = sqlx::query("VACUUM INTO $1")
        .bind(to)
        .execute(&mut connection)
        .await;
    connection.close().await?;
    let file = fs::File::open(to).await?;
    file.sync_all().await?;
    copied.map(|_| ())
}
