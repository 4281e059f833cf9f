//! Keeps the database in step with the members, for as long as it takes.
//!
//! Nobody waits for it: a database that is locked, full or gone costs what would be known after a
//! restart, shows in the process's health, and is tried again.

use std::path::PathBuf;
use std::time::Duration;

use darner_service::health::Part;
use darner_service::shutdown::Shutdown;
use darner_service::telemetry::with_causes;
use prometheus_client::metrics::counter::Counter;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Database, DatabaseError, LAST_SEEN_STEP};
use crate::members::Members;

/// Changes within this time are written together: a cluster that starts is a few writes, not
/// thousands.
const WRITE_PAUSE: Duration = Duration::from_millis(200);
/// Between tries, when the database fails.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// A database that has not answered for this long is reported, and waited for.
const SLOW: Duration = Duration::from_secs(5);

/// The one who writes.
#[derive(Debug)]
pub struct Keeper {
    path: PathBuf,
    open: Option<Database>,
    part: Part,
    errors: Counter,
    failing: bool,
}

impl Keeper {
    /// Goes on with an open database. `part` is its say in the process's health.
    pub fn new(database: Database, part: Part, errors: Counter) -> Self {
        part.ready();
        Self {
            path: database.path.clone(),
            open: Some(database),
            part,
            errors,
            failing: false,
        }
    }

    /// Writes what changes until `served` says that nothing will change any more, and once more then;
    /// but not beyond the process's end.
    pub async fn run(mut self, members: Members, served: CancellationToken, shutdown: Shutdown) {
        let cancelled = shutdown.cancellation();
        let kept = cancelled.run_until_cancelled(async {
            served.run_until_cancelled(self.follow(&members)).await;
            self.end(&members).await;
        });
        if kept.await.is_none() {
            tracing::warn!("the process ended before the database took the last changes");
        }
    }

    async fn follow(&mut self, members: &Members) {
        let mut changes = members.changes();
        // What changed before this was called has not been seen.
        changes.mark_changed();
        loop {
            // Also when nothing changed: hosts were heard.
            let _ = timeout(LAST_SEEN_STEP, changes.changed()).await;
            while !self.write(members).await {
                sleep(RETRY_PAUSE).await;
            }
            sleep(WRITE_PAUSE).await;
        }
    }

    async fn end(&mut self, members: &Members) {
        self.write(members).await;
        if let Some(database) = self.open.take() {
            close(database).await;
        }
    }

    /// One try. Says whether the database holds what is true.
    async fn write(&mut self, members: &Members) -> bool {
        match self.patiently_write(members).await {
            Ok(()) => self.works(),
            Err(error) => self.fails(&error),
        }
    }

    async fn patiently_write(&mut self, members: &Members) -> Result<(), DatabaseError> {
        let part = self.part.clone();
        let mut writing = std::pin::pin!(self.try_write(members));
        match timeout(SLOW, &mut writing).await {
            Ok(written) => written,
            Err(_) => {
                part.not_ready("the database does not answer");
                writing.await
            }
        }
    }

    async fn try_write(&mut self, members: &Members) -> Result<(), DatabaseError> {
        let mut database = self.opened().await?;
        let written = database.write(&members.snapshot()).await;
        if written.is_ok() {
            self.open = Some(database);
        } else {
            // Opened afresh for the next try.
            close(database).await;
        }
        written
    }

    async fn opened(&mut self) -> Result<Database, DatabaseError> {
        if let Some(database) = self.open.take() {
            if database.is_in_place().await {
                return Ok(database);
            }
            self.errors.inc();
            let path = self.path.display();
            tracing::error!(%path, "database was deleted or replaced; writing it anew");
            close(database).await;
        }
        Database::open(&self.path).await
    }

    fn works(&mut self) -> bool {
        if self.failing {
            tracing::info!(path = %self.path.display(), "database works again");
        }
        self.failing = false;
        self.part.ready();
        true
    }

    fn fails(&mut self, error: &DatabaseError) -> bool {
        let error = with_causes(error);
        self.errors.inc();
        if !self.failing {
            tracing::error!(error, "database fails; going on from memory");
        }
        self.failing = true;
        self.part.not_ready(error);
        false
    }
}

async fn close(database: Database) {
    if let Err(error) = database.close().await {
        tracing::warn!(error = with_causes(&error), "database not closed");
    }
}
