//! Something happens in the middle of a pull: what tests of loss and change have in common.

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;

use crate::client::Client;
use crate::cluster::{Cluster, Shape};
use crate::image::Image;
use crate::scene::Scene;
use crate::upstream::Upstream;
use crate::wait;

/// Bytes a second: slow enough that a pull lasts some seconds, fast enough that a test does not.
const UPSTREAM_RATE: u64 = 8 << 20;

/// A cluster behind a slow upstream.
pub async fn start(scene: &Scene, shape: Shape) -> Result<(Upstream, Cluster)> {
    let upstream = Upstream::start(scene).await?;
    upstream.throttle(Some(UPSTREAM_RATE));
    let cluster = Cluster::start(scene, &upstream, shape).await?;
    Ok((upstream, cluster))
}

/// Waits until a third of the image has left upstream.
pub async fn under_way(upstream: &Upstream, image: &Image) -> Result<()> {
    wait::until_true("a third of the image", || {
        upstream.ledger().blob_bytes(image) > image.bytes() / 3
    })
    .await?;
    let sent = upstream.ledger().blob_bytes(image);
    ensure!(sent < image.bytes() * 9 / 10, "the pull was over too soon");
    Ok(())
}

/// All of `clients` pull, and something happens meanwhile.
pub async fn pull_while(
    clients: &[Client],
    image: &Image,
    happens: impl Future<Output = Result<()>>,
) -> Result<()> {
    let pulls = try_join_all(clients.iter().map(|client| client.pull(image)));
    tokio::try_join!(pulls, happens).map(drop)
}
