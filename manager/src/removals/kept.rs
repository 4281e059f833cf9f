//! Removals in the database.

use darner_proto::digest::Digest;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::{Asked, STANDS, Wanted};
use crate::database::{Database, DatabaseError};
use crate::users::audit;

/// Takes one down at `now`, under the next number, which is above `above`, too; with its line in the
/// audit.
///
/// # Errors
/// Another manager has taken that number ([`DatabaseError::is_duplicate`]), or the database fails.
pub(super) async fn add(
    database: &Database,
    wanted: &Wanted,
    actor: &str,
    (now, above): (i64, u64),
) -> Result<Asked, DatabaseError> {
    let failed = |error| database.failed(error);
    let mut step = database.begin().await?;
    let made = async {
        // The last one stays, so that numbers go on above all that ever were.
        let sql = "DELETE FROM removal WHERE asked_ms <= $1
            AND number < (SELECT MAX(number) FROM removal)";
        let over = now.saturating_sub(life_ms());
        sqlx::query(sql).bind(over).execute(&mut *step).await?;
        let sql = "SELECT COALESCE(MAX(number), 0) + 1 AS next FROM removal";
        let row = sqlx::query(sql).fetch_one(&mut *step).await?;
        let next: i64 = row.try_get("next")?;
        let number = next.max(i64::try_from(above).unwrap_or(0) + 1);
        let sql = "INSERT INTO removal (number, content, name, actor, asked_ms)
            VALUES ($1, $2, $3, $4, $5)";
        sqlx::query(sql)
            .bind(number)
            .bind(wanted.key.to_string())
            .bind(wanted.name.clone())
            .bind(actor.to_owned())
            .bind(now)
            .execute(&mut *step)
            .await?;
        let content = wanted.key.to_string();
        audit::add(&mut step, actor, "image.remove", &content, &wanted.name).await?;
        Ok(number)
    };
    let number: i64 = made.await.map_err(failed)?;
    step.commit(database).await?;
    Ok(Asked {
        number: number.unsigned_abs(),
        key: wanted.key,
        name: wanted.name.clone(),
        actor: actor.to_owned(),
        asked_ms: now,
    })
}

/// Those asked for since then, in order.
pub(super) async fn read(database: &Database, since_ms: i64) -> Result<Vec<Asked>, DatabaseError> {
    let failed = |error| database.failed(error);
    let mut connection = database.read().await?;
    let sql = "SELECT number, content, name, actor, asked_ms FROM removal
        WHERE asked_ms > $1 ORDER BY number";
    let rows = sqlx::query(sql)
        .bind(since_ms)
        .fetch_all(&mut *connection)
        .await
        .map_err(failed)?;
    rows.iter()
        .map(asked)
        .collect::<Result<_, _>>()
        .map_err(failed)
}

/// For how long a removal stands, in ms.
pub(super) fn life_ms() -> i64 {
    i64::try_from(STANDS.as_millis()).unwrap_or(i64::MAX)
}

fn asked(row: &AnyRow) -> Result<Asked, sqlx::Error> {
    let content: String = row.try_get("content")?;
    let number: i64 = row.try_get("number")?;
    Ok(Asked {
        number: number.unsigned_abs(),
        key: Digest::parse_key(&content)
            .map_err(|invalid| sqlx::Error::Decode(Box::new(invalid)))?,
        name: row.try_get("name")?,
        actor: row.try_get("actor")?,
        asked_ms: row.try_get("asked_ms")?,
    })
}
