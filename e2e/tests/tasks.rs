//! What is on its way, as people are told while it moves: by the commands, and by the API behind them.

use anyhow::{Context as _, Result, ensure};
use darner_e2e::client::Client;
use darner_e2e::cluster::{Cluster, seeds};
use darner_e2e::operator::{self, ask, told};
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::{NAME, Upstream};
use darner_e2e::wait;
use serde_json::Value;

/// Slow enough to be seen on its way.
const SLOW: u64 = 2 << 20;

/// The list has the layer where it is looked for, and not elsewhere.
fn list_is_narrowed(scene: &Scene, repository: &str, layer: &str) -> Result<()> {
    for (flags, expected) in [
        (&["--registry", NAME, "--repository", repository][..], true),
        (&["--kind", "layer"], true),
        (&["--kind", "file"], false),
        (&["--registry", "other.example"], false),
    ] {
        let found = told(scene, &[&["tasks"], flags].concat())?;
        let found = found.as_array().context("no list")?;
        let has = found.iter().any(|one| one["id"] == layer);
        ensure!(has == expected, "{flags:?}: {found:?}");
    }
    Ok(())
}

#[test]
fn a_pull_is_seen_while_it_moves() {
    scene::run("tasks", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let cluster = Cluster::start(scene, &upstream, seeds(1).mirrors(2)).await?;
        operator::set_up(scene, &cluster.manager)?;
        let image = &upstream.images.big;
        let layer = image.largest()?.digest.to_string();
        upstream.throttle(Some(SLOW));
        let pulling = async {
            let clients = cluster.clients()?;
            let pulls = clients.iter().map(|client: &Client| client.pull(image));
            for pulled in futures_util::future::join_all(pulls).await {
                pulled?;
            }
            anyhow::Ok(())
        };
        let looking = async {
            let seen = wait::until("the largest layer on its way", async || {
                let task = told(scene, &["tasks", "show", &layer]).ok()?;
                let nodes = task["participants"].as_array()?.clone();
                let node = |name: &str| nodes.iter().find(|one| one["node"] == name).cloned();
                let (seed, mirror) = (node("seed-1")?, node("mirror-1")?);
                let moves =
                    mirror["progress"].as_f64()? > 0.0 && mirror["progress"].as_f64()? < 1.0;
                let reads = !seed["reading"].as_array()?.is_empty();
                let fed = mirror["parents"]
                    .as_array()?
                    .iter()
                    .any(|from| from == "seed-1");
                (moves && reads && fed && task["bytes_per_second"].is_u64()).then_some(task)
            });
            let task = seen.await?;
            ensure!(task["size_bytes"] == image.largest()?.size, "{task}");
            let source = format!("{NAME}/{}", image.repository);
            ensure!(task["sources"][0] == source, "{task}");

            let all = told(scene, &["tasks"])?;
            let listed = all.as_array().context("no list")?.iter();
            ensure!(listed.clone().any(|one| one["id"] == layer), "{all}");
            list_is_narrowed(scene, &image.repository, &layer)?;
            let top = ask(scene, &["top", "--times", "2", "-o", "json"], "")?;
            let lines: Vec<Value> = String::from_utf8(top.stdout)?
                .lines()
                .map(serde_json::from_str)
                .collect::<Result<_, _>>()?;
            ensure!(
                lines.len() == 2 && lines[1]["tasks"].is_array(),
                "{lines:?}"
            );
            let top = ask(scene, &["top", "--times", "1"], "")?;
            let text = String::from_utf8(top.stdout)?;
            ensure!(
                text.contains("2 mirrors, 1 seeds") && !text.contains('\u{1b}'),
                "{text}"
            );
            upstream.throttle(None);
            anyhow::Ok(())
        };
        tokio::try_join!(pulling, looking)?;
        wait::until("nothing to be on its way", async || {
            let all = told(scene, &["tasks"]).ok()?;
            let moving = all
                .as_array()?
                .iter()
                .any(|one| one["complete_nodes"] != one["nodes"]);
            (!moving).then_some(())
        })
        .await?;
        let none = ask(scene, &["tasks", "show", "sha256:00"], "")?;
        ensure!(none.status.code() == Some(1), "{none:?}");
        Ok(())
    });
}
