//! What callers show: personal access tokens, sessions, and the link for the first administrator.

use std::time::Duration;

use darner_service::secret::Secret;
use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use utoipa::ToSchema;

use super::accounts::{self, decode};
use super::{INVITATION, Name, Role, SESSION, TOKEN_PREFIX, audit, hash_of, milliseconds, now};
use crate::database::{Database, DatabaseError};
use crate::random;

/// More tokens than this of one account are refused.
pub const MAX_TOKENS: i64 = 100;

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The account.
    pub account: Name,
    /// What this call may do: no more than the account, nor than the token.
    pub role: Role,
    /// How it was shown.
    pub by: By,
}

/// How a caller showed who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// A token, by its id.
    Token(String),
    /// A session, in which changes need this value in a header.
    Session {
        /// What another site's page cannot know.
        csrf: String,
    },
}

/// What is known of a token; never the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TokenInfo {
    /// To revoke it by.
    pub id: String,
    /// Whose it is.
    pub user: String,
    /// What it is for.
    pub label: String,
    /// What it may do at most.
    pub role: Role,
    /// Unix time in ms.
    pub created_ms: i64,
    /// Unix time in ms.
    pub expires_ms: i64,
}

/// A session as it is begun.
#[derive(Debug, Clone)]
pub struct Session {
    /// For the cookie.
    pub secret: Secret,
    /// For the header of changes.
    pub csrf: String,
}

impl Caller {
    /// Who to name in the audit.
    pub fn actor(&self) -> String {
        match &self.by {
            By::Token(id) => format!("{} (token {id})", self.account),
            By::Session { .. } => self.account.to_string(),
        }
    }
}

/// Whose token this is, and what it may do; nobody's when it is unknown or over.
///
/// # Errors
/// The database cannot be read.
pub async fn by_token(database: &Database, token: &str) -> Result<Option<Caller>, DatabaseError> {
    let sql = "SELECT account.name, account.role, token.id, token.role AS most FROM token
        JOIN account ON account.name = token.account WHERE token.hash = $1 AND token.expires > $2";
    let found = shown(database, sql, token).await?;
    let caller = |row: &AnyRow| {
        let most: Role = text(row, "most")?.parse().map_err(decode)?;
        let id = text(row, "id")?;
        let mut caller = caller(row, By::Token(id))?;
        caller.role = caller.role.min(most);
        Ok(caller)
    };
    let found = found.as_ref().map(caller).transpose();
    found.map_err(|error| database.failed(error))
}

/// Whose session this is.
///
/// # Errors
/// The database cannot be read.
pub async fn by_session(
    database: &Database,
    secret: &str,
) -> Result<Option<Caller>, DatabaseError> {
    let sql = "SELECT account.name, account.role, session.csrf FROM session
        JOIN account ON account.name = session.account
        WHERE session.hash = $1 AND session.expires > $2";
    let found = shown(database, sql, secret).await?;
    let caller = |row: &AnyRow| {
        let csrf = text(row, "csrf")?;
        caller(row, By::Session { csrf })
    };
    let found = found.as_ref().map(caller).transpose();
    found.map_err(|error| database.failed(error))
}

async fn shown(
    database: &Database,
    sql: &'static str,
    secret: &str,
) -> Result<Option<AnyRow>, DatabaseError> {
    let mut connection = database.read().await?;
    let found = sqlx::query(sql)
        .bind(hash_of(secret))
        .bind(now())
        .fetch_optional(&mut *connection)
        .await;
    found.map_err(|error| database.failed(error))
}

fn caller(row: &AnyRow, by: By) -> Result<Caller, sqlx::Error> {
    Ok(Caller {
        account: text(row, "name")?.parse().map_err(decode)?,
        role: text(row, "role")?.parse().map_err(decode)?,
        by,
    })
}

fn text(row: &AnyRow, column: &str) -> Result<String, sqlx::Error> {
    row.try_get(column)
}

