//! An upstream that refuses, fails, cuts and lies.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use darner_e2e::client::{Answer, Client, WRONG_BYTES};
use darner_e2e::cluster::start_up;
use darner_e2e::darner::Darner;
use darner_e2e::image::Image;
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::{Fault, NAME, Rule, Upstream};
use darner_e2e::wait;
use http::Method;

/// A client has headers or an error within this time, whatever upstream does.
const ANSWERED: Duration = Duration::from_secs(11);

async fn start(scene: &Scene) -> Result<(Upstream, Darner, Client)> {
    let upstream = Upstream::start(scene).await?;
    let up = start_up(scene, &upstream).await?;
    let client = Client::new(&up, NAME)?;
    Ok((upstream, up, client))
}

async fn in_time(answer: impl Future<Output = Result<Answer>>) -> Result<Answer> {
    let answer = tokio::time::timeout(ANSWERED, answer).await;
    answer.context("no answer in time")?
}

fn tag_path(image: &Image) -> String {
    format!("{}/manifests/{}", image.repository, image.tag)
}

#[test]
fn refusals_of_manifests_are_passed_on() {
    scene::run("upstream_refuses", async |scene| {
        let (upstream, _up, client) = start(scene).await?;
        for (image, status) in [
            (&upstream.images.tiny, 404),
            (&upstream.images.multi, 403),
            (&upstream.images.middle, 401),
        ] {
            upstream.rule(Rule::new(&image.repository, Fault::Status(status)));
            let answer = in_time(client.get(&tag_path(image))).await?;
            ensure!(answer.status == status, "{status}: {}", answer.describe());
            answer.error_code()?;
            ensure!(answer.headers.get("x-darner-source").is_none());
        }
        Ok(())
    });
}

#[test]
fn an_upstream_that_is_busy_or_broken_is_never_429_to_a_client() {
    scene::run("upstream_fails", async |scene| {
        let (upstream, _up, client) = start(scene).await?;
        let images = &upstream.images;
        for (image, status) in [(&images.tiny, 429), (&images.multi, 500)] {
            upstream.rule(Rule::new(&image.repository, Fault::Status(status)));
            let answer = in_time(client.get(&tag_path(image))).await?;
            ensure!(answer.status == 503, "{status}: {}", answer.describe());
            answer.error_code()?;
        }
        Ok(())
    });
}

#[test]
fn a_failure_that_passes_is_not_seen_by_clients() {
    scene::run("upstream_fails_once", async |scene| {
        let (upstream, _up, client) = start(scene).await?;
        let image = &upstream.images.middle;
        upstream.rule(Rule::new("/manifests/", Fault::Status(500)).times(1));
        upstream.rule(Rule::new("/blobs/", Fault::Status(502)).times(2));
        let pulled = client.pull(image).await?;
        ensure!(pulled.cuts == 0, "{pulled:?}");
        Ok(())
    });
}

#[test]
fn a_blob_that_cannot_be_had_is_404_before_its_first_byte() {
    scene::run("upstream_blob_fails", async |scene| {
        let (upstream, _up, client) = start(scene).await?;
        let image = &upstream.images.tiny;
        for status in [404, 401, 403, 429, 500] {
            upstream.clear_rules();
            client.get(&tag_path(image)).await?;
            upstream.rule(Rule::new("/blobs/", Fault::Status(status)));
            let path = image.blob_path(image.largest()?);
            let answer = in_time(client.get(&path)).await?;
            ensure!(answer.status == 404, "{status}: {}", answer.describe());
            ensure!(
                answer.error_code()? == "BLOB_UNKNOWN",
                "{}",
                answer.describe()
            );
        }
        upstream.clear_rules();
        // Nobody is kept from trying again for long.
        wait::until("the blob is served again", async || {
            client.blob(image, image.largest().ok()?).await.ok()
        })
        .await?;
        Ok(())
    });
}

#[test]
fn bodies_cut_short_are_taken_up_where_they_ended() {
    scene::run("upstream_cuts", async |scene| {
        let (upstream, _up, client) = start(scene).await?;
        let image = &upstream.images.middle;
        upstream.rule(
            Rule::new("/blobs/", Fault::Cut(1_500_000))
                .method(Method::GET)
                .times(6),
        );
        let pulled = client.pull(image).await?;
        ensure!(pulled.cuts == 0, "{pulled:?}");
        let ledger = upstream.ledger();
        let again = ledger.blob_bytes(image).saturating_sub(image.bytes());
        // What hyper had taken from a stream and not passed on may come twice.
        ensure!(
            again <= 1 << 20,
            "{again} bytes came twice:\n{}",
            ledger.describe()
        );
        Ok(())
    });
}

#[test]
fn wrong_bytes_of_the_right_length_never_reach_a_client_whole() {
    scene::run("upstream_lies_once", async |scene| {
        let (upstream, _up, client) = start(scene).await?;
        let image = &upstream.images.middle;
        let blob = image.largest()?;
        client.get(&tag_path(image)).await?;
        upstream.rule(
            Rule::new(blob.digest.to_string(), Fault::Corrupt)
                .method(Method::GET)
                .times(1),
        );
        // One pull of the blob may fail, by a broken connection.
        if let Err(error) = client.blob(image, blob).await {
            ensure!(!format!("{error:?}").contains(WRONG_BYTES), "{error:?}");
        }
        client.pull(image).await.map(drop)
    });
}

