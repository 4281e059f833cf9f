//! One manager, two clusters: each has its own scheduler, reads upstream once for itself, and hears
//! nothing of the other; without the division they are one again. Nothing is restarted.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use darner_e2e::client::Client;
use darner_e2e::cluster::{Cluster, add_scheduler, join_mirror, seeds};
use darner_e2e::darner::Darner;
use darner_e2e::operator::{self, ask, told};
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::{NAME, Upstream};
use darner_e2e::wait;

async fn attended_by(scheduler: &Darner, nodes: f64) -> Result<()> {
    wait::until("the scheduler's own nodes", async || {
        let metrics = scheduler.metrics().await.ok()?;
        (metrics.sum("darner_scheduler_hosts", "") == nodes).then_some(())
    })
    .await
}

fn ids(scene: &Scene, asked: &[&str]) -> Result<BTreeSet<String>> {
    let found = told(scene, asked)?;
    let found = found.as_array().into_iter().flatten();
    let ids = found.filter_map(|node| Some(node["id"].as_str()?.to_owned()));
    Ok(ids.collect())
}

/// The list has those that are asked for, whatever they are.
fn nodes_are_told_by_cluster(scene: &Scene) -> Result<()> {
    let all = ids(scene, &["nodes"])?;
    let (west, others): (BTreeSet<_>, BTreeSet<_>) =
        all.into_iter().partition(|id| id.starts_with("west-"));
    ensure!(
        ids(scene, &["nodes", "--cluster", "west"])? == west,
        "{west:?}"
    );
    ensure!(ids(scene, &["nodes", "--id", "west-"])? == west, "{west:?}");
    ensure!(ids(scene, &["nodes", "--cluster", "default"])? == others);
    let by_role = ["mirror", "seed", "scheduler"].map(|role| {
        let narrowed = ["nodes", "--cluster", "west", "--role", role];
        ids(scene, &narrowed)
    });
    let by_role = by_role.into_iter().collect::<Result<Vec<_>>>()?;
    ensure!(by_role.iter().map(BTreeSet::len).sum::<usize>() == west.len());
    ensure!(by_role.into_iter().flatten().collect::<BTreeSet<_>>() == west);
    let nobody = ids(
        scene,
        &["nodes", "--cluster", "west", "--label", "zone=nowhere"],
    )?;
    ensure!(nobody.is_empty(), "{nobody:?}");
    let mistyped = ask(scene, &["nodes", "--cluster", "wets"], "")?;
    ensure!(mistyped.status.code() == Some(1), "{mistyped:?}");
    Ok(())
}

#[test]
fn clusters_of_one_manager_are_apart_until_they_are_not() {
    scene::run("clusters_apart", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let cluster = Cluster::start(scene, &upstream, seeds(1).mirrors(1)).await?;
        let Cluster { manager, .. } = &cluster;
        operator::set_up(scene, manager)?;
        let west = &["cluster", "set", "west", "--host", "west-*"];
        told(scene, west)?;
        let scheduler = add_scheduler(scene, manager, "west-scheduler").await?;
        let mut mirrors = Vec::new();
        for name in ["west-1", "west-2"] {
            mirrors.push(join_mirror(scene, &upstream, manager, name).await?);
        }
        attended_by(&scheduler, 2.0).await?;
        attended_by(&cluster.scheduler, 2.0).await?;
        let nodes = told(scene, &["nodes"])?;
        for node in nodes.as_array().into_iter().flatten() {
            let id = node["id"].as_str().unwrap_or_default();
            let own = if id.starts_with("west-") {
                "west"
            } else {
                "default"
            };
            ensure!(node["cluster"] == own, "{node}");
        }
        nodes_are_told_by_cluster(scene)?;

        let image = &upstream.images.middle;
        cluster.pull_everywhere(image).await?;
        upstream.read_once(image)?;
        for mirror in &mirrors {
            Client::new(mirror, NAME)?.pull(image).await?;
        }
        let ratio = upstream.ledger().ratio(image);
        ensure!((1.99..=2.02).contains(&ratio), "each reads once: {ratio}");

        // The same command changes what is there; what cannot be meant is refused.
        let wider = [
            "cluster",
            "set",
            "west",
            "--label",
            "zone=west",
            "--position",
            "3",
        ];
        let set = told(scene, &wider)?;
        ensure!(set["position"] == 3, "{set}");
        let nobody = ask(scene, &["cluster", "set", "west"], "")?;
        ensure!(nobody.status.code() == Some(1), "{nobody:?}");
        // Nobody has that label: all are of one cluster again.
        attended_by(&scheduler, 4.0).await?;
        attended_by(&cluster.scheduler, 4.0).await?;
        let removed = ask(scene, &["cluster", "remove", "west"], "")?;
        ensure!(removed.status.success(), "{removed:?}");
        let listed = told(scene, &["cluster", "list"])?;
        ensure!(listed.as_array().is_some_and(Vec::is_empty), "{listed}");
        let image = &upstream.images.tiny;
        cluster.pull_everywhere(image).await?;
        for mirror in &mirrors {
            Client::new(mirror, NAME)?.pull(image).await?;
        }
        upstream.read_once(image)
    });
}
