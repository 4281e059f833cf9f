//! Puts the manager together: opens the database, binds the listeners, and stops in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use darner_service::health::{Health, Part};
use darner_service::identity::{Identity, IdentityError, IdentityMetrics};
use darner_service::listener::{Listener, WhenFull};
use darner_service::metrics::Metrics;
use darner_service::secret::Secret;
use darner_service::settings::{self, Settings};
use darner_service::shutdown::Shutdown;
use tokio_util::sync::CancellationToken;

use crate::api::tls::{Files, Tls, TlsError};
use crate::api::{Api, Parts};
use crate::authority::seal::Seal;
use crate::authority::{self, Authority, AuthorityError};
use crate::clusters::{ClusterError, Clusters};
use crate::database::keeper::Keeper;
use crate::database::members::Remembered;
use crate::database::{Database, DatabaseError, Location};
use crate::figures::Tallies;
use crate::hooks::Hooks;
use crate::images::Images;
use crate::jobs::Jobs;
use crate::members::Members;
use crate::membership::Timing;
use crate::metrics::ManagerMetrics;
use crate::oidc::{Oidc, ProviderError};
use crate::removals::Removals;
use crate::swarms::Swarms;
use crate::users::credentials;
use crate::users::password::{PasswordError, Passwords};
use crate::{api, rpc};

#[cfg(test)]
mod tests;

/// A manager that listens.
#[derive(Debug)]
pub struct Manager {
    members: Members,
    identity: Identity,
    authority: Option<Authority>,
    jobs: Jobs,
    tallies: Tallies,
    images: Images,
    removals: Removals,
    served: Api,
    /// The secret of the link that makes the first administrator.
    invitation: Option<Secret>,
    /// What the API is served under; none for plain HTTP.
    tls: Option<Tls>,
    keeper: Keeper,
    rpc: Listener,
    api: Listener,
    metrics: ManagerMetrics,
    part: Part,
    shutdown: Shutdown,
}

