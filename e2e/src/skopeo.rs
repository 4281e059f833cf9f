//! skopeo, which shares its library with podman, buildah and CRI-O: names the registry in the path
//! and does not forgive a mirror that cannot deliver what it promised.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::image::Image;
use crate::scene::Scene;
use crate::{place, process};

/// skopeo with one mirror.
#[derive(Debug)]
pub struct Skopeo {
    directory: PathBuf,
    registries: PathBuf,
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
            directory,
            registries,
        })
    }

    /// Keeps an account (`user:password`, in base64) under a place: a host, or a path of it.
    pub fn keep(&self, place: &str, account: &str) -> Result<()> {
        let text = format!("{{\"auths\": {{\"{place}\": {{\"auth\": \"{account}\"}}}}}}");
        Ok(fs::write(self.accounts(), text)?)
    }

    fn accounts(&self) -> PathBuf {
        self.directory.join("auth.json")
    }

    /// Copies an image into a directory and checks it there, byte for byte. Of an index, all
    /// platforms.
    pub async fn copy(&self, image: &Image, reference: &str) -> Result<()> {
        let out = self.directory.join("image");
        if out.exists() {
            fs::remove_dir_all(&out)?;
        }
        let mut command = Command::new(place::required_tool("skopeo")?);
        command.arg("--registries-conf").arg(&self.registries);
        command.args(["--insecure-policy", "copy", "--quiet", "--all"]);
        command.arg("--preserve-digests");
        command.arg(format!("docker://{reference}"));
        command.arg(format!("dir:{}", out.display()));
        command.env("REGISTRY_AUTH_FILE", self.accounts());
        command.env("HOME", &self.directory);
        process::run(command).await?;
        check(image, &out)
    }
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
