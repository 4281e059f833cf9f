//! Accounts, as rows.

use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use utoipa::ToSchema;

use super::{Name, Role, audit};
use crate::database::conditions::Conditions;
use crate::database::{Database, DatabaseError, Writing};

/// Who may use the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Account {
    /// The name to log in with.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Unix time in ms.
    pub created_ms: i64,
    /// Counts changes; the ETag is made of it.
    pub version: i64,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// It was made.
    Yes,
    /// There is no such account.
    Absent,
    /// It has another version than was expected.
    Stale,
    /// Nobody would be left to manage people.
    LastAdmin,
}

/// A change of an account.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// What it may do from now on.
    pub role: Option<Role>,
    /// The hash of its new password.
    pub password: Option<String>,
}

/// Adds an account, with its line in the audit.
///
/// # Errors
/// There is one of that name ([`DatabaseError::is_duplicate`]), or the database fails.
pub async fn create(
    database: &Database,
    actor: &str,
    name: &Name,
    role: Role,
    password: &str,
) -> Result<(), DatabaseError> {
    let mut step = database.begin().await?;
    let added = add(&mut step, actor, name, role, password).await;
    added.map_err(|error| database.failed(error))?;
    step.commit(database).await
}

pub(super) async fn add(
    step: &mut Writing,
    actor: &str,
    name: &Name,
    role: Role,
    password: &str,
) -> Result<(), sqlx::Error> {
    let sql = "INSERT INTO account (name, role, password, created, version)
        VALUES ($1, $2, $3, $4, 1)";
    sqlx::query(sql)
        .bind(name.as_str().to_owned())
        .bind(role.as_str())
        .bind(password.to_owned())
        .bind(super::now())
        .execute(&mut **step)
        .await?;
    audit::add(step, actor, "user.create", name.as_str(), role.as_str()).await
}

/// Whether there is any account.
///
/// # Errors
/// The database cannot be read.
pub async fn any(database: &Database) -> Result<bool, DatabaseError> {
    let mut connection = database.read().await?;
    let counted = count(&mut connection).await;
    Ok(counted.map_err(|error| database.failed(error))? > 0)
}

pub(super) async fn count(connection: &mut AnyConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT count(*) FROM account")
        .fetch_one(connection)
        .await
}

/// Accounts by name, those after `after`, `most` at most; of one role where it is given.
///
/// # Errors
/// The database cannot be read.
pub async fn list(
    database: &Database,
    role: Option<Role>,
    after: &str,
    most: i64,
) -> Result<Vec<Account>, DatabaseError> {
    let failed = |error| database.failed(error);
    let mut connection = database.read().await?;
    let rows = Conditions::default()
        .and("name >", Some(after))
        .and("role =", role.map(Role::as_str))
        .rows(
            &mut connection,
            "SELECT * FROM account",
            "ORDER BY name",
            most,
        )
        .await
        .map_err(failed)?;
    rows.iter()
        .map(account)
        .collect::<Result<_, _>>()
        .map_err(failed)
}

/// One account.
///
/// # Errors
/// The database cannot be read.
pub async fn get(database: &Database, name: &Name) -> Result<Option<Account>, DatabaseError> {
    let mut connection = database.read().await?;
    let found = row(&mut connection, name).await;
    let found = found.and_then(|row| row.as_ref().map(account).transpose());
    found.map_err(|error| database.failed(error))
}

/// What stands in place of a password's hash where there is none: no password has it.
pub(super) const NO_PASSWORD: &str = "-";

/// An account and the hash of its password.
///
/// # Errors
/// The database cannot be read.
pub async fn with_password(
    database: &Database,
    name: &Name,
) -> Result<Option<(Account, String)>, DatabaseError> {
    let mut connection = database.read().await?;
    let found = row(&mut connection, name).await.and_then(|row| match row {
        Some(row) => {
            let password: String = row.try_get("password")?;
            // An account of elsewhere has none: whoever tries one is nobody.
            let known = (password != NO_PASSWORD)
                .then(|| account(&row))
                .transpose()?;
            Ok(known.map(|account| (account, password)))
        }
        None => Ok(None),
    });
    found.map_err(|error| database.failed(error))
}

