//! Webhooks: a registry tells of a push, and the image is brought to nodes before anybody pulls it.
//!
//! A hook belongs to one registry, as nodes name it, and to repositories in it; what a notification says
//! of hosts counts for nothing, and other repositories begin no job. [`push`] understands notifications,
//! [`proof`] who sends them. What is kept of a secret that is sent as it is is a hash; one that signs is
//! sealed, where there is a key to seal with (`[manager] seal_key_file`). A notification that comes again
//! is the same job.

use std::sync::Arc;

use darner_proto::invalid::Invalid;
use darner_proto::name::{RegistryName, RepositoryName};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use sqlx::Row as _;
use sqlx::any::AnyRow;
use utoipa::ToSchema;

use crate::authority::seal::{Seal, SealError};
use crate::database::named::{Change, Changed, Table};
use crate::database::{Database, DatabaseError, Writing};
use crate::jobs::plan::Plan;
use crate::jobs::{By, JobError, Jobs, MAX_IMAGES, RequestKey};
use crate::random;
use crate::users::Name;
use crate::users::accounts::decode;

mod proof;
pub mod push;
#[cfg(test)]
mod tests;

use proof::Kept;
use push::{Kind, Push};

const TABLE: Table = Table {
    name: "webhook",
    // More than there are registries.
    most: 1000,
};
/// Repositories that one hook names.
const MAX_REPOSITORIES: usize = 256;
/// A notification is no longer; GitHub's carry what a package's page says.
pub const MAX_BODY: usize = 1 << 20;
/// What secrets begin with, so that scanners for leaked secrets know one.
const PREFIX: &str = "darner_hook_";

/// The hooks. Clones share them.
#[derive(Debug, Clone)]
pub struct Hooks {
    database: Database,
    jobs: Jobs,
    seal: Option<Arc<Seal>>,
}

/// A hook as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Wiring {
    /// Who notifies.
    pub kind: Kind,
    /// The registry, as nodes name it; what notifications call it does not count.
    pub registry: String,
    /// Which of its repositories: by name, `team/*` for all below, or `*` for all.
    #[schema(min_items = 1, max_items = 256)]
    pub repositories: Vec<String>,
    /// Of an index, this platform; without it each node's own.
    #[serde(default)]
    pub platform: Option<String>,
    /// Which nodes, as for a job.
    pub to: String,
    /// Mirrors that are at it at once; without it 64.
    #[schema(minimum = 1, maximum = 1000)]
    #[serde(default)]
    pub at_once: Option<u32>,
    /// Bytes a second that each node takes in for it; without it as many as there are.
    #[schema(minimum = 1048576)]
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
}

/// A hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Hook {
    /// Its name, the last part of the path that the registry is to call.
    pub name: String,
    /// What it does.
    #[serde(flatten)]
    pub wiring: Wiring,
    /// Who made it.
    pub by: String,
    /// Counts changes; it is the `ETag`.
    #[serde(skip)]
    pub version: i64,
}

/// What a notification has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Received {
    /// Jobs that it began now, or when it came before.
    pub jobs: Vec<String>,
    /// Pushes to repositories that the hook is not for.
    pub ignored: usize,
}

/// A notification begins nothing.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// Whoever sends it has not the secret, or there is no such hook: nobody is told which.
    #[error("there is no such webhook, or this is not its secret")]
    Stranger,
    /// It is not understood.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// A job cannot be begun.
    #[error(transparent)]
    Job(#[from] JobError),
    /// Nothing can be looked up.
    #[error("the database fails")]
    Database(#[from] DatabaseError),
    /// The secret is sealed with another key.
    #[error(
        "the webhook's secret cannot be opened: it was sealed with another key; make the webhook anew"
    )]
    Seal(#[source] SealError),
}

impl Wiring {
    /// Whether it can be.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), Invalid> {
        self.registry.parse::<RegistryName>()?;
        if self.repositories.is_empty() || self.repositories.len() > MAX_REPOSITORIES {
            let why = format!("are not 1 to {MAX_REPOSITORIES}");
            return Err(Invalid::new("repositories", why));
        }
        for pattern in &self.repositories {
            let name = pattern.strip_suffix("/*").unwrap_or(pattern);
            if pattern != "*" && name.parse::<RepositoryName>().is_err() {
                let why = format!("{pattern:?} is no repository, and neither team/* nor *");
                return Err(Invalid::new("repositories", why));
            }
        }
        let any = format!("{}/a:b", self.registry);
        self.plan(vec![any]).wanted().map(drop)
    }

    fn is_for(&self, repository: &str) -> bool {
        self.repositories
            .iter()
            .any(|pattern| match pattern.strip_suffix('*') {
                Some(before) => repository.starts_with(before),
                None => repository == pattern,
            })
    }

    fn plan(&self, images: Vec<String>) -> Plan {
        Plan {
            images,
            files: Vec::new(),
            platform: self.platform.clone(),
            to: self.to.clone(),
            at_once: self.at_once,
            bytes_per_second: self.bytes_per_second,
        }
    }

    fn image(&self, push: &Push) -> String {
        format!("{}/{}{}", self.registry, push.repository, push.reference)
    }
}

impl Hooks {
    /// The hooks in `database`, which begin their jobs with `jobs`.
    pub fn new(database: Database, jobs: Jobs, seal: Option<Arc<Seal>>) -> Self {
        Self {
            database,
            jobs,
            seal,
        }
    }

