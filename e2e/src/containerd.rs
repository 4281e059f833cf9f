//! containerd as a daemon of its own, with nothing of the machine's: pulls through its CRI plugin as
//! the kubelet does, through `crictl`, and through `ctr`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::image::{Blob, Image};
use crate::process::{self, Process};
use crate::scene::Scene;
use crate::system::{System, has_overlay};
use crate::{place, wait};

/// The runtime interface's messages.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::excessive_nesting,
    clippy::too_many_lines,
    reason = "generated code"
)]
mod cri {
    tonic::include_proto!("runtime.v1");
}

use cri::image_service_client::ImageServiceClient;

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    // In this order: the process ends before its directories go.
    _process: Process,
    socket: PathBuf,
    hosts: PathBuf,
    root: PathBuf,
    channel: Channel,
    snapshotter: &'static str,
    system: System,
    _sockets: TempDir,
}

/// A user's name and password.
pub type Login<'a> = Option<(&'a str, &'a str)>;

/// A containerd that is not running yet: where all of it is.
#[derive(Debug)]
struct Installed {
    directory: PathBuf,
    log: PathBuf,
    snapshotter: &'static str,
    system: System,
    sockets: TempDir,
}

impl Installed {
    async fn new(scene: &Scene, name: &str, system: System) -> Result<Self> {
        let directory = scene.make_directory(name)?;
        let snapshotter = snapshotter(&directory).await?;
        // Socket paths are short by nature, and build directories are not.
        let sockets = tempfile::Builder::new().prefix("e2e-").tempdir()?;
        Ok(Self {
            directory,
            log: scene.path(format!("{name}.log")),
            snapshotter,
            system,
            sockets,
        })
    }

    fn socket(&self) -> PathBuf {
        self.sockets.path().join("containerd.sock")
    }

    /// Runs `command`, which is containerd with its settings.
    async fn start(self, command: Command, hosts: PathBuf) -> Result<Containerd> {
        let mut process = Process::start("containerd", command, &self.log)?.polite();
        process
            .wait_output("its start", |output| {
                output
                    .contains("containerd successfully booted")
                    .then_some(())
            })
            .await?;
        let channel = connect(&self.socket()).await?;
        let containerd = Containerd {
            _process: process,
            socket: self.socket(),
            hosts,
            root: self.directory.join("root"),
            channel,
            snapshotter: self.snapshotter,
            system: self.system,
            _sockets: self.sockets,
        };
        // It says that it has booted before all of its parts have.
        wait::until("its answers about images", async || {
            containerd.has("registry.test/none:v1").await.ok()
        })
        .await?;
        Ok(containerd)
    }
}

/// A host in a directory that has a containerd, configured as whoever installed it left it: without
/// any mirror.
#[derive(Debug)]
pub struct Host {
    installed: Installed,
}

impl Host {
    /// Only its files are there.
    pub async fn new(scene: &Scene, name: &str) -> Result<Self> {
        let host = Self {
            installed: Installed::new(scene, name, System::here()).await?,
        };
        fs::create_dir_all(host.etc())?;
        fs::create_dir_all(host.root().join("var/lib"))?;
        let text = settings(&host.installed, None)?;
        fs::write(host.etc().join("config.toml"), text)?;
        Ok(host)
    }

    /// Its root directory.
    pub fn root(&self) -> PathBuf {
        self.installed.directory.join("host")
    }

    /// containerd's own directory of settings, which it knows as /etc/containerd.
    pub fn etc(&self) -> PathBuf {
        self.root().join("etc/containerd")
    }

    /// Starts it, in a mount namespace where its settings are where they are on a host.
    pub async fn start(self) -> Result<Containerd> {
        let mut command = Command::new(place::required_tool("unshare")?);
        command.args(["--mount", "sh", "-ec"]);
        command.arg("mount --bind \"$1\" /etc/containerd && exec \"$2\"");
        command.arg("sh").arg(self.etc());
        command.arg(place::required_tool("containerd")?);
        let hosts = self.etc().join("certs.d");
        self.installed.start(command, hosts).await
    }
}

impl Containerd {
    /// Starts a containerd that pulls everything through the mirror at `mirror`
    /// (`http://host:port`); nothing else is asked but the registry the image names.
    pub async fn start(scene: &Scene, name: &str, mirror: &str) -> Result<Self> {
        Self::start_of(System::here(), scene, name, mirror).await
    }

