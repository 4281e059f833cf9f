//! This node among others: what it says of itself, who tells it of them, and what schedulers hear of its
//! store.

use std::net::SocketAddr;
use std::sync::Arc;

use darner_proto::gossip::Place;
use darner_proto::id::{DEFAULT_WEIGHT, Host, WEIGHT_LABEL, repository_key};
use darner_proto::piece_map::PieceSigner;
use darner_service::directory::Directory;
use darner_service::gossip::{self, Gossip, GossipMetrics};
use darner_service::identity::Identity;
use darner_service::metrics::Metrics;
use darner_service::settings::Settings;
use darner_service::shutdown::Shutdown;
use tokio::sync::broadcast::error::RecvError;

use super::StartError;
use crate::pieces::PiecesMetrics;
use crate::store::{Store, StoreEvent};
use crate::swarm::sessions::Input;
use crate::swarm::{Inventory, Schedulers, Swarm};

pub(super) fn host(
    settings: &Settings,
    bound: SocketAddr,
    signer: &PieceSigner,
) -> Result<Host, StartError> {
    let address = match &settings.pieces.advertise {
        Some(advertise) => advertise.clone(),
        None if bound.ip().is_unspecified() => return Err(StartError::Advertise(bound)),
        None => bound.to_string(),
    };
    let mut labels = settings.node.labels.clone();
    if settings.mirror.weight != DEFAULT_WEIGHT {
        labels.insert(WEIGHT_LABEL.to_owned(), settings.mirror.weight.to_string());
    }
    Ok(Host {
        id: settings.node.id.clone(),
        address: darner_proto::id::parse_address(address).map_err(StartError::BadAdvertise)?,
        role: settings.mirror.role,
        labels,
        signing_key: Some(signer.public()),
        upload_slots: settings.pieces.upload_slots,
    })
}

/// Who the schedulers are: by the manager's word, or by this node's own settings.
pub(super) fn directory(
    settings: &Settings,
    me: &Host,
    identity: &Identity,
    shutdown: &Shutdown,
) -> Result<Directory, StartError> {
    match &settings.manager.address {
        Some(manager) => {
            let me = me.clone();
            Directory::managed(manager, me, &settings.data_dir, identity, shutdown)
                .map_err(StartError::Directory)
        }
        None => Ok(Directory::fixed(&settings.scheduler.addresses)),
    }
}

/// The membership among mirrors, where this one takes part in it.
pub(super) fn gossip(
    settings: &Settings,
    me: &Host,
    identity: &Identity,
    metrics: &Metrics,
    shutdown: &Shutdown,
) -> Option<Gossip> {
    if !settings.gossip.enabled {
        return None;
    }
    let scheduler = &settings.scheduler;
    let advertised = scheduler.advertise.as_ref();
    let advertised = advertised.and_then(|address| address.rsplit_once(':')?.1.parse().ok());
    let options = gossip::Options {
        id: me.id.clone(),
        place: Place {
            address: me.address.clone(),
            scheduler_port: advertised.unwrap_or(scheduler.listen.port()),
            role: me.role,
            labels: me.labels.clone(),
        },
        join: settings.gossip.join.clone(),
        service: gossip::KubernetesService::of(&settings.gossip),
    };
    let metrics = GossipMetrics::new(metrics);
    Some(Gossip::start(options, identity, metrics, shutdown))
}

/// Whom the manager or the settings name, and the mirrors that schedule beside themselves.
pub(super) fn schedulers(directory: &Directory, gossip: Option<&Gossip>) -> Schedulers {
    Schedulers {
        named: directory.watch(),
        keepers: gossip.map(Gossip::keepers),
    }
}

pub(super) fn inventory(store: &Store, pieces: PiecesMetrics) -> Inventory {
    let (listed, asked) = (store.clone(), store.clone());
    Inventory {
        sending: Arc::new(move || pieces.sending()),
        keys: Arc::new(move || {
            let mut keys = listed.keys();
            keys.extend(listed.sources().iter().map(repository_key));
            keys
        }),
        holds: Arc::new(move |key| {
            asked.size_of(key).is_some()
                || asked
                    .sources()
                    .iter()
                    .any(|source| repository_key(source) == *key)
        }),
    }
}

/// Tells the schedulers of everything the store gains and loses: announcing follows the store, so
/// that no way of filling it can forget to.
pub(super) async fn announce(store: &Store, swarm: &Swarm, shutdown: &Shutdown) {
    let mut events = store.events();
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = shutdown.draining() => break,
        };
        match event {
            Ok(StoreEvent::Held(digest)) => swarm.tell(Input::Held(vec![digest])).await,
            Ok(StoreEvent::Withdrawn(digest)) => swarm.tell(Input::Withdrawn(vec![digest])).await,
            // It was withdrawn just before.
            Ok(StoreEvent::Damaged(..)) => {}
            // What was missed is told again in full.
            Err(RecvError::Lagged(_)) => swarm.tell(Input::Held(store.keys())).await,
            Err(RecvError::Closed) => break,
        }
    }
    // Going away: what this node holds is no longer to be counted on.
    swarm.tell(Input::Withdrawn(store.keys())).await;
}