    /// Hooks by name, those after `after`, `most` at most.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn list(&self, after: &str, most: i64) -> Result<Vec<Hook>, DatabaseError> {
        TABLE.list(&self.database, after, most, hook).await
    }

    /// One.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn get(&self, name: &Name) -> Result<Option<Hook>, DatabaseError> {
        TABLE.get(&self.database, name, hook).await
    }

    /// Makes one. Answers with its secret, which is told this once.
    ///
    /// # Errors
    /// The database fails, and nothing is changed.
    pub async fn create(
        &self,
        change: Change<'_>,
        wiring: &Wiring,
    ) -> Result<(Changed, String), HookError> {
        let secret = format!("{PREFIX}{}", random::hexadecimal::<32>());
        let Kept(kept) = Kept::of(wiring.kind, &secret);
        let seal = self.seal.as_ref().filter(|_| Kept::is_secret(wiring.kind));
        let (kept, sealed) = match seal {
            Some(seal) => {
                let bound = bound(change.name);
                (seal.seal(&bound, &kept).map_err(HookError::Seal)?, 1)
            }
            None => (kept, 0),
        };
        let insert = async |step: &mut Writing| {
            let sql = "INSERT INTO webhook (name, wiring, secret, sealed, version, made_by)
                VALUES ($1, $2, $3, $4, 1, $5)";
            let query = sqlx::query(sql)
                .bind(change.name.as_str().to_owned())
                .bind(json(wiring)?)
                .bind(kept)
                .bind(i64::from(sealed))
                .bind(change.actor.to_owned());
            query.execute(&mut **step).await.map(drop)
        };
        let detail = wiring.to_string();
        let made = TABLE.create(&self.database, change, &detail, insert);
        Ok((made.await?, secret))
    }

    /// Changes what one does; its secret stays, and has to be of the same kind.
    ///
    /// # Errors
    /// The database fails, and nothing is changed.
    pub async fn change(
        &self,
        change: Change<'_>,
        wiring: &Wiring,
    ) -> Result<Changed, DatabaseError> {
        let update = async |step: &mut Writing| {
            let query = sqlx::query("UPDATE webhook SET wiring = $1 WHERE name = $2")
                .bind(json(wiring)?)
                .bind(change.name.as_str().to_owned());
            query.execute(&mut **step).await.map(drop)
        };
        let detail = wiring.to_string();
        TABLE.change(&self.database, change, &detail, update).await
    }

    /// Removes one; its jobs stay.
    ///
    /// # Errors
    /// The database fails, and nothing is changed.
    pub async fn remove(&self, change: Change<'_>) -> Result<Changed, DatabaseError> {
        TABLE.remove(&self.database, change).await
    }

    /// Takes a notification in.
    ///
    /// # Errors
    /// It is a stranger's, is not understood, or its jobs cannot be begun now.
    pub async fn receive(
        &self,
        name: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Received, HookError> {
        let name: Name = name.parse().map_err(|_| HookError::Stranger)?;
        let (hook, kept) = self.kept(&name).await?.ok_or(HookError::Stranger)?;
        let wiring = &hook.wiring;
        if !kept.is_shown(wiring.kind, headers, body) {
            return Err(HookError::Stranger);
        }
        let pushes = wiring.kind.pushes(body)?;
        let all = pushes.len();
        let wanted = pushes.iter().filter(|push| wiring.is_for(&push.repository));
        let images: Vec<_> = wanted.map(|push| wiring.image(push)).collect();
        let received = random::hex(&Sha256::digest(body));
        let mut jobs = Vec::new();
        for (part, images) in (0..).zip(images.chunks(MAX_IMAGES)) {
            let wanted = wiring.plan(images.to_vec()).wanted()?;
            let request = RequestKey::of("webhook", &format!("{name} {received}"), part);
            let by = By {
                actor: &format!("webhook/{name}"),
                request: Some(&request),
            };
            jobs.push(self.jobs.create(wanted, by).await?.job().id);
        }
        let ignored = all - images.len();
        tracing::info!(%name, ?jobs, ignored, "a registry tells of a push");
        Ok(Received { jobs, ignored })
    }

    async fn kept(&self, name: &Name) -> Result<Option<(Hook, Kept)>, HookError> {
        let mut connection = self.database.read().await?;
        let read = async {
            let Some(row) = TABLE.row(&mut connection, name).await? else {
                return Ok(None);
            };
            let kept: Vec<u8> = row.try_get("secret")?;
            let sealed: i64 = row.try_get("sealed")?;
            Ok(Some((hook(&row)?, kept, sealed == 1)))
        };
        let read = read.await.map_err(|error| self.database.failed(error))?;
        let Some((hook, kept, sealed)) = read else {
            return Ok(None);
        };
        let kept = match (sealed, &self.seal) {
            (false, _) => kept,
            (true, None) => return Err(HookError::Seal(SealError::Sealed)),
            (true, Some(seal)) => seal.open(&bound(name), &kept).map_err(HookError::Seal)?,
        };
        Ok(Some((hook, Kept(kept))))
    }
}

/// What a sealed secret is bound to.
fn bound(name: &Name) -> String {
    format!("webhook {name}")
}

impl std::fmt::Display for Wiring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let repositories = self.repositories.join(" ");
        let (kind, registry) = (self.kind.as_str(), &self.registry);
        write!(f, "{kind}, {registry}: {repositories} to {}", self.to)
    }
}

fn hook(row: &AnyRow) -> Result<Hook, sqlx::Error> {
    let wiring: String = row.try_get("wiring")?;
    Ok(Hook {
        name: row.try_get("name")?,
        wiring: serde_json::from_str(&wiring).map_err(no_hook)?,
        by: row.try_get("made_by")?,
        version: row.try_get("version")?,
    })
}

fn json(wiring: &Wiring) -> Result<String, sqlx::Error> {
    serde_json::to_string(wiring).map_err(no_hook)
}

fn no_hook(error: serde_json::Error) -> sqlx::Error {
    decode(Invalid::new("webhook", error.to_string()))
}
