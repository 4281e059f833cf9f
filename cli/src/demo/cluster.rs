//! The demonstration's cluster: each part with its own settings, data directory, metrics, health
//! and shutdown, as if it were a process.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use darner_manager::authority::Authority;
use darner_manager::server::Manager;
use darner_mirror::server::Mirror;
use darner_proto::id::Role;
use darner_scheduler::server::Scheduler;
use darner_service::config::{self, Command, Flag, Sources};
use darner_service::health::Health;
use darner_service::identity::{Identity, IdentityMetrics};
use darner_service::metrics::Metrics;
use darner_service::settings::{Settings, Upstream};
use darner_service::shutdown::Shutdown;
use futures_util::future::join_all;

use super::counts::{Fetched, sum};
use super::image;
use super::link::Link;

/// Nothing is being served any more when the cluster stops.
const GRACE: Duration = Duration::from_secs(2);
/// How often it is looked whether the cluster has found itself.
const LOOK: Duration = Duration::from_millis(20);
/// No other port than a free one: parts of other demonstrations may run on this machine.
const ANY_PORT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Everything that runs.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    parts: Vec<Part>,
    seed: Option<Node>,
    mirrors: Vec<Node>,
}

/// What every process has.
#[derive(Debug, Clone, Default)]
pub(super) struct Part {
    pub(super) metrics: Metrics,
    pub(super) health: Health,
    pub(super) shutdown: Shutdown,
}

/// A mirror or seed.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    /// Of its front end for clients.
    pub(super) address: SocketAddr,
    metrics: Metrics,
}

impl Cluster {
    /// A new part; it is stopped with the others.
    pub(super) fn add(&mut self) -> Part {
        let part = Part::default();
        self.parts.push(part.clone());
        part
    }

    /// The seed.
    pub(super) fn seed(&self) -> anyhow::Result<&Node> {
        self.seed.as_ref().context("the seed has not been started")
    }

    /// The mirrors, in order.
    pub(super) fn mirrors(&self) -> &[Node] {
        &self.mirrors
    }

    /// Starts everything, in the order in which the parts need each other, and returns when the
    /// scheduler knows all nodes.
    pub(super) async fn start(&mut self, mut base: Base<'_>, mirrors: u16) -> anyhow::Result<()> {
        let (settings, part) = (base.settings("manager", Role::Mirror)?, self.add());
        let manager = Manager::bind(
            &settings,
            &part.metrics,
            &part.health,
            &IdentityMetrics::default(),
            &part.shutdown,
        )
        .await?;
        let address = address_of("manager", manager.addresses())?;
        base.manager = Some(manager.url(address));
        base.authority = manager.authority().cloned();
        manager.serve();
        let (settings, scheduler) = (base.settings("scheduler", Role::Scheduler)?, self.add());
        let Part {
            metrics,
            health,
            shutdown,
        } = &scheduler;
        let identity = base.identity(&settings, Role::Scheduler, shutdown).await?;
        Scheduler::bind(&settings, metrics, health, identity, shutdown)
            .await?
            .serve();
        // Whoever comes later learns of the seed at once.
        self.seed = Some(self.node(&base, "seed", Role::Seed).await?);
        attended(metrics, "seed", 1).await?;
        for number in 1..=mirrors {
            let node = self
                .node(&base, &format!("node-{number}"), Role::Mirror)
                .await?;
            self.mirrors.push(node);
        }
        attended(metrics, "mirror", u64::from(mirrors)).await?;
        for part in &self.parts {
            part.health.ready().await;
        }
        Ok(())
    }

    async fn node(&mut self, base: &Base<'_>, name: &str, role: Role) -> anyhow::Result<Node> {
        let (mut settings, part) = (base.settings(name, role)?, self.add());
        let link = Link::bind(base.link_rate).await?;
        settings.pieces.advertise = Some(link.address().to_string());
        let identity = base.identity(&settings, role, &part.shutdown).await?;
        let mirror = Mirror::bind(
            &settings,
            &part.metrics,
            &part.health,
            identity,
            &part.shutdown,
        )
        .await?;
        let address = address_of("registry", mirror.addresses())?;
        link.serve(address_of("pieces", mirror.addresses())?, &part.shutdown);
        mirror.serve();
        Ok(Node {
            name: name.to_owned(),
            address,
            metrics: part.metrics,
        })
    }