/// Makes a token. It is told this once. `None` when the account has as many as it may.
///
/// # Errors
/// The database fails, and there is no token.
pub async fn create_token(
    database: &Database,
    caller: &Caller,
    label: &str,
    role: Role,
    life: Duration,
) -> Result<Option<(TokenInfo, Secret)>, DatabaseError> {
    let secret = format!("{TOKEN_PREFIX}{}", random::hexadecimal::<32>());
    let info = TokenInfo {
        id: random::hexadecimal::<8>(),
        user: caller.account.to_string(),
        label: label.to_owned(),
        role,
        created_ms: now(),
        expires_ms: now().saturating_add(milliseconds(life)),
    };
    let failed = |error| database.failed(error);
    let mut step = database.begin().await?;
    let made = async {
        let has: i64 = sqlx::query_scalar("SELECT count(*) FROM token WHERE account = $1")
            .bind(info.user.clone())
            .fetch_one(&mut *step)
            .await?;
        if has >= MAX_TOKENS {
            return Ok(false);
        }
        let sql = "INSERT INTO token (id, account, label, role, hash, created, expires)
            VALUES ($1, $2, $3, $4, $5, $6, $7)";
        sqlx::query(sql)
            .bind(info.id.clone())
            .bind(info.user.clone())
            .bind(info.label.clone())
            .bind(role.as_str())
            .bind(hash_of(&secret))
            .bind(info.created_ms)
            .bind(info.expires_ms)
            .execute(&mut *step)
            .await?;
        let detail = format!("{label:?}, {}", role.as_str());
        audit::add(
            &mut step,
            &caller.actor(),
            "token.create",
            &info.id,
            &detail,
        )
        .await?;
        Ok(true)
    };
    if !made.await.map_err(failed)? {
        return Ok(None);
    }
    step.commit(database).await?;
    Ok(Some((info, Secret::new(secret))))
}

/// Tokens by id, of one account or of all, those after `after`.
///
/// # Errors
/// The database cannot be read.
pub async fn tokens(
    database: &Database,
    of: Option<&Name>,
    after: &str,
    most: i64,
) -> Result<Vec<TokenInfo>, DatabaseError> {
    let failed = |error| database.failed(error);
    let mut connection = database.read().await?;
    let sql = "SELECT id, account, label, role, created, expires FROM token
        WHERE id > $1 AND ($2 = '' OR account = $2) ORDER BY id LIMIT $3";
    let rows = sqlx::query(sql)
        .bind(after.to_owned())
        .bind(of.map(|name| name.as_str()).unwrap_or_default().to_owned())
        .bind(most)
        .fetch_all(&mut *connection)
        .await
        .map_err(failed)?;
    let info = |row: &AnyRow| {
        Ok(TokenInfo {
            id: text(row, "id")?,
            user: text(row, "account")?,
            label: text(row, "label")?,
            role: text(row, "role")?.parse().map_err(decode)?,
            created_ms: row.try_get("created")?,
            expires_ms: row.try_get("expires")?,
        })
    };
    rows.iter()
        .map(info)
        .collect::<Result<_, _>>()
        .map_err(failed)
}

/// Revokes a token: anybody's for an administrator, else one of the caller's own. Says whether there
/// was one.
///
/// # Errors
/// The database fails, and the token goes on.
pub async fn revoke(database: &Database, caller: &Caller, id: &str) -> Result<bool, DatabaseError> {
    let failed = |error| database.failed(error);
    let own = match caller.role {
        Role::Admin => String::new(),
        Role::Viewer | Role::Operator => caller.account.to_string(),
    };
    let mut step = database.begin().await?;
    let sql = "DELETE FROM token WHERE id = $1 AND ($2 = '' OR account = $2)";
    let removed = sqlx::query(sql)
        .bind(id.to_owned())
        .bind(own)
        .execute(&mut *step)
        .await
        .map_err(failed)?;
    if removed.rows_affected() == 0 {
        return Ok(false);
    }
    let noted = audit::add(&mut step, &caller.actor(), "token.revoke", id, "").await;
    noted.map_err(failed)?;
    step.commit(database).await?;
    Ok(true)
}

