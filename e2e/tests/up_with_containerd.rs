//! `darner up` between a real runtime and a real registry.

use anyhow::{Result, ensure};
use darner_e2e::cluster::start_up;
use darner_e2e::containerd::{Containerd, Platforms};
use darner_e2e::image::Image;
use darner_e2e::scene;
use darner_e2e::skopeo::Skopeo;
use darner_e2e::upstream::{NAME, Upstream};

#[test]
fn containerd_pulls_by_tag_and_the_second_pull_reads_nothing_from_upstream() {
    scene::run("containerd_by_tag", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let up = start_up(scene, &upstream).await?;
        let containerd = Containerd::start(scene, "containerd", &up.url("registry")?).await?;
        let image = &upstream.images.middle;
        pull_twice(&upstream, &containerd, image, &image.reference(NAME)).await
    });
}

#[test]
fn containerd_pulls_by_digest_and_the_second_pull_reads_nothing_from_upstream() {
    scene::run("containerd_by_digest", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let up = start_up(scene, &upstream).await?;
        let containerd = Containerd::start(scene, "containerd", &up.url("registry")?).await?;
        for image in [&upstream.images.middle, &upstream.images.tiny] {
            let reference = image.digest_reference(NAME);
            pull_twice(&upstream, &containerd, image, &reference).await?;
        }
        Ok(())
    });
}

async fn pull_twice(
    upstream: &Upstream,
    containerd: &Containerd,
    image: &Image,
    reference: &str,
) -> Result<()> {
    containerd.pull(reference).await?;
    ensure!(
        containerd.has(reference).await?,
        "no {reference} after its pull"
    );
    containerd.check_blobs(&image.blobs)?;
    containerd.unpacked_layers(image)?;
    let bytes = upstream.ledger().blob_bytes(image);
    ensure!(
        bytes == image.bytes(),
        "upstream sent {bytes} for {} bytes:\n{}",
        image.bytes(),
        upstream.ledger().describe()
    );
    let asked = upstream.ledger().count();
    containerd.remove(image, reference).await?;
    containerd.pull(reference).await?;
    containerd.check_blobs(&image.blobs)?;
    ensure!(
        upstream.ledger().count() == asked,
        "the second pull asked upstream:\n{}",
        upstream.ledger().describe()
    );
    Ok(())
}

#[test]
fn containerd_pulls_and_unpacks_an_image_of_some_hundred_megabytes() {
    scene::run("containerd_big", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let up = start_up(scene, &upstream).await?;
        let containerd = Containerd::start(scene, "containerd", &up.url("registry")?).await?;
        let image = &upstream.images.big;
        containerd.pull(&image.reference(NAME)).await?;
        containerd.check_blobs(&image.blobs)?;
        containerd.unpacked_layers(image)?;
        upstream.read_once(image)?;
        Ok(())
    });
}

#[test]
fn crictl_ctr_and_skopeo_pull_an_index_of_many_platforms() {
    scene::run("clients_of_an_index", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let up = start_up(scene, &upstream).await?;
        let containerd = Containerd::start(scene, "containerd", &up.url("registry")?).await?;
        let image = &upstream.images.multi;
        let reference = image.reference(NAME);
        if containerd.crictl_pull(&reference).await? {
            ensure!(
                containerd.has(&reference).await?,
                "no {reference} after crictl pull"
            );
        }
        containerd.ctr_pull(&reference, Platforms::All).await?;
        containerd.check_blobs(&image.blobs)?;
        let address = up.address("registry")?.to_string();
        let skopeo = Skopeo::new(scene, "skopeo", NAME, &address)?;
        for image in [image, &upstream.images.middle, &upstream.images.tiny] {
            skopeo.copy(image, &image.reference(NAME)).await?;
            skopeo.copy(image, &image.digest_reference(NAME)).await?;
            let ratio = upstream.ledger().ratio(image);
            ensure!(ratio <= 1.0, "{ratio}:\n{}", upstream.ledger().describe());
        }
        Ok(())
    });
}

#[test]
fn with_the_mirror_dead_containerd_pulls_from_the_registry_itself() {
    scene::run("mirror_dead", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let mut up = start_up(scene, &upstream).await?;
        let mirror = up.url("registry")?;
        let containerd = Containerd::start(scene, "containerd", &mirror).await?;
        containerd.fall_back(NAME, &mirror, &upstream.url())?;
        up.kill()?;
        let image = &upstream.images.middle;
        containerd.pull(&image.reference(NAME)).await?;
        containerd.check_blobs(&image.blobs)
    });
}
