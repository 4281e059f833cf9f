//! The clients: of each release of Debian all there are, each a version of its own.

use std::sync::Arc;

use anyhow::Result;
use darner_e2e::containerd::Containerd;
use darner_e2e::docker::{Dockerd, Store, Told};
use darner_e2e::place;
use darner_e2e::podman::{Podman, Program};
use darner_e2e::runtime::{Face, Runtime};
use darner_e2e::scene::Scene;
use darner_e2e::skopeo::Skopeo;
use darner_e2e::system::{Release, System};

use super::cases::{Case, TOKEN};
use super::ground::Ground;

/// A client of one version.
pub(super) struct Client {
    pub(super) name: String,
    pub(super) runtime: Runtime,
    /// Private content it gets from the mirror; without, it goes past the mirror for that.
    pub(super) shows_credentials: bool,
    /// Killed in the middle of a pull, the mirror costs it less than some seconds.
    pub(super) recovers: Recovers,
}

/// What becomes of a pull in the middle of which the mirror dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recovers {
    /// It goes on at the registry.
    AtOnce,
    /// It does, after a minute or so.
    Late,
    /// It fails, and the next pull is as good as any.
    AtTheNextPull,
}

/// Clients that share a daemon, one after the other.
pub(super) type Station = Vec<Client>;

/// All clients of a release.
pub(super) async fn clients_of(
    release: Release,
    scene: &Scene,
    ground: &Ground,
) -> Result<Vec<Station>> {
    let system = System::of(release, ground.hub.hosts());
    let mirror = ground.mirror.url("registry")?;
    let mut stations = vec![containerds(&system, release, scene, ground).await?];
    let version = system.version("dockerd").await?;
    let stores: &[Store] = match release {
        Release::Bookworm | Release::Trixie => &[Store::Layers],
        Release::Forky => &[Store::Layers, Store::Containerd],
    };
    for store in stores {
        let told = Told {
            store: *store,
            mirror: &mirror,
            authorities: ground.hub.authority(),
        };
        let name = format!("docker {version} ({store:?})");
        let directory = format!("docker-{release:?}-{store:?}");
        let layers = *store == Store::Layers;
        stations.push(vec![Client {
            name,
            runtime: Runtime::Docker(Dockerd::start_of(&system, scene, &directory, told).await?),
            shows_credentials: layers,
            recovers: if layers {
                Recovers::Late
            } else {
                Recovers::AtOnce
            },
        }]);
    }
    let conf = ground.registries_conf(scene)?;
    for program in [Program::Podman, Program::Buildah] {
        let directory = format!("{}-{release:?}", program.name());
        let podman = Podman::of((&system, program), scene, &directory, &conf).await?;
        let name = format!(
            "{} {}",
            program.name(),
            system.version(program.name()).await?
        );
        stations.push(vec![past_the_mirror(name, Runtime::Podman(podman))]);
    }
    let skopeo = Skopeo::of(&system, scene, &format!("skopeo-{release:?}"), &conf)?;
    let name = format!("skopeo {}", system.version("skopeo").await?);
    stations.push(vec![past_the_mirror(name, Runtime::Skopeo(skopeo))]);
    Ok(stations)
}

/// The containers' library: it shows a mirror no credentials that were not meant for the mirror.
fn past_the_mirror(name: String, runtime: Runtime) -> Client {
    Client {
        name,
        runtime,
        shows_credentials: false,
        recovers: Recovers::AtTheNextPull,
    }
}

async fn containerds(
    system: &System,
    release: Release,
    scene: &Scene,
    ground: &Ground,
) -> Result<Station> {
    let mirror = ground.mirror.url("registry")?;
    let name = format!("containerd-{release:?}");
    let daemon = Containerd::start_of(system.clone(), scene, &name, &mirror).await?;
    for (registry, url) in ground.registries() {
        daemon.fall_back(registry, &mirror, &url)?;
    }
    let (daemon, version) = (Arc::new(daemon), system.version("containerd").await?);
    let faces = [Face::Cri, Face::Crictl, Face::Ctr];
    let client = |face| Client {
        name: format!("containerd {version} ({face:?})"),
        runtime: Runtime::Containerd(daemon.clone(), face),
        shows_credentials: true,
        recovers: Recovers::AtOnce,
    };
    let faces = faces.into_iter();
    let there = faces.filter(|face| *face != Face::Crictl || place::tool("crictl").is_some());
    Ok(there.map(client).collect())
}

impl Client {
    /// A Docker daemon asks the mirror for Docker Hub's content only, which needs a token.
    pub(super) fn concerns(&self, case: &Case) -> bool {
        case.registry == TOKEN || !matches!(self.runtime, Runtime::Docker(_))
    }
}
