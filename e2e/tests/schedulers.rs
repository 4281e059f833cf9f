//! Several schedulers: one dies in the middle of a pull, one comes in the middle of a pull. No
//! download starts again, and nothing is read twice.

use anyhow::{Result, ensure};
use darner_e2e::client::Client;
use darner_e2e::cluster::{Cluster, Shape, add_scheduler};
use darner_e2e::darner::Darner;
use darner_e2e::image::Image;
use darner_e2e::upstream::Upstream;
use darner_e2e::{scene, wait};
use futures_util::future::try_join_all;

/// Slow enough that a pull lasts some seconds.
const UPSTREAM_RATE: u64 = 8 << 20;
const SHAPE: Shape = Shape {
    seeds: 2,
    mirrors: 3,
};

async fn start(scene: &scene::Scene) -> Result<(Upstream, Cluster)> {
    let upstream = Upstream::start(scene).await?;
    upstream.throttle(Some(UPSTREAM_RATE));
    let cluster = Cluster::start(scene, &upstream, SHAPE).await?;
    Ok((upstream, cluster))
}

async fn under_way(upstream: &Upstream, image: &Image) -> Result<()> {
    wait::until_true("a third of the image", || {
        upstream.ledger().blob_bytes(image) > image.bytes() / 3
    })
    .await?;
    let sent = upstream.ledger().blob_bytes(image);
    ensure!(sent < image.bytes() * 9 / 10, "the pull was over too soon");
    Ok(())
}

async fn attended_by_all(scheduler: &Darner) -> Result<()> {
    let nodes = (SHAPE.seeds + SHAPE.mirrors) as f64;
    wait::until("every node attends the scheduler", async || {
        let metrics = scheduler.metrics().await.ok()?;
        (metrics.sum("darner_scheduler_hosts", "") >= nodes).then_some(())
    })
    .await
}

async fn tasks_of(scheduler: &Darner) -> Result<f64> {
    let metrics = scheduler.metrics().await?;
    metrics.require("darner_scheduler_tasks")
}

/// All of `clients` pull, and something happens meanwhile.
async fn pull_while(
    clients: &[Client],
    image: &Image,
    happens: impl Future<Output = Result<()>>,
) -> Result<()> {
    let pulls = try_join_all(clients.iter().map(|client| client.pull(image)));
    tokio::try_join!(pulls, happens).map(drop)
}

fn check_ratio(upstream: &Upstream, image: &Image) -> Result<()> {
    let ratio = upstream.ledger().ratio(image);
    ensure!(ratio <= 1.01, "{ratio}:\n{}", upstream.ledger().describe());
    Ok(())
}

#[test]
fn one_of_two_schedulers_is_killed_in_the_middle_of_a_pull() {
    scene::run("schedulers_one_killed", async |scene| {
        let (upstream, cluster) = start(scene).await?;
        let second = add_scheduler(scene, &cluster.manager, "scheduler-2").await?;
        attended_by_all(&second).await?;
        let image = &upstream.images.middle;
        let clients = cluster.clients()?;
        let Cluster { mut scheduler, .. } = cluster;
        let mut second = second;
        pull_while(&clients, image, async {
            under_way(&upstream, image).await?;
            // The one with work to lose.
            if tasks_of(&scheduler).await? > 0.0 {
                scheduler.kill()
            } else {
                second.kill()
            }
        })
        .await?;
        check_ratio(&upstream, image)
    });
}

#[test]
fn a_scheduler_is_added_in_the_middle_of_a_pull() {
    scene::run("schedulers_one_added", async |scene| {
        let (upstream, cluster) = start(scene).await?;
        let image = &upstream.images.middle;
        let clients = cluster.clients()?;
        let mut second = None;
        pull_while(&clients, image, async {
            under_way(&upstream, image).await?;
            let added = add_scheduler(scene, &cluster.manager, "scheduler-2").await?;
            attended_by_all(&added).await?;
            // It stays until the pulls are over.
            second = Some(added);
            Ok(())
        })
        .await?;
        drop(second);
        check_ratio(&upstream, image)
    });
}
