//! Files by the directory, and files that others hold too: what `darner get` and `darner put` do
//! beyond one file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use darner_e2e::cluster::{Cluster, seeds};
use darner_e2e::darner::Darner;
use darner_e2e::getting::{digest_of, files_below, get, printed, put};
use darner_e2e::process::{self, run};
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::Upstream;
use darner_e2e::wait;
use darner_e2e::web::Web;

async fn cluster_of(scene: &Scene, web: &Web, mirrors: usize) -> Result<Cluster> {
    let upstream = Upstream::start(scene).await?;
    Cluster::start_beside(scene, &upstream, seeds(2).mirrors(mirrors), web).await
}

#[test]
fn a_directory_is_got_with_all_that_is_below_it() {
    scene::run("files_directory", async |scene| {
        let web = Web::start(scene, "0").await?;
        let mut expected = BTreeMap::new();
        let names = ["one", "with space & more", "deep/er/two", "deep/three%41"];
        for (seed, name) in (1..).zip(names) {
            let digest = web.put(&format!("tree/x/{name}"), 300_000 + seed, (seed, 100))?;
            expected.insert(PathBuf::from(name), digest);
        }
        web.put("tree/beside", 1000, (9, 100))?;
        let cluster = cluster_of(scene, &web, 2).await?;
        let output = scene.path("out");
        let recursive = |node: &Darner| -> Result<Command> {
            let mut command = get(node, &web.url("tree/x"), &output)?;
            command.arg("--recursive");
            Ok(command)
        };
        let told = run(recursive(&cluster.mirrors[0])?).await?;
        ensure!(files_below(&output)? == expected, "{told:?}");
        let mut lines: Vec<_> = printed(&told).lines().map(str::to_owned).collect();
        lines.sort_unstable();
        let told = expected.iter();
        let told = told.map(|(path, digest)| format!("{digest}  {}", path.display()));
        let mut told: Vec<_> = told.collect();
        told.sort_unstable();
        ensure!(lines == told, "{lines:?}");
        // Again: what is there stays, what was lost or has changed comes.
        let kept = std::fs::metadata(output.join("one"))?.modified()?;
        std::fs::remove_file(output.join("deep/er/two"))?;
        let name = "with space & more";
        let changed = web.put(&format!("tree/x/{name}"), 300_002, (77, 50))?;
        expected.insert(PathBuf::from(name), changed);
        let sent = web.bytes_of("tree/x/one")?;
        run(recursive(&cluster.mirrors[0])?).await?;
        ensure!(files_below(&output)? == expected);
        ensure!(std::fs::metadata(output.join("one"))?.modified()? == kept);
        ensure!(web.bytes_of("tree/x/one")? == sent);
        // Another node has them from the first.
        let other = scene.path("other");
        let mut command = get(&cluster.mirrors[1], &web.url("tree/x/"), &other)?;
        command.arg("--recursive");
        run(command).await?;
        ensure!(files_below(&other)? == expected);
        ensure!(web.bytes_of("tree/x/one")? == sent);
        for (url, flags) in [
            ("tree/x/", &["--max-files", "2"][..]),
            ("open/", &[]),
            ("tree/x/one", &[]),
        ] {
            let mut command = get(&cluster.mirrors[1], &web.url(url), &scene.path("none"))?;
            command.arg("--recursive").args(flags);
            let failed = process::finish(command).await?;
            ensure!(failed.status.code() == Some(1), "{url}: {failed:?}");
        }
        Ok(())
    });
}

/// What a node holds, by its own word alone.
async fn holds(node: &Darner, digest: &str) -> Result<bool> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let url = format!("{}/file/{digest}", node.url("registry")?);
    let answer = client.get(url).header("range", "bytes=0-0").send().await?;
    let source = answer.headers().get("x-darner-source");
    Ok(source.is_some_and(|source| source == "store"))
}

#[test]
fn replicas_hold_it_before_put_returns_and_all_let_it_go_together() {
    scene::run_for("files_replicas", Duration::from_secs(240), async |scene| {
        let web = Web::start(scene, "0").await?;
        let cluster = cluster_of(scene, &web, 2).await?;
        let source = scene.path("source");
        std::fs::write(&source, vec![7; 9 * (1 << 20) + 1])?;
        let flags = ["--replicas", "2", "--ttl", "40s"];
        let told = put(&cluster.mirrors[0], &source, &flags).await?;
        ensure!(told.status.success(), "{told:?}");
        let digest = printed(&told);
        for seed in &cluster.seeds {
            ensure!(
                holds(seed, &digest).await?,
                "{} does not hold it",
                seed.name()
            );
        }
        // A reader has it for no longer than those it came from.
        let output = scene.path("got");
        run(get(&cluster.mirrors[1], &digest, &output)?).await?;
        ensure!(digest_of(&output)?.to_string() == digest);
        let nodes = || cluster.mirrors.iter().chain(&cluster.seeds);
        for node in nodes() {
            let gone = async || {
                wait::until("its time to be over", async || {
                    let held = node.metrics().await.ok()?.sum("darner_store_bytes", "");
                    (held < (1 << 20) as f64).then_some(())
                })
                .await
            };
            // It takes longer than anything else that is waited for.
            if gone().await.is_err() {
                gone().await?;
            }
        }
        for node in nodes() {
            let gone = process::finish(get(node, &digest, &scene.path("gone"))?).await?;
            ensure!(gone.status.code() == Some(1), "{gone:?}");
        }
        let more = put(&cluster.mirrors[0], &source, &["--replicas", "3"]).await?;
        ensure!(more.status.code() == Some(1), "{more:?}");
        let why = String::from_utf8_lossy(&more.stderr);
        ensure!(why.contains("2 other nodes hold"), "{why}");
        Ok(())
    });
}
