//! The rows, and what they mean.

use std::collections::BTreeMap;
use std::sync::Arc;

use darner_proto::id::{Host, Role, SigningKey, parse_address};
use darner_proto::invalid::Invalid;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use crate::membership::{MemberKey, Record};

/// The schema's version; `None` in a database without one.
pub(super) async fn schema_version(
    connection: &mut SqliteConnection,
) -> Result<Option<i64>, sqlx::Error> {
    let has =
        "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = '_sqlx_migrations'";
    let tables: i64 = sqlx::query_scalar(has).fetch_one(&mut *connection).await?;
    if tables == 0 {
        return Ok(None);
    }
    sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
        .fetch_one(connection)
        .await
}

/// The last version told.
pub(super) async fn version(connection: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
    let version: i64 = sqlx::query_scalar("SELECT version FROM configuration")
        .fetch_one(connection)
        .await?;
    u64::try_from(version).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// All members. One that cannot be understood is left out: it will report.
pub(super) async fn hosts(
    connection: &mut SqliteConnection,
) -> Result<BTreeMap<MemberKey, Record>, sqlx::Error> {
    let rows = sqlx::query("SELECT * FROM host")
        .fetch_all(connection)
        .await?;
    let mut hosts = BTreeMap::new();
    for row in rows {
        let record = record(&row)?;
        match record {
            Ok(record) => {
                hosts.insert(MemberKey::of(&record.host), record);
            }
            Err(error) => tracing::warn!(%error, "a host in the database is left out"),
        }
    }
    Ok(hosts)
}

/// Writes a member over what was known of it.
pub(super) async fn put(
    connection: &mut SqliteConnection,
    record: &Record,
) -> Result<(), sqlx::Error> {
    let host = &record.host;
    let labels = serde_json::to_string(&host.labels);
    let sql = "INSERT OR REPLACE INTO host
        (role, id, address, labels, signing_key, upload_slots, last_seen)
        VALUES (?, ?, ?, ?, ?, ?, ?)";
    sqlx::query(sql)
        .bind(host.role.to_string())
        .bind(host.id.as_str())
        .bind(&host.address)
        .bind(labels.map_err(|error| sqlx::Error::Encode(error.into()))?)
        .bind(host.signing_key.map(|key| key.0.to_vec()))
        .bind(host.upload_slots)
        .bind(i64::try_from(record.last_seen).unwrap_or(i64::MAX))
        .execute(connection)
        .await?;
    Ok(())
}

/// Removes a member.
pub(super) async fn remove(
    connection: &mut SqliteConnection,
    key: &MemberKey,
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM host WHERE role = ? AND id = ?")
        .bind(key.role.to_string())
        .bind(key.id.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// Writes the last version told. What is on disk does not go backwards either.
pub(super) async fn put_version(
    connection: &mut SqliteConnection,
    version: u64,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE configuration SET version = max(version, ?)")
        .bind(i64::try_from(version).unwrap_or(i64::MAX))
        .execute(connection)
        .await?;
    Ok(())
}

fn record(row: &SqliteRow) -> Result<Result<Record, Invalid>, sqlx::Error> {
    let (role, id): (String, String) = (row.try_get("role")?, row.try_get("id")?);
    let labels: String = row.try_get("labels")?;
    let key: Option<Vec<u8>> = row.try_get("signing_key")?;
    let (address, upload_slots) = (row.try_get("address")?, row.try_get("upload_slots")?);
    let last_seen: i64 = row.try_get("last_seen")?;
    let host = || {
        Ok(Host {
            id: id.parse()?,
            address: parse_address(address)?,
            role: parse_role(&role)?,
            labels: serde_json::from_str(&labels)
                .map_err(|error| Invalid::new("labels", error.to_string()))?,
            signing_key: key.map(parse_key).transpose()?,
            upload_slots,
        })
    };
    Ok(host().map(|host| Record {
        host: Arc::new(host),
        last_seen: u64::try_from(last_seen).unwrap_or(0),
    }))
}

fn parse_role(text: &str) -> Result<Role, Invalid> {
    match text {
        "mirror" => Ok(Role::Mirror),
        "seed" => Ok(Role::Seed),
        "scheduler" => Ok(Role::Scheduler),
        _ => Err(Invalid::new("role", format!("{text:?} is none"))),
    }
}

fn parse_key(bytes: Vec<u8>) -> Result<SigningKey, Invalid> {
    let bytes = bytes.try_into();
    bytes
        .map(SigningKey)
        .map_err(|_| Invalid::new("signing key", "is not 32 bytes"))
}
