//! One node before a registry of its own: a mirror by itself, or one with all roles.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use darner_e2e::darner::Settings;
use darner_e2e::registry::Registry;

use crate::content::{self, Blob};
use crate::load::{self, Target};
use crate::servers::{self, NAME, Server};
use crate::{local, wait};

const ALONE: u16 = 15_300;
const ALONE_ADMIN: &str = "127.0.0.1:15302";

/// What the node is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Node {
    Mirror,
    AllRoles,
}

/// One node before a registry with some blobs, apart from all others.
#[derive(Debug)]
pub(crate) struct Alone {
    pub(crate) mirror: Server,
    pub(crate) blobs: Vec<Blob>,
    /// The path of the manifest that names them.
    pub(crate) manifest: String,
    directory: PathBuf,
    children: Vec<std::process::Child>,
    _registry: Registry,
    _runtime: tokio::runtime::Runtime,
}

impl Alone {
    /// `name` is in the name of its data directory, which may be there already.
    pub(crate) fn start(directory: &Path, name: &str, node: Node, sizes: &[u64]) -> Result<Self> {
        Self::start_with(directory, name, node, sizes, |settings| settings)
    }

    /// The same with further settings.
    pub(crate) fn start_with(
        directory: &Path,
        name: &str,
        node: Node,
        sizes: &[u64],
        further: impl FnOnce(Settings) -> Settings,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Runtime::new()?;
        let storage = directory.join(format!("registry-{name}"));
        std::fs::create_dir_all(&storage)?;
        let (registry, blobs, manifest) = runtime.block_on(async {
            let registry = Registry::start(directory, &storage, false).await?;
            let pusher = registry.pusher();
            let mut blobs = Vec::new();
            for (number, size) in sizes.iter().enumerate() {
                blobs.push(content::push_blob(&pusher, (1 << 40) + number as u64, *size).await?);
            }
            let manifest = content::push_manifest(&pusher, blobs.iter()).await?;
            Ok::<_, anyhow::Error>((registry, blobs, manifest))
        })?;
        let mut settings = Settings::new(&directory.join(format!("data-{name}")));
        let mut command = "mirror";
        if let Node::AllRoles = node {
            command = "up";
            settings = settings
                .set("scheduler.listen", "127.0.0.1:0")
                .set("manager.listen", "127.0.0.1:0")
                .set("manager.api_listen", "127.0.0.1:0");
        }
        let settings = settings
            .set("admin.listen", ALONE_ADMIN)
            .set("identity.insecure", true)
            .set("registry.listen", local(ALONE).to_string())
            .set("registry.default_upstream", NAME)
            .set("pieces.listen", local(ALONE + 1).to_string())
            .upstream(NAME, &format!("http://{}", registry.address()));
        let settings = further(settings);
        let mut children = Vec::new();
        let pid = servers::spawn(directory, name, command, &settings, &mut children)?;
        let alone = Self {
            mirror: Server {
                name: name.to_owned(),
                address: local(ALONE),
                pids: vec![pid],
            },
            blobs,
            manifest,
            directory: directory.to_owned(),
            children,
            _registry: registry,
            _runtime: runtime,
        };
        wait(name, || {
            Ok(std::net::TcpStream::connect(local(ALONE)).is_ok())
        })?;
        load::read(&Target::file(local(ALONE), &alone.manifest))?;
        Ok(alone)
    }

    /// As it tells programs.
    pub(crate) fn metrics(&self) -> Result<String> {
        let target = Target::file(ALONE_ADMIN.parse()?, "/metrics");
        let mut stream = target.connect()?;
        let request =
            format!("GET /metrics HTTP/1.1\r\nhost: {ALONE_ADMIN}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// One of its figures that has no labels.
    pub(crate) fn metric(&self, name: &str) -> Result<f64> {
        let metrics = self.metrics()?;
        let mut lines = metrics.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.context("no such figure")?.parse()?)
    }

    /// Waits until a blob is in the store.
    pub(crate) fn wait_held(&self, blob: &Blob) -> Result<()> {
        servers::wait_held(&self.directory, &self.mirror, blob)
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        servers::end(&mut self.children);
    }
}
