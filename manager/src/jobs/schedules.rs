//! Jobs that begin by themselves at times of the day.
//!
//! What fires when is a row in the database. A manager that finds one due begins its job under a key
//! made of the schedule and the time it was due, then sets the time it is next due, if nobody else has:
//! so of several managers over one database one begins it, and one that dies in between begins nothing
//! twice. What was missed while no manager ran fires once. While the job of the last time has not ended
//! there is no other.

use std::time::Duration;

use darner_service::shutdown::Shutdown;
use serde::Serialize;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use utoipa::ToSchema;

use super::cron::Cron;
use super::plan::Plan;
use super::{By, JobError, Jobs, RequestKey};
use crate::database::follow::look_every;
use crate::database::named::{Change, Changed, Table};
use crate::database::{Database, DatabaseError, Writing};
use crate::users::accounts::decode;
use crate::users::{Name, now};

/// Between looks at what is due.
const LOOK: Duration = Duration::from_secs(1);
const TABLE: Table = Table {
    name: "schedule",
    // More than people keep in view.
    most: 1000,
};
/// Begun in one look.
const AT_ONCE: i64 = 64;

/// The schedules. Clones share them.
#[derive(Debug, Clone)]
pub struct Schedules {
    database: Database,
    jobs: Jobs,
}

/// A schedule as it is wanted.
#[derive(Debug, Clone)]
pub struct Timed {
    /// When.
    pub cron: Cron,
    /// What.
    pub plan: Plan,
}

/// A schedule, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Schedule {
    /// Its name.
    pub name: String,
    /// When it fires: minute, hour, day of the month, month and day of the week, in UTC.
    pub cron: String,
    /// What job it begins then.
    pub job: Plan,
    /// Who made it.
    pub by: String,
    /// When it fires next, unix time in ms.
    pub next_ms: i64,
    /// When it was due the last time.
    pub last_ms: Option<i64>,
    /// The job that it began last.
    pub last_job: Option<String>,
    /// Why none was begun the last time.
    pub trouble: Option<String>,
    /// Counts changes; it is the `ETag`.
    #[serde(skip)]
    pub version: i64,
}

impl Schedules {
    /// The schedules in `database`, which begin their jobs with `jobs`.
    pub fn new(database: Database, jobs: Jobs) -> Self {
        Self { database, jobs }
    }

