//! Clusters: which hosts hear of which schedulers and seeds, and what is set for them.
//!
//! Without any, all hosts are of one, `default`. People make others by rules over what hosts say of
//! themselves ([`settings`]); [`set`] decides by them, and [`rules`] are what is set for nodes of each, with
//! [`passwords`] for those who read upstream. They are rows in the database; a change made here counts at
//! once, one that another manager over the same database made within [`LOOK`]. Each makes a new version
//! of the configuration, so that every host hears it.

use std::sync::Arc;
use std::time::Duration;

use darner_proto::invalid::Invalid;
use darner_service::shutdown::Shutdown;
use serde::Serialize;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use utoipa::ToSchema;

use crate::authority::seal::{Seal, SealError};
use crate::database::follow::look_every;
use crate::database::named::{Change, Changed, Table};
use crate::database::{Database, DatabaseError, Writing};
use crate::members::Members;
use crate::users::Name;
use crate::users::accounts::decode;

pub mod passwords;
mod rules;
pub mod set;
pub mod settings;
#[cfg(test)]
mod tests;

use passwords::Passwords;
use set::{Cluster, ClusterSet};
use settings::ClusterSettings;

/// Between looks at what other managers have changed.
const LOOK: Duration = Duration::from_secs(2);
/// Every host is held against each of them.
const MOST: i64 = 64;
const TABLE: Table = Table {
    name: "cluster",
    most: MOST,
};

/// The clusters. Clones share them.
#[derive(Debug, Clone)]
pub struct Clusters {
    database: Database,
    members: Members,
    seal: Option<Arc<Seal>>,
}

/// A cluster as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// What is said of it.
    #[serde(flatten)]
    pub settings: ClusterSettings,
    /// Who made it.
    pub by: String,
    /// Counts changes; it is the `ETag`.
    #[serde(skip)]
    pub version: i64,
    /// Its passwords, sealed.
    #[serde(skip)]
    passwords: String,
}

/// A cluster is not made, or not changed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Nothing can be remembered.
    #[error("the database fails")]
    Database(#[from] DatabaseError),
    /// It cannot be meant.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// There is a password, and no key.
    #[error(
        "passwords of registries are only kept sealed: set [manager] seal_key_file, or give the nodes that need one a credentials file of their own"
    )]
    NoSeal,
    /// A password cannot be sealed.
    #[error("the password cannot be sealed")]
    Seal(#[source] SealError),
    /// A password cannot be opened.
    #[error(
        "the password of {registry} in cluster {cluster} does not open: set [manager] seal_key_file to the key it was sealed with"
    )]
    Sealed {
        /// Whose.
        cluster: String,
        /// For which.
        registry: String,
        /// Why.
        #[source]
        source: SealError,
    },
}

impl Clusters {
    /// Those in `database`, by which `members` are divided once they have been [looked](Self::look) at.
    /// Passwords in them are sealed with `seal`.
    pub fn new(database: Database, members: Members, seal: Option<Arc<Seal>>) -> Self {
        Self {
            database,
            members,
            seal,
        }
    }

