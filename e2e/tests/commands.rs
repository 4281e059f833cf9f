//! `darner pull` and `darner demo`, as a user runs them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use darner_e2e::client::Client;
use darner_e2e::cluster::{Cluster, Shape, start_up};
use darner_e2e::image::Image;
use darner_e2e::upstream::{Fault, NAME, Rule, Upstream};
use darner_e2e::{darner, process, scene, wait};

/// Checks that `directory` is an OCI layout with everything of `image`.
fn check_layout(directory: &Path, image: &Image) -> Result<()> {
    let read = |name: &str| {
        let path = directory.join(name);
        fs::read(&path).with_context(|| path.display().to_string())
    };
    let layout: serde_json::Value = serde_json::from_slice(&read("oci-layout")?)?;
    ensure!(layout["imageLayoutVersion"] == "1.0.0", "{layout}");
    let index: serde_json::Value = serde_json::from_slice(&read("index.json")?)?;
    ensure!(
        index["manifests"][0]["digest"] == image.digest.to_string(),
        "{index}"
    );
    for content in image.manifests.iter().chain(&image.blobs) {
        let bytes = read(&format!("blobs/sha256/{}", content.digest.hex()))?;
        ensure!(
            content.digest.matches(&bytes),
            "{} is wrong",
            content.digest
        );
    }
    Ok(())
}

#[test]
fn pull_makes_an_oci_layout_of_what_the_mirror_serves() {
    scene::run("command_pull", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let up = start_up(scene, &upstream).await?;
        for image in [&upstream.images.middle, &upstream.images.tiny] {
            let out = scene.path(image.repository.replace('/', "-"));
            let mut command = darner::command()?;
            command.args([
                "pull",
                &image.reference(NAME),
                "--via",
                &up.url("registry")?,
            ]);
            command.arg("-o").arg(&out);
            process::run(command).await?;
            check_layout(&out, image)?;
        }
        Ok(())
    });
}

#[test]
fn pull_of_what_is_not_there_fails_and_says_so() {
    scene::run("command_pull_fails", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let up = start_up(scene, &upstream).await?;
        upstream.rule(Rule::new("test/tiny", Fault::Status(404)));
        let mut command = darner::command()?;
        let reference = upstream.images.tiny.reference(NAME);
        command.args(["pull", &reference, "--via", &up.url("registry")?]);
        command.arg("-o").arg(scene.path("out"));
        let output = process::finish(command).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(1),
            "{:?} {said}",
            output.status
        );
        ensure!(said.contains("test/tiny"), "{said}");
        Ok(())
    });
}

#[test]
fn the_demo_shows_one_read_of_upstream_and_leaves_nothing_behind() {
    scene::run("command_demo", async |scene| {
        let temporary = scene.make_directory("tmp")?;
        let home = scene.make_directory("home")?;
        let mut command = darner::command()?;
        command
            .arg("demo")
            .env("TMPDIR", &temporary)
            .env("HOME", &home);
        command.env_remove("XDG_STATE_HOME").current_dir(&home);
        let started = Instant::now();
        let output = process::run(command).await?;
        let took = started.elapsed();
        ensure!(took < Duration::from_secs(20), "took {took:?}");
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(shown.contains("1.00"), "{shown}");
        for directory in [&temporary, &home] {
            let left: Vec<_> = fs::read_dir(directory)?.collect();
            ensure!(left.is_empty(), "left behind: {left:?}");
        }
        Ok(())
    });
}

#[test]
fn verify_tells_where_each_blob_came_from_and_keeps_nothing() {
    scene::run("command_verify", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let up = start_up(scene, &upstream).await?;
        let image = &upstream.images.middle;
        let temporary = scene.make_directory("temporary")?;
        let verify = async || -> Result<serde_json::Value> {
            let mut command = darner::command()?;
            command.args(["verify", &image.reference(NAME), "-o", "json"]);
            command.args(["--via", &up.url("registry")?]);
            command.env("TMPDIR", &temporary);
            let output = process::run(command).await?;
            Ok(serde_json::from_slice(&output.stdout)?)
        };
        let sources = |told: &serde_json::Value| -> Vec<String> {
            let blobs = told["blobs"].as_array().into_iter().flatten();
            blobs.map(|blob| blob["sources"].to_string()).collect()
        };
        let cold = verify().await?;
        ensure!(cold["digest"] == image.digest.to_string(), "{cold}");
        ensure!(cold["bytes"] == image.bytes(), "{cold}");
        let blobs = cold["blobs"].as_array().context("blobs")?;
        ensure!(blobs.len() == image.blobs.len(), "{cold}");
        ensure!(
            sources(&cold).iter().all(|from| from == r#"["upstream"]"#),
            "{cold}"
        );
        let bytes = upstream.ledger().blob_bytes(image);
        ensure!(bytes == image.bytes(), "upstream sent {bytes}");
        let warm = verify().await?;
        ensure!(
            sources(&warm).iter().all(|from| from == r#"["store"]"#),
            "{warm}"
        );
        let blobs = warm["blobs"].as_array().context("blobs")?;
        ensure!(blobs.iter().all(|blob| blob["held_here"] == true), "{warm}");
        ensure!(fs::read_dir(&temporary)?.count() == 0, "something was kept");
        Ok(())
    });
}

#[test]
fn verify_names_the_nodes_that_hold_each_blob() {
    scene::run("command_verify_holders", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let shape = Shape {
            seeds: 1,
            mirrors: 2,
            plain: false,
        };
        let cluster = Cluster::start(scene, &upstream, shape).await?;
        let image = &upstream.images.middle;
        let [one, other] = &cluster.mirrors[..] else {
            anyhow::bail!("there are two mirrors");
        };
        Client::new(one, NAME)?.pull(image).await?;
        let mut expected = vec![one.name().to_owned(), cluster.seeds[0].name().to_owned()];
        expected.sort();
        // What a node has just got it tells its scheduler a moment later.
        wait::until("all holders are named", async || {
            let mut command = darner::command().ok()?;
            command.args(["verify", &image.reference(NAME), "-o", "json"]);
            command.args(["--via", &other.url("registry").ok()?]);
            let output = process::run(command).await.ok()?;
            let told: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
            let blobs = told["blobs"].as_array()?;
            let all = blobs.iter().all(|blob| {
                let nodes = blob["nodes"].as_array().into_iter().flatten();
                let mut nodes: Vec<_> = nodes.filter_map(|node| node.as_str()).collect();
                nodes.sort_unstable();
                nodes == expected && blob["held_here"] == true
            });
            all.then_some(())
        })
        .await
    });
}
