//! Whose programs a test runs: those of this machine, or those of a newer Debian release that
//! e2e/install has unpacked beside it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{place, process};

/// A Debian release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// What this machine runs, which is Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
    /// What becomes the next one.
    Forky,
}

impl Release {
    /// All of them, the oldest first.
    pub const ALL: [Self; 3] = [Self::Bookworm, Self::Trixie, Self::Forky];

    fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Forky => "forky",
        }
    }
}

/// Programs of a release, in a mount namespace where all of a test's own files and sockets are
/// where they are outside.
#[derive(Debug, Clone)]
pub struct System {
    release: Release,
    hosts: Option<PathBuf>,
}

/// In this machine's own system. Arguments: a hosts file, the program and its arguments.
const HERE: &str = r#"
    mount -t tmpfs tmpfs /run
    mkdir -p /etc/docker
    mount -t tmpfs tmpfs /etc/docker
    mount --bind "$1" /etc/hosts
    shift
    exec "$@"
"#;
/// In the directory that is the second argument; build directory and temporary directory come after.
const BESIDE: &str = r#"
    hosts=$1 root=$2 target=$3 temporary=$4
    shift 4
    mount --bind "$root" "$root"
    cd "$root"
    for directory in proc sys dev; do mount --rbind /$directory $directory; done
    mount -t tmpfs tmpfs run
    mkdir -p ".$target" ".$temporary"
    mount --bind "$target" ".$target"
    mount --bind "$temporary" ".$temporary"
    mount --bind "$hosts" etc/hosts
    exec chroot . "$@"
"#;

impl System {
    /// This machine's, in no namespace.
    pub const fn here() -> Self {
        Self {
            release: Release::Bookworm,
            hosts: None,
        }
    }

    /// A release's, with names as in the file `hosts`.
    pub fn of(release: Release, hosts: &Path) -> Self {
        Self {
            release,
            hosts: Some(hosts.to_owned()),
        }
    }

    /// To run `program`, which has its usual name.
    pub fn command(&self, program: &str) -> Result<Command> {
        let Some(hosts) = &self.hosts else {
            return Ok(Command::new(place::required_tool(program)?));
        };
        let mut command = Command::new(place::required_tool("unshare")?);
        command.args(["--mount", "--propagation", "private", "sh", "-ec"]);
        if self.release == Release::Bookworm {
            command.arg(HERE).arg("sh").arg(hosts);
            command.arg(place::required_tool(program)?);
        } else {
            let root = self.root()?;
            command.arg(BESIDE).arg("sh").arg(hosts).arg(root);
            command.arg(place::target()?).arg(std::env::temp_dir());
            command.arg(program);
        }
        // Its own, since the release has its programs there.
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        Ok(command)
    }

    /// What a program says its version is: the first that looks like one.
    pub async fn version(&self, program: &str) -> Result<String> {
        let mut command = self.command(program)?;
        command.arg("--version");
        let output = process::run(command).await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut words = said.split(|byte: char| byte.is_whitespace() || byte == ',');
        let version = words.find(|word| {
            let word = word.trim_start_matches('v');
            word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.')
        });
        let version = version.with_context(|| format!("{program} says {said}"))?;
        let end = version.find(['~', '+']).unwrap_or(version.len());
        Ok(version[..end].to_owned())
    }

    fn root(&self) -> Result<PathBuf> {
        let unpacked = format!("tools/clients-{CLIENTS}/{}", self.release.name());
        let root = place::target()?.join(unpacked);
        let whole = root.join("complete").exists();
        ensure!(
            whole,
            "{} is not there; run e2e/install as root",
            root.display()
        );
        Ok(root.canonicalize()?)
    }
}

/// As in e2e/install.
const CLIENTS: u32 = 1;

/// Whether the file system of `directory` can carry overlays; inside a container, say, it cannot.
pub async fn has_overlay(directory: &Path) -> Result<bool> {
    let probe = directory.join("probe");
    for part in ["lower", "upper", "work", "merged"] {
        std::fs::create_dir_all(probe.join(part))?;
    }
    let mut mount = Command::new("mount");
    mount
        .current_dir(&probe)
        .args(["-t", "overlay", "overlay", "-o"]);
    mount.args(["lowerdir=lower,upperdir=upper,workdir=work", "merged"]);
    if !process::finish(mount).await?.status.success() {
        return Ok(false);
    }
    let mut umount = Command::new("umount");
    umount.arg(probe.join("merged"));
    process::run(umount).await?;
    Ok(true)
}
