//! dockerd as a daemon of its own, in namespaces in which it is the only one and /etc/docker is that
//! of a host in a directory.

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

use crate::process::Process;
use crate::scene::Scene;
use crate::{place, wait};

/// A running dockerd, with the graphdriver store.
#[derive(Debug)]
pub struct Dockerd {
    // In this order: the process ends before its directory goes.
    process: Process,
    directory: TempDir,
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
        let dockerd = Self { process, directory };
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