/// Begins a session.
///
/// # Errors
/// The database fails, and there is none.
pub async fn begin(database: &Database, account: &Name) -> Result<Session, DatabaseError> {
    let mut step = database.begin().await?;
    let begun = insert_session(&mut step, account).await;
    let session = begun.map_err(|error| database.failed(error))?;
    step.commit(database).await?;
    Ok(session)
}

pub(super) async fn insert_session(
    connection: &mut AnyConnection,
    account: &Name,
) -> Result<Session, sqlx::Error> {
    let secret = random::hexadecimal::<32>();
    let csrf = random::hexadecimal::<16>();
    sqlx::query("DELETE FROM session WHERE expires < $1")
        .bind(now())
        .execute(&mut *connection)
        .await?;
    sqlx::query("INSERT INTO session (hash, account, csrf, expires) VALUES ($1, $2, $3, $4)")
        .bind(hash_of(&secret))
        .bind(account.as_str().to_owned())
        .bind(csrf.clone())
        .bind(now().saturating_add(milliseconds(SESSION)))
        .execute(connection)
        .await?;
    Ok(Session {
        secret: Secret::new(secret),
        csrf,
    })
}

/// Ends a session.
///
/// # Errors
/// The database fails, and it goes on.
pub async fn end(database: &Database, secret: &str) -> Result<(), DatabaseError> {
    let mut step = database.begin().await?;
    let ended = sqlx::query("DELETE FROM session WHERE hash = $1")
        .bind(hash_of(secret))
        .execute(&mut *step)
        .await;
    ended.map_err(|error| database.failed(error))?;
    step.commit(database).await
}

/// When there is no account: the secret of a link that makes the first one, once.
///
/// # Errors
/// The database fails.
pub async fn invite(database: &Database) -> Result<Option<Secret>, DatabaseError> {
    if accounts::any(database).await? {
        return Ok(None);
    }
    let failed = |error| database.failed(error);
    let secret = random::hexadecimal::<32>();
    let mut step = database.begin().await?;
    sqlx::query("DELETE FROM invitation WHERE expires < $1")
        .bind(now())
        .execute(&mut *step)
        .await
        .map_err(failed)?;
    sqlx::query("INSERT INTO invitation (hash, expires) VALUES ($1, $2)")
        .bind(hash_of(&secret))
        .bind(now().saturating_add(milliseconds(INVITATION)))
        .execute(&mut *step)
        .await
        .map_err(failed)?;
    step.commit(database).await?;
    Ok(Some(Secret::new(secret)))
}

/// Makes the first administrator, and uses every such link up. `None` when the link is not one, was
/// used, or is over.
///
/// # Errors
/// The database fails, and the link can still be used.
pub async fn accept(
    database: &Database,
    secret: &str,
    name: &Name,
    password: &str,
) -> Result<Option<Session>, DatabaseError> {
    let failed = |error| database.failed(error);
    let mut step = database.begin().await?;
    let made = async {
        // The row is locked by its removal: of two at once, one finds it gone.
        let sql = "DELETE FROM invitation WHERE hash = $1 AND expires > $2";
        let used = sqlx::query(sql)
            .bind(hash_of(secret))
            .bind(now())
            .execute(&mut *step)
            .await?;
        if used.rows_affected() == 0 || accounts::count(&mut step).await? > 0 {
            return Ok(None);
        }
        sqlx::query("DELETE FROM invitation")
            .execute(&mut *step)
            .await?;
        accounts::add(&mut step, "setup-link", name, Role::Admin, password).await?;
        insert_session(&mut step, name).await.map(Some)
    };
    let made = made.await.map_err(failed)?;
    if made.is_some() {
        step.commit(database).await?;
    }
    Ok(made)
}
