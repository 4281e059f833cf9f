//! Clusters: which hosts hear of which schedulers and seeds.
//!
//! Without any, all hosts are of one. People make others by rules over what hosts say of themselves
//! ([`settings`]); [`set`] decides by them. They are rows in the database; a change made here counts at
//! once, one that another manager over the same database made within [`LOOK`]. Each makes a new version
//! of the configuration, so that every host hears it.

use std::time::Duration;

use darner_proto::invalid::Invalid;
use darner_service::shutdown::Shutdown;
use serde::Serialize;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use utoipa::ToSchema;

use crate::database::follow::look_every;
use crate::database::named::{Change, Changed, Table};
use crate::database::{Database, DatabaseError, Writing};
use crate::members::Members;
use crate::users::Name;
use crate::users::accounts::decode;

pub mod set;
pub mod settings;
#[cfg(test)]
mod tests;

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
}

impl Clusters {
    /// Those in `database`, by which `members` are divided once they have been [looked](Self::look) at.
    pub fn new(database: Database, members: Members) -> Self {
        Self { database, members }
    }

    /// Clusters by name, those after `after`, `most` at most.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn list(&self, after: &str, most: i64) -> Result<Vec<Kept>, DatabaseError> {
        TABLE.list(&self.database, after, most, kept).await
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
    ) -> Result<Changed, ClusterError> {
        Cluster::new(change.name.as_str(), settings)?;
        let document = json(settings)?;
        let insert = async |step: &mut Writing| {
            let sql = "INSERT INTO cluster (name, document, version, made_by)
                VALUES ($1, $2, 1, $3)";
            let query = sqlx::query(sql)
                .bind(change.name.as_str().to_owned())
                .bind(document.clone())
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
    ) -> Result<Changed, ClusterError> {
        Cluster::new(change.name.as_str(), settings)?;
        let document = json(settings)?;
        let update = async |step: &mut Writing| {
            let query = sqlx::query("UPDATE cluster SET document = $1 WHERE name = $2")
                .bind(document.clone())
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
    pub async fn remove(&self, change: Change<'_>) -> Result<Changed, DatabaseError> {
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
    /// The database cannot be read, and nothing is changed.
    pub async fn look(&self) -> Result<(), DatabaseError> {
        let found = self.list("", MOST).await?;
        let meant = found.iter().filter_map(|kept| {
            let made = Cluster::new(&kept.name, &kept.settings);
            if let Err(error) = &made {
                tracing::warn!(name = kept.name, %error, "a cluster means nothing");
            }
            made.ok()
        });
        self.members.divide(ClusterSet::new(meant));
        Ok(())
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
    })
}

fn json(settings: &ClusterSettings) -> Result<String, Invalid> {
    serde_json::to_string(settings).map_err(|error| no_cluster(&error))
}

fn no_cluster(error: &serde_json::Error) -> Invalid {
    Invalid::new("cluster", error.to_string())
}
