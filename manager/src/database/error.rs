//! Why the database cannot be used.

use std::io;
use std::path::PathBuf;

use sqlx::migrate::MigrateError;

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
        "{name} has schema version {found}, this version of darner knows up to {known}; it was left untouched: run a later version, or set [manager] database or postgres_url_file to another one"
    )]
    Newer {
        /// The database.
        name: String,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// It is no database of ours, is damaged, locked or away.
    #[error("{name} cannot be opened")]
    Open {
        /// The database.
        name: String,
        /// What the database says.
        #[source]
        source: sqlx::Error,
    },
    /// Its schema cannot be brought up to date.
    #[error("the schema of {name} cannot be brought up to date")]
    Migrate {
        /// The database.
        name: String,
        /// Why.
        #[source]
        source: MigrateError,
    },
    /// It cannot be read or written at the moment.
    #[error("{name} cannot be read or written")]
    Failed {
        /// The database.
        name: String,
        /// What the database says.
        #[source]
        source: sqlx::Error,
    },
    /// What it holds makes no sense to this version.
    #[error("{name} holds what makes no sense: {what}")]
    Content {
        /// The database.
        name: String,
        /// What.
        what: String,
    },
    /// There is no copy of it.
    #[error("{0}")]
    Backup(String),
}

impl DatabaseError {
    /// Whether a row with this key is there already.
    pub fn is_duplicate(&self) -> bool {
        let Self::Failed { source, .. } = self else {
            return false;
        };
        let said = source.as_database_error();
        said.is_some_and(sqlx::error::DatabaseError::is_unique_violation)
    }
}
