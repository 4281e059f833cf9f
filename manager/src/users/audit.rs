//! Who changed what: lines that are only added to.

use serde::Serialize;
use sqlx::{AnyConnection, Row as _};
use utoipa::ToSchema;

use crate::database::conditions::Conditions;
use crate::database::{Database, DatabaseError, Writing};

/// A change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Line {
    /// Grows from line to line.
    pub seq: i64,
    /// Unix time in ms.
    pub at_ms: i64,
    /// The account, with the token it used if it did; or `setup-link`.
    pub actor: String,
    /// Such as `user.create`.
    pub action: String,
    /// What it was done to.
    pub object: String,
    /// What else is to be known.
    pub detail: String,
}

/// A line to be written with a change.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Who changes it.
    pub actor: &'a str,
    /// Such as `user.create`.
    pub action: &'a str,
    /// What it is done to.
    pub object: &'a str,
    /// What else is to be known.
    pub detail: &'a str,
}

/// Which lines; without anything all.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter<'a> {
    /// Of this actor; of an account, those of its tokens too.
    pub actor: Option<&'a str>,
    /// Of this action.
    pub action: Option<&'a str>,
    /// Of what was done to this.
    pub object: Option<&'a str>,
    /// From this unix time in ms on.
    pub since: Option<i64>,
    /// Before this unix time in ms.
    pub until: Option<i64>,
}

/// Adds a line to the change that is being made.
pub(crate) async fn add(
    step: &mut Writing,
    actor: &str,
    action: &str,
    object: &str,
    detail: &str,
) -> Result<(), sqlx::Error> {
    let connection: &mut AnyConnection = step;
    let sql = "INSERT INTO audit (at, actor, action, object, detail) VALUES ($1, $2, $3, $4, $5)";
    sqlx::query(sql)
        .bind(super::now())
        .bind(actor.to_owned())
        .bind(action.to_owned())
        .bind(object.to_owned())
        .bind(detail.to_owned())
        .execute(connection)
        .await?;
    Ok(())
}

/// Lines that are meant, the newest first: those before `before` where it is given, `most` at most.
///
/// # Errors
/// The database cannot be read.
pub async fn read(
    database: &Database,
    filter: Filter<'_>,
    before: Option<i64>,
    most: i64,
) -> Result<Vec<Line>, DatabaseError> {
    let failed = |error| database.failed(error);
    let mut connection = database.read().await?;
    let select = "SELECT seq, at, actor, action, object, detail FROM audit";
    let rows = Conditions::default()
        .and("seq <", before)
        .and_by("actor", filter.actor)
        .and("action =", filter.action)
        .and("object =", filter.object)
        .and("at >=", filter.since)
        .and("at <", filter.until)
        .rows(&mut connection, select, "ORDER BY seq DESC", most)
        .await
        .map_err(failed)?;
    let line = |row: &sqlx::any::AnyRow| {
        Ok(Line {
            seq: row.try_get("seq")?,
            at_ms: row.try_get("at")?,
            actor: row.try_get("actor")?,
            action: row.try_get("action")?,
            object: row.try_get("object")?,
            detail: row.try_get("detail")?,
        })
    };
    rows.iter()
        .map(line)
        .collect::<Result<_, _>>()
        .map_err(failed)
}
