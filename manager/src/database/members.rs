//! Members, as rows: what this process heard, and what other managers over the same database hear.
//!
//! The rows follow [`Snapshot`]s: [`Remembered::write`] makes them what it is given, by writing what
//! differs from what they were. So a failed write is simply tried again with whatever is true by
//! then. A row belongs to the manager that heard its host last ([`Replica`]); the others believe it
//! for as long as that manager says that it lives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use darner_proto::id::{Host, Role, SigningKey, parse_address};
use darner_proto::invalid::Invalid;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::{Database, DatabaseError, Writing};
use crate::membership::{Elsewhere, MemberKey, Record, Snapshot};

/// When a host was last heard is kept to this, so that keep-alives do not become disk writes.
pub const LAST_SEEN_STEP: Duration = Duration::from_secs(60);
/// How often a manager that shares its database says that it lives and looks at what others hear.
pub const BEAT: Duration = Duration::from_secs(2);
/// A manager that has not said so for this long counts as gone: three beats.
const GONE: Duration = Duration::from_secs(6);
/// The rows of a manager that has been gone for this long are removed: its hosts have found another
/// by then, or are gone too.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Which manager, among those over one database. A manager that has its database for itself is the
/// same one after a restart; one that shares it is a new one each time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica(String);

/// What this process knows of the rows.
#[derive(Debug)]
pub struct Remembered {
    replica: Replica,
    /// What is stored under this replica's name, as of the database's generation.
    stored: Option<(u64, Snapshot)>,
    changed: i64,
    others: Others,
}

/// The other managers' hosts, and what they are known by to have changed.
#[derive(Debug, Default)]
struct Others {
    /// Replicas that live, with their count of changes.
    replicas: Vec<(String, i64)>,
    elsewhere: Elsewhere,
}

impl Replica {
    /// The name of this process among those over a database.
    pub fn new(shared: bool) -> Self {
        if !shared {
            return Self(String::new());
        }
        Self(crate::random::hexadecimal::<16>())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Remembered {
    /// What `database` holds, to begin with: of every manager, since those that are gone know best.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn read(database: &Database) -> Result<(Self, Snapshot), DatabaseError> {
        let remembered = Self {
            replica: Replica::new(database.is_shared()),
            stored: None,
            changed: 0,
            others: Others::default(),
        };
        let mut connection = database.read().await?;
        let all = async {
            Ok(Snapshot {
                version: version(&mut connection).await?,
                hosts: hosts(&mut connection, "SELECT * FROM host", &[]).await?,
            })
        };
        let all = all.await.map_err(|error| database.failed(error))?;
        Ok((remembered, all))
    }

    /// This process among those over the database.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Makes the database hold `wanted`, in one step: all of it or nothing. What other managers hear
    /// is returned when the database is shared.
    ///
    /// # Errors
    /// The database is what it was.
    pub async fn write(
        &mut self,
        database: &Database,
        wanted: &Snapshot,
    ) -> Result<Option<Elsewhere>, DatabaseError> {
        let shared = database.is_shared();
        let in_vain = match &self.stored {
            Some((generation, stored)) => {
                *generation == database.generation() && Changes::between(stored, wanted).is_empty()
            }
            None => false,
        };
        if in_vain && !shared {
            return Ok(None);
        }
        let written = self.try_write(database, wanted).await;
        if written.is_err() {
            // Whether a commit that failed was made is not known.
            self.stored = None;
        }
        written.map(|elsewhere| shared.then_some(elsewhere))
    }

    async fn try_write(
        &mut self,
        database: &Database,
        wanted: &Snapshot,
    ) -> Result<Elsewhere, DatabaseError> {
        let failed = |error| database.failed(error);
        let mut step = database.begin().await?;
        let generation = step.generation();
        let stored = match self.stored.take() {
            Some((of, stored)) if of == generation => stored,
            _ => self.read_mine(&mut step).await.map_err(failed)?,
        };
        let changes = Changes::between(&stored, wanted);
        changes
            .write(&mut step, &self.replica)
            .await
            .map_err(failed)?;
        if database.is_shared() {
            self.changed += i64::from(!changes.is_empty());
            self.beat(&mut step).await.map_err(failed)?;
            self.others
                .read(&mut step, &self.replica)
                .await
                .map_err(failed)?;
        }
        step.commit(database).await?;
        let mut stored = stored;
        changes.note(&mut stored);
        self.stored = Some((generation, stored));
        Ok(self.others.elsewhere.clone())
    }

    async fn read_mine(&self, step: &mut Writing) -> Result<Snapshot, sqlx::Error> {
        let sql = "SELECT * FROM host WHERE replica = $1";
        Ok(Snapshot {
            version: version(step).await?,
            hosts: hosts(step, sql, &[self.replica.as_str()]).await?,
        })
    }

    /// Says that this manager lives, by the database's clock, and clears up after those long gone.
    async fn beat(&self, step: &mut Writing) -> Result<(), sqlx::Error> {
        let sql = "INSERT INTO replica (id, heard, changed)
            VALUES ($1, CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT), $2)
            ON CONFLICT (id) DO UPDATE SET heard = excluded.heard, changed = excluded.changed";
        sqlx::query(sql)
            .bind(self.replica.as_str())
            .bind(self.changed)
            .execute(&mut **step)
            .await?;
        let sql = "DELETE FROM replica WHERE heard + $1 <
            (SELECT heard FROM replica WHERE id = $2)";
        let gone = sqlx::query(sql)
            .bind(milliseconds(FORGOTTEN))
            .bind(self.replica.as_str())
            .execute(&mut **step)
            .await?;
        if gone.rows_affected() > 0 {
            let sql = "DELETE FROM host WHERE replica NOT IN (SELECT id FROM replica)";
            sqlx::query(sql).execute(&mut **step).await?;
        }
        Ok(())
    }
}

