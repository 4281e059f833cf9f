//! Parts of a cluster go away in the middle of a pull, and every surviving client is served.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use darner_e2e::client::Client;
use darner_e2e::cluster::{Cluster, seeds};
use darner_e2e::darner::Darner;
use darner_e2e::midway::{pull_while, start, under_way};
use darner_e2e::scene;
use darner_e2e::upstream::NAME;

/// A mirror that is alone has everything of a small image of 8 contents within this time.
const ALONE_IN_TIME: Duration = Duration::from_secs(25);
/// Bytes between a count and the kill that follows it.
const SLACK: u64 = 2 << 20;

#[test]
fn a_seed_is_killed_and_only_what_it_alone_held_is_read_again() {
    scene::run("loss_of_a_seed", async |scene| {
        let (upstream, mut cluster) = start(scene, seeds(2).mirrors(3)).await?;
        let image = &upstream.images.middle;
        let clients = cluster.clients()?;
        let (seeds, mirrors) = (&mut cluster.seeds, &cluster.mirrors);
        let lost = RefCell::new(0);
        pull_while(&clients, image, async {
            under_way(&upstream, image).await?;
            // The seed that has read more is the greater loss.
            let (first, second) = (read_by(&seeds[0]).await?, read_by(&seeds[1]).await?);
            let dies = usize::from(second > first);
            let mut held = read_by(&seeds[1 - dies]).await?;
            for mirror in mirrors {
                held = held.max(fetched_by(mirror).await?);
            }
            seeds[dies].kill()?;
            // Of all bytes that had left upstream, one survivor alone held this many.
            let sent = upstream.ledger().blob_bytes(image);
            *lost.borrow_mut() = sent.saturating_sub(held);
            Ok(())
        })
        .await?;
        let again = upstream
            .ledger()
            .blob_bytes(image)
            .saturating_sub(image.bytes());
        let lost = lost.into_inner();
        ensure!(
            again <= lost + SLACK,
            "{again} bytes read again, {lost} were lost:\n{}",
            upstream.ledger().describe()
        );
        Ok(())
    });
}

async fn read_by(node: &Darner) -> Result<u64> {
    let metrics = node.metrics().await?;
    Ok(metrics.sum("darner_fetched_bytes_total", "source=\"upstream\"") as u64)
}

async fn fetched_by(node: &Darner) -> Result<u64> {
    Ok(node.metrics().await?.sum("darner_fetched_bytes_total", "") as u64)
}

#[test]
fn the_scheduler_is_killed_and_started_again() {
    scene::run("loss_of_the_scheduler", async |scene| {
        let (upstream, mut cluster) = start(scene, seeds(2).mirrors(3)).await?;
        let image = &upstream.images.middle;
        let clients = cluster.clients()?;
        let scheduler = &mut cluster.scheduler;
        pull_while(&clients, image, async {
            under_way(&upstream, image).await?;
            scheduler.kill()?;
            scheduler.restart().await
        })
        .await?;
        cluster.attended().await?;
        upstream.read_once(image)
    });
}

#[test]
fn the_scheduler_is_gone_before_the_pull_and_stays_away() {
    scene::run("loss_of_the_scheduler_for_good", async |scene| {
        let (upstream, mut cluster) = start(scene, seeds(2).mirrors(3)).await?;
        cluster.scheduler.kill()?;
        let image = &upstream.images.middle;
        cluster.pull_everywhere(image).await?;
        // The digest's owner seed reads for all.
        upstream.read_once(image)
    });
}

#[test]
fn a_mirror_is_killed() {
    scene::run("loss_of_a_mirror", async |scene| {
        let (upstream, mut cluster) = start(scene, seeds(2).mirrors(4)).await?;
        let image = &upstream.images.middle;
        let clients = cluster.clients()?;
        let Some((doomed, survivors)) = clients.split_first() else {
            anyhow::bail!("no mirrors");
        };
        let first = &mut cluster.mirrors[0];
        let (unlucky, others) = tokio::join!(
            doomed.pull(image),
            pull_while(survivors, image, async {
                under_way(&upstream, image).await?;
                first.kill()
            })
        );
        others?;
        ensure!(unlucky.is_err(), "a dead mirror served its client");
        upstream.read_once(image)
    });
}

#[test]
fn the_manager_is_down_from_the_start_of_the_pull() {
    scene::run("loss_of_the_manager", async |scene| {
        let (upstream, mut cluster) = start(scene, seeds(2).mirrors(3)).await?;
        cluster.manager.kill()?;
        let image = &upstream.images.middle;
        cluster.pull_everywhere(image).await?;
        upstream.read_once(image)
    });
}

#[test]
fn a_mirror_that_starts_without_its_manager_goes_by_the_last_good_answer() {
    scene::run("loss_of_the_manager_at_start", async |scene| {
        let (upstream, mut cluster) = start(scene, seeds(1).mirrors(1)).await?;
        cluster.manager.kill()?;
        cluster.mirrors[0].stop().await?;
        cluster.mirrors[0].restart().await?;
        cluster.attended().await?;
        let image = &upstream.images.tiny;
        cluster.pull_everywhere(image).await?;
        let read = read_by(&cluster.mirrors[0]).await?;
        ensure!(
            read == 0,
            "the mirror read {read} bytes itself, past its seed"
        );
        Ok(())
    });
}

#[test]
fn with_everything_else_dead_a_mirror_pulls_from_upstream() {
    scene::run("loss_of_everything", async |scene| {
        let (upstream, mut cluster) = start(scene, seeds(2).mirrors(1)).await?;
        let image = &upstream.images.middle;
        let client = Client::new(&cluster.mirrors[0], NAME)?;
        let Cluster {
            manager,
            scheduler,
            seeds,
            ..
        } = &mut cluster;
        pull_while(&[client], image, async {
            under_way(&upstream, image).await?;
            for process in [manager, scheduler].into_iter().chain(seeds) {
                process.kill()?;
            }
            Ok(())
        })
        .await?;
        // Nor does a pull that begins now wait long for those who do not answer.
        let started = Instant::now();
        let client = Client::new(&cluster.mirrors[0], NAME)?;
        client.pull(&upstream.images.multi).await?;
        let took = started.elapsed();
        ensure!(took < ALONE_IN_TIME, "alone, a small image took {took:?}");
        Ok(())
    });
}
