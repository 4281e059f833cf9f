//! Images are on nodes before anybody pulls them.

use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use darner_e2e::client::{Client, SOURCE};
use darner_e2e::cluster::{Cluster, seeds};
use darner_e2e::image::Image;
use darner_e2e::operator::{self, ask, told};
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::{NAME, Upstream};
use darner_e2e::wait;
use serde_json::Value;

/// Slow enough to be seen on its way.
const SLOW: u64 = 2 << 20;
/// Ten processes, whose every byte is looked at again and again.
const LIMIT: Duration = Duration::from_secs(180);

async fn cluster(scene: &Scene, upstream: &Upstream) -> Result<Cluster> {
    let cluster = Cluster::start(scene, upstream, seeds(2).mirrors(3)).await?;
    operator::set_up(scene, &cluster.manager)?;
    let members = async || {
        let nodes = told(scene, &["nodes"]).ok()?;
        (nodes.as_array()?.len() == 6).then_some(())
    };
    wait::until("every node to be a member", members).await?;
    Ok(cluster)
}

fn name(image: &Image) -> String {
    format!("{NAME}/{}:{}", image.repository, image.tag)
}

fn begin(scene: &Scene, image: &str) -> Result<String> {
    let job = told(scene, &["preheat", image])?;
    Ok(job["id"].as_str().context("no id")?.to_owned())
}

/// Looks at a job until `seen` likes it. Nothing may ever become less.
async fn until(
    scene: &Scene,
    id: &str,
    what: &str,
    seen: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let mut most = 0;
    let job = wait::until(what, async || {
        let job = told(scene, &["job", "show", id]).ok()?;
        let bytes = sum(&job, "bytes");
        assert!(bytes >= most, "{most} bytes, then {bytes}");
        most = bytes;
        seen(&job).then_some(job)
    });
    job.await
}

fn sum(job: &Value, key: &str) -> u64 {
    let items = job["items"].as_array().into_iter().flatten();
    items.filter_map(|item| item[key].as_u64()).sum()
}

/// Pulls through every mirror. Upstream is asked for nothing but what tags mean.
async fn pull_without_upstream(
    cluster: &Cluster,
    upstream: &Upstream,
    image: &Image,
) -> Result<()> {
    let before = upstream.ledger().blob_bytes(image);
    let asked = |upstream: &Upstream| {
        let blobs = image.blobs.iter();
        let asked = blobs.map(|blob| upstream.ledger().of_blob(&blob.digest).len());
        asked.sum::<usize>()
    };
    let requests = asked(upstream);
    for client in cluster.clients()? {
        for blob in &image.blobs {
            let answer = client.range(&image.blob_path(blob), "0-0").await?;
            ensure!(answer.headers[SOURCE] == "store", "{}", answer.describe());
        }
    }
    cluster.pull_everywhere(image).await?;
    ensure!(upstream.ledger().blob_bytes(image) == before);
    ensure!(asked(upstream) == requests, "upstream was asked for blobs");
    Ok(())
}

#[test]
fn an_image_is_on_every_node_and_upstream_was_read_once() {
    scene::run("preheat", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let cluster = cluster(scene, &upstream).await?;
        let image = &upstream.images.middle;
        let name = name(image);
        upstream.throttle(Some(SLOW));
        let id = begin(scene, &name)?;
        let whole = 5 * image.bytes();
        until(scene, &id, "progress", |job| {
            (1..whole).contains(&sum(job, "bytes")) && job["phase"] == "running"
        })
        .await?;
        upstream.throttle(None);
        let waited = told(scene, &["job", "wait", &id])?;
        ensure!(waited["phase"] == "done", "{waited}");
        ensure!(sum(&waited, "bytes") == whole, "{waited}");
        upstream.read_once(image)?;
        pull_without_upstream(&cluster, &upstream, image).await?;

        let again = told(scene, &["preheat", &name, "--wait"])?;
        ensure!(again["phase"] == "done", "{again}");
        upstream.read_once(image)?;

        let missing = format!("{NAME}/no/such:image");
        let failed = ask(scene, &["preheat", &missing, "--wait", "-o", "json"], "")?;
        ensure!(failed.status.code() == Some(1), "{failed:?}");
        let job: Value = serde_json::from_slice(&failed.stdout)?;
        ensure!(job["phase"] == "failed", "{job}");
        for item in job["items"].as_array().context("no items")? {
            ensure!(item["why"] == "upstream has no such image", "{item}");
        }
        let nobody = ask(scene, &["preheat", "r.test/A", "--wait"], "")?;
        ensure!(nobody.status.code() == Some(1), "{nobody:?}");
        Ok(())
    });
}

#[test]
fn a_manager_that_was_killed_finishes_its_jobs() {
    scene::run("preheat_manager", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let mut cluster = cluster(scene, &upstream).await?;
        let image = &upstream.images.middle;
        upstream.throttle(Some(SLOW));
        let id = begin(scene, &name(image))?;
        until(scene, &id, "progress", |job| sum(job, "bytes") > 0).await?;
        cluster.manager.kill()?;
        upstream.throttle(None);
        cluster.manager.restart().await?;
        let waited = told(scene, &["job", "wait", &id])?;
        ensure!(waited["phase"] == "done", "{waited}");
        let attempts = waited["items"].as_array().into_iter().flatten();
        let mut attempts = attempts.map(|item| item["attempt"].as_u64());
        ensure!(attempts.all(|attempt| attempt == Some(1)), "{waited}");
        upstream.read_once(image)?;
        pull_without_upstream(&cluster, &upstream, image).await
    });
}

