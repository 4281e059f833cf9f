//! What a job says is so: of each node's disk, and of how fast it may be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use darner_e2e::client::Client;
use darner_e2e::cluster::{Cluster, seeds};
use darner_e2e::image::{Image, of_size};
use darner_e2e::operator::told;
use darner_e2e::place;
use darner_e2e::preheating::{SLOW, begin, begin_with, name, operated, sum, until};
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::{NAME, Upstream};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use serde_json::Value;

/// Ten processes, whose every byte is looked at again and again.
const LIMIT: Duration = Duration::from_secs(180);

/// Bytes that are in the files of a node's store: whole blobs, and what has come of others. Space that
/// is set aside and not yet written to does not count.
fn on_disk(scene: &Scene, node: &str) -> Result<u64> {
    let store = scene.path(format!("data-{node}/store"));
    let mut bytes = 0;
    for place in ["blobs/sha256", "partial"] {
        for entry in std::fs::read_dir(store.join(place)).into_iter().flatten() {
            // A download that ends while this looks has another name by now: counted the next time.
            if let Ok(file) = File::open(entry?.path()) {
                bytes += written(&file)?;
            }
        }
    }
    Ok(bytes)
}

/// Bytes of a file that somebody has written.
fn written(file: &File) -> Result<u64> {
    let (mut bytes, mut at) = (0, 0);
    loop {
        match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(begin) => {
                at = rustix::fs::seek(file, SeekFrom::Hole(begin))?;
                bytes += at - begin;
            }
            Err(Errno::NXIO) => return Ok(bytes),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What a job has said of the nodes so far.
#[derive(Debug, Default)]
struct Told {
    bytes: BTreeMap<String, u64>,
    /// Of layers on their way, by node.
    layers: BTreeMap<(String, String), u64>,
    done: BTreeSet<String>,
}

impl Told {
    /// What a job says of each node is never less than before, is not more than is there, and where
    /// it says for the first time that all is done every blob is there.
    fn look(&mut self, scene: &Scene, job: &Value, image: &Image) -> Result<()> {
        for item in job["items"].as_array().context("no items")? {
            let node = item["node"].as_str().context("no node")?;
            let claimed = item["bytes"].as_u64().context("no bytes")?;
            let before = self.bytes.insert(node.to_owned(), claimed);
            ensure!(before <= Some(claimed), "{before:?}, then {item}");
            self.layers(node, item, image)?;
            // Downloads change their names as they end.
            let mut there = on_disk(scene, node)?;
            if there < claimed {
                there = on_disk(scene, node)?;
            }
            ensure!(there >= claimed, "{node} has {there} bytes on disk: {item}");
            if item["state"] == "done" && self.done.insert(node.to_owned()) {
                ensure!(claimed == image.bytes(), "{item}");
                is_whole(scene, node, image)?;
            }
        }
        Ok(())
    }
}

impl Told {
    /// What is said of layers on their way is of the image's, never less than before, and part of what the
    /// node holds.
    fn layers(&mut self, node: &str, item: &Value, image: &Image) -> Result<()> {
        let mut sum = 0;
        for layer in item["coming"].as_array().into_iter().flatten() {
            let digest = layer["digest"].as_str().context("no digest")?;
            let blob = image.blobs.iter();
            let mut blob = blob.filter(|blob| blob.digest.to_string() == digest);
            let blob = blob.next().context("a layer of another image")?;
            ensure!(layer["total_bytes"] == blob.size, "{layer}");
            let bytes = layer["bytes"].as_u64().context("no bytes")?;
            let before = self
                .layers
                .insert((node.to_owned(), digest.to_owned()), bytes);
            ensure!(
                before <= Some(bytes) && bytes <= blob.size,
                "{before:?}, then {layer}"
            );
            sum += bytes;
        }
        ensure!(sum <= item["bytes"].as_u64().unwrap_or(0), "{item}");
        ensure!(sum == 0 || item["state"] == "running", "{item}");
        Ok(())
    }
}

/// Every blob is on a node, with its digest.
fn is_whole(scene: &Scene, node: &str, image: &Image) -> Result<()> {
    let blobs = scene.path(format!("data-{node}/store/blobs/sha256"));
    for blob in image.manifests.iter().chain(&image.blobs) {
        let bytes = std::fs::read(blobs.join(blob.digest.hex()));
        let bytes = bytes.with_context(|| format!("{} of {node}", blob.digest))?;
        ensure!(blob.digest.matches(&bytes), "{} of {node}", blob.digest);
    }
    Ok(())
}

/// An upstream, and the image of it that is brought to nodes: e2e/bench makes one of a gigabyte, and lets it
/// come as fast as it can.
async fn supply(scene: &Scene) -> Result<(Upstream, Image)> {
    let Some(mib) = place::setting("DARNER_IMAGE_MIB") else {
        let upstream = Upstream::start(scene).await?;
        upstream.throttle(Some(4 * SLOW));
        let image = upstream.images.middle.clone();
        return Ok((upstream, image));
    };
    let (registry, image) = of_size(&scene.path(""), mib.parse()?).await?;
    Ok((Upstream::before(scene, registry).await?, image))
}

#[test]
fn what_a_job_says_of_eight_nodes_is_on_their_disks() {
    scene::run_for("preheat_honest", LIMIT, async |scene| {
        let (upstream, image) = supply(scene).await?;
        let image = &image;
        let cluster = Cluster::start(scene, &upstream, seeds(2).mirrors(6)).await?;
        let _cluster = operated(scene, cluster).await?;
        let id = begin(scene, &name(image))?;
        let (mut seen, mut looks, began) = (Told::default(), 0, Instant::now());
        let ended = loop {
            let job = told(scene, &["job", "show", &id])?;
            seen.look(scene, &job, image)?;
            if job["phase"] != "running" {
                break job;
            }
            looks += 1;
        };
        ensure!(ended["phase"] == "done", "{ended}");
        ensure!(looks > 3, "it ended after {looks} looks");
        ensure!(seen.done.len() == 8, "{seen:?}");
        ensure!(seen.layers.values().any(|bytes| *bytes > 0), "{seen:?}");
        let ratio = upstream.ledger().ratio(image);
        let (mib, took) = (image.bytes() >> 20, began.elapsed());
        println!("{mib} MiB to 8 nodes in {took:.1?}, upstream {ratio:.3}, {looks} looks");
        ensure!(ratio == 1.0, "{ratio}:\n{}", upstream.ledger().describe());
        Ok(())
    });
}

/// One node: what one reads for another that is limited comes at its own speed.
#[test]
fn a_job_takes_in_no_more_than_it_may() {
    scene::run("preheat_rate", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let cluster = Cluster::start(scene, &upstream, seeds(1)).await?;
        let cluster = operated(scene, cluster).await?;
        let image = &upstream.images.middle;
        let (rate, begun) = (1 << 20, Instant::now());
        let limited = [&name(image), "--to", "seeds", "--rate", "1MiB"];
        let id = begin_with(scene, &limited)?;
        let job = told(scene, &["job", "show", &id])?;
        ensure!(job["bytes_per_second"] == rate, "{job}");
        until(scene, &id, "some seconds at that rate", |job| {
            let most = rate * (begun.elapsed().as_secs() + 2);
            assert!(sum(job, "bytes") <= most, "more than {most}: {job}");
            sum(job, "bytes") > 0 && begun.elapsed() > Duration::from_secs(4)
        })
        .await?;
        // A client is not held back by it, on the same node and for the same blobs.
        let least = Duration::from_secs(image.bytes() / rate) / 2;
        let begun = Instant::now();
        Client::new(&cluster.seeds[0], NAME)?.pull(image).await?;
        let pulled = begun.elapsed();
        let waited = told(scene, &["job", "wait", &id])?;
        ensure!(waited["phase"] == "done", "{waited}");
        ensure!(
            pulled < least,
            "the client waited for {pulled:?} of {least:?}"
        );
        Ok(())
    });
}
