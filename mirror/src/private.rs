//! Puts together what serves content that is not public: a store, downloads and a swarm of their own,
//! so that no path leads from what anybody may read to what only some may.

use std::sync::Arc;

use darner_proto::id::Role;
use darner_proto::name::Source;
use darner_service::identity::Identity;
use darner_service::metrics::Metrics;
use darner_service::settings::Settings;

use crate::access::proof::Prover;
use crate::access::tickets::Tickets;
use crate::access::wallet::Wallet;
use crate::access::{Access, is_basic};
use crate::pieces::{self, Serving};
use crate::registry;
use crate::server::{StartError, open_at, options};
use crate::store::Store;
use crate::swarm::{Peers, Seeds};
use crate::task::{Parts, Tasks};

/// The parts that private content goes through.
#[derive(Debug)]
pub(crate) struct Private {
    prover: Prover,
    tasks: Tasks,
    seeds: Seeds,
    peers: Peers,
}

impl Private {
    /// Beside the downloads of `public`, and with the same limits. `None` where nothing private is to
    /// be kept.
    pub(crate) async fn open(
        settings: &Settings,
        identity: &Identity,
        public: &Parts,
    ) -> Result<Option<Self>, StartError> {
        if settings.store.private_capacity == 0 {
            return Ok(None);
        }
        let path = settings.data_dir.join("private");
        let capacity = Some(settings.store.private_capacity);
        // What it counts is not the store's metrics.
        let store = open_at(options(settings, path, capacity), Metrics::default()).await?;
        let access = Access::new(store.clone()).map_err(StartError::Access)?;
        let wallet = access.wallet().clone();
        let seeds = seeds(identity, public, wallet.clone());
        let credential = wallet.clone();
        let credential = move |source: &Source| {
            let shown = credential.get(source);
            shown.filter(|shown| !is_basic(shown))
        };
        let peers = Peers::private(&settings.node.id, identity, Arc::new(credential))
            .map_err(StartError::Peers)?;
        let tasks = Tasks::new(Parts {
            store,
            upstreams: public.upstreams.clone(),
            swarm: public.swarm.apart(seeds.clone(), &public.shutdown),
            peers: peers.clone(),
            buffers: public.buffers.clone(),
            bandwidth: public.bandwidth.clone(),
            wallet: Some(wallet),
            signer: public.signer.clone(),
            metrics: public.metrics.clone(),
            shutdown: public.shutdown.clone(),
        });
        Ok(Some(Self {
            prover: Prover::new(Arc::new(access), public.upstreams.clone()),
            tasks,
            seeds,
            peers,
        }))
    }

    /// The downloads of what is not public.
    pub(crate) fn tasks(&self) -> Tasks {
        self.tasks.clone()
    }

    /// What the registry front end serves it with.
    pub(crate) fn for_clients(&self) -> registry::Private {
        registry::Private {
            prover: self.prover.clone(),
            tasks: self.tasks.clone(),
            seeds: self.seeds.clone(),
            peers: self.peers.clone(),
        }
    }

    /// What a seed serves it to other nodes with; the rest is as in `public`.
    pub(crate) fn for_nodes(
        private: Option<&Self>,
        public: &Serving,
    ) -> Result<Option<pieces::private::Private>, StartError> {
        let Some(Self { prover, tasks, .. }) = private.filter(|_| public.role == Role::Seed) else {
            return Ok(None);
        };
        let serving = Serving {
            store: prover.access().store().clone(),
            tasks: tasks.clone(),
            ..public.clone()
        };
        let tickets = Tickets::new().map_err(StartError::Access)?;
        let prover = prover.clone();
        Ok(Some(pieces::private::Private::new(
            serving, prover, tickets,
        )))
    }

    /// Where it is kept.
    pub(crate) fn store(&self) -> &Store {
        self.prover.access().store()
    }

    /// Waits for what is under way, and writes down what is kept.
    pub(crate) async fn close(self) {
        self.tasks.idle().await;
        self.tasks.parts().swarm.stop();
        self.prover.access().store().flush().await;
    }
}

/// Content travels where connections are encrypted and what opens it is no password.
fn seeds(identity: &Identity, public: &Parts, wallet: Wallet) -> Seeds {
    let secure = identity.is_secure();
    let travels = move |source: &Source| {
        let shown = wallet.get(source);
        secure && shown.is_some_and(|shown| !is_basic(&shown))
    };
    Seeds::of(&public.swarm, Arc::new(travels))
}
