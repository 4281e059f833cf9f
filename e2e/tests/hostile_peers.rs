//! Peers that lie: no wrong byte reaches a client, and the pull succeeds.

use std::time::{Duration, Instant};

use anyhow::ensure;
use darner_e2e::client::Client;
use darner_e2e::cluster::{Cluster, seeds};
use darner_e2e::hostile::{Liar, Lie};
use darner_e2e::scene;
use darner_e2e::upstream::{NAME, Upstream};

/// A pull past a lying peer may take this long: a late piece is asked of another peer after two
/// seconds, and the liar is soon left alone.
const IN_TIME: Duration = Duration::from_secs(20);

/// A seed holds the image, a liar says it does too, and a mirror pulls it from both. `counted` is
/// what the mirror calls the failure, when it has to see one.
fn pull_beside(name: &str, lie: Lie, counted: Option<&str>) {
    scene::run(name, async |scene| {
        let upstream = Upstream::start(scene).await?;
        let shape = seeds(1).mirrors(2).plain();
        let cluster = Cluster::start(scene, &upstream, shape).await?;
        let image = &upstream.images.middle;
        Client::new(&cluster.mirrors[0], NAME)?.pull(image).await?;
        let honest = cluster.seeds[0].address("pieces")?;
        let scheduler = cluster.scheduler.url("scheduler")?;
        let liar = Liar::start(lie, &scheduler, honest, &image.blobs).await?;
        let started = Instant::now();
        let pulled = Client::new(&cluster.mirrors[1], NAME)?.pull(image).await?;
        ensure!(pulled.cuts == 0, "{pulled:?}");
        ensure!(started.elapsed() < IN_TIME, "took {:?}", started.elapsed());
        ensure!(
            liar.asked() > 0,
            "the liar was never asked: this test shows nothing"
        );
        let metrics = cluster.mirrors[1].metrics().await?;
        if let Some(kind) = counted {
            let label = format!("kind=\"{kind}\"");
            let failures = metrics.sum("darner_piece_failures_total", &label);
            ensure!(failures > 0.0, "no {kind} counted:\n{}", metrics.text);
        }
        // The lie is not paid for by upstream.
        upstream.read_once(image)?;
        Ok(())
    });
}

#[test]
fn wrong_bytes() {
    pull_beside("peer_wrong_bytes", Lie::WrongBytes, Some("wrong_bytes"));
}

#[test]
fn too_few_bytes() {
    pull_beside("peer_too_few", Lie::TooFew, Some("wrong_length"));
}

#[test]
fn too_many_bytes() {
    pull_beside("peer_too_many", Lie::TooMany, None);
}

#[test]
fn a_trickle() {
    pull_beside("peer_trickle", Lie::Trickle, None);
}

#[test]
fn nothing_of_what_was_promised() {
    pull_beside("peer_not_held", Lie::NotHeld, None);
}

#[test]
fn a_liar_alone_does_not_keep_a_cold_image_from_anybody() {
    scene::run("peer_alone", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let shape = seeds(1).mirrors(1).plain();
        let cluster = Cluster::start(scene, &upstream, shape).await?;
        let image = &upstream.images.middle;
        let honest = cluster.seeds[0].address("pieces")?;
        let scheduler = cluster.scheduler.url("scheduler")?;
        let _liar = Liar::start(Lie::WrongBytes, &scheduler, honest, &image.blobs).await?;
        let started = Instant::now();
        cluster.pull_everywhere(image).await?;
        ensure!(started.elapsed() < IN_TIME, "took {:?}", started.elapsed());
        Ok(())
    });
}
