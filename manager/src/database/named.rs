//! Tables whose rows people name, make, change and remove: each has a `name`, and a `version` that
//! counts changes, and every change is written with its line in the audit.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe};

use super::{Database, DatabaseError, Writing};
use crate::users::{Name, audit};

/// Such a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table {
    /// Its name in SQL, and what its rows are called in the audit.
    pub(crate) name: &'static str,
    /// Rows at most.
    pub(crate) most: i64,
}

/// What came of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// It was made.
    Yes,
    /// There is nothing of that name.
    Absent,
    /// It has another version.
    Stale,
    /// There is one of that name already.
    Taken,
    /// There are as many as there may be.
    Full,
}

/// Who changes what.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// For the audit.
    pub actor: &'a str,
    /// The row.
    pub name: &'a Name,
    /// The version it is meant for; any where there is none.
    pub expected: Option<i64>,
}

impl Table {
    /// Rows by name, those after `after`, `most` at most.
    pub(crate) async fn list<T>(
        self,
        database: &Database,
        after: &str,
        most: i64,
        parse: impl Fn(&AnyRow) -> Result<T, sqlx::Error>,
    ) -> Result<Vec<T>, DatabaseError> {
        let table = self.name;
        let sql = format!("SELECT * FROM {table} WHERE name > $1 ORDER BY name LIMIT $2");
        let mut connection = database.read().await?;
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(after.to_owned())
            .bind(most)
            .fetch_all(&mut *connection)
            .await;
        let parsed = rows.and_then(|rows| rows.iter().map(parse).collect());
        parsed.map_err(|error| database.failed(error))
    }

    /// One row.
    pub(crate) async fn get<T>(
        self,
        database: &Database,
        name: &Name,
        parse: impl Fn(&AnyRow) -> Result<T, sqlx::Error>,
    ) -> Result<Option<T>, DatabaseError> {
        let mut connection = database.read().await?;
        let found = self.row(&mut connection, name).await;
        let found = found.and_then(|row| row.as_ref().map(parse).transpose());
        found.map_err(|error| database.failed(error))
    }

    /// Makes a row with `insert`, unless there is one or no room.
    pub(crate) async fn create(
        self,
        database: &Database,
        change: Change<'_>,
        detail: &str,
        insert: impl AsyncFnOnce(&mut Writing) -> Result<(), sqlx::Error>,
    ) -> Result<Changed, DatabaseError> {
        let mut step = database.begin().await?;
        let made = async {
            let sql = format!("SELECT count(*) FROM {}", self.name);
            let count: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
                .fetch_one(&mut *step)
                .await?;
            if self.row(&mut step, change.name).await?.is_some() {
                return Ok(Changed::Taken);
            }
            if count >= self.most {
                return Ok(Changed::Full);
            }
            insert(&mut step).await?;
            self.note(&mut step, change, "create", detail).await?;
            Ok(Changed::Yes)
        };
        let made = made.await.map_err(|error| database.failed(error));
        match end(database, step, made).await {
            // Somebody else has made it at the same time.
            Err(error) if error.is_duplicate() => Ok(Changed::Taken),
            ended => ended,
        }
    }

    /// Changes the row with `update`, if its version is the expected one; `update` need not count it up.
    pub(crate) async fn change(
        self,
        database: &Database,
        change: Change<'_>,
        detail: &str,
        update: impl AsyncFnOnce(&mut Writing) -> Result<(), sqlx::Error>,
    ) -> Result<Changed, DatabaseError> {
        let mut step = database.begin().await?;
        let made = async {
            let sql = format!(
                "UPDATE {} SET version = version + 1
                WHERE name = $1 AND version = COALESCE($2, version)",
                self.name
            );
            let counted = sqlx::query(AssertSqlSafe(sql))
                .bind(change.name.as_str().to_owned())
                .bind(change.expected)
                .execute(&mut *step)
                .await?;
            if counted.rows_affected() != 1 {
                return self.unchanged(&mut step, change.name).await;
            }
            update(&mut step).await?;
            self.note(&mut step, change, "change", detail).await?;
            Ok(Changed::Yes)
        };
        let made = made.await.map_err(|error| database.failed(error));
        end(database, step, made).await
    }

    /// Removes the row, if its version is the expected one.
    pub(crate) async fn remove(
        self,
        database: &Database,
        change: Change<'_>,
    ) -> Result<Changed, DatabaseError> {
        let mut step = database.begin().await?;
        let made = async {
            let sql = format!(
                "DELETE FROM {} WHERE name = $1 AND version = COALESCE($2, version)",
                self.name
            );
            let removed = sqlx::query(AssertSqlSafe(sql))
                .bind(change.name.as_str().to_owned())
                .bind(change.expected)
                .execute(&mut *step)
                .await?;
            if removed.rows_affected() != 1 {
                return self.unchanged(&mut step, change.name).await;
            }
            self.note(&mut step, change, "remove", "").await?;
            Ok(Changed::Yes)
        };
        let made = made.await.map_err(|error| database.failed(error));
        end(database, step, made).await
    }

    /// A row as it is.
    pub(crate) async fn row(
        self,
        connection: &mut AnyConnection,
        name: &Name,
    ) -> Result<Option<AnyRow>, sqlx::Error> {
        let sql = format!("SELECT * FROM {} WHERE name = $1", self.name);
        sqlx::query(AssertSqlSafe(sql))
            .bind(name.as_str().to_owned())
            .fetch_optional(connection)
            .await
    }

    async fn unchanged(self, step: &mut Writing, name: &Name) -> Result<Changed, sqlx::Error> {
        Ok(match self.row(step, name).await? {
            Some(_) => Changed::Stale,
            None => Changed::Absent,
        })
    }

    async fn note(
        self,
        step: &mut Writing,
        change: Change<'_>,
        verb: &str,
        detail: &str,
    ) -> Result<(), sqlx::Error> {
        let action = format!("{}.{verb}", self.name);
        audit::add(step, change.actor, &action, change.name.as_str(), detail).await
    }
}

async fn end(
    database: &Database,
    step: Writing,
    made: Result<Changed, DatabaseError>,
) -> Result<Changed, DatabaseError> {
    let made = made?;
    if made == Changed::Yes {
        step.commit(database).await?;
    }
    Ok(made)
}