/// Changes an account that has the version `expected`, if any is expected. Its sessions end, and its tokens can do no
/// more than it can.
///
/// # Errors
/// The database fails, and nothing is changed.
pub async fn change(
    database: &Database,
    actor: &str,
    name: &Name,
    expected: Option<i64>,
    change: Change,
) -> Result<Changed, DatabaseError> {
    let failed = |error| database.failed(error);
    let mut step = database.begin().await?;
    let checked = check(&mut step, database, name, expected, change.role).await;
    let checked = checked.map_err(failed)?;
    if checked != Changed::Yes {
        return Ok(checked);
    }
    let made = async {
        let sql = "UPDATE account SET role = COALESCE($2, role),
            password = COALESCE($3, password), version = version + 1 WHERE name = $1";
        sqlx::query(sql)
            .bind(name.as_str().to_owned())
            .bind(change.role.map(|role| role.as_str().to_owned()))
            .bind(change.password.clone())
            .execute(&mut *step)
            .await?;
        sqlx::query("DELETE FROM session WHERE account = $1")
            .bind(name.as_str().to_owned())
            .execute(&mut *step)
            .await?;
        let role = change.role.map(|role| format!("role {}", role.as_str()));
        let password = change.password.as_ref().map(|_| "password".to_owned());
        let what: Vec<_> = role.into_iter().chain(password).collect();
        audit::add(
            &mut step,
            actor,
            "user.change",
            name.as_str(),
            &what.join(", "),
        )
        .await
    };
    made.await.map_err(failed)?;
    step.commit(database).await?;
    Ok(Changed::Yes)
}

/// Removes an account that has the version `expected`, if any is expected, with its tokens and
/// sessions.
///
/// # Errors
/// The database fails, and nothing is changed.
pub async fn remove(
    database: &Database,
    actor: &str,
    name: &Name,
    expected: Option<i64>,
) -> Result<Changed, DatabaseError> {
    let failed = |error| database.failed(error);
    let mut step = database.begin().await?;
    let checked = check(&mut step, database, name, expected, Some(Role::Viewer)).await;
    let checked = checked.map_err(failed)?;
    if checked != Changed::Yes {
        return Ok(checked);
    }
    let made = async {
        sqlx::query("DELETE FROM account WHERE name = $1")
            .bind(name.as_str().to_owned())
            .execute(&mut *step)
            .await?;
        audit::add(&mut step, actor, "user.remove", name.as_str(), "").await
    };
    made.await.map_err(failed)?;
    step.commit(database).await?;
    Ok(Changed::Yes)
}

/// Whether the account is as expected, and an administrator is left when it gets `role`.
async fn check(
    step: &mut Writing,
    database: &Database,
    name: &Name,
    expected: Option<i64>,
    role: Option<Role>,
) -> Result<Changed, sqlx::Error> {
    if database.is_shared() {
        // Two administrators may not remove each other at once.
        sqlx::query("LOCK TABLE account IN SHARE ROW EXCLUSIVE MODE")
            .execute(&mut **step)
            .await?;
    }
    let Some(row) = row(step, name).await? else {
        return Ok(Changed::Absent);
    };
    let account = account(&row)?;
    if expected.is_some_and(|expected| expected != account.version) {
        return Ok(Changed::Stale);
    }
    let loses = account.role == Role::Admin && role.is_some_and(|role| role < Role::Admin);
    let admins: i64 = sqlx::query_scalar("SELECT count(*) FROM account WHERE role = 'admin'")
        .fetch_one(&mut **step)
        .await?;
    Ok(match loses && admins <= 1 {
        true => Changed::LastAdmin,
        false => Changed::Yes,
    })
}

async fn row(connection: &mut AnyConnection, name: &Name) -> Result<Option<AnyRow>, sqlx::Error> {
    sqlx::query("SELECT * FROM account WHERE name = $1")
        .bind(name.as_str().to_owned())
        .fetch_optional(connection)
        .await
}

fn account(row: &AnyRow) -> Result<Account, sqlx::Error> {
    let role: String = row.try_get("role")?;
    Ok(Account {
        name: row.try_get("name")?,
        role: role.parse().map_err(decode)?,
        created_ms: row.try_get("created")?,
        version: row.try_get("version")?,
    })
}

pub(crate) fn decode(error: darner_proto::invalid::Invalid) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}
