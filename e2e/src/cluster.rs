//! A cluster of separate processes on this machine.

use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;

use crate::client::{Client, Pulled};
use crate::darner::{Darner, Settings};
use crate::image::Image;
use crate::members;
use crate::place;
use crate::scene::Scene;
use crate::upstream::{NAME, Upstream};
use crate::wait;
use crate::web::Web;

/// What a cluster is made of.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Mirrors with role seed.
    pub seeds: usize,
    /// Mirrors with role mirror.
    pub mirrors: usize,
    /// Without certificates: for tests that take a member's part themselves.
    pub plain: bool,
}

/// So many seeds, and as many mirrors as [`Shape::mirrors`] says.
pub const fn seeds(seeds: usize) -> Shape {
    Shape {
        seeds,
        mirrors: 0,
        plain: false,
    }
}

impl Shape {
    /// With so many mirrors.
    pub const fn mirrors(self, mirrors: usize) -> Self {
        Self { mirrors, ..self }
    }

    /// In plain text.
    pub const fn plain(self) -> Self {
        Self {
            plain: true,
            ..self
        }
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

/// How processes get into a cluster.
#[derive(Debug)]
struct Joining<'a> {
    scene: &'a Scene,
    manager: &'a Darner,
    plain: bool,
    /// A host whose files are shared.
    web: Option<String>,
}

impl Joining<'_> {
    /// Makes `settings` those of a member in `role`.
    fn member(&self, settings: Settings, role: &str) -> Result<Settings> {
        let address = self.manager.address("manager")?;
        if self.plain {
            let settings = settings.set("manager.address", format!("http://{address}"));
            return Ok(in_plain_text(settings));
        }
        let token = self.scene.path(format!("{role}.token"));
        if !token.exists() {
            self.manager.join_token(role)?;
        }
        Ok(settings
            .set("manager.address", format!("https://{address}"))
            .set("identity.token_file", token.display().to_string()))
    }

    async fn scheduler(&self, name: &str) -> Result<Darner> {
        let settings = node(self.scene, name)?.set("scheduler.listen", place::fixed_port()?);
        let settings = self.member(settings, "scheduler")?;
        Darner::start(self.scene, name, "scheduler", &settings).await
    }

    async fn nodes(&self, upstream: &Upstream, shape: Shape) -> Result<(Vec<Darner>, Vec<Darner>)> {
        let start = |role: &'static str, count: usize| {
            let names = (1..=count).map(move |number| format!("{role}-{number}"));
            try_join_all(names.map(|name| self.mirror(upstream, role, name)))
        };
        let seeds = start("seed", shape.seeds).await?;
        Ok((seeds, start("mirror", shape.mirrors).await?))
    }

    async fn mirror(&self, upstream: &Upstream, role: &str, name: String) -> Result<Darner> {
        let mut settings = mirror_settings(self.scene, upstream, &name)?;
        if let Some(host) = &self.web {
            settings = settings.route(host).set("proxy.listen", "127.0.0.1:0");
        }
        self.mirror_with(settings, role, name).await
    }

    async fn mirror_with(&self, settings: Settings, role: &str, name: String) -> Result<Darner> {
        let settings = self.member(settings.set("mirror.role", role), role)?;
        Darner::start(self.scene, &name, "mirror", &settings).await
    }
}

impl Cluster {
    /// Starts all processes, the manager first; the others join with its tokens.
    pub async fn start(scene: &Scene, upstream: &Upstream, shape: Shape) -> Result<Self> {
        let mut settings = manager_settings(scene)?;
        if shape.plain {
            settings = in_plain_text(settings);
        }
        Self::start_with(scene, upstream, shape, &settings).await
    }

    /// As [`Cluster::start`], beside a web server whose files are shared.
    pub async fn start_beside(
        scene: &Scene,
        upstream: &Upstream,
        shape: Shape,
        web: &Web,
    ) -> Result<Self> {
        Self::start_beside_host(scene, upstream, shape, web.host()).await
    }

