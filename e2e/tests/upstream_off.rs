//! Upstream is off: what any one node holds, every node can pull.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use darner_e2e::client::Client;
use darner_e2e::clock::Clock;
use darner_e2e::cluster::{Cluster, seeds, start_up, up_settings};
use darner_e2e::darner::{self, Darner};
use darner_e2e::scene;
use darner_e2e::upstream::{Fault, NAME, Rule, Upstream};

/// `mirror-1` holds an image and nobody else does; then `mirror-2` and `mirror-3` pull it.
async fn pull_from_the_one_holder(upstream: &mut Upstream, cluster: &Cluster) -> Result<()> {
    let image = upstream.images.middle.clone();
    upstream.off();
    let sent = upstream.ledger().blob_bytes(&image);
    Client::new(&cluster.mirrors[1], NAME)?.pull(&image).await?;
    Client::new(&cluster.mirrors[2], NAME)?
        .pull_by_digest(&image)
        .await?;
    ensure!(upstream.ledger().blob_bytes(&image) == sent);
    Ok(())
}

#[test]
fn an_image_of_one_mirror_is_pulled_by_others_when_its_seed_is_gone_too() {
    scene::run("off_without_the_seed", async |scene| {
        let mut upstream = Upstream::start(scene).await?;
        let shape = seeds(1).mirrors(3);
        let mut cluster = Cluster::start(scene, &upstream, shape).await?;
        Client::new(&cluster.mirrors[0], NAME)?
            .pull(&upstream.images.middle)
            .await?;
        cluster.seeds[0].kill()?;
        pull_from_the_one_holder(&mut upstream, &cluster).await
    });
}

#[test]
fn an_image_of_one_mirror_is_pulled_by_others_in_a_cluster_without_seeds() {
    scene::run("off_without_seeds", async |scene| {
        let mut upstream = Upstream::start(scene).await?;
        let shape = seeds(0).mirrors(3);
        let cluster = Cluster::start(scene, &upstream, shape).await?;
        Client::new(&cluster.mirrors[0], NAME)?
            .pull(&upstream.images.middle)
            .await?;
        pull_from_the_one_holder(&mut upstream, &cluster).await
    });
}

#[test]
fn a_registry_that_says_nothing_is_waited_for_once() {
    scene::run("off_silent", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let clock = Clock::new(scene, "up")?;
        let mut command = darner::command()?;
        clock.give(&mut command);
        let settings = up_settings(scene, &upstream)?;
        let up = Darner::start_by(scene, "up", "up", &settings, command).await?;
        let image = &scene.images().multi;
        Client::new(&up, NAME)?.pull(image).await?;
        // So much later that the registry is to be asked about everything.
        clock.set_ahead(Duration::from_secs(660))?;
        upstream.rule(Rule::new("/v2/", Fault::Silent));
        let client = Client::new(&up, NAME)?;
        for limit in [11, 2].map(Duration::from_secs) {
            let began = Instant::now();
            client.pull(image).await?;
            let took = began.elapsed();
            ensure!(took < limit, "{took:?}");
        }
        Ok(())
    });
}

#[test]
fn what_a_mirror_holds_it_serves_alone_after_a_restart() {
    scene::run("off_after_a_restart", async |scene| {
        let mut upstream = Upstream::start(scene).await?;
        let mut up = start_up(scene, &upstream).await?;
        let image = upstream.images.multi.clone();
        Client::new(&up, NAME)?.pull(&image).await?;
        up.stop().await?;
        upstream.off();
        up.restart().await?;
        let client = Client::new(&up, NAME)?;
        client.pull(&image).await?;
        client.pull_by_digest(&image).await?;
        let unknown = client.get("test/never-pulled/manifests/v1").await?;
        ensure!(unknown.status == 503, "{}", unknown.describe());
        Ok(())
    });
}
