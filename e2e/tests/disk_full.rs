//! Disk full: pulls go on without caching.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use darner_e2e::client::Client;
use darner_e2e::cluster::{in_plain_text, up_settings};
use darner_e2e::darner::Darner;
use darner_e2e::process;
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::{NAME, Upstream};

/// A small file system of its own for a data directory. Gone when dropped.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    async fn mount(path: &Path, mebibytes: u32) -> Result<Self> {
        let mut command = Command::new("mount");
        command.args([
            "-t",
            "tmpfs",
            "-o",
            &format!("size={mebibytes}m,mode=700"),
            "tmpfs",
        ]);
        command.arg(path);
        let mounted = process::run(command).await;
        mounted.context("a small file system can only be mounted by root")?;
        Ok(Self {
            path: path.to_owned(),
        })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .args(["--lazy"])
            .arg(&self.path)
            .status();
    }
}

/// `cuts` is whether a client may see its connection break and go on from there, as when the disk
/// turns out to be full in the middle of a blob.
async fn pull_on_a_small_disk(scene: &Scene, capacity: Option<&str>, cuts: bool) -> Result<()> {
    let upstream = Upstream::start(scene).await?;
    let mut settings = up_settings(scene, &upstream)?;
    if let Some(capacity) = capacity {
        settings = settings.set("store.capacity", capacity);
    }
    let disk = SmallDisk::mount(&scene.path("data-up"), 8).await?;
    let mut up = Darner::start(scene, "up", "up", &settings).await?;
    let client = Client::new(&up, NAME)?;
    let image = &upstream.images.middle;
    ensure!(
        image.largest()?.size > 8 << 20,
        "the image is too small for this test"
    );
    for round in ["first", "second"] {
        let pulled = client.pull(image).await;
        let pulled = pulled.with_context(|| format!("{round} pull on a full disk"))?;
        ensure!(cuts || pulled.cuts == 0, "{round}: {pulled:?}");
    }
    // What fits is kept all the same.
    client.pull(&upstream.images.tiny).await?;
    let sent = upstream.ledger().blob_bytes(&upstream.images.tiny);
    client.pull(&upstream.images.tiny).await?;
    ensure!(
        upstream.ledger().blob_bytes(&upstream.images.tiny) == sent,
        "nothing is kept"
    );
    ensure!(up.is_running());
    up.stop().await?;
    drop(disk);
    Ok(())
}

#[test]
fn a_blob_larger_than_the_capacity_is_passed_through() {
    scene::run("disk_small_capacity", async |scene| {
        pull_on_a_small_disk(scene, None, false).await
    });
}

#[test]
fn a_disk_that_is_full_before_the_capacity_is_reached_stops_no_pull() {
    scene::run("disk_full", async |scene| {
        pull_on_a_small_disk(scene, Some("1GiB"), true).await
    });
}

#[test]
fn a_mirror_starts_on_a_full_disk_and_pulls_go_on() {
    scene::run("disk_full_start", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let settings = in_plain_text(up_settings(scene, &upstream)?);
        let path = scene.path("data-up");
        let disk = SmallDisk::mount(&path, 8).await?;
        let mut mirror = Darner::start(scene, "mirror", "mirror", &settings).await?;
        let image = &upstream.images.tiny;
        Client::new(&mirror, NAME)?.pull(image).await?;
        mirror.stop().await?;
        fill(&path.join("of-somebody-else"))?;
        mirror.restart().await?;
        // What it held may have made room: the disk is not for the store alone.
        for image in [image, &upstream.images.middle] {
            Client::new(&mirror, NAME)?.pull(image).await?;
        }
        mirror.stop().await?;
        drop(disk);
        Ok(())
    });
}

/// Writes until nothing more fits.
fn fill(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    for size in [1 << 20, 4 << 10, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    let error = file.write_all(b"x").err().context("there is room left")?;
    ensure!(error.kind() == ErrorKind::StorageFull, "{error}");
    Ok(())
}
