//! Any client of any release as one thing that pulls images, for tests that say the same of all.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};

use crate::containerd::{Containerd, Platforms};
use crate::docker::Dockerd;
use crate::image::Image;
use crate::podman::Podman;
use crate::skopeo::Skopeo;

/// How containerd is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// As the kubelet does.
    Cri,
    /// By `crictl`.
    Crictl,
    /// By `ctr`.
    Ctr,
}

/// What pulls.
#[derive(Debug)]
pub enum Runtime {
    /// containerd.
    Containerd(Arc<Containerd>, Face),
    /// dockerd.
    Docker(Dockerd),
    /// podman or buildah.
    Podman(Podman),
    /// skopeo.
    Skopeo(Skopeo),
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Nobody in particular.
    Anybody,
    /// The user who may.
    Alice,
    /// Somebody who says so and has the wrong password.
    Impostor,
}

/// The user.
pub const USER: &str = "alice";
/// And the password; of [`PASSWORD_HASH`] it is the source.
pub const PASSWORD: &str = "canary-of-alice";
/// bcrypt's.
pub const PASSWORD_HASH: &str = "$2b$05$abcdefghijklmnopqrstuuVdg0lUX73VRs4AEPiU47j60PcEtGdZu";

impl Who {
    fn login(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Anybody => None,
            Self::Alice => Some((USER, PASSWORD)),
            Self::Impostor => Some((USER, "canary-of-an-impostor")),
        }
    }

    /// A file of logins, in the form of Docker's config.json, for these registries.
    pub fn logins(self, registries: &[&str]) -> String {
        use base64::Engine as _;
        let logins = self.login().map(|(user, password)| {
            let login = format!("{user}:{password}");
            let login = base64::prelude::BASE64_STANDARD.encode(login);
            let one = |name: &&str| ((*name).to_owned(), serde_json::json!({"auth": login}));
            registries.iter().map(one).collect()
        });
        let logins: serde_json::Map<_, _> = logins.unwrap_or_default();
        serde_json::json!({"auths": logins}).to_string()
    }
}

/// What is pulled.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// The image.
    pub image: &'a Image,
    /// In which registry; a Docker daemon has them all from Docker Hub.
    pub registry: &'a str,
    /// By digest, not by tag.
    pub by_digest: bool,
    /// By whom.
    pub who: Who,
}

impl Wanted<'_> {
    fn reference(&self) -> String {
        if self.by_digest {
            self.image.digest_reference(self.registry)
        } else {
            self.image.reference(self.registry)
        }
    }

    fn tag_or_digest(&self) -> String {
        if self.by_digest {
            self.image.digest.to_string()
        } else {
            self.image.tag.clone()
        }
    }

    fn docker_name(&self) -> String {
        let separator = if self.by_digest { '@' } else { ':' };
        let (repository, last) = (&self.image.repository, self.tag_or_digest());
        format!("{repository}{separator}{last}")
    }
}

/// Files of logins, one for each of [`Who`].
#[derive(Debug, Clone)]
pub struct Logins {
    /// Where they are.
    pub directory: PathBuf,
}

impl Logins {
    /// Writes them, for these registries.
    pub fn write(directory: &Path, registries: &[&str]) -> Result<Self> {
        for who in [Who::Anybody, Who::Alice, Who::Impostor] {
            std::fs::write(Self::file(directory, who), who.logins(registries))?;
        }
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    fn file(directory: &Path, who: Who) -> PathBuf {
        directory.join(format!("logins-{who:?}.json"))
    }

    fn of(&self, who: Who) -> PathBuf {
        Self::file(&self.directory, who)
    }
}

impl Runtime {
    /// Pulls; fails as the runtime does.
    pub async fn pull(&self, wanted: &Wanted<'_>, logins: &Logins) -> Result<()> {
        let (reference, login) = (wanted.reference(), wanted.who.login());
        match self {
            Self::Containerd(daemon, Face::Cri) => {
                daemon.pull_as(&reference, login).await.map(drop)
            }
            Self::Containerd(daemon, Face::Crictl) => {
                let pulled = daemon.crictl_pull_as(&reference, login).await?;
                ensure!(pulled, "there is no crictl");
                Ok(())
            }
            Self::Containerd(daemon, Face::Ctr) => {
                daemon.ctr_pull_as(&reference, Platforms::Own, login).await
            }
            Self::Docker(daemon) => {
                let (repository, last) = (&wanted.image.repository, wanted.tag_or_digest());
                daemon.pull_image(repository, &last, login).await
            }
            Self::Podman(podman) => podman.pull(&reference, &logins.of(wanted.who)).await,
            Self::Skopeo(skopeo) => {
                let skopeo = skopeo.with_logins(&logins.of(wanted.who));
                skopeo.copy(wanted.image, &reference).await
            }
        }
    }

    /// Checks that what was pulled is there and right.
    pub async fn check(&self, wanted: &Wanted<'_>) -> Result<()> {
        let image = wanted.image;
        match self {
            Self::Containerd(daemon, face) => {
                ensure!(self.has(wanted).await?, "{face:?} does not know it");
                let blobs: Vec<_> = image.own_blobs()?.into_iter().cloned().collect();
                daemon.check_blobs(&blobs)
            }
            Self::Docker(daemon) => daemon.check(image, &wanted.docker_name()).await,
            Self::Podman(podman) => podman.check(image),
            // It was checked when it was copied.
            Self::Skopeo(skopeo) => {
                ensure!(skopeo.has_any(), "nothing was copied");
                Ok(())
            }
        }
    }

    /// Whether the runtime says that it has the image.
    pub async fn has(&self, wanted: &Wanted<'_>) -> Result<bool> {
        match self {
            Self::Containerd(daemon, Face::Ctr) => daemon.ctr_has(&wanted.reference()).await,
            Self::Containerd(daemon, _) => daemon.has(&wanted.reference()).await,
            Self::Docker(daemon) => Ok(daemon.has(&wanted.docker_name()).await),
            Self::Podman(podman) => podman.has_any(),
            Self::Skopeo(skopeo) => Ok(skopeo.has_any()),
        }
    }

    /// Removes what was pulled, so that the next pull is a pull.
    pub async fn remove(&self, wanted: &Wanted<'_>) -> Result<()> {
        let removed = match self {
            Self::Containerd(daemon, Face::Ctr) => {
                daemon.ctr_remove(wanted.image, &wanted.reference()).await
            }
            Self::Containerd(daemon, _) => daemon.remove(wanted.image, &wanted.reference()).await,
            Self::Docker(daemon) => daemon.remove(wanted.image, &wanted.docker_name()).await,
            Self::Podman(podman) => podman.remove(),
            Self::Skopeo(skopeo) => skopeo.remove(),
        };
        removed.context("the image cannot be removed")
    }
}
