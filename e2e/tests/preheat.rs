//! Images and files are on nodes before anybody asks for them.

use anyhow::{Context as _, Result, ensure};
use darner_e2e::client::SOURCE;
use darner_e2e::cluster::{Cluster, seeds};
use darner_e2e::image::Image;
use darner_e2e::operator::{ask, told};
use darner_e2e::preheating::{SLOW, begin, name, operated, sum, until};
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::{NAME, Upstream};
use darner_e2e::wait;
use darner_e2e::web::Web;
use darner_proto::digest::Digest;
use serde_json::Value;

async fn cluster(scene: &Scene, upstream: &Upstream) -> Result<Cluster> {
    let cluster = Cluster::start(scene, upstream, seeds(2).mirrors(3)).await?;
    operated(scene, cluster).await
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

#[test]
fn a_file_is_on_every_node_and_its_server_was_read_once() {
    scene::run("preheat_file", async |scene| {
        let web = Web::start(scene, "0").await?;
        let size = 20 * (1 << 20) + 3;
        let digest = web.put("signed/model.bin", size, (1, 100))?;
        let upstream = Upstream::start(scene).await?;
        let shape = seeds(2).mirrors(3);
        let cluster = Cluster::start_beside(scene, &upstream, shape, &web).await?;
        let cluster = operated(scene, cluster).await?;
        let url = web.signed("signed/model.bin", "operator");
        let job = told(scene, &["preheat", &url, "--wait"])?;
        ensure!(job["phase"] == "done", "{job}");
        ensure!(sum(&job, "bytes") == 5 * size, "{job}");
        ensure!(web.bytes_of("signed/model.bin")? <= size + size / 100);
        // What was signed is told to nobody.
        let id = job["id"].as_str().context("no id")?;
        for asked in [&["job", "show", id][..], &["job", "list"]] {
            let told = told(scene, asked)?.to_string();
            ensure!(told.contains("signed/model.bin"), "{told}");
            ensure!(!told.contains("X-Sig"), "{told}");
        }
        for (flags, expected) in [
            (&["--phase", "done", "--by", "ann"][..], 1),
            (&["--phase", "running"], 0),
            (&["--by", "bob"], 0),
        ] {
            // The list is of what is kept, which a job's end is a moment later.
            wait::until("the list has it", async || {
                let found = told(scene, &[&["job", "list"], flags].concat()).ok()?;
                (found.as_array()?.len() == expected).then_some(())
            })
            .await
            .with_context(|| format!("{flags:?}"))?;
        }
        for node in cluster.mirrors.iter().chain(&cluster.seeds) {
            let client = reqwest::Client::builder().no_proxy().build()?;
            let signed = web.signed("signed/model.bin", node.name());
            let asked = client.get(format!("{}/file", node.url("registry")?));
            let answer = asked.header("darner-url", signed).send().await?;
            ensure!(answer.headers()[SOURCE] == "store", "{answer:?}");
            ensure!(Digest::sha256(&answer.bytes().await?) == digest);
        }
        ensure!(web.bytes_of("signed/model.bin")? <= size + size / 100);
        for (url, why) in [
            (web.url("signed/model.bin"), "403"),
            (web.url("open/none"), "404"),
            (web.url("mine/file"), "40"),
            (
                "http://169.254.169.254/latest".to_owned(),
                "cannot be asked",
            ),
        ] {
            let failed = ask(scene, &["preheat", &url, "--wait", "-o", "json"], "")?;
            ensure!(failed.status.code() == Some(1), "{failed:?}");
            let job: Value = serde_json::from_slice(&failed.stdout)?;
            let items = job["items"].as_array().context("no items")?;
            let told = items.iter().all(|item| {
                let told = item["why"].as_str();
                told.is_some_and(|told| told.contains(why))
            });
            ensure!(told, "{url}: {job}");
        }
        Ok(())
    });
}