    /// Schedules by name, those after `after`, `most` at most, as they may be shown.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn list(&self, after: &str, most: i64) -> Result<Vec<Schedule>, DatabaseError> {
        let found = TABLE.list(&self.database, after, most, schedule).await?;
        Ok(found.into_iter().map(Schedule::without_secrets).collect())
    }

    /// One, as it may be shown.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn get(&self, name: &Name) -> Result<Option<Schedule>, DatabaseError> {
        let found = TABLE.get(&self.database, name, schedule).await?;
        Ok(found.map(Schedule::without_secrets))
    }

    /// Makes one.
    ///
    /// # Errors
    /// The database fails, and nothing is changed.
    pub async fn create(
        &self,
        change: Change<'_>,
        timed: &Timed,
    ) -> Result<Changed, DatabaseError> {
        let insert = async |step: &mut Writing| {
            let sql = "INSERT INTO schedule (name, cron, plan, version, made_by, next)
                VALUES ($1, $2, $3, 1, $4, $5)";
            let query = sqlx::query(sql)
                .bind(change.name.as_str().to_owned())
                .bind(timed.cron.to_string())
                .bind(json(&timed.plan)?)
                .bind(change.actor.to_owned())
                .bind(timed.next());
            query.execute(&mut **step).await.map(drop)
        };
        let detail = timed.to_string();
        TABLE.create(&self.database, change, &detail, insert).await
    }

    /// Changes one.
    ///
    /// # Errors
    /// The database fails, and nothing is changed.
    pub async fn change(
        &self,
        change: Change<'_>,
        timed: &Timed,
    ) -> Result<Changed, DatabaseError> {
        let update = async |step: &mut Writing| {
            let sql = "UPDATE schedule SET cron = $1, plan = $2, next = $3, trouble = NULL
                WHERE name = $4";
            let query = sqlx::query(sql)
                .bind(timed.cron.to_string())
                .bind(json(&timed.plan)?)
                .bind(timed.next())
                .bind(change.name.as_str().to_owned());
            query.execute(&mut **step).await.map(drop)
        };
        let detail = timed.to_string();
        TABLE.change(&self.database, change, &detail, update).await
    }

    /// Removes one; its jobs stay.
    ///
    /// # Errors
    /// The database fails, and nothing is changed.
    pub async fn remove(&self, change: Change<'_>) -> Result<Changed, DatabaseError> {
        TABLE.remove(&self.database, change).await
    }

    /// Begins what is due until the process drains.
    pub async fn run(self, shutdown: Shutdown) {
        let trouble = "schedules cannot be looked up; they fire when they can be";
        look_every(LOOK, &shutdown, trouble, || self.fire(now())).await;
    }

    /// Begins what is due at `now`.
    pub(super) async fn fire(&self, now: i64) -> Result<(), DatabaseError> {
        let sql = "SELECT * FROM schedule WHERE next <= $1 ORDER BY next LIMIT $2";
        let mut connection = self.database.read().await?;
        let rows = sqlx::query(sql)
            .bind(now)
            .bind(AT_ONCE)
            .fetch_all(&mut *connection)
            .await;
        drop(connection);
        for schedule in self.schedules(rows)? {
            match self.begin(&schedule).await? {
                Came::Later => {}
                Came::Begun(job) => self.note(now, &schedule, Ok(&job)).await?,
                Came::Refused(why) => self.note(now, &schedule, Err(&why)).await?,
            }
        }
        Ok(())
    }

    async fn begin(&self, schedule: &Schedule) -> Result<Came, DatabaseError> {
        if let Some(last) = &schedule.last_job
            && let Some(last) = self.jobs.get(last).await?
            && !last.is_ended()
        {
            let why = format!("job {} of the last time has not ended", last.id);
            return Ok(Came::Refused(why));
        }
        let wanted = match schedule.job.wanted() {
            Ok(wanted) => wanted,
            Err(invalid) => return Ok(Came::Refused(invalid.to_string())),
        };
        let by = By {
            actor: &format!("schedule/{}", schedule.name),
            request: Some(&RequestKey::of(
                "schedule",
                &schedule.name,
                schedule.next_ms,
            )),
        };
        match self.jobs.create(wanted, by).await {
            Ok(begun) => Ok(Came::Begun(begun.job().id)),
            Err(JobError::Database(error)) => Err(error),
            // Another manager is at it.
            Err(JobError::Busy) => Ok(Came::Later),
            Err(error) => Ok(Came::Refused(error.to_string())),
        }
    }

    /// Sets when it is next due, unless somebody else has.
    async fn note(
        &self,
        now: i64,
        schedule: &Schedule,
        came: Result<&str, &str>,
    ) -> Result<(), DatabaseError> {
        let cron: Result<Cron, _> = schedule.cron.parse();
        let next = cron
            .ok()
            .and_then(|cron| cron.after(now.max(schedule.next_ms)));
        let (name, due) = (&schedule.name, schedule.next_ms);
        match came {
            Ok(job) => tracing::info!(name, job, "a schedule fired"),
            Err(why) => tracing::warn!(name, why, "a schedule began no job"),
        }
        let sql = "UPDATE schedule SET next = $1, last = $2, last_job = COALESCE($3, last_job),
            trouble = $4 WHERE name = $5 AND next = $2";
        let mut step = self.database.begin().await?;
        sqlx::query(sql)
            // One that never comes any more stays, and fires no more.
            .bind(next.unwrap_or(i64::MAX))
            .bind(due)
            .bind(came.ok().map(str::to_owned))
            .bind(came.err().map(str::to_owned))
            .bind(name.clone())
            .execute(&mut *step)
            .await
            .map_err(|error| self.database.failed(error))?;
        step.commit(&self.database).await
    }

    fn schedules(
        &self,
        rows: Result<Vec<AnyRow>, sqlx::Error>,
    ) -> Result<Vec<Schedule>, DatabaseError> {
        let read = rows.and_then(|rows| rows.iter().map(schedule).collect());
        read.map_err(|error| self.database.failed(error))
    }
}

/// What came of a schedule that was due.
enum Came {
    Begun(String),
    Refused(String),
    /// To be tried again.
    Later,
}

impl Schedule {
    fn without_secrets(self) -> Self {
        let job = self.job.without_secrets();
        Self { job, ..self }
    }
}

impl Timed {
    fn next(&self) -> i64 {
        self.cron.after(now()).unwrap_or(i64::MAX)
    }
}

impl std::fmt::Display for Timed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.plan.names().collect();
        let (cron, names, to) = (&self.cron, names.join(" "), &self.plan.to);
        write!(f, "{cron}: {names} to {to}")
    }
}

fn schedule(row: &AnyRow) -> Result<Schedule, sqlx::Error> {
    let plan: String = row.try_get("plan")?;
    let invalid = |error: serde_json::Error| {
        decode(darner_proto::invalid::Invalid::new(
            "schedule",
            error.to_string(),
        ))
    };
    Ok(Schedule {
        name: row.try_get("name")?,
        cron: row.try_get("cron")?,
        job: serde_json::from_str(&plan).map_err(invalid)?,
        by: row.try_get("made_by")?,
        next_ms: row.try_get("next")?,
        last_ms: row.try_get("last")?,
        last_job: row.try_get("last_job")?,
        trouble: row.try_get("trouble")?,
        version: row.try_get("version")?,
    })
}

fn json(plan: &Plan) -> Result<String, sqlx::Error> {
    let invalid = |error: serde_json::Error| {
        decode(darner_proto::invalid::Invalid::new(
            "schedule",
            error.to_string(),
        ))
    };
    serde_json::to_string(plan).map_err(invalid)
}
