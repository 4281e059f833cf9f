//! The rig without the product: the registry, the proxy's faults and counts, and the clients, so
//! that a failure elsewhere is the product's.

use anyhow::{Result, ensure};
use darner_e2e::client::{Client, WRONG_BYTES};
use darner_e2e::containerd::{Containerd, Platforms};
use darner_e2e::scene;
use darner_e2e::skopeo::Skopeo;
use darner_e2e::upstream::{Fault, NAME, Rule, Upstream};

#[test]
fn a_pull_through_the_proxy_is_counted_to_the_byte() {
    scene::run("rig_counts", async |scene| {
        let mut upstream = Upstream::start(scene).await?;
        let image = upstream.images.middle.clone();
        let client = Client::at(&upstream.url(), NAME)?;
        let pulled = client.pull(&image).await?;
        ensure!(
            pulled.bytes == image.bytes() && pulled.cuts == 0,
            "{pulled:?}"
        );
        ensure!(upstream.ledger().blob_bytes(&image) == image.bytes());
        upstream.off();
        ensure!(client.pull(&image).await.is_err(), "upstream is not off");
        upstream.on().await?;
        client.pull(&upstream.images.multi).await?;
        client.pull(&upstream.images.tiny).await.map(drop)
    });
}

#[test]
fn faults_are_what_they_say() {
    scene::run("rig_faults", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let image = &upstream.images.middle;
        let client = Client::at(&upstream.url(), NAME)?;
        let largest = image.largest()?;
        let path = image.blob_path(largest);

        upstream.rule(Rule::new(&path, Fault::Cut(100_000)).times(2));
        let pulled = client.blob(image, largest).await?;
        ensure!(pulled.cuts == 2, "{pulled:?}");

        upstream.rule(Rule::new(&path, Fault::Corrupt).times(1));
        let wrong = client.blob(image, largest).await;
        ensure!(format!("{wrong:?}").contains(WRONG_BYTES), "{wrong:?}");

        upstream.rule(Rule::new(&path, Fault::IgnoreRange).times(1));
        ensure!(client.range(&path, "0-9").await?.status == 200);
        ensure!(client.range(&path, "0-9").await?.status == 206);

        upstream.rule(Rule::new(&path, Fault::Redirect).times(1));
        let redirected = client.get(&path).await?;
        let location = redirected.header("location")?.to_owned();
        let body = reqwest::get(location).await?.bytes().await?;
        ensure!(redirected.status == 307 && largest.digest.matches(&body));
        ensure!(
            upstream
                .ledger()
                .requests()
                .iter()
                .any(|request| request.redirected)
        );

        upstream.rule(Rule::new(&path, Fault::Status(429)).times(1));
        let refused = client.get(&path).await?;
        ensure!(refused.status == 429 && refused.error_code()? == "TOOMANYREQUESTS");
        Ok(())
    });
}

#[test]
fn runtimes_pull_from_a_registry_named_as_their_mirror() {
    scene::run("rig_runtimes", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let containerd = Containerd::start(scene, "containerd", &upstream.url()).await?;
        pull_and_check(&upstream, &containerd).await?;
        let multi = &upstream.images.multi;
        containerd.crictl_pull(&multi.reference(NAME)).await?;
        containerd
            .ctr_pull(&multi.reference(NAME), Platforms::All)
            .await?;
        containerd.check_blobs(&multi.blobs)?;
        // The registry itself knows no registry in the path: skopeo goes past this mirror and fails.
        let address = upstream.url().replace("http://", "");
        let skopeo = Skopeo::new(scene, "skopeo", NAME, &address)?;
        ensure!(skopeo.copy(multi, &multi.reference(NAME)).await.is_err());
        Ok(())
    });
}

async fn pull_and_check(upstream: &Upstream, containerd: &Containerd) -> Result<()> {
    let image = &upstream.images.middle;
    let reference = image.reference(NAME);
    containerd.pull(&reference).await?;
    ensure!(containerd.has(&reference).await?);
    containerd.check_blobs(&image.blobs)?;
    containerd.unpacked_layers(image)?;
    let before = upstream.ledger().blob_bytes(image);
    containerd.remove(image, &reference).await?;
    containerd.pull(&reference).await?;
    let again = upstream.ledger().blob_bytes(image) - before;
    ensure!(again == image.bytes(), "the second pull took {again} bytes");
    Ok(())
}
