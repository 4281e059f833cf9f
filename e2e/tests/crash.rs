//! `kill -9` in the middle of a download: nothing unverified is visible afterwards, and the download
//! goes on from what was on disk.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use darner_e2e::client::Client;
use darner_e2e::cluster::start_up;
use darner_e2e::upstream::{NAME, Upstream};
use darner_e2e::{scene, wait};
use darner_proto::digest::Digest;

const UPSTREAM_RATE: u64 = 16 << 20;
/// Bytes that were on their way, or in a piece that was not whole yet, when the process died.
const IN_FLIGHT: u64 = 12 << 20;

/// Every file that the store shows as content is that content.
fn check_store(data: &Path) -> Result<()> {
    let blobs = data.join("store/blobs/sha256");
    for entry in fs::read_dir(&blobs).with_context(|| blobs.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let digest: Digest = format!("sha256:{name}").parse()?;
        ensure!(
            digest.matches(&fs::read(&path)?),
            "{} is wrong",
            path.display()
        );
    }
    Ok(())
}

#[test]
fn a_download_goes_on_from_what_was_on_disk_when_the_process_was_killed() {
    scene::run("crash_in_a_download", async |scene| {
        let mut upstream = Upstream::start(scene).await?;
        let mut up = start_up(scene, &upstream).await?;
        let client = Client::new(&up, NAME)?;
        let image = upstream.images.big.clone();
        let blob = image.largest()?;
        let tag = format!("{}/manifests/{}", image.repository, image.tag);
        client.get(&tag).await?;
        upstream.throttle(Some(UPSTREAM_RATE));
        let sent = || upstream.ledger().blob_bytes(&image);
        let (cut, killed) = tokio::join!(client.blob(&image, blob), async {
            wait::until_true("half of the blob", || sent() > blob.size / 2).await?;
            up.kill()
        });
        killed?;
        ensure!(
            cut.is_err(),
            "the client got the whole blob of a dead process"
        );
        let before = sent();
        ensure!(before < blob.size, "the download was over too soon");
        check_store(&scene.path("data-up"))?;

        upstream.off();
        up.restart().await?;
        let client = Client::new(&up, NAME)?;
        let early = client.blob(&image, blob).await;
        ensure!(early.is_err(), "a partial download is shown as content");
        upstream.on().await?;
        upstream.throttle(None);
        // For a second a scheduler remembers that nobody could read it.
        let pulled = async || client.blob(&image, blob).await.ok();
        wait::until("the blob after the restart", pulled).await?;
        let sent = upstream.ledger().blob_bytes(&image);
        ensure!(
            sent <= blob.size + IN_FLIGHT,
            "{sent} bytes for a blob of {}, {before} of them before the crash:\n{}",
            blob.size,
            upstream.ledger().describe()
        );
        Ok(())
    });
}

#[test]
fn killed_again_and_again_a_mirror_holds_verified_content_or_nothing() {
    scene::run("crash_again_and_again", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let mut up = start_up(scene, &upstream).await?;
        let image = &upstream.images.middle;
        for part in 1..=6 {
            let client = Client::new(&up, NAME)?;
            let start = upstream.ledger().blob_bytes(image);
            let target = start + part * (256 << 10);
            upstream.throttle(Some(UPSTREAM_RATE));
            let (_, killed) = tokio::join!(client.pull(image), async {
                wait::until_true("some of the image", || {
                    upstream.ledger().blob_bytes(image) >= target.min(image.bytes())
                })
                .await?;
                up.kill()
            });
            killed?;
            check_store(&scene.path("data-up"))?;
            up.restart().await?;
        }
        upstream.throttle(None);
        Client::new(&up, NAME)?.pull(image).await?;
        // A client has its last byte when the digest is right; the disk may take a moment longer.
        let blobs = scene.path("data-up/store/blobs/sha256");
        wait::until_true("everything is kept", || {
            let mut files = image.blobs.iter().map(|blob| blobs.join(blob.digest.hex()));
            files.all(|file| file.exists())
        })
        .await?;
        check_store(&scene.path("data-up"))?;
        Ok(())
    });
}