    /// As [`Containerd::start`], a system's.
    pub async fn start_of(system: System, scene: &Scene, name: &str, mirror: &str) -> Result<Self> {
        let installed = Installed::new(scene, name, system).await?;
        let hosts = installed.directory.join("certs.d");
        fs::create_dir_all(hosts.join("_default"))?;
        fs::write(hosts.join("_default/hosts.toml"), hosts_file(mirror))?;
        let config = installed.directory.join("config.toml");
        fs::write(&config, settings(&installed, Some(&hosts))?)?;
        let mut command = installed.system.command("containerd")?;
        command.arg("--config").arg(&config);
        installed.start(command, hosts).await
    }

    /// Starts one that knows no mirror, and whose requests go through a forward proxy.
    pub async fn start_through(scene: &Scene, name: &str, proxy: &str) -> Result<Self> {
        let installed = Installed::new(scene, name, System::here()).await?;
        let hosts = installed.directory.join("certs.d");
        fs::create_dir_all(&hosts)?;
        let config = installed.directory.join("config.toml");
        fs::write(&config, settings(&installed, Some(&hosts))?)?;
        let mut command = Command::new(place::required_tool("containerd")?);
        command.arg("--config").arg(&config);
        command.env("HTTP_PROXY", proxy).env("HTTPS_PROXY", proxy);
        command.env_remove("NO_PROXY").env_remove("no_proxy");
        installed.start(command, hosts).await
    }

    /// Says where `registry` is, without any mirror.
    pub fn reach(&self, registry: &str, server: &str) -> Result<()> {
        let directory = self.hosts.join(registry);
        fs::create_dir_all(&directory)?;
        let text = format!("server = \"{server}\"\n{}", hosts_file(server));
        Ok(fs::write(directory.join("hosts.toml"), text)?)
    }

    /// Lets `registry` have a fallback behind the mirror, as an operator does who names a server.
    pub fn fall_back(&self, registry: &str, mirror: &str, server: &str) -> Result<()> {
        let directory = self.hosts.join(registry);
        fs::create_dir_all(&directory)?;
        let text = format!("server = \"{server}\"\n{}", hosts_file(mirror));
        Ok(fs::write(directory.join("hosts.toml"), text)?)
    }

    /// `PullImage` of the runtime interface; the image's id.
    pub async fn pull(&self, reference: &str) -> Result<String> {
        self.pull_as(reference, None).await
    }

    /// As [`Containerd::pull`], with what the kubelet found in a pull secret.
    pub async fn pull_as(&self, reference: &str, login: Login<'_>) -> Result<String> {
        let auth = login.map(|(user, password)| cri::AuthConfig {
            username: user.to_owned(),
            password: password.to_owned(),
        });
        let request = cri::PullImageRequest {
            image: spec(reference),
            auth,
        };
        let pulled = self.images().pull_image(request).await;
        let pulled = pulled.with_context(|| format!("PullImage {reference}"))?;
        Ok(pulled.into_inner().image_ref)
    }

    /// `crictl pull`; `false` when there is no crictl and it may be missing.
    pub async fn crictl_pull(&self, reference: &str) -> Result<bool> {
        self.crictl_pull_as(reference, None).await
    }

    /// As [`Containerd::crictl_pull`], as somebody.
    pub async fn crictl_pull_as(&self, reference: &str, login: Login<'_>) -> Result<bool> {
        let Some(crictl) = place::tool("crictl") else {
            ensure!(
                place::may_skip_go_tools(),
                "crictl was not built; run e2e/install with Go on the machine"
            );
            eprintln!("SKIPPED crictl pull: crictl was not built, since Go is missing");
            return Ok(false);
        };
        let mut command = Command::new(crictl);
        let socket = format!("unix://{}", self.socket.display());
        command.args(["--image-endpoint", &socket, "--runtime-endpoint", &socket]);
        command.arg("pull");
        if let Some((user, password)) = login {
            command.arg("--creds").arg(format!("{user}:{password}"));
        }
        command.arg(reference);
        process::run(command).await?;
        Ok(true)
    }

    /// `ctr images pull`, with the same hosts.
    pub async fn ctr_pull(&self, reference: &str, platforms: Platforms) -> Result<()> {
        self.ctr_pull_as(reference, platforms, None).await
    }

    /// As [`Containerd::ctr_pull`], as somebody.
    pub async fn ctr_pull_as(
        &self,
        reference: &str,
        platforms: Platforms,
        login: Login<'_>,
    ) -> Result<()> {
        let mut command = self.ctr()?;
        command
            .args(["images", "pull", "--hosts-dir"])
            .arg(&self.hosts);
        command.args(["--snapshotter", self.snapshotter]);
        if let Some((user, password)) = login {
            command.arg("--user").arg(format!("{user}:{password}"));
        }
        if platforms == Platforms::All {
            command.arg("--all-platforms");
        }
        command.arg(reference);
        process::run(command).await.map(drop)
    }

