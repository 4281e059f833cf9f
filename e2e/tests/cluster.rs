//! A cluster of separate processes: each byte leaves upstream once.

use anyhow::{Result, ensure};
use darner_e2e::cluster::{Cluster, Shape, seeds};
use darner_e2e::image::Image;
use darner_e2e::scene;
use darner_e2e::upstream::{Ledger, Upstream};
use darner_proto::geometry::MIN_PIECE_LENGTH;

const SEEDS: usize = 2;

/// Requests that upstream saw of an image's blobs, each with the most that there may be, and of its
/// manifests.
#[derive(Debug)]
struct Asked {
    of_blobs: Vec<(usize, usize)>,
    of_manifests: usize,
}

impl Asked {
    fn of(ledger: &Ledger, image: &Image) -> Self {
        let of_blob = |blob: &darner_e2e::image::Blob| {
            let most = SEEDS * most_requests(blob.size / SEEDS as u64);
            (ledger.of_blob(&blob.digest).len(), most)
        };
        let mut manifests = ledger.requests();
        manifests.retain(|request| request.path.contains("/manifests/"));
        Self {
            of_blobs: image.blobs.iter().map(of_blob).collect(),
            of_manifests: manifests.len(),
        }
    }
}

/// Requests of one seed for its part of a blob at most: with four reads at once each takes an eighth of
/// what is left, of 2 to 16 pieces.
fn most_requests(bytes: u64) -> usize {
    let (mut left, mut requests) = (bytes.div_ceil(MIN_PIECE_LENGTH), 0);
    while left > 0 {
        left = left.saturating_sub((left / 8).clamp(2, 16));
        requests += 1;
    }
    requests
}

fn cold_pull(name: &str, shape: Shape) -> Asked {
    scene::run(name, async |scene| {
        let upstream = Upstream::start(scene).await?;
        let cluster = Cluster::start(scene, &upstream, shape).await?;
        let image = &upstream.images.big;
        let pulls = cluster.pull_everywhere(image).await?;
        for pulled in pulls {
            ensure!(
                pulled.bytes == image.bytes() && pulled.cuts == 0,
                "{pulled:?}"
            );
        }
        upstream.read_once(image)?;
        check_sources(&cluster, image).await?;
        Ok(Asked::of(upstream.ledger(), image))
    })
}

/// Mirrors have everything from peers, and counted it so.
async fn check_sources(cluster: &Cluster, image: &Image) -> Result<()> {
    let mut from_upstream = 0.0;
    for node in cluster.mirrors.iter().chain(&cluster.seeds) {
        let metrics = node.metrics().await?;
        from_upstream += metrics.sum("darner_fetched_bytes_total", "source=\"upstream\"");
    }
    let expected = image.bytes() as f64;
    ensure!(
        (from_upstream / expected - 1.0).abs() <= 0.01,
        "the nodes count {from_upstream} bytes from upstream of {expected}"
    );
    for mirror in &cluster.mirrors {
        let metrics = mirror.metrics().await?;
        let upstream = metrics.sum("darner_fetched_bytes_total", "source=\"upstream\"");
        ensure!(
            upstream == 0.0,
            "{} read upstream past the seeds",
            mirror.name()
        );
        let served = metrics.sum("darner_served_bytes_total", "");
        ensure!(
            served >= expected,
            "{} counts {served} bytes served",
            mirror.name()
        );
    }
    Ok(())
}

#[test]
fn six_mirrors_pull_a_cold_image_at_once_and_upstream_is_read_once() {
    let two = cold_pull("cluster_of_two", seeds(SEEDS).mirrors(2));
    let six = cold_pull("cluster_of_six", seeds(SEEDS).mirrors(6));
    // How reads are cut into requests is a matter of timing, so numbers of two runs do not compare. What
    // a reader asks for is bounded by the content, however many mirrors ask.
    for asked in [&two, &six] {
        for (requests, most) in &asked.of_blobs {
            assert!(
                requests <= most,
                "{requests} requests, {most} at most: {asked:?}"
            );
        }
    }
    assert!(six.of_manifests <= two.of_manifests, "{two:?} {six:?}");
}

#[test]
fn without_seeds_a_mirror_reads_for_the_others() {
    scene::run("cluster_without_seeds", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let shape = seeds(0).mirrors(4);
        let cluster = Cluster::start(scene, &upstream, shape).await?;
        let image = &upstream.images.middle;
        cluster.pull_everywhere(image).await?;
        upstream.read_once(image)?;
        Ok(())
    });
}

#[test]
fn an_index_and_a_tiny_image_travel_too() {
    scene::run("cluster_small_images", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let shape = seeds(2).mirrors(3);
        let cluster = Cluster::start(scene, &upstream, shape).await?;
        for image in [&upstream.images.multi, &upstream.images.tiny] {
            cluster.pull_everywhere(image).await?;
            upstream.read_once(image)?;
        }
        Ok(())
    });
}
