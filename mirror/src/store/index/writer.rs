//! The thread that writes the index, and what others hand to it.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase as _};

use super::{Change, StoreError, Table, open_database};

/// A change nobody waits for is written this soon: the most that a power cut takes away.
const WRITE_WITHIN: Duration = Duration::from_secs(5);
/// This much waiting is written at once.
const MAX_WAITING: usize = 8 << 20;

type Place = (Table, Vec<u8>);
type Changes = HashMap<Place, Option<Vec<u8>>>;

/// What the writer and its callers share.
#[derive(Debug)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
    /// There is something to write.
    wake: Condvar,
    /// A batch has ended.
    ended: Condvar,
    /// `None` after a write failed, until it can be opened again.
    database: RwLock<Option<Database>>,
    path: PathBuf,
}

#[derive(Debug, Default)]
struct Queue {
    /// By key: bounded by what the store bounds, however often a value changes.
    waiting: Changes,
    waiting_bytes: usize,
    since: Option<Instant>,
    /// What is being written.
    writing: Changes,
    urgent: bool,
    /// The number of the batch that is, or will be, written next.
    next: u64,
    /// Every batch below this has been tried.
    tried: u64,
    /// Every batch below this is durable: a batch that fails goes into the one after it.
    durable: u64,
    failure: Option<Arc<str>>,
    closing: bool,
}

impl Queue {
    /// Says whether the writer must hear of it.
    fn add(&mut self, changes: Vec<Change>) -> bool {
        let before = (self.urgent, self.since.is_some());
        for change in changes {
            self.waiting_bytes += change.key.len() + change.value.as_ref().map_or(0, Vec::len);
            self.waiting
                .insert((change.table, change.key), change.value);
        }
        self.urgent |= self.waiting_bytes > MAX_WAITING;
        if self.since.is_none() && !self.waiting.is_empty() {
            self.since = Some(Instant::now());
        }
        before != (self.urgent, self.since.is_some())
    }

    fn failed(&self) -> Option<StoreError> {
        let why = self.failure.as_ref()?;
        Some(StoreError::Index(why.to_string().into()))
    }
}

impl Shared {
    pub(super) fn new(path: PathBuf, database: Database) -> Self {
        Self {
            queue: Mutex::default(),
            wake: Condvar::new(),
            ended: Condvar::new(),
            database: RwLock::new(Some(database)),
            path,
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn submit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let mut queue = self.queue();
        if queue.add(changes) {
            self.wake.notify_one();
        }
        queue.failed().map_or(Ok(()), Err)
    }

    pub(super) fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let mut queue = self.queue();
        queue.add(changes);
        if queue.waiting.is_empty() && queue.writing.is_empty() {
            return Ok(());
        }
        let batch = queue.next;
        queue.urgent = true;
        self.wake.notify_one();
        while queue.tried <= batch {
            queue = self
                .ended
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if queue.durable > batch {
            return Ok(());
        }
        queue.failed().map_or(Ok(()), Err)
    }

    pub(super) fn close(&self) {
        self.queue().closing = true;
        self.wake.notify_one();
    }

    pub(super) fn get(&self, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        let place = (table, key.to_vec());
        let queue = self.queue();
        for unwritten in [&queue.waiting, &queue.writing] {
            if let Some(value) = unwritten.get(&place) {
                return value.clone();
            }
        }
        drop(queue);
        match self.read(table, key) {
            Ok(value) => value,
            Err(error) => {
                tracing::warn!(?table, %error, "the index cannot be read");
                None
            }
        }
    }

    fn read(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, redb::Error> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = database.as_ref() else {
            return Ok(None);
        };
        let read = database.begin_read()?;
        match read.open_table(table.definition()) {
            Ok(table) => Ok(table.get(key)?.map(|value| value.value().to_vec())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// The writing side.
#[derive(Debug)]
pub(super) struct Writer(pub(super) Arc<Shared>);

impl Writer {
    /// Writes until the index is closed.
    pub(super) fn run(self) {
        while let Some(closing) = self.wait() {
            let result = self.write();
            self.end(result);
            if closing {
                return;
            }
        }
    }

    /// Waits for something to write and takes it. `None` when there is nothing and never will be;
    /// otherwise whether this is the last time.
    fn wait(&self) -> Option<bool> {
        let mut queue = self.0.queue();
        loop {
            if queue.closing && queue.waiting.is_empty() {
                return None;
            }
            let left = match queue.since {
                Some(since) => WRITE_WITHIN.saturating_sub(since.elapsed()),
                None => WRITE_WITHIN,
            };
            let due = queue.urgent || queue.closing || (queue.since.is_some() && left.is_zero());
            if due {
                break;
            }
            let waited = self.0.wake.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.writing = std::mem::take(&mut queue.waiting);
        queue.waiting_bytes = 0;
        queue.since = None;
        queue.urgent = false;
        queue.next += 1;
        Some(queue.closing)
    }

    fn write(&self) -> Result<(), String> {
        // A database whose file was damaged under it may panic; that must not end the store.
        let written = std::panic::catch_unwind(AssertUnwindSafe(|| self.try_write()));
        written.unwrap_or_else(|_| Err("the database panicked".to_owned()))
    }

    fn try_write(&self) -> Result<(), String> {
        self.reopen()?;
        let batch: Vec<_> = {
            let queue = self.0.queue();
            let mut batch: Vec<_> = queue.writing.clone().into_iter().collect();
            // Neighbours share pages.
            batch.sort_unstable();
            batch
        };
        let database = self
            .0
            .database
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or("it is not open")?;
        write_batch(database, &batch).map_err(|error| error.to_string())
    }

    /// After a failed write the database answers nothing but that; only opening it anew helps.
    fn reopen(&self) -> Result<(), String> {
        let mut database = self
            .0
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if database.is_none() {
            let opened = open_database(&self.0.path).map_err(|error| error.to_string())?;
            *database = Some(opened);
        }
        Ok(())
    }

    fn end(&self, result: Result<(), String>) {
        if result.is_err() {
            let mut database = self
                .0
                .database
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            // Its drop writes, too, and may fail as the write did.
            let failed = database.take();
            let _ = std::panic::catch_unwind(AssertUnwindSafe(|| drop(failed)));
        }
        let mut queue = self.0.queue();
        let batch = std::mem::take(&mut queue.writing);
        queue.tried = queue.next;
        match result {
            Ok(()) => {
                queue.durable = queue.next;
                if queue.failure.take().is_some() {
                    tracing::info!(path = %self.0.path.display(), "the index can be written again");
                }
            }
            Err(why) => {
                if queue.failure.is_none() {
                    tracing::error!(path = %self.0.path.display(), why, "the index cannot be written; it is tried again");
                }
                queue.failure = Some(why.into());
                for (place, value) in batch {
                    queue.waiting.entry(place).or_insert(value);
                }
                queue.since = Some(Instant::now());
            }
        }
        self.0.ended.notify_all();
    }
}

fn write_batch(database: &Database, batch: &[(Place, Option<Vec<u8>>)]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    for table in Table::ALL {
        let mut changes = batch.iter().filter(|((of, _), _)| *of == table).peekable();
        if changes.peek().is_none() {
            continue;
        }
        let mut open = transaction.open_table(table.definition())?;
        for ((_, key), value) in changes {
            match value {
                Some(value) => drop(open.insert(key.as_slice(), value.as_slice())?),
                None => drop(open.remove(key.as_slice())?),
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
impl Shared {
    pub(super) fn lose_database(&self) {
        drop(self.database.write().unwrap().take());
    }
}