    /// Removes an image and waits until its blobs are gone, so that the next pull is a pull.
    pub async fn remove(&self, image: &Image, reference: &str) -> Result<()> {
        let request = cri::RemoveImageRequest {
            image: spec(reference),
        };
        self.images().remove_image(request).await?;
        wait::until_true("containerd drops what it removed", || {
            let mut files = image.blobs.iter().map(|blob| self.blob_file(blob));
            !files.any(|file| file.exists())
        })
        .await
    }

    /// Removes what `ctr` pulled, as [`Containerd::remove`].
    pub async fn ctr_remove(&self, image: &Image, reference: &str) -> Result<()> {
        let mut command = self.ctr()?;
        command.args(["images", "rm", "--sync", reference]);
        process::run(command).await?;
        wait::until_true("containerd drops what it removed", || {
            let mut files = image.blobs.iter().map(|blob| self.blob_file(blob));
            !files.any(|file| file.exists())
        })
        .await
    }

    /// Whether `ctr` knows an image.
    pub async fn ctr_has(&self, reference: &str) -> Result<bool> {
        let mut command = self.ctr()?;
        command.args(["images", "ls", "-q"]);
        let listed = process::run(command).await?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        Ok(listed.lines().any(|line| line == reference))
    }

    /// Whether an image is there, unpacked for this platform.
    pub async fn has(&self, reference: &str) -> Result<bool> {
        let request = cri::ImageStatusRequest {
            image: spec(reference),
        };
        let status = self.images().image_status(request).await?;
        Ok(status.into_inner().image.is_some())
    }

    /// Checks that containerd's own store has these blobs, byte for byte.
    pub fn check_blobs(&self, blobs: &[Blob]) -> Result<()> {
        for blob in blobs {
            let path = self.blob_file(blob);
            let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
            ensure!(blob.digest.matches(&bytes), "{} is wrong", path.display());
        }
        Ok(())
    }

    fn blob_file(&self, blob: &Blob) -> PathBuf {
        let content = "io.containerd.content.v1.content/blobs/sha256";
        self.root.join(content).join(blob.digest.hex())
    }

    /// Files that the layers of `image` were unpacked to, in all snapshots.
    pub fn unpacked_layers(&self, image: &Image) -> Result<usize> {
        let plugin = format!("io.containerd.snapshotter.v1.{}", self.snapshotter);
        let snapshots = self.root.join(plugin).join("snapshots");
        let count = fs::read_dir(&snapshots)
            .with_context(|| snapshots.display().to_string())?
            .count();
        let layers = image.blobs.len() - 1;
        ensure!(count >= layers, "{count} snapshots of {layers} layers");
        Ok(count)
    }

    fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
    }

    fn ctr(&self) -> Result<Command> {
        let mut command = self.system.command("ctr")?;
        command.arg("--address").arg(&self.socket);
        Ok(command)
    }
}

/// What `ctr` pulls of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platforms {
    /// This machine's.
    Own,
    /// All of them.
    All,
}

/// overlayfs where the file system of `directory` can carry it; `native`, which copies every file
/// for every layer, where it cannot.
async fn snapshotter(directory: &Path) -> Result<&'static str> {
    let overlay = has_overlay(directory).await?;
    Ok(if overlay { "overlayfs" } else { "native" })
}

fn spec(reference: &str) -> Option<cri::ImageSpec> {
    Some(cri::ImageSpec {
        image: reference.to_owned(),
    })
}

async fn connect(socket: &Path) -> Result<Channel> {
    let url = format!("unix:{}", socket.display());
    let channel = Endpoint::from_shared(url)?.connect().await;
    channel.with_context(|| socket.display().to_string())
}

fn hosts_file(mirror: &str) -> String {
    format!("[host.\"{mirror}\"]\n  capabilities = [\"pull\", \"resolve\"]\n")
}

fn settings(installed: &Installed, hosts: Option<&Path>) -> Result<String> {
    let path = |name: &str| installed.directory.join(name).display().to_string();
    let socket = installed.socket();
    let socket = socket.display();
    let snapshotter = installed.snapshotter;
    let registry = hosts.map_or_else(String::new, |hosts| {
        format!(
            "[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"{}\"\n",
            hosts.display()
        )
    });
    let (root, state, cni, opt) = (path("root"), path("state"), path("cni"), path("opt"));
    fs::create_dir_all(&cni)?;
    Ok(format!(
        r#"version = 2
root = "{root}"
state = "{state}"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "{socket}"
[ttrpc]
  address = "{socket}.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "{opt}"
[plugins."io.containerd.grpc.v1.cri"]
  enable_selinux = false
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "{snapshotter}"
{registry}[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{cni}"
  conf_dir = "{cni}"
"#
    ))
}
