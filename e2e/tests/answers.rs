//! What the front end answers well-behaved clients: headers, ranges, many readers of one blob.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use darner_e2e::client::{Client, SOURCE};
use darner_e2e::cluster::start_up;
use darner_e2e::image::{Blob, Image};
use darner_e2e::upstream::{NAME, Upstream};
use darner_e2e::{raw, scene, wait};
use futures_util::future::try_join_all;

#[test]
fn manifests_and_blobs_carry_what_clients_go_by() {
    scene::run("answers_headers", async |scene| {
        let mut upstream = Upstream::start(scene).await?;
        let up = start_up(scene, &upstream).await?;
        let client = Client::new(&up, NAME)?;
        let image = upstream.images.middle.clone();
        let path = format!("{}/manifests/{}", image.repository, image.tag);
        for answer in [client.head(&path).await?, client.get(&path).await?] {
            ensure!(answer.status == 200, "{}", answer.describe());
            ensure!(answer.header("docker-content-digest")? == image.digest.to_string());
            ensure!(answer.header("content-type")? == image.manifests[0].media_type);
            ensure!(answer.header("content-length")? == image.manifests[0].size.to_string());
            ensure!(!answer.header(SOURCE)?.is_empty());
            ensure!(answer.headers.get("content-encoding").is_none());
        }
        let blob = image.largest()?;
        let path = image.blob_path(blob);
        let cold = client.get(&path).await?;
        ensure!(cold.status == 200 && blob.digest.matches(&cold.body));
        // The only node is the seed: what it reads for its own client comes from upstream.
        ensure!(cold.header(SOURCE)? == "upstream", "{:?}", cold.headers);
        upstream.off();
        // A client has its last byte before the disk has.
        wait::until("the blob is the store's", async || {
            let warm = client.get(&path).await.ok()?;
            (warm.header(SOURCE).ok()? == "store").then_some(())
        })
        .await?;
        let warm = client.get(&path).await?;
        ensure!(warm.header("accept-ranges")? == "bytes");
        ensure!(warm.header("docker-content-digest")? == blob.digest.to_string());
        let head = client.head(&path).await?;
        ensure!(head.header("content-length")? == blob.size.to_string());
        Ok(())
    });
}

#[test]
fn the_ping_needs_no_network_and_tls_on_the_plain_port_is_turned_away_at_once() {
    scene::run("answers_ping", async |scene| {
        let mut upstream = Upstream::start(scene).await?;
        let up = start_up(scene, &upstream).await?;
        upstream.off();
        let address = up.address("registry")?;
        let ping = raw::request(address, "GET", "/v2/", "").await?;
        ensure!(ping.status == 200, "{}", ping.describe());
        // The beginning of a TLS ClientHello, as podman sends it to every port.
        let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
        let exchange = raw::exchange(address, &hello);
        let answer = tokio::time::timeout(Duration::from_secs(5), exchange).await;
        let answer = answer.context("a TLS client is kept waiting")??;
        ensure!(
            answer.is_empty()
                || answer.starts_with(b"HTTP/1.0 400")
                || answer.starts_with(b"HTTP/1.1 400"),
            "{:?}",
            String::from_utf8_lossy(&answer)
        );
        Ok(())
    });
}

/// Asks for `range` and compares with the same bytes of the whole.
async fn check_range(
    client: &Client,
    (image, blob): (&Image, &Blob),
    range: &str,
    expected: (u64, u64),
) -> Result<bytes::Bytes> {
    let answer = client.range(&image.blob_path(blob), range).await?;
    ensure!(answer.status == 206, "{range}: {}", answer.describe());
    let (first, end) = expected;
    let content_range = format!("bytes {first}-{}/{}", end - 1, blob.size);
    ensure!(
        answer.header("content-range")? == content_range,
        "{range}: {:?}",
        answer.headers
    );
    ensure!(
        answer.body.len() as u64 == end - first,
        "{range}: {} bytes",
        answer.body.len()
    );
    Ok(answer.body)
}

