//! Nodes, as a manager sees them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use darner_e2e::darner::{Darner, Settings};
use darner_e2e::scene::Scene;
use darner_proto::figures::Figures;
use darner_proto::id::{Host, Role};
use darner_service::config::{Command, Sources, load};
use darner_service::directory::{Directory, Membership};
use darner_service::identity::{Identity, IdentityMetrics};
use darner_service::shutdown::Shutdown;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::watch;

/// Nodes that join at once: more would be more handshakes than wait for their turn.
const AT_ONCE: usize = 32;
/// Nothing that is waited for takes longer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Registries that each node has figures of.
const REGISTRIES: [&str; 3] = ["docker.io", "ghcr.io", "quay.io"];

/// All nodes.
pub(crate) struct Fleet {
    url: String,
    directory: std::path::PathBuf,
    nodes: Vec<Node>,
    shutdown: Shutdown,
}

struct Node {
    _directory: Directory,
    heard: watch::Receiver<Arc<Membership>>,
}

impl Fleet {
    /// Lets them join and waits until each follows the configuration.
    pub(crate) async fn join(scene: &Scene, manager: &Darner, count: usize) -> Result<Self> {
        let mut fleet = Self {
            url: format!("https://{}", manager.address("manager")?),
            directory: scene.path(""),
            nodes: Vec::new(),
            shutdown: Shutdown::default(),
        };
        let joining = (0..count).map(|number| fleet.node(Role::Mirror, number));
        let joined = stream::iter(joining).buffer_unordered(AT_ONCE);
        let nodes: Vec<Node> = joined.try_collect().await?;
        fleet.nodes = nodes;
        // One seed, so that there is something to follow.
        fleet.change(usize::MAX).await?;
        Ok(fleet)
    }

    /// One more seed comes: says how long it takes until every node has heard of it, from the moment it
    /// begins to register.
    pub(crate) async fn change(&self, number: usize) -> Result<Duration> {
        let id = name(Role::Seed, number);
        let identity = self.identity(Role::Seed, number).await?;
        let begun = Instant::now();
        let seed = self.follow(Role::Seed, number, &identity)?;
        for node in &self.nodes {
            let mut heard = node.heard.clone();
            let knows = heard.wait_for(|told| told.seeds.iter().any(|seed| seed.id.as_str() == id));
            let knows = tokio::time::timeout(PATIENCE, knows).await;
            knows.context("a node has not heard of a change")??;
        }
        let took = begun.elapsed();
        // It stays for as long as everybody else.
        std::mem::forget(seed);
        Ok(took)
    }

    async fn node(&self, role: Role, number: usize) -> Result<Node> {
        let identity = self.identity(role, number).await?;
        self.follow(role, number, &identity)
    }

    /// A certificate, had with the role's token.
    async fn identity(&self, role: Role, number: usize) -> Result<Identity> {
        let name = name(role, number);
        let data = self.data(&name);
        std::fs::create_dir_all(&data)?;
        let file = data.join("darner.toml");
        let token = self.directory.join(format!("{role}.token"));
        let settings = Settings::new(&data)
            .set("node.id", &*name)
            .set("pieces.listen", "127.0.0.1:0")
            .set("manager.address", &*self.url)
            .set("identity.token_file", token.display().to_string());
        std::fs::write(&file, settings.text())?;
        let sources = Sources {
            file: Some(file),
            ..Sources::default()
        };
        let mut settings = load(Command::Mirror, &sources)?;
        settings.mirror.role = role;
        let metrics = IdentityMetrics::default();
        Ok(Identity::open(&settings, role, &metrics, &self.shutdown).await?)
    }

    fn follow(&self, role: Role, number: usize, identity: &Identity) -> Result<Node> {
        let name = name(role, number);
        let address = format!(
            "10.{}.{}.{}:7421",
            number >> 16 & 255,
            number >> 8 & 255,
            number & 255
        );
        let zone = format!("zone-{}", number % 3);
        let host = Host {
            id: name.parse()?,
            address,
            role,
            labels: [("zone".to_owned(), zone)].into(),
            signing_key: None,
            upload_slots: 16,
        };
        let data = self.data(&name);
        let directory = Directory::managed(&self.url, host, &data, identity, &self.shutdown)?;
        let upstreams = REGISTRIES.map(|registry| registry.parse().map(upstream));
        let upstreams: Result<_, _> = upstreams.into_iter().collect();
        let figures = Figures {
            requests: number as u64,
            upstreams: upstreams?,
            version: "bench".to_owned(),
            ..Figures::default()
        };
        directory.orders().count(move || Some(figures.clone()));
        let heard = directory.watch();
        ensure!(data.exists());
        Ok(Node {
            _directory: directory,
            heard,
        })
    }

    fn data(&self, name: &str) -> std::path::PathBuf {
        Path::new("/dev/shm")
            .join(format!("darner-bench-{}", std::process::id()))
            .join(name)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.shutdown.drain();
        let all = self.data("");
        let _ = std::fs::remove_dir_all(all);
    }
}

fn name(role: Role, number: usize) -> String {
    format!("{role}-{number}")
}

fn upstream(registry: darner_proto::name::RegistryName) -> darner_proto::figures::UpstreamFigures {
    darner_proto::figures::UpstreamFigures {
        registry,
        requests: 1000,
        bytes: 1 << 30,
        errors: 0,
        limit: Some(100),
        remaining: Some(42),
        quiet_until: 0,
    }
}