#[test]
fn a_job_is_called_off_and_taken_up_again() {
    scene::run("preheat_cancel", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let cluster = cluster(scene, &upstream).await?;
        let image = &upstream.images.middle;
        upstream.throttle(Some(SLOW));
        let id = begin(scene, &name(image))?;
        until(scene, &id, "progress", |job| sum(job, "bytes") > 0).await?;
        let cancelled = ask(scene, &["job", "cancel", &id], "")?;
        ensure!(cancelled.status.success(), "{cancelled:?}");
        let job = told(scene, &["job", "show", &id])?;
        ensure!(job["phase"] == "cancelled", "{job}");
        let waited = ask(scene, &["job", "wait", &id], "")?;
        ensure!(waited.status.code() == Some(1), "{waited:?}");

        upstream.throttle(None);
        let retried = ask(scene, &["job", "retry", &id], "")?;
        ensure!(retried.status.success(), "{retried:?}");
        let waited = told(scene, &["job", "wait", &id])?;
        ensure!(waited["phase"] == "done", "{waited}");
        upstream.read_once(image)?;
        pull_without_upstream(&cluster, &upstream, image).await
    });
}

/// Bytes that the files of a node's store take on the disk: whole blobs, and what has come of others.
fn on_disk(scene: &Scene, node: &str) -> Result<u64> {
    let store = scene.path(format!("data-{node}/store"));
    let mut bytes = 0;
    for place in ["blobs/sha256", "partial"] {
        for entry in std::fs::read_dir(store.join(place)).into_iter().flatten() {
            // A download that ends while this looks has another name by now: counted the next time.
            let Ok(metadata) = entry?.metadata() else {
                continue;
            };
            bytes += metadata.blocks() * 512;
        }
    }
    Ok(bytes)
}

/// What a job says of each node is not more than is there, and where it says that all is done every
/// blob is there, whole and with its digest.
fn is_true(scene: &Scene, job: &Value, image: &Image) -> Result<()> {
    for item in job["items"].as_array().context("no items")? {
        let node = item["node"].as_str().context("no node")?;
        let claimed = item["bytes"].as_u64().context("no bytes")?;
        // Downloads change their names as they end.
        let mut there = on_disk(scene, node)?;
        if there < claimed {
            there = on_disk(scene, node)?;
        }
        ensure!(there >= claimed, "{node} has {there} bytes on disk: {item}");
        if item["state"] != "done" {
            continue;
        }
        ensure!(claimed == image.bytes(), "{item}");
        let blobs = scene.path(format!("data-{node}/store/blobs/sha256"));
        for blob in image.manifests.iter().chain(&image.blobs) {
            let bytes = std::fs::read(blobs.join(blob.digest.hex()));
            let bytes = bytes.with_context(|| format!("{} of {node}", blob.digest))?;
            ensure!(blob.digest.matches(&bytes), "{} of {node}", blob.digest);
        }
    }
    Ok(())
}

#[test]
fn what_a_job_says_of_eight_nodes_is_on_their_disks() {
    scene::run_for("preheat_honest", LIMIT, async |scene| {
        let upstream = Upstream::start(scene).await?;
        let cluster = Cluster::start(scene, &upstream, seeds(2).mirrors(6)).await?;
        operator::set_up(scene, &cluster.manager)?;
        let members = async || (told(scene, &["nodes"]).ok()?.as_array()?.len() == 9).then_some(());
        wait::until("every node to be a member", members).await?;
        let image = &upstream.images.middle;
        upstream.throttle(Some(4 * SLOW));
        let id = begin(scene, &name(image))?;
        let (mut most, mut looks) = (std::collections::BTreeMap::new(), 0);
        let ended = wait::until("the job to end", async || {
            let job = told(scene, &["job", "show", &id]).ok()?;
            is_true(scene, &job, image).unwrap_or_else(|error| panic!("{error:#}"));
            for item in job["items"].as_array()? {
                let bytes = item["bytes"].as_u64()?;
                let before = most.insert(item["node"].to_string(), bytes);
                assert!(
                    before.unwrap_or_default() <= bytes,
                    "{before:?}, then {item}"
                );
            }
            looks += usize::from(job["phase"] == "running");
            (job["phase"] != "running").then_some(job)
        });
        let ended = ended.await?;
        ensure!(
            ended["phase"] == "done" && looks > 3,
            "{looks} looks: {ended}"
        );
        ensure!(most.len() == 8, "{most:?}");
        let ratio = upstream.ledger().ratio(image);
        ensure!(ratio == 1.0, "{ratio}:\n{}", upstream.ledger().describe());
        Ok(())
    });
}

#[test]
fn a_job_takes_in_no_more_than_it_may() {
    scene::run("preheat_rate", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let cluster = cluster(scene, &upstream).await?;
        let image = &upstream.images.middle;
        let (rate, begun) = (1 << 20, Instant::now());
        let limited = ["preheat", &name(image), "--to", "seeds", "--rate", "1MiB"];
        let job = told(scene, &limited)?;
        let id = job["id"].as_str().context("no id")?.to_owned();
        ensure!(job["bytes_per_second"] == rate, "{job}");
        until(scene, &id, "some seconds at that rate", |job| {
            let most = 2 * rate * (begun.elapsed().as_secs() + 2);
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
