//! Jobs in the database: each is one row, with the job as a JSON document.

use darner_proto::invalid::Invalid;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::Filter;
use super::job::{Job, Phase, Summary};
use crate::database::conditions::Conditions;
use crate::database::{Database, DatabaseError, Writing};
use crate::users::audit;

/// Jobs that are remembered after they have ended.
const MAX_KEPT: i64 = 1000;

/// What to write of a change in the audit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Audited<'a> {
    pub(super) actor: &'a str,
    pub(super) action: &'a str,
}

/// What is to be done to a job, and what to call it.
type Change<'a> = (Audited<'a>, fn(&mut Job));

/// Adds a job, made by the request of that hash.
///
/// # Errors
/// There is one of that request ([`DatabaseError::is_duplicate`]), or the database fails.
pub(super) async fn create(
    database: &Database,
    job: &Job,
    request: Option<&str>,
    audited: Audited<'_>,
) -> Result<(), DatabaseError> {
    let failed = |error| database.failed(error);
    let mut step = database.begin().await?;
    let made = async {
        let sql = "DELETE FROM job WHERE ended = 1
            AND id NOT IN (SELECT id FROM job ORDER BY id DESC LIMIT $1)";
        sqlx::query(sql).bind(MAX_KEPT).execute(&mut *step).await?;
        let summary = job.summary();
        let sql = "INSERT INTO job (id, ended, version, phase, made_by, summary, document, request)
            VALUES ($1, $2, 1, $3, $4, $5, $6, $7)";
        sqlx::query(sql)
            .bind(job.id.clone())
            .bind(i64::from(job.is_ended()))
            .bind(summary.phase.as_str())
            .bind(summary.by.clone())
            .bind(json(&summary)?)
            .bind(json(job)?)
            .bind(request.map(str::to_owned))
            .execute(&mut *step)
            .await?;
        let named = [summary.images, summary.files].concat();
        let what = format!("{} to {}", named.join(" "), job.to);
        let Audited { actor, action } = audited;
        audit::add(&mut step, actor, action, &job.id, &what).await
    };
    made.await.map_err(failed)?;
    step.commit(database).await
}

/// Merges `known` into the job of that id, changes it, and writes it. Answers with what was written;
/// `None` when there is no such job, or somebody else was writing it.
pub(super) async fn write(
    database: &Database,
    id: &str,
    known: Option<&Job>,
    change: Option<Change<'_>>,
) -> Result<Option<Job>, DatabaseError> {
    let mut step = database.begin().await?;
    let written = merge_into(&mut step, id, known, change).await;
    let written = written.map_err(|error| database.failed(error))?;
    if written.is_some() {
        step.commit(database).await?;
    }
    Ok(written)
}

async fn merge_into(
    step: &mut Writing,
    id: &str,
    known: Option<&Job>,
    change: Option<Change<'_>>,
) -> Result<Option<Job>, sqlx::Error> {
    let found = sqlx::query("SELECT version, document FROM job WHERE id = $1")
        .bind(id.to_owned())
        .fetch_optional(&mut **step)
        .await?;
    let Some(row) = found else {
        return Ok(None);
    };
    let version: i64 = row.try_get("version")?;
    let mut job = document(&row)?;
    if let Some(known) = known {
        job.merge(known);
    }
    if let Some((_, change)) = change {
        change(&mut job);
    }
    let summary = job.summary();
    let sql =
        "UPDATE job SET ended = $1, version = version + 1, phase = $2, summary = $3, document = $4
        WHERE id = $5 AND version = $6";
    let written = sqlx::query(sql)
        .bind(i64::from(job.is_ended()))
        .bind(summary.phase.as_str())
        .bind(json(&summary)?)
        .bind(json(&job)?)
        .bind(id.to_owned())
        .bind(version)
        .execute(&mut **step)
        .await?;
    if written.rows_affected() != 1 {
        return Ok(None);
    }
    if let Some((Audited { actor, action }, _)) = change {
        audit::add(step, actor, action, id, "").await?;
    }
    Ok(Some(job))
}

/// Every job that has not ended.
pub(super) async fn running(database: &Database) -> Result<Vec<Job>, DatabaseError> {
    let failed = |error| database.failed(error);
    let mut connection = database.read().await?;
    let rows = sqlx::query("SELECT document FROM job WHERE ended = 0 ORDER BY id")
        .fetch_all(&mut *connection)
        .await
        .map_err(failed)?;
    let jobs = rows.iter().map(document);
    jobs.collect::<Result<_, _>>().map_err(failed)
}

/// One job.
pub(super) async fn get(database: &Database, id: &str) -> Result<Option<Job>, DatabaseError> {
    let mut connection = database.read().await?;
    let found = row(&mut connection, id).await;
    let found = found.and_then(|row| row.as_ref().map(document).transpose());
    found.map_err(|error| database.failed(error))
}

/// The job that the request of that hash made.
pub(super) async fn made_by(
    database: &Database,
    request: &str,
) -> Result<Option<Job>, DatabaseError> {
    let mut connection = database.read().await?;
    let found = sqlx::query("SELECT document FROM job WHERE request = $1")
        .bind(request.to_owned())
        .fetch_optional(&mut *connection)
        .await;
    let found = found.and_then(|row| row.as_ref().map(document).transpose());
    found.map_err(|error| database.failed(error))
}

/// Jobs that are meant at a glance, the latest first: those before `before` where it is given.
pub(super) async fn list(
    database: &Database,
    filter: Filter<'_>,
    before: Option<&str>,
    most: i64,
) -> Result<Vec<Summary>, DatabaseError> {
    let failed = |error| database.failed(error);
    let mut connection = database.read().await?;
    let rows = Conditions::default()
        .and("id <", before)
        .and("phase =", filter.phase.map(Phase::as_str))
        .and_by("made_by", filter.by)
        .rows(
            &mut connection,
            "SELECT summary FROM job",
            "ORDER BY id DESC",
            most,
        )
        .await
        .map_err(failed)?;
    let summaries = rows.iter().map(|row| parse(row, "summary"));
    summaries.collect::<Result<_, _>>().map_err(failed)
}

async fn row(connection: &mut AnyConnection, id: &str) -> Result<Option<AnyRow>, sqlx::Error> {
    sqlx::query("SELECT document FROM job WHERE id = $1")
        .bind(id.to_owned())
        .fetch_optional(connection)
        .await
}

fn document(row: &AnyRow) -> Result<Job, sqlx::Error> {
    parse(row, "document")
}

fn parse<T: serde::de::DeserializeOwned>(row: &AnyRow, column: &str) -> Result<T, sqlx::Error> {
    let text: String = row.try_get(column)?;
    serde_json::from_str(&text).map_err(not_a_job)
}

fn json(value: &impl serde::Serialize) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(not_a_job)
}

fn not_a_job(error: serde_json::Error) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(Invalid::new("job", error.to_string())))
}
