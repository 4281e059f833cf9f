//! Several schedulers: one dies in the middle of a pull, one comes in the middle of a pull. No
//! download starts again, and nothing is read twice.

use anyhow::Result;
use darner_e2e::cluster::{Cluster, Shape, add_scheduler, seeds};
use darner_e2e::darner::Darner;
use darner_e2e::midway::{pull_while, start, under_way};
use darner_e2e::{scene, wait};

const SHAPE: Shape = seeds(2).mirrors(3);

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

#[test]
fn one_of_two_schedulers_is_killed_in_the_middle_of_a_pull() {
    scene::run("schedulers_one_killed", async |scene| {
        let (upstream, cluster) = start(scene, SHAPE).await?;
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
        upstream.read_once(image)
    });
}

#[test]
fn a_scheduler_is_added_in_the_middle_of_a_pull() {
    scene::run("schedulers_one_added", async |scene| {
        let (upstream, cluster) = start(scene, SHAPE).await?;
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
        upstream.read_once(image)
    });
}