#[test]
fn ranges_of_a_blob_that_is_not_cached_yet_are_served_and_right() {
    scene::run("answers_ranges", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let up = start_up(scene, &upstream).await?;
        let client = Client::new(&up, NAME)?;
        let image = &upstream.images.middle;
        // Slow enough that every range below is asked for while the blob is arriving.
        upstream.throttle(Some(4 << 20));
        let blob = image.largest()?;
        let size = blob.size;
        let target = (image, blob);
        let tail = size - 5_000_000;
        let open = format!("{tail}-");
        let (inner, suffix, open) = tokio::try_join!(
            check_range(&client, target, "1000000-2999999", (1_000_000, 3_000_000)),
            check_range(&client, target, "-70000", (size - 70_000, size)),
            check_range(&client, target, &open, (tail, size)),
        )?;
        upstream.throttle(None);
        let whole = client.get(&image.blob_path(blob)).await?.body;
        ensure!(blob.digest.matches(&whole));
        let size = whole.len();
        ensure!(
            inner == whole.slice(1_000_000..3_000_000),
            "wrong bytes of an inner range"
        );
        ensure!(
            suffix == whole.slice(size - 70_000..),
            "wrong bytes of a suffix"
        );
        ensure!(
            open == whole.slice(size - 5_000_000..),
            "wrong bytes of an open range"
        );
        let outside = client
            .range(&image.blob_path(blob), &format!("{size}-"))
            .await?;
        ensure!(outside.status == 416, "{}", outside.describe());
        ensure!(outside.header("content-range")? == format!("bytes */{size}"));
        let ratio = upstream.ledger().of_blob(&blob.digest);
        let bytes: u64 = ratio.iter().map(|request| request.bytes).sum();
        ensure!(
            bytes as f64 <= blob.size as f64 * 1.01,
            "{}",
            upstream.ledger().describe()
        );
        Ok(())
    });
}

#[test]
fn many_clients_of_one_node_make_one_read() {
    scene::run("answers_single_flight", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let up = start_up(scene, &upstream).await?;
        let image = &upstream.images.middle;
        let clients: Vec<_> = (0..12)
            .map(|_| Client::new(&up, NAME))
            .collect::<Result<_>>()?;
        try_join_all(clients.iter().map(|client| client.pull(image))).await?;
        let ledger = upstream.ledger();
        ensure!(
            ledger.blob_bytes(image) == image.bytes(),
            "{}",
            ledger.describe()
        );
        let mut manifests = ledger.requests();
        manifests.retain(|request| request.path.contains("/manifests/"));
        // One HEAD or GET of the tag, one GET of the manifest, one probe.
        ensure!(manifests.len() <= 3, "{}", ledger.describe());
        Ok(())
    });
}

#[test]
fn a_client_that_hangs_up_does_not_stop_the_download() {
    scene::run("answers_hang_up", async |scene| {
        let mut upstream = Upstream::start(scene).await?;
        let up = start_up(scene, &upstream).await?;
        let client = Client::new(&up, NAME)?;
        let image = upstream.images.middle.clone();
        let blob = image.largest()?;
        let path = image.blob_path(blob);
        upstream.throttle(Some(8 << 20));
        client
            .get(&format!("{}/manifests/{}", image.repository, image.tag))
            .await?;
        let stays = {
            let (client, image, blob) = (client.clone(), image.clone(), blob.clone());
            async move { client.blob(&image, &blob).await }
        };
        let leaves = async {
            let mut answer = client.request(http::Method::GET, &path).send().await?;
            answer.chunk().await?.context("no first byte")?;
            anyhow::Ok(())
        };
        let (pulled, ()) = tokio::try_join!(stays, leaves)?;
        ensure!(pulled.cuts == 0, "{pulled:?}");
        upstream.off();
        client.blob(&image, blob).await.map(drop)
    });
}

#[test]
fn the_first_byte_does_not_wait_for_the_whole_blob() {
    scene::run("answers_streaming", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let up = start_up(scene, &upstream).await?;
        let client = Client::new(&up, NAME)?;
        let image = &upstream.images.middle;
        let blob = image.largest()?;
        upstream.throttle(Some(4 << 20));
        let request = client.request(http::Method::GET, &image.blob_path(blob));
        let mut answer = request.send().await?;
        answer.chunk().await?.context("no first byte")?;
        let sent = upstream.ledger().blob_bytes(image);
        ensure!(
            sent < blob.size / 2,
            "the first byte came after {sent} of {} bytes",
            blob.size
        );
        Ok(())
    });
}
