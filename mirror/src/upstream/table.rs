//! The registries that are known now, as a whole: it is replaced when the manager changes what is set
//! for them, and a request goes on with the one it began with.

use std::collections::HashMap;
use std::sync::Arc;

use darner_proto::name::RegistryName;
use darner_service::settings::Route;
use darner_service::shutdown::Shutdown;

use super::ask::{Asker, Patience};
use super::endpoint::Endpoint;
use super::error::UpstreamError;
use super::metrics::UpstreamMetrics;
use super::setup::{Authorities, Setup};
use super::{Inner, MAX_PUBLIC, PUBLIC_FOR};

/// Registries, and the operator's routes to what is none.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) registries: HashMap<RegistryName, Arc<Inner>>,
    pub(super) routes: Vec<Route>,
}

/// What clients of registries are made with.
#[derive(Debug, Clone)]
pub(super) struct Maker {
    pub(super) metrics: UpstreamMetrics,
    pub(super) shutdown: Shutdown,
}

impl Table {
    /// For these registries, and why some are left out that cannot be set up. Of a name that stands
    /// twice, the first counts. A registry whose setup has not changed keeps its connections, its tokens
    /// and what it has asked for.
    pub(super) fn with(&self, setups: Vec<Setup>, maker: &Maker) -> (Self, Vec<UpstreamError>) {
        let mut registries = HashMap::new();
        let mut faults = Vec::new();
        for setup in setups {
            let name = setup.settings.name.clone();
            if registries.contains_key(&name) {
                continue;
            }
            let kept = self.registries.get(&name);
            let inner = match kept.filter(|inner| inner.setup == setup) {
                Some(inner) => Ok(inner.clone()),
                None => maker.inner(setup).map(Arc::new),
            };
            match inner {
                Ok(inner) => drop(registries.insert(name, inner)),
                Err(fault) => faults.push(fault),
            }
        }
        let routes = self.routes.clone();
        (Self { registries, routes }, faults)
    }

    /// How what is no registry is reached: the operator's routes first. The hosts of registries, and of
    /// their token services, have routes of their own after these: what is asked of them goes there
    /// straight.
    pub(super) fn ways(&self) -> Vec<(Route, Authorities)> {
        let given = self.routes.iter();
        let given = given.map(|route| {
            let authorities = Authorities::of_file(route.ca_file.as_ref());
            (route.clone(), authorities)
        });
        let mut registries: Vec<_> = self.registries.values().collect();
        registries.sort_by(|one, other| one.name.as_str().cmp(other.name.as_str()));
        let own = registries.into_iter();
        let own = own.flat_map(|inner| inner.registry.asker.wire.routes());
        given.chain(own).collect()
    }
}

impl Maker {
    fn inner(&self, setup: Setup) -> Result<Inner, UpstreamError> {
        let name = setup.settings.name.clone();
        let endpoint = |setup: &Setup, patience| {
            let counts = self.metrics.of(&name);
            let asker = Asker::new(setup, counts, self.shutdown.cancellation(), patience);
            let asker = asker.map_err(|fault| UpstreamError::new(&name, fault));
            asker.map(Endpoint::new)
        };
        let mirrors = setup.settings.mirrors.iter();
        let mirrors = mirrors.map(|url| endpoint(&setup.of_mirror(url), Patience::MIRROR));
        Ok(Inner {
            name: name.clone(),
            tag_ttl: setup.settings.tag_ttl,
            tag_stale: setup.settings.tag_stale,
            registry: endpoint(&setup, Patience::REGISTRY)?,
            mirrors: mirrors.collect::<Result<_, _>>()?,
            public: moka::future::Cache::builder()
                .max_capacity(MAX_PUBLIC)
                .time_to_live(PUBLIC_FOR)
                .build(),
            setup,
        })
    }
}