impl Others {
    async fn read(&mut self, step: &mut Writing, me: &Replica) -> Result<(), sqlx::Error> {
        let sql = "SELECT id, changed FROM replica WHERE id <> $1 AND heard + $2 >
            (SELECT heard FROM replica WHERE id = $1) ORDER BY id";
        let rows = sqlx::query(sql)
            .bind(me.as_str())
            .bind(milliseconds(GONE))
            .fetch_all(&mut **step)
            .await?;
        let replicas = rows
            .iter()
            .map(|row| Ok((row.try_get("id")?, row.try_get("changed")?)))
            .collect::<Result<Vec<(String, i64)>, sqlx::Error>>()?;
        if replicas != self.replicas {
            let sql = "SELECT host.* FROM host JOIN replica ON replica.id = host.replica
                WHERE replica.id <> $1";
            let mut found = BTreeMap::new();
            let rows = sqlx::query(sql)
                .bind(me.as_str())
                .fetch_all(&mut **step)
                .await?;
            for row in rows {
                let replica: String = row.try_get("replica")?;
                if replicas.iter().any(|(id, _)| *id == replica) {
                    found.extend(understood(&row)?);
                }
            }
            self.elsewhere.hosts = Arc::new(found);
            self.replicas = replicas;
        }
        self.elsewhere.version = version(step).await?;
        Ok(())
    }
}

/// What is to be written. Rows stand for themselves, so writing twice does no harm.
pub(super) struct Changes {
    version: Option<u64>,
    put: BTreeMap<MemberKey, Record>,
    remove: Vec<MemberKey>,
}