    /// Stops everything. Nothing runs, and nothing writes, when it returns.
    pub(super) async fn stop(&self) {
        join_all(self.parts.iter().map(|part| part.shutdown.finish(GRACE))).await;
    }
}

impl Node {
    /// What has come to it so far, and where from.
    pub(super) fn fetched(&self) -> anyhow::Result<Fetched> {
        let text = self.metrics.encode();
        Ok(Fetched::read(&text.context("metrics cannot be read")?))
    }
}

/// What the parts have in common.
#[derive(Debug)]
pub(super) struct Base<'a> {
    dir: &'a Path,
    upstream: SocketAddr,
    /// Bytes a second that a node sends to its peers; 0 is without limit.
    link_rate: u64,
    /// Where the manager is, once it is there, and who issues certificates.
    manager: Option<String>,
    authority: Option<Authority>,
}

impl Base<'_> {
    /// Parts with their data below `dir`.
    pub(super) fn new(dir: &Path, upstream: SocketAddr, link_rate: u64) -> Base<'_> {
        Base {
            dir,
            upstream,
            link_rate,
            manager: None,
            authority: None,
        }
    }

    /// The defaults of `darner up`, which is at home on loopback, with ports that are free.
    fn settings(&self, name: &str, role: Role) -> anyhow::Result<Settings> {
        let data_dir = self.dir.join(name);
        std::fs::create_dir(&data_dir).context("a data directory cannot be made")?;
        let text = data_dir.to_str().context("TMPDIR is not UTF-8")?;
        // Nobody's file and variables: the demonstration is the same everywhere.
        let sources = Sources {
            flags: vec![
                Flag::named("--data-dir", "data_dir", text),
                Flag::named("--node-id", "node.id", name),
            ],
            ..Sources::default()
        };
        let mut settings = config::load(Command::Up, &sources)?;
        settings.mirror.role = role;
        let registry = name_of_registry()?;
        settings.registry.listen = ANY_PORT;
        settings.registry.default_upstream = registry.clone();
        let url = format!("http://{}", self.upstream);
        settings.upstreams = vec![Upstream::new(registry, url, 16)];
        settings.pieces.listen = ANY_PORT;
        settings.scheduler.listen = ANY_PORT;
        settings.manager.listen = ANY_PORT;
        settings.manager.api_listen = ANY_PORT;
        settings.manager.address.clone_from(&self.manager);
        settings.admin.listen = ANY_PORT;
        Ok(settings)
    }

    async fn identity(
        &self,
        settings: &Settings,
        role: Role,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Identity> {
        let authority = self.authority.as_ref();
        let authority = authority.context("the manager has not been started")?;
        let issuer = authority.issuer(role.into(), settings.node.id.clone());
        Ok(Identity::issued(issuer, &IdentityMetrics::default(), shutdown).await?)
    }
}

fn name_of_registry() -> anyhow::Result<darner_proto::name::RegistryName> {
    let image: crate::pull::Image = image::NAME.parse()?;
    Ok(image.source.registry)
}

/// Where `what` listens.
fn address_of(what: &str, bound: Vec<(&'static str, SocketAddr)>) -> anyhow::Result<SocketAddr> {
    let found = bound.into_iter().find(|(name, _)| *name == what);
    let (_, address) = found.with_context(|| format!("{what} does not listen"))?;
    Ok(address)
}

/// Waits until the scheduler has sessions with `count` nodes of a role.
async fn attended(scheduler: &Metrics, role: &str, count: u64) -> anyhow::Result<()> {
    loop {
        let text = scheduler.encode().context("metrics cannot be read")?;
        if sum(&text, "darner_scheduler_hosts", ("role", role)) >= count {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}
