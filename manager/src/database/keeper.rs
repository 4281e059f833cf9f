//! Keeps the database in step with the members, for as long as it takes.
//!
//! Nobody waits for it: a database that is locked, full or gone costs what would be known after a
//! restart, shows in the process's health, and is tried again.

use std::time::Duration;

use darner_service::health::Part;
use darner_service::shutdown::Shutdown;
use darner_service::telemetry::with_causes;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::members::Remembered;
use super::{Database, DatabaseError};
use crate::members::Members;

/// Changes within this time are written together: a cluster that starts is a few writes, not
/// thousands.
const WRITE_PAUSE: Duration = Duration::from_millis(200);
/// Between tries, when the database fails.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Between looks whether there is room for a log by now.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// A database that has not answered for this long is reported, and waited for.
const SLOW: Duration = Duration::from_secs(5);

/// The one who writes.
#[derive(Debug)]
pub struct Keeper {
    database: Database,
    remembered: Remembered,
    part: Part,
    failing: bool,
}

impl Keeper {
    /// Goes on with an open database. `part` is its say in the process's health.
    pub fn new(database: Database, remembered: Remembered, part: Part) -> Self {
        part.ready();
        Self {
            database,
            remembered,
            part,
            failing: false,
        }
    }

    /// Writes what changes until `served` says that nothing will change any more, and once more then;
    /// but not beyond the process's end.
    pub async fn run(mut self, members: Members, served: CancellationToken, shutdown: Shutdown) {
        let cancelled = shutdown.cancellation();
        let kept = cancelled.run_until_cancelled(async {
            served.run_until_cancelled(self.follow(&members)).await;
            self.write(&members).await;
            self.database.close().await;
        });
        if kept.await.is_none() {
            tracing::warn!("the process ended before the database took the last changes");
        }
    }

    async fn follow(&mut self, members: &Members) {
        let beat = self.database.beat();
        let mut changes = members.changes();
        // What changed before this was called has not been seen.
        changes.mark_changed();
        loop {
            let pause = match self.database.shortcoming().await {
                Some(_) => LOOK_AGAIN,
                None => beat,
            };
            // Also when nothing changed: hosts were heard.
            let _ = timeout(pause, changes.changed()).await;
            while !self.write(members).await {
                sleep(RETRY_PAUSE).await;
            }
            sleep(WRITE_PAUSE).await;
        }
    }

    /// One try. Says whether the database holds what is true.
    async fn write(&mut self, members: &Members) -> bool {
        match self.patiently_write(members).await {
            Ok(()) => self.works().await,
            Err(error) => self.fails(&error),
        }
    }

    async fn patiently_write(&mut self, members: &Members) -> Result<(), DatabaseError> {
        let part = self.part.clone();
        let mut writing = std::pin::pin!(self.try_write(members));
        match timeout(SLOW, &mut writing).await {
            Ok(written) => written,
            Err(_) => {
                part.degraded("the database does not answer; going on from memory");
                writing.await
            }
        }
    }

    async fn try_write(&mut self, members: &Members) -> Result<(), DatabaseError> {
        if self.failing || self.database.shortcoming().await.is_some() {
            self.database.improve().await?;
        }
        let wanted = members.snapshot();
        let elsewhere = self.remembered.write(&self.database, &wanted).await?;
        if let Some(elsewhere) = elsewhere {
            members.elsewhere(elsewhere);
        }
        Ok(())
    }

    async fn works(&mut self) -> bool {
        if self.failing {
            let name = self.database.name();
            tracing::info!(name, "database works again");
        }
        self.failing = false;
        match self.database.shortcoming().await {
            Some(shortcoming) => self.part.degraded(shortcoming),
            None => self.part.ready(),
        }
        true
    }

    fn fails(&mut self, error: &DatabaseError) -> bool {
        let error = with_causes(error);
        if !self.failing {
            tracing::error!(error, "database fails; going on from memory");
        }
        self.failing = true;
        self.part.degraded(error);
        false
    }
}