impl Changes {
    pub(super) fn between(stored: &Snapshot, wanted: &Snapshot) -> Self {
        let is_stored = |key: &MemberKey, record: &Record| {
            let stored = stored.hosts.get(key);
            stored.is_some_and(|stored| is_as_good(stored, record))
        };
        let put = wanted
            .hosts
            .iter()
            .filter(|(key, record)| !is_stored(key, record));
        let gone = stored.hosts.keys();
        Self {
            version: (wanted.version != stored.version).then_some(wanted.version),
            put: put
                .map(|(key, record)| (key.clone(), record.clone()))
                .collect(),
            remove: gone
                .filter(|key| !wanted.hosts.contains_key(key))
                .cloned()
                .collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.version.is_none() && self.put.is_empty() && self.remove.is_empty()
    }

    async fn write(
        &self,
        connection: &mut AnyConnection,
        replica: &Replica,
    ) -> Result<(), sqlx::Error> {
        for key in &self.remove {
            remove(connection, replica, key).await?;
        }
        for record in self.put.values() {
            put(connection, replica, record).await?;
        }
        if let Some(version) = self.version {
            put_version(connection, version).await?;
        }
        Ok(())
    }

    fn note(self, stored: &mut Snapshot) {
        stored.version = self.version.unwrap_or(stored.version);
        stored.hosts.extend(self.put);
        for key in self.remove {
            stored.hosts.remove(&key);
        }
    }
}

fn is_as_good(stored: &Record, wanted: &Record) -> bool {
    let apart = Duration::from_millis(stored.last_seen.abs_diff(wanted.last_seen));
    stored.host == wanted.host && apart < LAST_SEEN_STEP
}

/// The last version told.
async fn version(connection: &mut AnyConnection) -> Result<u64, sqlx::Error> {
    let version: i64 = sqlx::query_scalar("SELECT version FROM configuration")
        .fetch_one(connection)
        .await?;
    u64::try_from(version).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Members. One that cannot be understood is left out: it will report.
async fn hosts(
    connection: &mut AnyConnection,
    sql: &'static str,
    bound: &[&str],
) -> Result<BTreeMap<MemberKey, Record>, sqlx::Error> {
    let mut query = sqlx::query(sql);
    for value in bound {
        query = query.bind((*value).to_owned());
    }
    let mut hosts = BTreeMap::new();
    for row in query.fetch_all(connection).await? {
        hosts.extend(understood(&row)?);
    }
    Ok(hosts)
}

fn understood(row: &AnyRow) -> Result<Option<(MemberKey, Record)>, sqlx::Error> {
    match record(row)? {
        Ok(record) => Ok(Some((MemberKey::of(&record.host), record))),
        Err(error) => {
            tracing::warn!(%error, "a host in the database is left out");
            Ok(None)
        }
    }
}

/// Writes a member over what was known of it, unless another manager has heard it since.
async fn put(
    connection: &mut AnyConnection,
    replica: &Replica,
    record: &Record,
) -> Result<(), sqlx::Error> {
    let host = &record.host;
    let labels = serde_json::to_string(&host.labels);
    let sql = "INSERT INTO host
        (role, id, address, labels, signing_key, upload_slots, last_seen, replica)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        ON CONFLICT (role, id) DO UPDATE SET address = excluded.address,
        labels = excluded.labels, signing_key = excluded.signing_key,
        upload_slots = excluded.upload_slots, last_seen = excluded.last_seen,
        replica = excluded.replica
        WHERE host.replica = excluded.replica OR host.last_seen <= excluded.last_seen";
    sqlx::query(sql)
        .bind(host.role.to_string())
        .bind(host.id.as_str())
        .bind(host.address.as_str())
        .bind(labels.map_err(|error| sqlx::Error::Encode(error.into()))?)
        .bind(host.signing_key.map(|key| key.0.to_vec()))
        .bind(i64::from(host.upload_slots))
        .bind(i64::try_from(record.last_seen).unwrap_or(i64::MAX))
        .bind(replica.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// Removes a member, unless another manager hears it by now.
async fn remove(
    connection: &mut AnyConnection,
    replica: &Replica,
    key: &MemberKey,
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM host WHERE role = $1 AND id = $2 AND replica = $3")
        .bind(key.role.to_string())
        .bind(key.id.as_str())
        .bind(replica.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// Writes the last version told. What is on disk does not go backwards either.
async fn put_version(connection: &mut AnyConnection, version: u64) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE configuration SET version = $1 WHERE version < $1")
        .bind(i64::try_from(version).unwrap_or(i64::MAX))
        .execute(connection)
        .await?;
    Ok(())
}

fn record(row: &AnyRow) -> Result<Result<Record, Invalid>, sqlx::Error> {
    let (role, id): (String, String) = (row.try_get("role")?, row.try_get("id")?);
    let labels: String = row.try_get("labels")?;
    let key: Option<Vec<u8>> = row.try_get("signing_key")?;
    let address = row.try_get("address")?;
    let upload_slots: i64 = row.try_get("upload_slots")?;
    let last_seen: i64 = row.try_get("last_seen")?;
    let host = || {
        Ok(Host {
            id: id.parse()?,
            address: parse_address(address)?,
            role: parse_role(&role)?,
            labels: serde_json::from_str(&labels)
                .map_err(|error| Invalid::new("labels", error.to_string()))?,
            signing_key: key.map(parse_key).transpose()?,
            upload_slots: u32::try_from(upload_slots)
                .map_err(|error| Invalid::new("upload slots", error.to_string()))?,
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

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
