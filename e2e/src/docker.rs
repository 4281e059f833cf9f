//! dockerd as a daemon of its own, in namespaces in which it is the only one: /etc/docker is that of a
//! host in a directory, or nobody's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::image::Image;
use crate::process::Process;
use crate::scene::Scene;
use crate::system::{System, has_overlay};
use crate::{place, wait};

/// A running dockerd.
#[derive(Debug)]
pub struct Dockerd {
    // In this order: the process ends before its directory goes.
    process: Process,
    directory: TempDir,
    /// Of containerd's store, where that is in use.
    blobs: Option<PathBuf>,
}

/// Where dockerd keeps images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// In layers of its own, unpacked.
    Layers,
    /// In containerd's.
    Containerd,
}

/// What a dockerd of a system is to know.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    /// Where it keeps images.
    pub store: Store,
    /// The mirror of Docker Hub, `http://host:port`.
    pub mirror: &'a str,
    /// A file with the authorities it trusts.
    pub authorities: &'a Path,
}

impl Dockerd {
    /// Starts one with the settings and the /var/lib of the host in `root`.
    pub async fn start(scene: &Scene, root: &Path) -> Result<Self> {
        Self::start_in(scene, root, &[]).await
    }

    /// As [`Dockerd::start`], with these variables in its environment.
    pub async fn start_in(
        scene: &Scene,
        root: &Path,
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        // Socket paths are short by nature, and build directories are not.
        let directory = tempfile::Builder::new().prefix("e2e-").tempdir()?;
        let mut command = Command::new(place::required_tool("unshare")?);
        command.envs(environment.iter().copied());
        command.args(["--mount", "--pid", "--fork", "--kill-child=SIGTERM"]);
        command.args(["--mount-proc", "sh", "-ec"]);
        command.arg(
            "mkdir -p /etc/docker\n\
             mount --bind \"$1/etc/docker\" /etc/docker\n\
             mount --bind \"$1/var/lib\" /var/lib\n\
             exec dockerd --iptables=false --bridge=none --storage-driver=vfs \
             --data-root \"$2/data\" --exec-root \"$2/exec\" --pidfile \"$2/pid\" \
             --host \"unix://$2/socket\"",
        );
        command.arg("sh").arg(root).arg(directory.path());
        let process = Process::start("dockerd", command, &scene.path("dockerd.log"))?.polite();
        Self::answering(process, directory, None).await
    }

    /// Starts a system's, with the fastest store that the scene's file system can carry.
    pub async fn start_of(
        system: &System,
        scene: &Scene,
        name: &str,
        told: Told<'_>,
    ) -> Result<Self> {
        let data = scene.make_directory(name)?;
        let directory = tempfile::Builder::new().prefix("e2e-").tempdir()?;
        let driver = match (told.store, has_overlay(&data).await?) {
            (Store::Layers, true) => "overlay2",
            (Store::Layers, false) => "vfs",
            (Store::Containerd, true) => "overlayfs",
            (Store::Containerd, false) => "native",
        };
        let settings = serde_json::json!({
            "registry-mirrors": [told.mirror],
            "storage-driver": driver,
            "features": {"containerd-snapshotter": told.store == Store::Containerd},
        });
        let file = directory.path().join("daemon.json");
        fs::write(&file, settings.to_string())?;
        let mut command = system.command("dockerd")?;
        command.env("SSL_CERT_FILE", told.authorities);
        command.env("HOME", directory.path());
        for flag in [
            "bridge=none",
            "iptables=false",
            "ip-forward=false",
            "ip-masq=false",
        ] {
            command.arg(format!("--{flag}"));
        }
        let place = |name: &str| directory.path().join(name).display().to_string();
        command.arg("--config-file").arg(&file);
        command.arg("--data-root").arg(data.join("data"));
        command.args(["--exec-root", &place("exec"), "--pidfile", &place("pid")]);
        command.arg(format!("--host=unix://{}", place("socket")));
        let log = scene.path(format!("{name}.log"));
        let process = Process::start(name, command, &log)?.polite();
        let blobs = "data/containerd/daemon/io.containerd.content.v1.content/blobs/sha256";
        let blobs = (told.store == Store::Containerd).then(|| data.join(blobs));
        Self::answering(process, directory, blobs).await
    }

    async fn answering(
        process: Process,
        directory: TempDir,
        blobs: Option<PathBuf>,
    ) -> Result<Self> {
        let dockerd = Self {
            process,
            directory,
            blobs,
        };
        wait::until("dockerd answers", async || dockerd.get("/info").await.ok()).await?;
        Ok(dockerd)
    }

