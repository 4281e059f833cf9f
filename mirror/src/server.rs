//! Puts the mirror together: opens the store, binds the listeners, attends the schedulers, and stops
//! in order.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use darner_proto::invalid::Invalid;
use darner_proto::piece_map::PieceSigner;
use darner_service::directory::orders::Orders;
use darner_service::directory::{Directory, DirectoryError};
use darner_service::health::{Health, Part};
use darner_service::identity::Identity;
use darner_service::identity::local::{DIRECTORY, Local, LocalError};
use darner_service::identity::signer::{SignerError, piece_signer};
use darner_service::metrics::Metrics;
use darner_service::settings::Settings;
use darner_service::shutdown::Shutdown;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::access::NoRandom;
use crate::bandwidth::Bandwidth;
use crate::figures;
use crate::files::FileFront;
use crate::holdings::Shelf;
use crate::listen::ListenMetrics;
use crate::pieces::desk::Desk;
use crate::pieces::hold::MAX_HOLDS;
use crate::pieces::{Pieces, PiecesMetrics, Serving};
use crate::preheat::Preheat;
use crate::private::Private;
use crate::proxy::{Proxy, ProxyError};
use crate::registry::{self, Registry, RegistryError};
use crate::removal::Remover;
use crate::repair::Repair;
use crate::resolve::Resolver;
use crate::rules::{Blocked, Ruled};
use crate::store::{Options, Schedule, Store, StoreError};
use crate::swarm::{PeerError, Peers, Swarm};
use crate::task::buffers::Buffers;
use crate::task::metrics::TaskMetrics;
use crate::task::{Parts, Tasks};
use crate::upstream::{UpstreamError, Upstreams};

mod cluster;

use cluster::{announce, directory, gossip, host, inventory, schedulers};

/// A mirror, or a seed, that listens.
#[derive(Debug)]
pub struct Mirror {
    registry: Registry,
    proxy: Option<Proxy>,
    pieces: Pieces,
    pieces_address: SocketAddr,
    tasks: Tasks,
    leases: tokio::sync::mpsc::Receiver<darner_proto::scheduler::Lease>,
    store: Store,
    private: Option<Private>,
    swarm: Swarm,
    preheat: Preheat,
    rules: Ruled,
    repair: Repair,
    orders: Orders,
    shelf: Shelf,
    remover: Remover,
    listening: ListenMetrics,
    part: Part,
    shutdown: Shutdown,
}

