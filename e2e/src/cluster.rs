//! A cluster of separate processes on this machine.

use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;

use crate::client::{Client, Pulled};
use crate::darner::{Darner, Settings};
use crate::image::Image;
use crate::scene::Scene;
use crate::upstream::{NAME, Upstream};
use crate::wait;

/// What a cluster is made of.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Mirrors with role seed.
    pub seeds: usize,
    /// Mirrors with role mirror.
    pub mirrors: usize,
}

/// So many seeds, and as many mirrors as [`Shape::mirrors`] says.
pub const fn seeds(seeds: usize) -> Shape {
    Shape { seeds, mirrors: 0 }
}

impl Shape {
    /// With so many mirrors.
    pub const fn mirrors(self, mirrors: usize) -> Self {
        Self { mirrors, ..self }
    }
}

/// Manager, scheduler, seeds and mirrors, all ready.
#[derive(Debug)]
pub struct Cluster {
    /// The manager.
    pub manager: Darner,
    /// The scheduler.
    pub scheduler: Darner,
    /// `seed-1` and so on.
    pub seeds: Vec<Darner>,
    /// `mirror-1` and so on.
    pub mirrors: Vec<Darner>,
}

impl Cluster {
    /// Starts all processes, the manager first.
    pub async fn start(scene: &Scene, upstream: &Upstream, shape: Shape) -> Result<Self> {
        // A process that is started again has to be found where it was.
        let settings = node(scene, "manager")?
            .set("manager.listen", fixed_port()?)
            .set("manager.api_listen", fixed_port()?);
        let manager = Darner::start(scene, "manager", "manager", &settings).await?;
        let scheduler = add_scheduler(scene, &manager, "scheduler").await?;
        let seeds = (1..=shape.seeds).map(|number| {
            start_mirror(scene, upstream, &manager, "seed", format!("seed-{number}"))
        });
        let mirrors = (1..=shape.mirrors).map(|number| {
            start_mirror(
                scene,
                upstream,
                &manager,
                "mirror",
                format!("mirror-{number}"),
            )
        });
        let cluster = Self {
            seeds: try_join_all(seeds).await?,
            mirrors: try_join_all(mirrors).await?,
            manager,
            scheduler,
        };
        cluster.attended().await?;
        Ok(cluster)
    }

    /// Waits until the scheduler knows every seed and mirror.
    pub async fn attended(&self) -> Result<()> {
        let nodes = (self.seeds.len() + self.mirrors.len()) as f64;
        wait::until("every node attends the scheduler", async || {
            let metrics = self.scheduler.metrics().await.ok()?;
            (metrics.sum("darner_scheduler_hosts", "") >= nodes).then_some(())
        })
        .await
    }

    /// A client of each mirror.
    pub fn clients(&self) -> Result<Vec<Client>> {
        let clients = self.mirrors.iter().map(|mirror| Client::new(mirror, NAME));
        clients.collect()
    }

    /// All mirrors pull at the same moment.
    pub async fn pull_everywhere(&self, image: &Image) -> Result<Vec<Pulled>> {
        let clients = self.clients()?;
        let pulls = clients
            .iter()
            .zip(&self.mirrors)
            .map(async |(client, mirror)| {
                let pulled = client.pull(image).await;
                pulled.with_context(|| format!("pull through {}", mirror.name()))
            });
        try_join_all(pulls).await
    }
}

/// Starts one more scheduler of the cluster of `manager`.
pub async fn add_scheduler(scene: &Scene, manager: &Darner, name: &str) -> Result<Darner> {
    let settings = node(scene, name)?
        .set("scheduler.listen", fixed_port()?)
        .set("manager.address", manager.url("manager")?);
    Darner::start(scene, name, "scheduler", &settings).await
}

async fn start_mirror(
    scene: &Scene,
    upstream: &Upstream,
    manager: &Darner,
    role: &str,
    name: String,
) -> Result<Darner> {
    let settings = mirror_settings(scene, upstream, &name)?
        .set("mirror.role", role)
        .set("manager.address", manager.url("manager")?);
    Darner::start(scene, &name, "mirror", &settings).await
}

/// Settings of a mirror of the test registry, with no scheduler and no manager.
pub fn mirror_settings(scene: &Scene, upstream: &Upstream, name: &str) -> Result<Settings> {
    Ok(node(scene, name)?
        .set("registry.listen", fixed_port()?)
        .set("registry.default_upstream", NAME)
        .set("pieces.listen", fixed_port()?)
        .upstream(NAME, &upstream.url()))
}

/// Settings of `darner up` for the test registry, every listener at a free port.
pub fn up_settings(scene: &Scene, upstream: &Upstream) -> Result<Settings> {
    up_settings_at(scene, &upstream.url())
}

/// As [`up_settings`], for a registry at `url` that is called as the test registry is.
pub fn up_settings_at(scene: &Scene, url: &str) -> Result<Settings> {
    let mut settings = node(scene, "up")?;
    for listener in [
        "registry.listen",
        "pieces.listen",
        "scheduler.listen",
        "manager.listen",
        "manager.api_listen",
    ] {
        settings = settings.set(listener, "127.0.0.1:0");
    }
    Ok(settings
        .set("registry.default_upstream", NAME)
        .upstream(NAME, url))
}

/// Starts `darner up` for the test registry.
pub async fn start_up(scene: &Scene, upstream: &Upstream) -> Result<Darner> {
    Darner::start(scene, "up", "up", &up_settings(scene, upstream)?).await
}

/// Settings of any process of a scene.
pub fn node(scene: &Scene, name: &str) -> Result<Settings> {
    let data = scene.make_directory(format!("data-{name}"))?;
    Ok(Settings::new(&data).set("node.id", name))
}

/// A port outside the range that the system gives to connections and to port 0, so that nobody
/// takes it while its process is away.
fn fixed_port() -> Result<String> {
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 100)? * 100;
    for _ in 0..2000 {
        let port = 12_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let address = format!("127.0.0.1:{port}");
        if TcpListener::bind(&address).is_ok() {
            return Ok(address);
        }
    }
    anyhow::bail!("no free port from 12000 to 32000")
}
