//! What the manager sets for this node, carried out: registries, limits, and what is not served.
//!
//! What the node's own settings say counts more. A change counts for what begins after it; a registry that
//! cannot be set up is left out and said in the log, as its requests are.

use std::sync::{Arc, PoisonError, RwLock};

use darner_proto::digest::Digest;
use darner_proto::id::Role;
use darner_proto::name::Source;
use darner_proto::rules::Rules;
use darner_service::directory::{Directory, Membership};
use darner_service::settings::{self, Settings};
use darner_service::shutdown::Shutdown;
use darner_service::telemetry::with_causes;
use tokio::sync::watch;

use crate::bandwidth::Bandwidth;
use crate::upstream::Upstreams;

mod merge;

use merge::{limits, setups};

/// What is not served. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Blocked(Arc<RwLock<Arc<Rules>>>);

impl Blocked {
    /// Whether nothing of a repository is to be served.
    pub fn repository(&self, source: &Source) -> bool {
        self.rules().blocks_repository(source)
    }

    /// Whether content is not to be served, whatever it is asked for as.
    pub fn digest(&self, digest: &Digest) -> bool {
        self.rules().blocks_digest(digest)
    }

    fn rules(&self) -> Arc<Rules> {
        let rules = self.0.read();
        rules.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, rules: Arc<Rules>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = rules;
    }
}

/// What follows the rules.
#[derive(Debug)]
pub(crate) struct Ruled {
    role: Role,
    own: (Vec<settings::Upstream>, settings::Limits),
    upstreams: Upstreams,
    bandwidth: Bandwidth,
    blocked: Blocked,
    told: watch::Receiver<Arc<Membership>>,
    carried_out: Arc<Rules>,
}

impl Ruled {
    /// Carries out what is known already; then [`Ruled::follow`] goes on.
    pub(crate) fn begin(
        settings: &Settings,
        upstreams: &Upstreams,
        bandwidth: &Bandwidth,
        directory: &Directory,
    ) -> Self {
        let mut ruled = Self {
            role: settings.mirror.role,
            own: (settings.upstreams.clone(), settings.limits.clone()),
            upstreams: upstreams.clone(),
            bandwidth: bandwidth.clone(),
            blocked: Blocked::default(),
            told: directory.watch(),
            carried_out: Arc::default(),
        };
        ruled.look();
        ruled
    }

    /// What is not served, now and from now on.
    pub(crate) fn blocked(&self) -> &Blocked {
        &self.blocked
    }

    /// Until the process drains.
    pub(crate) async fn follow(mut self, shutdown: Shutdown) {
        loop {
            tokio::select! {
                changed = self.told.changed() => match changed {
                    Ok(()) => self.look(),
                    Err(_) => return,
                },
                () = shutdown.draining() => return,
            }
        }
    }

    fn look(&mut self) {
        let rules = self.told.borrow_and_update().rules.clone();
        if rules == self.carried_out {
            return;
        }
        tracing::info!(
            upstreams = rules.upstreams.len(),
            blocked = rules.blocked.len(),
            "the manager's rules"
        );
        let (upstreams, own_limits) = &self.own;
        self.bandwidth.set(&limits(own_limits, &rules.limits));
        if rules.upstreams != self.carried_out.upstreams {
            let setups = setups(upstreams, self.role, &rules);
            for fault in self.upstreams.replace(setups) {
                let error = with_causes(&fault);
                tracing::error!(%error, "a registry that the manager sets is left out");
            }
        }
        self.blocked.set(rules.clone());
        self.carried_out = rules;
    }
}
