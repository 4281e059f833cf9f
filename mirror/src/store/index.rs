//! The index: what the names of the files do not say, in one redb file.
//!
//! It knows tables, keys and values, not what they mean. One thread writes: changes are collected by
//! key and written together, at once for whoever waits, within seconds otherwise, so that nothing
//! but that thread ever waits for another's write. What is not written yet is found all the same.
//! An index that cannot be written is tried again; meanwhile everything is remembered, and after a
//! restart the files are verified anew.

mod writer;

use std::fs::File;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageError,
    TableDefinition, TableError,
};

use super::disk;
use super::error::StoreError;
use writer::Writer;

/// What redb keeps of its file in memory. The table of blobs is in the ledger and most records are
/// in memory too: only piece maps are read from here.
const CACHE: usize = 8 << 20;

/// A table of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Table {
    /// Digest to size and last use.
    Blobs,
    /// Digest to signed statements about its pieces.
    PieceMaps,
    /// Key of a file to the digest of its content.
    Contents,
    /// Digest to how long it is to stay.
    Terms,
    /// Repository to verdict and last use.
    Repositories,
    /// Repository and tag to what upstream said.
    Tags,
    /// Repository and digest to what it is there.
    Links,
    /// What the store notes of its own work.
    State,
}

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

impl Table {
    const ALL: [Self; 8] = [
        Self::Blobs,
        Self::PieceMaps,
        Self::Contents,
        Self::Terms,
        Self::Repositories,
        Self::Tags,
        Self::Links,
        Self::State,
    ];

    fn definition(self) -> Definition {
        TableDefinition::new(match self {
            Self::Blobs => "blobs",
            Self::PieceMaps => "piece_maps",
            Self::Contents => "contents",
            Self::Terms => "terms",
            Self::Repositories => "repositories",
            Self::Tags => "tags",
            Self::Links => "links",
            Self::State => "state",
        })
    }
}

/// A value set, or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) table: Table,
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
}

impl Change {
    pub(super) fn set(table: Table, key: Vec<u8>, value: Vec<u8>) -> Self {
        let value = Some(value);
        Self { table, key, value }
    }

    pub(super) fn remove(table: Table, key: Vec<u8>) -> Self {
        let value = None;
        Self { table, key, value }
    }
}

/// The open index.
#[derive(Debug)]
pub(super) struct Index {
    shared: Arc<writer::Shared>,
    writer: Option<std::thread::JoinHandle<()>>,
}

/// Keys and values of a table as they were when the index was opened.
type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// What an index held when it was opened.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) blobs: Rows,
    pub(super) repositories: Rows,
    pub(super) tags: Rows,
    pub(super) links: Rows,
    pub(super) terms: Rows,
}

impl Index {
    /// Opens the index at `path`. One that is damaged is moved to `aside` and begun anew.
    pub(super) fn open(path: &Path, aside: &Path) -> Result<(Self, Loaded), StoreError> {
        let (database, loaded) = match open_and_load(path) {
            Ok(opened) => opened,
            Err(Fault::Damaged(why)) => {
                tracing::error!(path = %path.display(), why, "the index is damaged and begun anew; every blob is verified before it counts again");
                std::fs::rename(path, aside)
                    .map_err(|error| StoreError::io("move aside", path, error))?;
                open_and_load(path).map_err(|fault| fault.into_error(path))?
            }
            Err(fault) => return Err(fault.into_error(path)),
        };
        let shared = Arc::new(writer::Shared::new(path.to_owned(), database));
        let writer = Writer(shared.clone());
        let thread = std::thread::Builder::new()
            .name("store-index".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| StoreError::io("start a thread for", path, error))?;
        let index = Self {
            shared,
            writer: Some(thread),
        };
        Ok((index, loaded))
    }

    /// Takes changes, to be written within seconds.
    ///
    /// # Errors
    /// The last write failed: until one succeeds, changes live in memory alone.
    pub(super) fn submit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.shared.submit(changes)
    }

    /// Writes changes and waits until they are durable. Blocks.
    pub(super) fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.shared.commit(changes)
    }

    /// The value as it is now, written or not.
    pub(super) fn get(&self, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        self.shared.get(table, key)
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.shared.close();
        if let Some(thread) = self.writer.take()
            && thread.join().is_err()
        {
            tracing::error!("the index writer panicked");
        }
    }
}

enum Fault {
    /// It can only be begun anew.
    Damaged(String),
    Io(io::Error),
}

impl Fault {
    fn into_error(self, path: &Path) -> StoreError {
        let source = match self {
            Self::Damaged(why) => io::Error::new(io::ErrorKind::InvalidData, why),
            Self::Io(error) => error,
        };
        StoreError::io("open the index", path, source)
    }
}

fn open_and_load(path: &Path) -> Result<(Database, Loaded), Fault> {
    // A torn file can lead the database into a state that it only knows to panic about.
    let opened = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let database = open_database(path).map_err(|error| fault(&error))?;
        let loaded = load(&database).map_err(|error| Fault::Damaged(error.to_string()))?;
        Ok((database, loaded))
    }));
    opened.unwrap_or_else(|_| Err(Fault::Damaged("reading it panicked".to_owned())))
}

fn open_database(path: &Path) -> Result<Database, DatabaseError> {
    let file: File = disk::open_writable(path).map_err(StorageError::Io)?;
    let backend = FileBackend::new(file)?;
    Database::builder()
        .set_cache_size(CACHE)
        .create_with_backend(backend)
}

fn fault(error: &DatabaseError) -> Fault {
    match error {
        DatabaseError::Storage(StorageError::Io(error))
            if !matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            Fault::Io(io::Error::new(error.kind(), error.to_string()))
        }
        error => Fault::Damaged(error.to_string()),
    }
}

fn load(database: &Database) -> Result<Loaded, redb::Error> {
    Ok(Loaded {
        blobs: rows(database, Table::Blobs)?,
        repositories: rows(database, Table::Repositories)?,
        tags: rows(database, Table::Tags)?,
        links: rows(database, Table::Links)?,
        terms: rows(database, Table::Terms)?,
    })
}

fn rows(database: &Database, table: Table) -> Result<Rows, redb::Error> {
    let read = database.begin_read()?;
    let table = match read.open_table(table.definition()) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut rows = Vec::new();
    for row in table.iter()? {
        let (key, value) = row?;
        rows.push((key.value().to_vec(), value.value().to_vec()));
    }
    Ok(rows)
}

/// Where the index of a store that was opened with damage lies.
pub(super) fn damaged_name(quarantine: &Path) -> PathBuf {
    quarantine.join("index.redb")
}

#[cfg(test)]
mod tests;
