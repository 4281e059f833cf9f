//! The certificate authority's document, as one row that is replaced as a whole. What is in it is
//! [`crate::authority`]'s business.

use sqlx::Row as _;

use super::{Database, DatabaseError};
use crate::users::audit::{self, Entry};

/// The document, and which replacement of it this is.
pub(crate) async fn read(database: &Database) -> Result<(i64, String), DatabaseError> {
    let mut connection = database.read().await?;
    let row = sqlx::query("SELECT revision, document FROM authority WHERE id = 1")
        .fetch_one(&mut *connection)
        .await
        .map_err(|error| database.failed(error))?;
    let parts = || Ok((row.try_get("revision")?, row.try_get("document")?));
    parts().map_err(|error: sqlx::Error| database.failed(error))
}

/// Replaces the document, and adds its line to the audit, if nobody else has since `revision` was read;
/// says whether that was so.
pub(crate) async fn replace(
    database: &Database,
    revision: i64,
    document: String,
    entry: Option<Entry<'_>>,
) -> Result<bool, DatabaseError> {
    let mut writing = database.begin().await?;
    let sql = "UPDATE authority SET revision = revision + 1, document = $1
        WHERE id = 1 AND revision = $2";
    let written = sqlx::query(sql)
        .bind(document)
        .bind(revision)
        .execute(&mut *writing)
        .await
        .map_err(|error| database.failed(error))?;
    if written.rows_affected() != 1 {
        return Ok(false);
    }
    if let Some(Entry {
        actor,
        action,
        object,
        detail,
    }) = entry
    {
        let added = audit::add(&mut writing, actor, action, object, detail).await;
        added.map_err(|error| database.failed(error))?;
    }
    writing.commit(database).await?;
    Ok(true)
}
