//! skopeo, which shares its library with podman, buildah and CRI-O: names the registry in the path
//! and does not forgive a mirror that cannot deliver what it promised.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::image::Image;
use crate::scene::Scene;
use crate::system::System;
use crate::{place, process};

/// skopeo with one mirror.
#[derive(Debug)]
pub struct Skopeo {
    directory: PathBuf,
    registries: PathBuf,
    logins: PathBuf,
    system: System,
}

impl Skopeo {
    /// skopeo that takes `registry` from the mirror at `address` (`host:port`).
    pub fn new(scene: &Scene, name: &str, registry: &str, address: &str) -> Result<Self> {
        let directory = scene.make_directory(name)?;
        let registries = directory.join("registries.conf");
        let text = format!(
            "[[registry]]\nprefix = \"{registry}\"\nlocation = \"{registry}\"\n\
             [[registry.mirror]]\nlocation = \"{address}/{registry}\"\ninsecure = true\n"
        );
        fs::write(&registries, text)?;
        Ok(Self {
            logins: directory.join("no-auth.json"),
            directory,
            registries,
            system: System::here(),
        })
    }

    /// A system's, with a file of registries.
    pub fn of(system: &System, scene: &Scene, name: &str, registries: &Path) -> Result<Self> {
        let directory = scene.make_directory(name)?;
        Ok(Self {
            logins: directory.join("no-auth.json"),
            directory,
            registries: registries.to_owned(),
            system: system.clone(),
        })
    }

    /// The same with a file of logins.
    pub fn with_logins(&self, logins: &Path) -> Self {
        Self {
            directory: self.directory.clone(),
            registries: self.registries.clone(),
            logins: logins.to_owned(),
            system: self.system.clone(),
        }
    }

    /// Copies an image into a directory and checks it there, byte for byte. Of an index, all
    /// platforms.
    pub async fn copy(&self, image: &Image, reference: &str) -> Result<()> {
        self.remove()?;
        let out = self.directory.join("image");
        let mut command = self.system.command("skopeo")?;
        command.arg("--registries-conf").arg(&self.registries);
        command.args(["--insecure-policy", "copy", "--quiet", "--all"]);
        command.arg("--preserve-digests");
        command.arg(format!("docker://{reference}"));
        command.arg(format!("dir:{}", out.display()));
        command.env("REGISTRY_AUTH_FILE", &self.logins);
        command.env("HOME", &self.directory);
        process::run(command).await?;
        check(image, &out)
    }

    /// Removes what is there.
    pub fn remove(&self) -> Result<()> {
        let out = self.directory.join("image");
        if out.exists() {
            fs::remove_dir_all(&out)?;
        }
        Ok(())
    }

    /// Whether an image is there, whole or not.
    pub fn has_any(&self) -> bool {
        self.directory.join("image/manifest.json").exists()
    }
}

/// To copy an image to `out` as a skopeo does whose settings are in `root`/etc/containers.
pub fn copy_on(root: &Path, reference: &str, out: &Path) -> Result<Command> {
    let mut command = Command::new(place::required_tool("unshare")?);
    command.args(["--mount", "sh", "-ec"]);
    command.arg(
        "mount --bind \"$1\" /etc/containers\n\
         exec skopeo --insecure-policy copy --quiet \"docker://$2\" \"dir:$3\"",
    );
    command.arg("sh").arg(root.join("etc/containers"));
    command.arg(reference).arg(out);
    Ok(command)
}

fn check(image: &Image, out: &Path) -> Result<()> {
    for blob in &image.blobs {
        let path = out.join(blob.digest.hex());
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        ensure!(blob.digest.matches(&bytes), "{} is wrong", path.display());
    }
    let manifest = fs::read(out.join("manifest.json"))?;
    ensure!(image.digest.matches(&manifest), "another manifest");
    Ok(())
}
