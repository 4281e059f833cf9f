//! A disk forgets: the scrub finds it and has the content again from another node, without upstream
//! and without a client noticing.

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use darner_e2e::client::{Client, SOURCE};
use darner_e2e::cluster::{Cluster, join_with, mirror_settings, seeds};
use darner_e2e::upstream::{NAME, Upstream};
use darner_e2e::{scene, wait};
use darner_proto::digest::Digest;

/// Turns a bit in the middle of a file, as a disk does.
fn rot(path: &Path) -> Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let middle = file.metadata()?.size() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle)?;
    file.write_all_at(&[byte[0] ^ 1], middle)?;
    Ok(file.sync_all()?)
}

fn is_right(path: &Path, digest: &Digest) -> bool {
    std::fs::read(path).is_ok_and(|bytes| digest.matches(&bytes))
}

#[test]
fn what_a_disk_has_lost_is_had_again_from_another_node() {
    scene::run("scrub", async |scene| {
        let mut upstream = Upstream::start(scene).await?;
        let cluster = Cluster::start(scene, &upstream, seeds(1)).await?;
        let settings = mirror_settings(scene, &upstream, "scrubbed")?
            .set("store.scrub_every", "1s")
            .set("store.scrub_share", 50);
        let mirror = join_with(scene, &cluster.manager, settings, ("mirror", "scrubbed")).await?;
        let client = Client::new(&mirror, NAME)?;
        let image = upstream.images.middle.clone();
        client.pull(&image).await?;
        let blob = image.largest()?;
        let store = scene.path("data-scrubbed/store");
        let path = |digest: &Digest| store.join("blobs/sha256").join(digest.hex());
        wait::until_true("the blob is kept", || path(&blob.digest).exists()).await?;

        // A layer, and the manifest itself.
        upstream.off();
        for digest in [&blob.digest, &image.digest] {
            let path = path(digest);
            rot(&path).with_context(|| path.display().to_string())?;
            ensure!(!is_right(&path, digest));
            wait::until_true("it is right again", || is_right(&path, digest)).await?;
            let aside = store.join(format!("quarantine/sha256-{}", digest.hex()));
            ensure!(aside.exists(), "{} is not set aside", aside.display());
        }
        let metrics = mirror.metrics().await?;
        let repaired = metrics.sum("darner_store_repairs_total", "outcome=\"repaired\"");
        ensure!(repaired >= 1.0, "{repaired} repaired");
        ensure!(metrics.require("darner_store_quarantined_total")? == 2.0);
        ensure!(metrics.require("darner_store_scrubbed_bytes_total")? >= image.bytes() as f64);
        let path = format!("{}/blobs/{}", image.repository, blob.digest);
        let answer = client.get(&path).await?;
        let source = answer.headers.get(SOURCE).context("no source")?;
        ensure!(source == "store", "{source:?}");
        ensure!(blob.digest.matches(&answer.body));
        Ok(())
    });
}
