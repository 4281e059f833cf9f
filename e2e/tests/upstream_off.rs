//! Upstream is off: what any one node holds, every node can pull.

use anyhow::{Result, ensure};
use darner_e2e::client::Client;
use darner_e2e::cluster::{Cluster, seeds, start_up};
use darner_e2e::scene;
use darner_e2e::upstream::{NAME, Upstream};

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
