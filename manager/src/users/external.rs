//! Accounts whose password is somebody else's business, and logins on their way there.
//!
//! Such an account is known by its provider and the provider's id for it, never by its name alone: a
//! name that a local account has, or another person, is refused. It has no password here.

use serde::{Deserialize, Serialize};
use sqlx::{AnyConnection, Row as _};

use super::accounts::{NO_PASSWORD, decode};
use super::credentials::{Session, insert_session};
use super::{Name, Role, audit, hash_of, milliseconds, now};
use crate::database::{Database, DatabaseError, Writing};

/// Logins under way: more than people who look for a password at once. Beyond it the oldest are
/// forgotten.
const MAX_PENDING: i64 = 1000;
/// For the audit.
const ACTOR: &str = "openid-connect";

/// A login that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// To be in the token.
    pub nonce: String,
    /// To redeem the code with.
    pub verifier: String,
    /// Where to go afterwards.
    pub to: String,
}

/// Somebody, by a provider's word.
#[derive(Debug, Clone)]
pub struct Person {
    /// The provider, and its id of the person.
    pub subject: String,
    /// What to call it here.
    pub name: Name,
    /// What it may do; none when it has no business here.
    pub role: Option<Role>,
}

/// What came of a login.
#[derive(Debug)]
pub enum Came {
    /// A session.
    In(Session),
    /// The name is somebody else's.
    Taken,
}

/// Remembers a login that begins, by its state and the browser it is in.
///
/// # Errors
/// The database fails.
pub async fn begin(
    database: &Database,
    state: &str,
    browser: &str,
    pending: &Pending,
) -> Result<(), DatabaseError> {
    let mut step = database.begin().await?;
    let begun = async {
        let sql = "DELETE FROM oidc_login WHERE expires < $1 OR state NOT IN
            (SELECT state FROM oidc_login ORDER BY expires DESC LIMIT $2)";
        sqlx::query(sql)
            .bind(now())
            .bind(MAX_PENDING - 1)
            .execute(&mut *step)
            .await?;
        let document = serde_json::to_string(pending).map_err(not_one)?;
        let expires = now().saturating_add(milliseconds(crate::oidc::PATIENCE));
        sqlx::query(
            "INSERT INTO oidc_login (state, browser, document, expires) VALUES ($1, $2, $3, $4)",
        )
        .bind(hash_of(state))
        .bind(hash_of(browser))
        .bind(document)
        .bind(expires)
        .execute(&mut *step)
        .await
    };
    begun.await.map_err(|error| database.failed(error))?;
    step.commit(database).await
}

/// The login of that state, if it was begun in that browser and is not over. It can be had once.
///
/// # Errors
/// The database fails.
pub async fn end(
    database: &Database,
    state: &str,
    browser: &str,
) -> Result<Option<Pending>, DatabaseError> {
    let mut step = database.begin().await?;
    let sql = "DELETE FROM oidc_login WHERE state = $1 AND browser = $2 AND expires > $3
        RETURNING document";
    let found = sqlx::query(sql)
        .bind(hash_of(state))
        .bind(hash_of(browser))
        .bind(now())
        .fetch_optional(&mut *step)
        .await;
    let pending = found.and_then(|row| {
        let document: Option<String> = row.map(|row| row.try_get("document")).transpose()?;
        let pending = document.map(|document| serde_json::from_str(&document));
        pending.transpose().map_err(not_one)
    });
    let pending = pending.map_err(|error| database.failed(error))?;
    step.commit(database).await?;
    Ok(pending)
}

/// Lets a person in with the role it has now, whatever it had before.
///
/// # Errors
/// The database fails, and nothing is changed.
pub async fn come_in(
    database: &Database,
    person: &Person,
    role: Role,
) -> Result<Came, DatabaseError> {
    let mut step = database.begin().await?;
    let came = async {
        let Some(name) = account(&mut step, person, role).await? else {
            return Ok(Came::Taken);
        };
        Ok(Came::In(insert_session(&mut step, &name).await?))
    };
    let came = came.await.map_err(|error| database.failed(error));
    match came {
        Ok(Came::In(session)) => {
            step.commit(database).await?;
            Ok(Came::In(session))
        }
        // Somebody was made of that name at the same moment.
        Err(error) if error.is_duplicate() => Ok(Came::Taken),
        other => other,
    }
}

/// The account of a person, made where there is none; none when its name is another's.
async fn account(
    step: &mut Writing,
    person: &Person,
    role: Role,
) -> Result<Option<Name>, sqlx::Error> {
    if let Some((name, had)) = known(step, &person.subject).await? {
        if had != role {
            let sql = "UPDATE account SET role = $1, version = version + 1 WHERE name = $2";
            sqlx::query(sql)
                .bind(role.as_str())
                .bind(name.as_str().to_owned())
                .execute(&mut **step)
                .await?;
            let what = format!("role {}", role.as_str());
            audit::add(step, ACTOR, "user.change", name.as_str(), &what).await?;
        }
        return Ok(Some(name));
    }
    let taken: i64 = sqlx::query_scalar("SELECT count(*) FROM account WHERE name = $1")
        .bind(person.name.as_str().to_owned())
        .fetch_one(&mut **step)
        .await?;
    if taken > 0 {
        return Ok(None);
    }
    super::accounts::add(step, ACTOR, &person.name, role, NO_PASSWORD).await?;
    sqlx::query("UPDATE account SET subject = $1 WHERE name = $2")
        .bind(person.subject.clone())
        .bind(person.name.as_str().to_owned())
        .execute(&mut **step)
        .await?;
    Ok(Some(person.name.clone()))
}

/// A person who has no business here any more: its sessions and tokens end.
///
/// # Errors
/// The database fails, and they go on.
pub async fn send_away(database: &Database, person: &Person) -> Result<(), DatabaseError> {
    let mut step = database.begin().await?;
    let gone = async {
        let Some((name, _)) = known(&mut step, &person.subject).await? else {
            return Ok(());
        };
        for sql in [
            "DELETE FROM session WHERE account = $1",
            "DELETE FROM token WHERE account = $1",
        ] {
            let query = sqlx::query(sql).bind(name.as_str().to_owned());
            query.execute(&mut *step).await?;
        }
        let what = "is in no group that is let in: sessions and tokens end";
        audit::add(&mut step, ACTOR, "user.change", name.as_str(), what).await
    };
    let gone: Result<(), sqlx::Error> = gone.await;
    gone.map_err(|error| database.failed(error))?;
    step.commit(database).await
}

async fn known(
    connection: &mut AnyConnection,
    subject: &str,
) -> Result<Option<(Name, Role)>, sqlx::Error> {
    let row = sqlx::query("SELECT name, role FROM account WHERE subject = $1")
        .bind(subject.to_owned())
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let (name, role): (String, String) = (row.try_get("name")?, row.try_get("role")?);
    Ok(Some((
        name.parse().map_err(decode)?,
        role.parse().map_err(decode)?,
    )))
}

fn not_one(error: serde_json::Error) -> sqlx::Error {
    decode(darner_proto::invalid::Invalid::new(
        "login",
        error.to_string(),
    ))
}