    /// As [`Cluster::start`], beside a host whose files are shared.
    pub async fn start_beside_host(
        scene: &Scene,
        upstream: &Upstream,
        shape: Shape,
        host: String,
    ) -> Result<Self> {
        let settings = manager_settings(scene)?;
        let manager = Darner::start(scene, "manager", "manager", &settings).await?;
        let joining = Joining {
            scene,
            manager: &manager,
            plain: shape.plain,
            web: Some(host),
        };
        let scheduler = joining.scheduler("scheduler").await?;
        let (seeds, mirrors) = joining.nodes(upstream, shape).await?;
        let cluster = Self {
            seeds,
            mirrors,
            scheduler,
            manager,
        };
        cluster.attended().await?;
        Ok(cluster)
    }

    /// As [`Cluster::start`], with settings of the manager's own.
    pub async fn start_with(
        scene: &Scene,
        upstream: &Upstream,
        shape: Shape,
        manager: &Settings,
    ) -> Result<Self> {
        let manager = Darner::start(scene, "manager", "manager", manager).await?;
        let joining = Joining {
            scene,
            manager: &manager,
            plain: shape.plain,
            web: None,
        };
        let scheduler = joining.scheduler("scheduler").await?;
        let (seeds, mirrors) = joining.nodes(upstream, shape).await?;
        let cluster = Self {
            seeds,
            mirrors,
            scheduler,
            manager,
        };
        cluster.attended().await?;
        Ok(cluster)
    }

    /// Starts one more mirror, which gossips beside what the manager says.
    pub async fn gossiping_mirror(
        &self,
        scene: &Scene,
        upstream: &Upstream,
        name: &str,
        by: Option<&Darner>,
    ) -> Result<Darner> {
        let joining = Joining {
            scene,
            manager: &self.manager,
            plain: false,
            web: None,
        };
        let settings = mirror_settings(scene, upstream, name)?.set("mirror.role", "mirror");
        let settings = joining.member(members::gossiping(settings, by)?, "mirror")?;
        Darner::start(scene, name, "mirror", &settings).await
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
    let joining = Joining {
        scene,
        manager,
        plain: false,
        web: None,
    };
    joining.scheduler(name).await
}

/// Starts one more mirror of the cluster of `manager`.
pub async fn join_mirror(
    scene: &Scene,
    upstream: &Upstream,
    manager: &Darner,
    name: &str,
) -> Result<Darner> {
    let joining = Joining {
        scene,
        manager,
        plain: false,
        web: None,
    };
    joining.mirror(upstream, "mirror", name.to_owned()).await
}

/// Starts one more node of the cluster of `manager`, in `role`, with these settings.
pub async fn join_with(
    scene: &Scene,
    manager: &Darner,
    settings: Settings,
    (role, name): (&str, &str),
) -> Result<Darner> {
    let joining = Joining {
        scene,
        manager,
        plain: false,
        web: None,
    };
    joining.mirror_with(settings, role, name.to_owned()).await
}

/// Settings of the manager of a scene.
pub fn manager_settings(scene: &Scene) -> Result<Settings> {
    // A process that is started again has to be found where it was.
    Ok(node(scene, "manager")?
        .set("manager.listen", place::fixed_port()?)
        .set("manager.api_listen", place::fixed_port()?))
}

/// As an operator says who trusts the network.
pub fn in_plain_text(settings: Settings) -> Settings {
    settings.set("identity.insecure", true)
}

/// Settings of a mirror of the test registry, with no scheduler and no manager.
pub fn mirror_settings(scene: &Scene, upstream: &Upstream, name: &str) -> Result<Settings> {
    let settings = unknowing_settings(scene, name)?.set("registry.default_upstream", NAME);
    Ok(settings.upstream(NAME, &upstream.url()))
}

/// Settings of a mirror that does not know of the test registry.
pub fn unknowing_settings(scene: &Scene, name: &str) -> Result<Settings> {
    Ok(node(scene, name)?
        .set("registry.listen", place::fixed_port()?)
        .set("pieces.listen", place::fixed_port()?))
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