    /// A command beside it, which sees what it sees.
    pub fn beside(&self, program: &Path) -> Result<Command> {
        let unshare = self.process.id();
        let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"))?;
        let daemon = children.split_whitespace().next();
        let mut command = Command::new(place::required_tool("nsenter")?);
        command.args(["--target", daemon.context("no dockerd")?]);
        command.args(["--mount", "--pid"]).arg(program);
        Ok(command)
    }

    /// The mirrors that it asks.
    pub async fn mirrors(&self) -> Result<Vec<String>> {
        let info = self.get("/info").await?;
        let info: Value = serde_json::from_str(&info)?;
        let mirrors = info["RegistryConfig"]["Mirrors"].as_array();
        let mirrors = mirrors.into_iter().flatten().filter_map(Value::as_str);
        Ok(mirrors.map(str::to_owned).collect())
    }

    /// Pulls an image of Docker Hub.
    pub async fn pull(&self, repository: &str, tag: &str) -> Result<()> {
        let path = format!("/images/create?fromImage={repository}&tag={tag}");
        let told = self.ask("POST", &path, "").await?;
        ensure!(told.contains("Downloaded newer image"), "{told}");
        Ok(())
    }

    /// Pulls an image with credentials, as `docker login` has left them: `alice:password`. Says what
    /// dockerd said.
    pub async fn pull_as(&self, image: &str, tag: &str, login: &str) -> Result<String> {
        let (user, password) = login.split_once(':').context("a user and a password")?;
        let login = serde_json::json!({"username": user, "password": password}).to_string();
        let login = BASE64_URL_SAFE.encode(login);
        let path = format!("/images/create?fromImage={image}&tag={tag}");
        let header = format!("X-Registry-Auth: {login}\r\n");
        self.ask("POST", &path, &header).await
    }

    /// Pulls an image of Docker Hub by a tag or digest, as somebody or as nobody; fails with what
    /// dockerd said.
    pub async fn pull_image(
        &self,
        repository: &str,
        reference: &str,
        login: Option<(&str, &str)>,
    ) -> Result<()> {
        let told = match login {
            Some((user, password)) => {
                let login = format!("{user}:{password}");
                self.pull_as(repository, reference, &login).await?
            }
            None => {
                let path = format!("/images/create?fromImage={repository}&tag={reference}");
                self.ask("POST", &path, "").await?
            }
        };
        ensure!(!told.contains("\"errorDetail\""), "{told}");
        Ok(())
    }

    /// Whether it has an image.
    pub async fn has(&self, reference: &str) -> bool {
        self.get(&format!("/images/{reference}/json")).await.is_ok()
    }

    /// Checks that an image is there and the right one: what it calls itself is a digest that it
    /// has made of it; of containerd's store, all bytes.
    pub async fn check(&self, image: &Image, reference: &str) -> Result<()> {
        let told = self.get(&format!("/images/{reference}/json")).await?;
        let told: Value = serde_json::from_str(&told)?;
        let id = told["Id"].as_str().context("no id")?;
        let wanted = match self.blobs {
            None => image.own_config()?.digest.to_string(),
            Some(_) => image.digest.to_string(),
        };
        ensure!(id == wanted, "it is {id}, not {wanted}");
        let layers = told["RootFS"]["Layers"].as_array().map_or(0, Vec::len);
        ensure!(layers == image.own_layers()?.len(), "{layers} layers");
        let Some(blobs) = &self.blobs else {
            return Ok(());
        };
        for blob in image.own_layers()? {
            let path = blobs.join(blob.digest.hex());
            let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
            ensure!(blob.digest.matches(&bytes), "{} is wrong", path.display());
        }
        Ok(())
    }

    /// Removes an image and waits until its layers are gone, so that the next pull is a pull.
    pub async fn remove(&self, image: &Image, reference: &str) -> Result<()> {
        let path = format!("/images/{reference}?force=true");
        self.ask("DELETE", &path, "").await?;
        let Some(blobs) = &self.blobs else {
            return Ok(());
        };
        wait::until_true("dockerd drops what it removed", || {
            let mut files = image.blobs.iter().map(|blob| blobs.join(blob.digest.hex()));
            !files.any(|file| file.exists())
        })
        .await
    }

    async fn get(&self, path: &str) -> Result<String> {
        self.ask("GET", path, "").await
    }

    async fn ask(&self, method: &str, path: &str, headers: &str) -> Result<String> {
        let socket: PathBuf = self.directory.path().join("socket");
        let mut stream = UnixStream::connect(socket).await?;
        let request = format!("{method} {path} HTTP/1.0\r\nHost: docker\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        ensure!(head.contains(" 200 "), "{method} {path}: {answer}");
        Ok(body.to_owned())
    }
}
