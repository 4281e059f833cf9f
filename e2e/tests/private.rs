//! Content that an anonymous reader may not have, and tokens: who gets what, and what is kept.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use darner_e2e::client::Client;
use darner_e2e::cluster::up_settings;
use darner_e2e::darner::Darner;
use darner_e2e::image::Image;
use darner_e2e::raw;
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::{Fault, Guard, NAME, Rule, SIGNATURE, TOKEN, Upstream};

const USER: &str = "alice";
const PASSWORD: &str = "canary-password-of-a-caller";
/// `alice:canary-password-of-a-caller`.
const BASIC: &str = "Basic YWxpY2U6Y2FuYXJ5LXBhc3N3b3JkLW9mLWEtY2FsbGVy";

/// `darner up` that logs all it can.
async fn start_talkative(scene: &Scene, upstream: &Upstream) -> Result<Darner> {
    let settings = up_settings(scene, upstream)?.set("log.filter", "trace");
    Darner::start(scene, "up", "up", &settings).await
}

/// What must be in no log, however much is logged, no metric and no file.
async fn check_secrecy(scene: &Scene, up: &Darner, secrets: &[&str]) -> Result<()> {
    let metrics = up.metrics().await?.text;
    let logs = up.output();
    for secret in secrets {
        ensure!(!logs.contains(secret), "{secret} is in a log");
        ensure!(!metrics.contains(secret), "{secret} is in the metrics");
    }
    ensure!(logs.contains("\"TRACE\""), "not everything was logged");
    check_files(&scene.path("data-up"), secrets)
}

fn check_files(directory: &Path, secrets: &[&str]) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            check_files(&path, secrets)?;
            continue;
        }
        let bytes = std::fs::read(&path)?;
        for secret in secrets {
            let mut places = bytes.windows(secret.len());
            let there = places.any(|place| place == secret.as_bytes());
            ensure!(!there, "{secret} is in {}", path.display());
        }
    }
    Ok(())
}

#[test]
fn private_content_is_kept_for_those_who_may_read_it_and_for_nobody_else() {
    scene::run("private_basic", async |scene| {
        let mut upstream = Upstream::start(scene).await?;
        upstream.guard(Guard::Basic(BASIC.to_owned()));
        let up = start_talkative(scene, &upstream).await?;
        let stranger = Client::new(&up, NAME)?;
        let alice = stranger.with_credentials(USER, PASSWORD);
        let image = upstream.images.multi.clone();
        let path = format!("{}/manifests/{}", image.repository, image.tag);
        let before = stranger.get(&path).await?;

        alice.pull(&image).await?;
        let first = upstream.ledger().blob_bytes(&image);
        ensure!(first == image.bytes(), "{first} of {}", image.bytes());
        alice.pull(&image).await?;
        let second = upstream.ledger().blob_bytes(&image);
        ensure!(second == first, "it is read from upstream again");

        let refused = stranger.get(&path).await?;
        ensure!(refused.status == 401, "{}", refused.describe());
        ensure!(refused.header("www-authenticate")? == "Basic realm=\"upstream\"");
        ensure!(
            before.body == refused.body,
            "what is held shows in a refusal"
        );
        for blob in &image.blobs {
            let refused = stranger.get(&image.blob_path(blob)).await?;
            ensure!(refused.status == 401, "{}", refused.describe());
        }
        no_peer_gets(&up, &image).await?;

        // Who was granted it goes on while upstream is away; who was not is sent there.
        upstream.off();
        alice.pull(&image).await.context("with upstream off")?;
        let turned_away = stranger.get(&path).await?;
        ensure!(turned_away.status == 503, "{}", turned_away.describe());
        let wrong = stranger.with_credentials(USER, "wrong");
        let turned_away = wrong.get(&image.blob_path(image.largest()?)).await?;
        ensure!(turned_away.status == 404, "{}", turned_away.describe());
        check_secrecy(scene, &up, &[PASSWORD, &BASIC[6..]]).await
    });
}

/// Neither what is held nor what could be read in the operator's name leaves by the piece port.
async fn no_peer_gets(up: &Darner, image: &Image) -> Result<()> {
    let pieces = up.address("pieces")?;
    for blob in &image.blobs {
        let (digest, size) = (&blob.digest, blob.size);
        let source = format!("registry={NAME}&repository={}", image.repository);
        for target in [
            format!("/v1/tasks/{digest}/availability?size={size}&{source}"),
            format!("/v1/tasks/{digest}/pieces?want=0-0"),
        ] {
            let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            let exchange = raw::exchange(pieces, request.as_bytes());
            let answer = tokio::time::timeout(Duration::from_secs(2), exchange).await;
            let Ok(answer) = answer else {
                // A stream of what is available, on which nothing ever becomes so.
                continue;
            };
            let answer = answer?;
            let text = String::from_utf8_lossy(&answer);
            let pieces = text.starts_with("HTTP/1.1 200") && target.contains("/pieces");
            ensure!(!pieces, "{target}: {} bytes", answer.len());
        }
    }
    Ok(())
}