    /// Clusters by name, those after `after`, `most` at most.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn list(&self, after: &str, most: i64) -> Result<Vec<Kept>, DatabaseError> {
        TABLE.list(&self.database, after, most, kept).await
    }

    /// All there are.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn all(&self) -> Result<Vec<Kept>, DatabaseError> {
        self.list("", MOST).await
    }

    /// One.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn get(&self, name: &Name) -> Result<Option<Kept>, DatabaseError> {
        TABLE.get(&self.database, name, kept).await
    }

    /// Makes one.
    ///
    /// # Errors
    /// It cannot be meant, or the database fails; nothing is changed then.
    pub async fn create(
        &self,
        change: Change<'_>,
        settings: &ClusterSettings,
        passwords: Passwords,
    ) -> Result<Changed, ClusterError> {
        let (document, sealed) = self.written(change.name, settings, &passwords)?;
        let insert = async |step: &mut Writing| {
            let sql = "INSERT INTO cluster (name, document, passwords, version, made_by)
                VALUES ($1, $2, $3, 1, $4)";
            let query = sqlx::query(sql)
                .bind(change.name.as_str().to_owned())
                .bind(document.clone())
                .bind(sealed.clone())
                .bind(change.actor.to_owned());
            query.execute(&mut **step).await.map(drop)
        };
        let made = TABLE
            .create(&self.database, change, &document, insert)
            .await?;
        self.look().await?;
        Ok(made)
    }

    /// Changes one.
    ///
    /// # Errors
    /// It cannot be meant, or the database fails; nothing is changed then.
    pub async fn change(
        &self,
        change: Change<'_>,
        settings: &ClusterSettings,
        passwords: Passwords,
    ) -> Result<Changed, ClusterError> {
        let Some(before) = self.get(change.name).await? else {
            return Ok(Changed::Absent);
        };
        let kept = self.opened(&before)?;
        let passwords = passwords.or_kept(&settings.rules, (&before.settings.rules, &kept));
        let (document, sealed) = self.written(change.name, settings, &passwords)?;
        // What was kept is what was looked at.
        let change = Change {
            expected: change.expected.or(Some(before.version)),
            ..change
        };
        let update = async |step: &mut Writing| {
            let sql = "UPDATE cluster SET document = $1, passwords = $2 WHERE name = $3";
            let query = sqlx::query(sql)
                .bind(document.clone())
                .bind(sealed.clone())
                .bind(change.name.as_str().to_owned());
            query.execute(&mut **step).await.map(drop)
        };
        let made = TABLE
            .change(&self.database, change, &document, update)
            .await?;
        self.look().await?;
        Ok(made)
    }

    /// Removes one: its hosts are of the next that they fit.
    ///
    /// # Errors
    /// The database fails, and nothing is changed.
    pub async fn remove(&self, change: Change<'_>) -> Result<Changed, ClusterError> {
        let removed = TABLE.remove(&self.database, change).await?;
        self.look().await?;
        Ok(removed)
    }

    /// Looks for what other managers have changed until the process drains.
    pub async fn run(self, shutdown: Shutdown) {
        if !self.database.is_shared() {
            return;
        }
        let trouble = "clusters cannot be read; going on with those known";
        look_every(LOOK, &shutdown, trouble, || self.look()).await;
    }

    /// Divides the members as the database says.
    ///
    /// # Errors
    /// The database cannot be read, or a password not opened, and nothing is changed.
    pub async fn look(&self) -> Result<(), ClusterError> {
        let mut clusters = Vec::new();
        for kept in self.all().await? {
            match Cluster::new(&kept.name, &kept.settings, &self.opened(&kept)?) {
                Ok(cluster) => clusters.push(cluster),
                Err(error) => tracing::warn!(name = kept.name, %error, "a cluster means nothing"),
            }
        }
        self.members.divide(ClusterSet::new(clusters));
        Ok(())
    }

    fn opened(&self, kept: &Kept) -> Result<Passwords, ClusterError> {
        Passwords::open(&kept.name, &kept.passwords, self.seal.as_ref())
    }

    /// What is kept of a cluster that can be meant: its document, and its passwords, sealed.
    fn written(
        &self,
        name: &Name,
        settings: &ClusterSettings,
        passwords: &Passwords,
    ) -> Result<(String, String), ClusterError> {
        Cluster::new(name.as_str(), settings, passwords)?;
        let sealed = passwords.seal(name.as_str(), self.seal.as_ref())?;
        Ok((json(settings)?, sealed))
    }
}

fn kept(row: &AnyRow) -> Result<Kept, sqlx::Error> {
    let document: String = row.try_get("document")?;
    let settings = serde_json::from_str(&document);
    Ok(Kept {
        name: row.try_get("name")?,
        settings: settings.map_err(|error| decode(no_cluster(&error)))?,
        by: row.try_get("made_by")?,
        version: row.try_get("version")?,
        passwords: row.try_get("passwords")?,
    })
}

fn json(settings: &ClusterSettings) -> Result<String, Invalid> {
    serde_json::to_string(settings).map_err(|error| no_cluster(&error))
}

fn no_cluster(error: &serde_json::Error) -> Invalid {
    Invalid::new("cluster", error.to_string())
}