#[test]
fn an_upstream_that_always_lies_leaves_nothing_in_the_store() {
    scene::run("upstream_lies", async |scene| {
        let (mut upstream, mut up, client) = start(scene).await?;
        let image = upstream.images.tiny.clone();
        client.get(&tag_path(&image)).await?;
        upstream.rule(Rule::new("/blobs/", Fault::Corrupt).method(Method::GET));
        let blob = image.largest()?;
        for _ in 0..2 {
            let got = client.blob(&image, blob).await;
            let error = got
                .err()
                .context("a client was told that wrong bytes are all")?;
            ensure!(!format!("{error:?}").contains(WRONG_BYTES), "{error:?}");
        }
        upstream.off();
        ensure!(
            client.blob(&image, blob).await.is_err(),
            "the store has the blob"
        );
        up.stop().await?;
        up.restart().await?;
        let client = Client::new(&up, NAME)?;
        ensure!(
            client.blob(&image, blob).await.is_err(),
            "the store has the blob"
        );
        Ok(())
    });
}

#[test]
fn a_wrong_manifest_is_not_passed_on() {
    scene::run("upstream_lies_about_manifests", async |scene| {
        let (upstream, _up, client) = start(scene).await?;
        let image = &upstream.images.tiny;
        upstream.rule(Rule::new("/manifests/", Fault::Corrupt).method(Method::GET));
        let path = format!("{}/manifests/{}", image.repository, image.digest);
        let answer = in_time(client.get(&path)).await?;
        ensure!(answer.status >= 400, "{}", answer.describe());
        ensure!(answer.status != 429, "{}", answer.describe());
        Ok(())
    });
}

#[test]
fn an_upstream_without_ranges_is_read_in_one_stream() {
    scene::run("upstream_ignores_ranges", async |scene| {
        let (upstream, _up, client) = start(scene).await?;
        let image = &upstream.images.middle;
        upstream.rule(Rule::new("/blobs/", Fault::IgnoreRange));
        let pulled = client.pull(image).await?;
        ensure!(pulled.cuts == 0, "{pulled:?}");
        let blob = image.largest()?;
        let whole: Vec<_> = upstream
            .ledger()
            .of_blob(&blob.digest)
            .into_iter()
            .filter(|request| request.bytes == blob.size)
            .collect();
        ensure!(whole.len() == 1, "{}", upstream.ledger().describe());
        Ok(())
    });
}

#[test]
fn a_stalled_body_is_asked_for_again() {
    scene::run("upstream_stalls", async |scene| {
        let (upstream, _up, client) = start(scene).await?;
        let image = &upstream.images.middle;
        upstream.rule(
            Rule::new("/blobs/", Fault::Stall(1 << 20))
                .method(Method::GET)
                .times(1),
        );
        client.pull(image).await.map(drop)
    });
}

#[test]
fn redirects_to_another_host_are_followed() {
    scene::run("upstream_redirects", async |scene| {
        let (upstream, _up, client) = start(scene).await?;
        let image = &upstream.images.middle;
        upstream.rule(Rule::new("/blobs/", Fault::Redirect));
        let pulled = client.pull(image).await?;
        ensure!(pulled.cuts == 0, "{pulled:?}");
        let requests = upstream.ledger().requests();
        let redirected: u64 = requests
            .iter()
            .filter(|request| request.redirected)
            .map(|request| request.bytes)
            .sum();
        ensure!(
            redirected == image.bytes(),
            "{}",
            upstream.ledger().describe()
        );
        Ok(())
    });
}

#[test]
fn who_asks_for_the_rest_after_a_cut_gets_bytes_or_a_refusal() {
    scene::run("upstream_lies_to_resumers", async |scene| {
        let (upstream, _up, client) = start(scene).await?;
        let image = &upstream.images.middle;
        let blob = image.largest()?;
        client.get(&tag_path(image)).await?;
        upstream.rule(Rule::new(blob.digest.to_string(), Fault::Corrupt).method(Method::GET));
        let mut length = 0;
        // Runtimes give up, and ask nobody else, when they get nothing three times in a row.
        let mut in_vain = 0;
        for _ in 0..6 {
            let request = client.request(Method::GET, &image.blob_path(blob));
            let request = request.header("range", format!("bytes={length}-"));
            let mut answer = request.send().await?;
            let status = answer.status().as_u16();
            if status == 404 {
                return Ok(());
            }
            ensure!(status == 206, "{status}");
            let before = length;
            while let Ok(Some(chunk)) = answer.chunk().await {
                length += chunk.len() as u64;
            }
            ensure!(length < blob.size, "{WRONG_BYTES}");
            in_vain = if length > before { 0 } else { in_vain + 1 };
            ensure!(in_vain < 3, "three times nothing at {length}");
        }
        Ok(())
    });
}