#[test]
fn a_member_cannot_have_private_content_read_in_the_operators_name() {
    scene::run("private_member", async |scene| {
        let upstream = Upstream::start(scene).await?;
        upstream.guard(Guard::Basic(BASIC.to_owned()));
        let file = scene.path("password");
        std::fs::write(&file, PASSWORD)?;
        let settings = up_settings(scene, &upstream)?
            .of_upstream("username", USER)
            .of_upstream("password_file", file.display().to_string());
        let up = Darner::start(scene, "up", "up", &settings).await?;
        let image = &upstream.images.tiny;
        no_peer_gets(&up, image).await?;
        let left = upstream.ledger().blob_bytes(image);
        ensure!(left == 0, "{left} bytes have left upstream");
        Ok(())
    });
}

#[test]
fn credentials_are_not_carried_to_the_host_a_redirect_names() {
    scene::run("private_redirect", async |scene| {
        let upstream = Upstream::start(scene).await?;
        upstream.guard(Guard::Basic(BASIC.to_owned()));
        upstream.rule(Rule::new("/blobs/", Fault::Redirect));
        let up = start_talkative(scene, &upstream).await?;
        let alice = Client::new(&up, NAME)?.with_credentials(USER, PASSWORD);
        alice.pull(&upstream.images.multi).await?;
        check_secrecy(scene, &up, &[PASSWORD, &BASIC[6..], SIGNATURE]).await?;
        let requests = upstream.ledger().requests();
        let redirected = requests.iter().filter(|request| request.redirected);
        let mut count = 0;
        for request in redirected {
            ensure!(request.authorization.is_none(), "{request:?}");
            count += 1;
        }
        ensure!(count > 0, "nothing was redirected");
        Ok(())
    });
}

#[test]
fn what_an_anonymous_token_opens_is_public_and_kept() {
    scene::run("private_anonymous_token", async |scene| {
        let upstream = Upstream::start(scene).await?;
        upstream.guard(Guard::Bearer(None));
        let up = start_talkative(scene, &upstream).await?;
        let client = Client::new(&up, NAME)?;
        let image = &upstream.images.middle;
        client.pull(image).await?;
        let asked = upstream.ledger().count();
        client.pull(image).await?;
        ensure!(
            upstream.ledger().count() == asked,
            "{}",
            upstream.ledger().describe()
        );
        check_secrecy(scene, &up, &[TOKEN]).await
    });
}

#[test]
fn the_operators_credentials_do_not_open_private_content_to_callers() {
    scene::run("private_configured", async |scene| {
        let upstream = Upstream::start(scene).await?;
        upstream.guard(Guard::Basic(BASIC.to_owned()));
        let file = scene.path("password");
        std::fs::write(&file, format!("{PASSWORD}\n"))?;
        let settings = up_settings(scene, &upstream)?
            .set("log.filter", "trace")
            .of_upstream("username", USER)
            .of_upstream("password_file", file.display().to_string());
        let up = Darner::start(scene, "up", "up", &settings).await?;
        let image = &upstream.images.tiny;
        let path = format!("{}/manifests/{}", image.repository, image.tag);
        let stranger = Client::new(&up, NAME)?;
        let refused = stranger.get(&path).await?;
        ensure!(refused.status == 401, "{}", refused.describe());
        let alice = stranger.with_credentials(USER, PASSWORD);
        alice.pull(image).await.context("with her own password")?;
        check_secrecy(scene, &up, &[PASSWORD, &BASIC[6..]]).await
    });
}

#[test]
fn a_token_challenge_reaches_the_client_as_upstream_sent_it() {
    scene::run("private_bearer", async |scene| {
        let upstream = Upstream::start(scene).await?;
        upstream.guard(Guard::Bearer(Some(BASIC.to_owned())));
        let up = start_talkative(scene, &upstream).await?;
        let image = &upstream.images.tiny;
        let path = format!("{}/manifests/{}", image.repository, image.tag);
        let refused = Client::new(&up, NAME)?.get(&path).await?;
        ensure!(refused.status == 401, "{}", refused.describe());
        let challenge = refused.header("www-authenticate")?;
        let realm = format!("Bearer realm=\"{}/token\"", upstream.url());
        ensure!(challenge.starts_with(&realm), "{challenge}");
        Ok(())
    });
}
