//! podman and buildah, which have no daemon and share library and store: each pull is a process, in
//! a store of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::image::Image;
use crate::process;
use crate::scene::Scene;
use crate::system::{System, has_overlay};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// podman.
    Podman,
    /// buildah.
    Buildah,
}

impl Program {
    /// As it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::Buildah => "buildah",
        }
    }
}

/// One of them with its store.
#[derive(Debug)]
pub struct Podman {
    program: Program,
    system: System,
    directory: PathBuf,
    registries: PathBuf,
    driver: &'static str,
}

impl Podman {
    /// A system's, with a file of registries.
    pub async fn of(
        (system, program): (&System, Program),
        scene: &Scene,
        name: &str,
        registries: &Path,
    ) -> Result<Self> {
        let directory = scene.make_directory(name)?;
        let overlay = has_overlay(&directory).await?;
        Ok(Self {
            program,
            system: system.clone(),
            directory,
            registries: registries.to_owned(),
            driver: if overlay { "overlay" } else { "vfs" },
        })
    }

    fn command(&self) -> Result<Command> {
        let mut command = self.system.command(self.program.name())?;
        command.env("HOME", &self.directory);
        command.env("TMPDIR", &self.directory);
        command.env("CONTAINERS_REGISTRIES_CONF", &self.registries);
        command.env("PODMAN_IGNORE_CGROUPSV1_WARNING", "1");
        command.arg("--root").arg(self.store());
        // Its path is to be short, and it goes with the namespace.
        command.args(["--runroot", "/run/store"]);
        command.args(["--storage-driver", self.driver]);
        if self.program == Program::Podman {
            command.args(["--cgroup-manager", "cgroupfs"]);
            command.args(["--events-backend", "none"]);
        }
        Ok(command)
    }

    fn store(&self) -> PathBuf {
        self.directory.join("store")
    }

    /// Pulls, with this file of logins.
    pub async fn pull(&self, reference: &str, logins: &Path) -> Result<()> {
        let mut command = self.command()?;
        command.env("REGISTRY_AUTH_FILE", logins);
        command.args(["pull", "--quiet", reference]);
        process::run(command).await.map(drop)
    }

    fn list(&self, of: &str) -> Result<Vec<Value>> {
        let file = format!("{}-{of}/{of}.json", self.driver);
        let path = self.store().join(file);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Whether it has any image.
    pub fn has_any(&self) -> Result<bool> {
        Ok(!self.list("images")?.is_empty())
    }

    /// Checks that an image is there and the right one, by the digests it made of what it got.
    pub fn check(&self, image: &Image) -> Result<()> {
        let images = self.list("images")?;
        let found = images.first().context("no image")?;
        let id = image.own_config()?.digest.hex();
        ensure!(found["id"] == id.as_str(), "{found}, not {id}");
        let layers = self.list("layers")?;
        for layer in image.own_layers()? {
            let digest = layer.digest.to_string();
            let mut digests = layers.iter().map(|layer| &layer["compressed-diff-digest"]);
            ensure!(digests.any(|has| *has == digest), "no layer {digest}");
        }
        Ok(())
    }

    /// Forgets everything.
    pub fn remove(&self) -> Result<()> {
        let store = self.store();
        if store.exists() {
            fs::remove_dir_all(&store).with_context(|| store.display().to_string())?;
        }
        Ok(())
    }
}