/// The mirror cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error("the store in {path} cannot be opened")]
    Store {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// An upstream's settings cannot be used.
    #[error("an upstream cannot be set up")]
    Upstream(#[source] UpstreamError),
    /// Grants cannot be kept.
    #[error("private content cannot be served")]
    Access(#[source] NoRandom),
    /// The node's key cannot be had.
    #[error("the node cannot sign piece maps")]
    Identity(#[source] SignerError),
    /// The manager's address cannot be used.
    #[error("the cluster's members cannot be looked up")]
    Directory(#[source] DirectoryError),
    /// The client for peers cannot be made.
    #[error("peers cannot be asked")]
    Peers(#[source] PeerError),
    /// The pieces listener cannot be bound.
    #[error(
        "the pieces listener cannot be bound to {listen}; set [pieces] listen to a free address"
    )]
    Pieces {
        /// What was asked for.
        listen: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The registry front end cannot be bound.
    #[error("the registry front end cannot be bound; set [registry] listen to a free address")]
    Registry(#[source] RegistryError),
    /// There is no certificate to speak TLS with.
    #[error("clients cannot be spoken to under TLS")]
    Tls(#[source] LocalError),
    /// There is to be a proxy, and cannot be.
    #[error("the forward proxy cannot be started")]
    Proxy(#[source] ProxyError),
    /// The listener's address is a wildcard and nothing says how others reach it.
    #[error("[pieces] advertise is needed where [pieces] listen is {0}")]
    Advertise(SocketAddr),
    /// What is to be advertised is not host:port.
    #[error("[pieces] advertise cannot be used")]
    BadAdvertise(#[source] Invalid),
}

impl Mirror {
    /// Opens the store, binds every listener and begins to attend the schedulers.
    pub async fn bind(
        settings: &Settings,
        metrics: &Metrics,
        health: &Health,
        identity: Identity,
        shutdown: &Shutdown,
    ) -> Result<Self, StartError> {
        let part = health.part("mirror");
        let store = open_store(settings, metrics).await?;
        let bandwidth = Bandwidth::new(&settings.limits, metrics);
        let upstreams = upstreams(settings, metrics, shutdown)?.limited(bandwidth.clone());
        let signer = signer(settings)?;
        let (listener, pieces_address) = listen_for_peers(settings).await?;
        let me = host(settings, pieces_address, &signer)?;
        let directory = directory(settings, &me, &identity, shutdown)?;
        figures::tell(directory.orders(), metrics);
        let pieces_metrics = PiecesMetrics::new(metrics);
        let held = inventory(&store, pieces_metrics.clone());
        let gossip = gossip(settings, &me, &identity, metrics, shutdown);
        let schedulers = schedulers(&directory, gossip.as_ref());
        let rules = Ruled::begin(settings, &upstreams, &bandwidth, &directory);
        let (swarm, leases) = Swarm::start(me, schedulers, held, &identity, shutdown);
        let peers = Peers::new(&settings.node.id, &identity).map_err(StartError::Peers)?;
        let downloads = Parts {
            store: store.clone(),
            upstreams: upstreams.clone(),
            swarm: swarm.clone(),
            peers: peers.clone(),
            buffers: Buffers::new(metrics),
            bandwidth,
            wallet: None,
            signer: signer.clone(),
            metrics: TaskMetrics::new(metrics),
            shutdown: shutdown.clone(),
        };
        let private = Private::open(settings, &identity, &downloads).await?;
        let tasks = Tasks::new(downloads);
        let resolver = Resolver::new(store.clone(), upstreams.clone(), swarm.clone(), peers);
        let repair = Repair::new(store.clone(), tasks.clone(), resolver.clone(), metrics);
        let preheat = preheat(&resolver, &tasks, rules.blocked());
        let parts = registry::Parts {
            files: FileFront::new(&tasks, private.as_ref().map(Private::tasks), metrics),
            resolver: resolver.clone(),
            tasks: tasks.clone(),
            upstreams,
            private: private.as_ref().map(Private::for_clients),
            blocked: rules.blocked().clone(),
            tls: local_tls(settings)?,
        };
        let registry = listen_for_clients(settings, metrics, shutdown, parts).await?;
        let serving = Serving {
            gossip,
            ..serving(settings, &tasks, resolver, pieces_metrics)
        };
        let for_nodes = Private::for_nodes(private.as_ref(), &serving)?;
        Ok(Self {
            proxy: proxy(settings, &registry, &tasks).await?,
            registry,
            pieces: Pieces::new(listener, identity, serving, for_nodes),
            pieces_address,
            tasks,
            leases,
            orders: directory.orders().clone(),
            shelf: shelf(&store, private.as_ref(), &directory),
            remover: remover(&store, private.as_ref(), &directory),
            store,
            private,
            swarm,
            preheat,
            rules,
            repair,
            listening: ListenMetrics::new(metrics),
            part,
            shutdown: shutdown.clone(),
        })
    }

    /// What it listens on, by name.
    pub fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        let mut addresses = vec![
            ("registry", self.registry.address()),
            ("pieces", self.pieces_address),
        ];
        addresses.extend(self.proxy.as_ref().map(|proxy| ("proxy", proxy.address())));
        addresses
    }

    /// Serves until the process ends.
    pub fn serve(self) {
        let Self {
            registry,
            proxy,
            pieces,
            tasks,
            leases,
            store,
            private,
            swarm,
            preheat,
            rules,
            repair,
            orders,
            shelf,
            remover,
            listening,
            part,
            shutdown,
            ..
        } = self;
        shutdown.spawn(registry.serve(listening.clone()));
        if let Some(proxy) = proxy {
            shutdown.spawn(proxy.serve(listening.clone()));
        }
        shutdown.spawn(pieces.serve(listening));
        let (leased, ending) = (tasks.clone(), shutdown.clone());
        shutdown.spawn(async move {
            tokio::select! {
                () = leased.take_leases(leases) => {}
                () = ending.draining() => {}
            }
        });
        shutdown.spawn(rules.follow(shutdown.clone()));
        shutdown.spawn(repair.run(shutdown.clone()));
        shutdown.spawn(preheat.carry_out(orders, shutdown.clone()));
        shutdown.spawn(shelf.tell(shutdown.clone()));
        shutdown.spawn(remover.carry_out(shutdown.clone()));
        part.ready();
        let ending = shutdown.clone();
        shutdown.spawn(async move {
            announce(&store, &swarm, &ending).await;
            part.not_ready("stopping");
            // Until the last download is done its scheduler and its parents are needed.
            tasks.idle().await;
            swarm.stop();
            store.flush().await;
            if let Some(private) = private {
                private.close().await;
            }
        });
    }
}

fn preheat(resolver: &Resolver, tasks: &Tasks, blocked: &Blocked) -> Preheat {
    let parts = tasks.parts();
    Preheat {
        resolver: resolver.clone(),
        tasks: tasks.clone(),
        store: parts.store.clone(),
        upstreams: parts.upstreams.clone(),
        blocked: blocked.clone(),
    }
}

/// Both stores, as the manager hears of them.
fn shelf(store: &Store, private: Option<&Private>, directory: &Directory) -> Shelf {
    let private = private.map(|private| private.store().clone());
    Shelf::new(store.clone(), private, directory.holdings().clone())
}

/// Removes from both stores what the manager orders.
fn remover(store: &Store, private: Option<&Private>, directory: &Directory) -> Remover {
    let private = private.map(|private| private.store().clone());
    Remover::new(store.clone(), private, directory.orders().clone())
}

fn upstreams(
    settings: &Settings,
    metrics: &Metrics,
    shutdown: &Shutdown,
) -> Result<Upstreams, StartError> {
    let upstreams = Upstreams::new(&settings.upstreams, metrics, shutdown);
    let routed = upstreams.and_then(|all| all.routed(&settings.routes));
    routed.map_err(StartError::Upstream)
}

/// What the programs of this machine are spoken to with, where that is TLS.
fn local_tls(settings: &Settings) -> Result<Option<Local>, StartError> {
    let registry = &settings.registry;
    let open = || Local::open(&settings.data_dir.join(DIRECTORY), registry.listen.ip());
    let local = registry.tls.then(open).transpose();
    local.map_err(StartError::Tls)
}

fn signer(settings: &Settings) -> Result<Arc<PieceSigner>, StartError> {
    let signer = piece_signer(&settings.data_dir, settings.node.id.clone());
    signer.map(Arc::new).map_err(StartError::Identity)
}

async fn listen_for_clients(
    settings: &Settings,
    metrics: &Metrics,
    shutdown: &Shutdown,
    parts: registry::Parts,
) -> Result<Registry, StartError> {
    let registry = Registry::bind(&settings.registry, metrics, shutdown, parts).await;
    registry.map_err(StartError::Registry)
}

async fn listen_for_peers(settings: &Settings) -> Result<(TcpListener, SocketAddr), StartError> {
    let listen = settings.pieces.listen;
    let failed = |source| StartError::Pieces { listen, source };
    let listener = Pieces::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// The forward proxy, where there is to be one.
async fn proxy(
    settings: &Settings,
    registry: &Registry,
    tasks: &Tasks,
) -> Result<Option<Proxy>, StartError> {
    let Some(listen) = settings.proxy.listen else {
        return Ok(None);
    };
    let bound = Proxy::bind((listen, &settings.proxy), registry, tasks).await;
    bound.map(Some).map_err(StartError::Proxy)
}

/// What other peers are served from.
fn serving(
    settings: &Settings,
    tasks: &Tasks,
    resolver: Resolver,
    metrics: PiecesMetrics,
) -> Serving {
    let parts = tasks.parts();
    Serving {
        store: parts.store.clone(),
        tasks: tasks.clone(),
        resolver,
        files: parts.upstreams.files().clone(),
        signer: parts.signer.clone(),
        role: settings.mirror.role,
        desk: Desk::open(settings.pieces.upload_slots, &parts.shutdown),
        holds: Arc::new(Semaphore::new(MAX_HOLDS)),
        bandwidth: parts.bandwidth.clone(),
        metrics,
        gossip: None,
        shutdown: parts.shutdown.clone(),
    }
}

async fn open_store(settings: &Settings, metrics: &Metrics) -> Result<Store, StartError> {
    let path = settings.data_dir.join("store");
    let options = options(settings, path, settings.store.capacity);
    open_at(options, metrics.clone()).await
}

pub(crate) fn options(settings: &Settings, path: PathBuf, capacity: Option<u64>) -> Options {
    let options = Options::new(path, capacity);
    let every = settings.store.scrub_every;
    if every.is_zero() {
        return options;
    }
    options.scrubbed(Schedule {
        every,
        share: settings.store.scrub_share,
    })
}

pub(crate) async fn open_at(options: Options, metrics: Metrics) -> Result<Store, StartError> {
    let path = options.path().to_owned();
    let opened = tokio::task::spawn_blocking(move || Store::open(options, &metrics)).await;
    match opened {
        Ok(opened) => opened.map_err(|source| StartError::Store { path, source }),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}