/// The manager cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database cannot be used.
    #[error("the manager's database cannot be used")]
    Database(#[source] DatabaseError),
    /// The certificate authority cannot be used.
    #[error("clusters cannot be read")]
    Clusters(#[source] ClusterError),
    /// Nobody can be given a certificate.
    #[error("the cluster's certificate authority cannot be used")]
    Authority(#[source] AuthorityError),
    /// The manager has no certificate.
    #[error("the manager has no identity")]
    Identity(#[source] IdentityError),
    /// Passwords cannot be hashed.
    #[error("passwords cannot be hashed")]
    Passwords(#[source] PasswordError),
    /// The listener for members cannot be bound.
    #[error("the manager cannot listen on {listen}; set [manager] listen to a free address")]
    Listen {
        /// What was asked for.
        listen: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Its API's certificate cannot be used.
    #[error("[manager] api_certificate and api_key cannot be used")]
    Tls(#[source] TlsError),
    /// Nobody can be asked who people are.
    #[error("[oidc] cannot be used")]
    Oidc(#[source] ProviderError),
    /// The listener of the API cannot be bound.
    #[error(
        "the manager's API cannot listen on {listen}; set [manager] api_listen to a free address"
    )]
    Api {
        /// What was asked for.
        listen: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Manager {
    /// Opens the database and binds both listeners.
    ///
    /// # Errors
    /// What stands in the way, and which setting to change.
    pub async fn bind(
        settings: &Settings,
        metrics: &Metrics,
        health: &Health,
        identity: &IdentityMetrics,
        shutdown: &Shutdown,
    ) -> Result<Self, StartError> {
        let part = health.part("manager");
        let identity_metrics = identity;
        let metrics = ManagerMetrics::new(metrics);
        let manager = &settings.manager;
        let (rpc, api) = listen(manager).await?;
        let location = Location::of(settings);
        let shared = location.is_shared();
        let database = Database::open(location, metrics.database_errors.clone())
            .await
            .map_err(StartError::Database)?;
        let (remembered, stored) = Remembered::read(&database)
            .await
            .map_err(StartError::Database)?;
        let members = Members::new(stored, shared, Timing::default(), metrics.clone());
        let (identity, authority) =
            authority::identity(&database, settings, identity_metrics, shutdown).await?;
        if let Some(authority) = &authority {
            members.trust(authority.trust().await.map_err(StartError::Authority)?);
        }
        let invited = credentials::invite(&database).await;
        let invitation = invited.map_err(StartError::Database)?;
        let seal = seal(manager)?;
        let clusters = Clusters::new(database.clone(), members.clone(), seal.clone());
        clusters.look().await.map_err(StartError::Clusters)?;
        let passwords = Passwords::new().map_err(StartError::Passwords)?;
        let jobs = Jobs::new(database.clone(), members.clone());
        let oidc = settings.oidc.clone();
        let oidc = oidc.map(|oidc| Oidc::new(oidc, database.clone()));
        let (tallies, images) = (Tallies::default(), Images::default());
        let removals = Removals::new(database.clone(), members.clone());
        let parts = Parts {
            members: members.clone(),
            clusters,
            jobs: jobs.clone(),
            hooks: Hooks::new(database.clone(), jobs.clone(), seal),
            tallies: tallies.clone(),
            images: images.clone(),
            removals: removals.clone(),
            swarms: Swarms::new(members.clone(), identity.clone()),
            authority: authority.clone(),
            database: database.clone(),
            passwords,
            oidc: oidc.transpose().map_err(StartError::Oidc)?,
        };
        let served = Api::new(parts, shutdown.clone());
        let tls = tls(manager)?;
        Ok(Self {
            served,
            invitation,
            tls,
            members,
            identity,
            authority,
            jobs,
            tallies,
            images,
            removals,
            keeper: Keeper::new(database, remembered, health.part("database")),
            rpc,
            api,
            metrics,
            part,
            shutdown: shutdown.clone(),
        })
    }

    /// What it listens on, by name.
    pub fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        vec![("manager", self.rpc.address()), ("api", self.api.address())]
    }

    /// Its scheme and address, for those in this process.
    pub fn url(&self, reachable: SocketAddr) -> String {
        format!("{}://{reachable}", self.identity.scheme())
    }

    /// Issues certificates to other parts of this process; none in plain text.
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// While there is no account: the link that makes the first administrator, once. It is for
    /// whoever started the process, and for nobody else.
    pub fn setup_link(&self) -> Option<Secret> {
        let secret = self.invitation.as_ref()?.reveal();
        let address = self.api.address();
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Some(Secret::new(format!("{scheme}://{address}/setup#{secret}")))
    }

    /// Serves until the process ends.
    pub fn serve(self) {
        let Self {
            members,
            identity,
            authority,
            jobs,
            tallies,
            images,
            removals,
            served,
            invitation: _,
            tls,
            keeper,
            rpc,
            api,
            metrics,
            part,
            shutdown,
        } = self;
        let known = (identity.clone(), authority.clone());
        let told = (
            members.clone(),
            (jobs.clone(), removals.clone()),
            tallies.clone(),
            images.clone(),
        );
        let serving = rpc::serve(rpc, known, told, metrics, shutdown.clone());
        if let Some(authority) = authority {
            let following = authority.follow(members.clone(), identity, shutdown.clone());
            shutdown.spawn(following);
        }
        let silent = CancellationToken::new();
        let last = silent.clone().drop_guard();
        shutdown.spawn(async move {
            serving.await;
            drop(last);
        });
        shutdown.spawn(served.schedules.clone().run(shutdown.clone()));
        shutdown.spawn(served.clusters.clone().run(shutdown.clone()));
        match tls {
            Some(tls) => {
                let front = tls.front(api, &shutdown);
                shutdown.spawn(api::serve(front, served))
            }
            None => shutdown.spawn(api::serve(api, served)),
        };
        shutdown.spawn(members.clone().keep_time(shutdown.clone()));
        shutdown.spawn(jobs.run(shutdown.clone()));
        shutdown.spawn(tallies.run(members.clone(), shutdown.clone()));
        shutdown.spawn(images.run(members.clone(), shutdown.clone()));
        shutdown.spawn(removals.run(shutdown.clone()));
        shutdown.spawn(keeper.run(members, silent, shutdown.clone()));
        part.ready();
        let ending = shutdown.clone();
        shutdown.spawn(async move {
            ending.draining().await;
            part.not_ready("stopping");
        });
    }
}

/// The listeners of members, and of the API.
async fn listen(manager: &settings::Manager) -> Result<(Listener, Listener), StartError> {
    let listen = manager.listen;
    let rpc = Listener::bind(listen, rpc::MAX_CONNECTIONS, WhenFull::Wait);
    let rpc = rpc.await;
    let rpc = rpc.map_err(|source| StartError::Listen { listen, source })?;
    let listen = manager.api_listen;
    let api = Listener::bind(listen, api::MAX_CONNECTIONS, WhenFull::Wait);
    let api = api.await;
    let api = api.map_err(|source| StartError::Api { listen, source })?;
    Ok((rpc, api))
}

/// What secrets are sealed with.
fn seal(manager: &settings::Manager) -> Result<Option<Arc<Seal>>, StartError> {
    let seal = manager.seal_key.as_ref().map(Seal::new).transpose();
    let seal = seal.map_err(|error| StartError::Authority(error.into()))?;
    Ok(seal.map(Arc::new))
}

/// What the API is served under.
fn tls(manager: &settings::Manager) -> Result<Option<Tls>, StartError> {
    let (certificate, key) = (&manager.api_certificate, &manager.api_key);
    let files = certificate.clone().zip(key.clone());
    let files = files.map(|(certificate, key)| Files { certificate, key });
    files.map(Tls::open).transpose().map_err(StartError::Tls)
}
