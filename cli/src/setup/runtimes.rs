//! The container runtimes of a host: which there are, what each is to be told, and what it takes for
//! that to count. Reads, and changes nothing.

use std::fmt;
use std::path::Path;

use clap::ValueEnum;
use darner_proto::name::RegistryName;

use super::host::Version;
use super::plan::{Edit, OURS, PlanError, Standing, Wish};

pub(crate) mod containerd;
pub(crate) mod containers;
pub(crate) mod docker;
pub(crate) mod k3s;

/// Which runtimes a command is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Choice {
    Containerd,
    Docker,
    Podman,
    Crio,
    K3s,
    All,
}

/// Runtimes that are told in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runtime {
    Containerd,
    Docker,
    /// Podman, Buildah, Skopeo and CRI-O, which read one directory.
    Containers,
    /// k3s and RKE2.
    K3s,
}

/// What is to be told, and about which registries.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    /// `http://host:port`, or `https://` where [`Terms::ca`] is to be trusted.
    pub(crate) mirror: String,
    /// The authority of a mirror that speaks TLS, PEM.
    pub(crate) ca: Option<String>,
    /// None: all of them, as far as the runtime can be told so.
    pub(crate) registries: Vec<RegistryName>,
    /// Whether host files of others may get something of ours.
    pub(crate) adopt: bool,
}

/// A runtime that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) runtime: Runtime,
    /// Its programs, with their versions as far as they say.
    pub(crate) programs: Vec<(String, Option<Version>)>,
    pub(crate) wishes: Vec<Wish>,
    /// What whoever sets it up has to know.
    pub(crate) notes: Vec<String>,
}

/// The authority that a runtime is to trust for the mirror, in a directory of the runtime's.
pub(crate) const CA_FILE: &str = "darner-ca.crt";

impl Terms {
    /// The mirror's `host:port`.
    fn address(&self) -> &str {
        let url = &self.mirror;
        let plain = url.strip_prefix("http://");
        plain.or(url.strip_prefix("https://")).unwrap_or(url)
    }

    /// The authority as a file in `directory`, if the mirror speaks TLS. Readers of PEM skip what
    /// stands before a certificate.
    fn ca_in(&self, directory: &Path) -> Option<Wish> {
        let text = format!(
            "{OURS} --tls`, which overwrites changes; `darner teardown` removes it.\n{}",
            self.ca.as_ref()?
        );
        Some(Wish {
            path: directory.join(CA_FILE),
            edit: Edit::Own(text),
        })
    }
}

/// What makes a runtime read a file that has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Effect {
    /// It reads it at every pull.
    AtOnce,
    /// A SIGHUP to processes of this name.
    Reload(&'static str),
    /// A restart, which is not ours to do.
    Restart(&'static str),
}

impl Choice {
    pub(crate) fn runtimes(self) -> &'static [Runtime] {
        match self {
            Self::Containerd => &[Runtime::Containerd],
            Self::Docker => &[Runtime::Docker],
            Self::Podman | Self::Crio => &[Runtime::Containers],
            Self::K3s => &[Runtime::K3s],
            Self::All => &Runtime::ALL,
        }
    }
}

impl Runtime {
    pub(crate) const ALL: [Self; 4] = [Self::Containerd, Self::Docker, Self::Containers, Self::K3s];

    /// As the journal calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Docker => "docker",
            Self::Containers => "containers",
            Self::K3s => "k3s",
        }
    }

    /// What there is of it, and what it is to be told; `None` when it is not on the host.
    pub(crate) fn find(
        self,
        standing: Standing<'_>,
        terms: &Terms,
    ) -> Result<Option<Found>, PlanError> {
        let (programs, marks) = self.signs();
        let there = programs
            .iter()
            .filter(|name| standing.host.program(name).is_some());
        let programs: Vec<_> = there
            .map(|name| ((*name).to_owned(), standing.host.version(name)))
            .collect();
        let marked = marks.iter().any(|path| standing.host.exists(path));
        if programs.is_empty() && !marked {
            return Ok(None);
        }
        let version = programs.first().and_then(|(_, version)| version.clone());
        let (wishes, notes) = match self {
            Self::Containerd => containerd::wishes(standing, terms, version.as_ref()),
            Self::Docker => docker::wishes(standing, terms),
            Self::Containers => containers::wishes(standing, terms),
            Self::K3s => k3s::wishes(standing, terms, version.as_ref()),
        }?;
        Ok(Some(Found {
            runtime: self,
            programs,
            wishes,
            notes,
        }))
    }

    /// Programs, and paths, any of which says that it is there.
    pub(crate) fn signs(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Containerd => (&["containerd"], &["/etc/containerd"]),
            Self::Docker => (&["dockerd"], &[docker::FILE]),
            Self::Containers => (
                &["podman", "crio", "buildah", "skopeo"],
                &["/etc/containers/registries.conf", "/etc/crio"],
            ),
            Self::K3s => (&["k3s", "rke2"], &k3s::DIRECTORIES),
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Containerd => "containerd",
            Self::Docker => "Docker",
            Self::Containers => "Podman, Buildah, Skopeo and CRI-O",
            Self::K3s => "k3s and RKE2",
        })
    }
}

impl Effect {
    /// By the file that changed, so that a run that was cut off can be undone in full.
    pub(crate) fn of(path: &Path) -> Self {
        if path.ends_with(CA_FILE) {
            Self::AtOnce
        } else if path == Path::new(docker::FILE) {
            Self::Reload("dockerd")
        } else if path.starts_with(containers::DIRECTORY) {
            Self::Reload("crio")
        } else if path.starts_with("/etc/rancher/rke2") {
            Self::Restart("systemctl restart rke2-server, or rke2-agent on an agent")
        } else if path.starts_with("/etc/rancher") {
            Self::Restart("systemctl restart k3s, or k3s-agent on an agent")
        } else if path.ends_with(containerd::HOSTS_FILE) {
            Self::AtOnce
        } else {
            Self::Restart("systemctl restart containerd")
        }
    }
}

/// What is wished of a runtime, and what is to be known about it.
type Wishes = (Vec<Wish>, Vec<String>);
