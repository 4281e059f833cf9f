//! Which nodes hold which images, as people are told: by the command, and by the API behind it.

use anyhow::{Context as _, Result, ensure};
use darner_e2e::client::Client;
use darner_e2e::cluster::{Cluster, seeds};
use darner_e2e::darner::Darner;
use darner_e2e::image::Image;
use darner_e2e::operator::{self, ask, told};
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::{NAME, Upstream};
use darner_e2e::wait;
use serde_json::Value;

/// Waits until the command tells of `image` on so many nodes, whole on so many.
async fn until_told(scene: &Scene, image: &Image, nodes: u64, whole: u64) -> Result<Value> {
    let what = format!("{} on {nodes} nodes, whole on {whole}", image.repository);
    let name = format!("{NAME}/{}:{}", image.repository, image.tag);
    let found = wait::until(&what, async || {
        let images = told(scene, &["images", &name]).ok()?;
        let images = images.as_array()?.clone();
        let mut these = images.into_iter();
        these.find(|one| one["nodes"] == nodes && one["complete_nodes"] == whole)
    });
    found.await
}

#[test]
fn people_are_told_which_nodes_hold_which_images() {
    scene::run("images", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let mut cluster = Cluster::start(scene, &upstream, seeds(1).mirrors(2)).await?;
        operator::set_up(scene, &cluster.manager)?;
        let image = &upstream.images.middle;
        let nothing = told(scene, &["images"])?;
        ensure!(nothing.as_array().is_some_and(Vec::is_empty), "{nothing}");

        Client::new(&cluster.mirrors[0], NAME)?.pull(image).await?;
        // The seed has read it for the mirror.
        let found = until_told(scene, image, 2, 2).await?;
        ensure!(found["digest"] == image.digest.to_string(), "{found}");
        ensure!(found["size_bytes"] == image.bytes(), "{found}");
        ensure!(found["private"] == false, "{found}");

        // A layer more on the other node.
        let client = Client::new(&cluster.mirrors[1], NAME)?;
        let manifest = format!("{}/manifests/{}", image.repository, image.tag);
        let answer = client.get(&manifest).await?;
        ensure!(answer.status == 200, "{}", answer.describe());
        client.blob(image, image.largest()?).await?;
        let found = until_told(scene, image, 3, 2).await?;
        let digest = found["digest"].as_str().context("no digest")?;
        let shares = wait::until("one layer to be told", async || {
            let nodes = told(scene, &["images", "nodes", digest]).ok()?;
            let nodes = nodes.as_array()?.clone();
            let partly = nodes.iter().find(|node| node["complete"] == false)?;
            let held = partly["blobs"]
                .as_array()?
                .iter()
                .filter(|held| **held == true);
            (partly["node"] == "mirror-2" && held.count() == 1).then(|| partly.clone())
        });
        let share = shares.await?;
        ensure!(share["held_bytes"] == image.largest()?.size, "{share}");
        let shown = told(scene, &["images", "show", digest])?;
        ensure!(
            shown["blobs"].as_array().map(Vec::len) == Some(image.blobs.len()),
            "{shown}"
        );
        let table = ask(scene, &["images", "--node", "mirror-2"], "")?;
        let table = String::from_utf8(table.stdout)?;
        ensure!(
            table.contains(digest) && table.starts_with("IMAGE"),
            "{table}"
        );

        // A manager that starts again is told anew, and who has gone holds nothing.
        cluster.manager.stop().await?;
        cluster.manager.restart().await?;
        until_told(scene, image, 3, 2).await?;
        cluster.mirrors[0].stop().await?;
        until_told(scene, image, 2, 1).await?;
        Ok(())
    });
}

/// How many of an image's manifests and blobs are in a node's store, by its disk.
fn held(scene: &Scene, node: &Darner, image: &Image) -> usize {
    let blobs = scene.path(format!("data-{}/store/blobs/sha256", node.name()));
    let all = image.manifests.iter().chain(&image.blobs);
    all.filter(|blob| blobs.join(blob.digest.hex()).exists())
        .count()
}

/// Removes everywhere; the seed has gone meanwhile and is back.
#[test]
fn an_image_is_removed_everywhere_and_upstream_is_asked_anew() {
    scene::run("images_removed", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let mut cluster = Cluster::start(scene, &upstream, seeds(1).mirrors(2)).await?;
        operator::set_up(scene, &cluster.manager)?;
        let (image, other) = (&upstream.images.middle, &upstream.images.tiny);
        cluster.pull_everywhere(image).await?;
        cluster.pull_everywhere(other).await?;
        let found = until_told(scene, image, 3, 3).await?;
        until_told(scene, other, 3, 3).await?;
        let digest = found["digest"].as_str().context("no digest")?;
        upstream.read_once(image)?;

        cluster.seeds[0].stop().await?;
        until_told(scene, image, 2, 2).await?;
        let all = image.manifests.len() + image.blobs.len();
        for node in &cluster.mirrors {
            let held = held(scene, node, image);
            ensure!(held == all, "{} holds {held} of {all}", node.name());
        }
        let removed = told(scene, &["images", "rm", digest, "--wait"])?;
        ensure!(removed["done"] == 2 && removed["nodes"] == 2, "{removed}");
        for node in &cluster.mirrors {
            ensure!(held(scene, node, image) == 0, "{} holds some", node.name());
        }
        // It was away, and does it now that it is back.
        cluster.seeds[0].restart().await?;
        let done = wait::until("the seed to remove it, too", async || {
            let all = told(scene, &["images", "removals"]).ok()?;
            let this = all
                .as_array()?
                .iter()
                .find(|one| one["number"] == removed["number"])?
                .clone();
            (this["done"] == 3 && this["nodes"] == 3).then_some(())
        });
        done.await?;
        wait::until("nobody to hold it", async || {
            let images = told(scene, &["images", "--digest", digest]).ok()?;
            images.as_array()?.is_empty().then_some(())
        })
        .await?;
        until_told(scene, other, 3, 3).await?;
        let again = ask(scene, &["images", "rm", digest], "")?;
        ensure!(again.status.code() == Some(1), "{again:?}");

        // Who pulls it now has it read again, once for all.
        let before = upstream.ledger().blob_bytes(image);
        cluster.pull_everywhere(image).await?;
        let read = upstream.ledger().blob_bytes(image) - before;
        ensure!(
            read == image.bytes(),
            "{read} of {} bytes were read anew",
            image.bytes()
        );
        until_told(scene, image, 3, 3).await?;

        // One layer alone, which the image needs: it is had again.
        let layer = image.blobs.last().context("no layer")?;
        let removed = told(scene, &["tasks", "rm", &layer.digest.to_string(), "--wait"])?;
        ensure!(removed["done"] == 3, "{removed}");
        for node in cluster.mirrors.iter().chain(&cluster.seeds) {
            ensure!(held(scene, node, image) == all - 1, "{}", node.name());
        }
        cluster.pull_everywhere(image).await?;
        let again = upstream.ledger().blob_bytes(image) - before - read;
        ensure!(again == layer.size, "{again} bytes were read anew");
        Ok(())
    });
}
