//! A client of the node that reads upstream has its first bytes when they come, not when a piece of
//! them is whole.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use darner_e2e::client::{Client, SOURCE};
use darner_e2e::cluster::start_up;
use darner_e2e::scene;
use darner_e2e::upstream::{NAME, Upstream};
use http::Method;
use sha2::{Digest as _, Sha256};

/// A piece of a mebibyte takes eight seconds at this rate.
const RATE: u64 = 128 << 10;
/// Far less than a piece takes, and more than everything else does on a busy machine.
const SOON: Duration = Duration::from_secs(4);

#[test]
fn the_first_byte_does_not_wait_for_a_piece() {
    scene::run("first_byte", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let up = start_up(scene, &upstream).await?;
        let client = Client::new(&up, NAME)?;
        let image = &upstream.images.middle;
        client
            .get(&format!("{}/manifests/{}", image.repository, image.tag))
            .await?;
        let blob = image.largest()?;
        let path = format!("{}/blobs/{}", image.repository, blob.digest);

        upstream.throttle(Some(RATE));
        let begun = Instant::now();
        let mut answer = client.request(Method::GET, &path).send().await?;
        ensure!(answer.status() == 200, "{}", answer.status());
        let source = answer.headers().get(SOURCE).context("no source")?;
        ensure!(source == "upstream", "{source:?}");
        let first = answer.chunk().await?.context("no bytes")?;
        let took = begun.elapsed();
        ensure!(took < SOON, "the first byte took {took:?}");
        ensure!(first.len() < 1 << 20, "{} bytes at once", first.len());

        upstream.throttle(None);
        let mut whole = Sha256::new();
        whole.update(&first);
        let mut length = first.len() as u64;
        while let Some(chunk) = answer.chunk().await? {
            whole.update(&chunk);
            length += chunk.len() as u64;
        }
        ensure!(length == blob.size, "{length} bytes of {}", blob.size);
        ensure!(whole.finalize()[..] == *blob.digest.hash(), "wrong bytes");
        upstream.read_once(image)
    });
}
