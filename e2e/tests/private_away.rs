//! Private content while its registry is away: who was granted it a moment ago goes on for an hour, and
//! nobody else learns so much as whether it is held.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use darner_e2e::client::{Client, SOURCE};
use darner_e2e::clock::Clock;
use darner_e2e::cluster::{Cluster, seeds, up_settings};
use darner_e2e::darner::{self, Darner};
use darner_e2e::image::Image;
use darner_e2e::registry::{Access, Registry};
use darner_e2e::runtime::{PASSWORD, PASSWORD_HASH, USER};
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::{Fault, Guard, NAME, Rule, Upstream};
use darner_e2e::wait;
use darner_proto::digest::Digest;
use futures_util::future::try_join_all;
use http::Method;

const ALICE: &str = "canary-of-alice-5ecre7";
const BOB: &str = "canary-of-bob-5ecre7";
const MINUTE: Duration = Duration::from_secs(60);

/// A registry that itself asks for a password.
async fn with_passwords(scene: &Scene) -> Result<Upstream> {
    let users = scene.path("htpasswd");
    std::fs::write(&users, format!("{USER}:{PASSWORD_HASH}\n"))?;
    let directory = scene.path("");
    let place = (directory.as_path(), "registry-password");
    let storage = &scene.images().storage;
    let registry = Registry::start_as(place, storage, true, &Access::Password(users)).await?;
    Upstream::before(scene, registry).await
}

/// A registry of two tenants: each has a token for one image.
async fn with_tokens(scene: &Scene) -> Result<Upstream> {
    let upstream = Upstream::start(scene).await?;
    let of = |image: &Image, token: &str| (image.repository.clone(), token.to_owned());
    let images = scene.images();
    let tokens = vec![of(&images.multi, ALICE), of(&images.tiny, BOB)];
    upstream.guard(Guard::Tokens(tokens));
    Ok(upstream)
}

/// Whatever is asked, and by whom.
fn all(fault: Fault) -> Rule {
    Rule::new("/v2/", fault).for_everybody()
}

/// Of its tag.
fn path_of(image: &Image) -> String {
    format!("{}/manifests/{}", image.repository, image.tag)
}

/// All of an answer that does not change from one to the next.
async fn whole(client: &Client, method: &Method, path: &str) -> Result<String> {
    let answer = client.request(method.clone(), path).send().await?;
    let status = answer.status();
    let mut headers: Vec<_> = answer
        .headers()
        .iter()
        .filter(|(name, _)| *name != "date")
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    headers.sort();
    Ok(format!("{status} {headers:?} {:?}", answer.bytes().await?))
}

/// Nobody of these gets anything of an image that is held, nor another answer than for what is not.
async fn tells_nothing(held: &Image, strangers: &[Client]) -> Result<()> {
    let repository = &held.repository;
    let (digest, blob) = (&held.digest, &held.largest()?.digest);
    let unknown = Digest::sha256(b"held by nobody");
    let mut asked = Vec::new();
    for stranger in strangers {
        for (of_held, of_none) in [
            (tag_path(&held.tag), tag_path("unknown")),
            (
                format!("manifests/{digest}"),
                format!("manifests/{unknown}"),
            ),
            (format!("blobs/{blob}"), format!("blobs/{unknown}")),
        ] {
            for method in [Method::GET, Method::HEAD] {
                let paths = [
                    format!("{repository}/{of_held}"),
                    format!("{repository}/{of_none}"),
                    format!("test/never-heard-of/{of_held}"),
                    format!("test/never-heard-of/{of_none}"),
                ];
                asked.push(async move {
                    let told = paths.iter().map(|path| whole(stranger, &method, path));
                    let told = try_join_all(told).await?;
                    let away = ["503 ", "404 "]
                        .iter()
                        .any(|status| told[0].starts_with(status));
                    let alike = told.iter().all(|one| *one == told[0]);
                    ensure!(away && alike, "{method} {paths:?}: {told:#?}");
                    Ok(())
                });
            }
        }
    }
    try_join_all(asked).await.map(drop)
}

fn tag_path(tag: &str) -> String {
    format!("manifests/{tag}")
}

/// Who was granted the image has all of it, and is told that its tag may be old.
async fn has_it(client: &Client, image: &Image) -> Result<()> {
    client.pull(image).await?;
    let answer = client.get(&path_of(image)).await?;
    ensure!(
        answer.header("warning")?.starts_with("110 "),
        "{}",
        answer.describe()
    );
    let by_digest = format!("{}/manifests/{}", image.repository, image.digest);
    let answer = client.get(&by_digest).await?;
    ensure!(
        !answer.headers.contains_key("warning"),
        "{}",
        answer.describe()
    );
    let answer = client
        .range(&image.blob_path(image.largest()?), "5-14")
        .await?;
    let part = answer.status == 206 && answer.body.len() == 10;
    ensure!(
        part && answer.header(SOURCE)? == "store",
        "{}",
        answer.describe()
    );
    Ok(())
}

/// The owner of the right credential, and others.
struct Callers {
    alice: Client,
    strangers: Vec<Client>,
}

/// Of a mirror in front of `upstream`: who goes on and who does not.
async fn goes_on_for_one(
    scene: &Scene,
    mut upstream: Upstream,
    callers: impl Fn(&Client) -> Callers,
) -> Result<()> {
    let mut up = Darner::start(scene, "up", "up", &up_settings(scene, &upstream)?).await?;
    let image = scene.images().multi.clone();
    let Callers { alice, strangers } = callers(&Client::new(&up, NAME)?);
    alice.pull(&image).await?;
    upstream.read_once(&image)?;
    upstream.rule(all(Fault::Status(502)));
    has_it(&alice, &image).await.context("502")?;
    tells_nothing(&image, &strangers).await.context("502")?;
    // A registry that refuses is not away, and that ends the grant.
    upstream.clear_rules();
    upstream.rule(all(Fault::Status(403)));
    wait::until("the registry is asked again", async || {
        let refused = alice.get(&path_of(&image)).await.ok()?;
        (refused.status == 403).then_some(())
    })
    .await?;
    upstream.off();
    let ended = std::slice::from_ref(&alice);
    tells_nothing(&image, ended)
        .await
        .context("refused before")?;
    upstream.on().await?;
    upstream.clear_rules();
    alice.pull(&image).await?;
    upstream.off();
    has_it(&alice, &image).await.context("off")?;
    tells_nothing(&image, &strangers).await.context("off")?;
    upstream.on().await?;
    upstream.rule(all(Fault::Status(429)));
    has_it(&alice, &image).await.context("429")?;
    tells_nothing(&image, &strangers).await.context("429")?;
    upstream.read_once(&image)?;
    // Grants are in memory alone.
    upstream.off();
    up.stop().await?;
    up.restart().await?;
    let Callers { alice, .. } = callers(&Client::new(&up, NAME)?);
    tells_nothing(&image, &[alice])
        .await
        .context("started again")
}

#[test]
fn who_showed_the_right_password_goes_on_and_others_learn_nothing() {
    scene::run("away_passwords", async |scene| {
        let upstream = with_passwords(scene).await?;
        let callers = |client: &Client| Callers {
            alice: client.with_credentials(USER, PASSWORD),
            strangers: vec![
                client.clone(),
                client.with_credentials(USER, "wrong"),
                client.with_credentials("bob", PASSWORD),
            ],
        };
        goes_on_for_one(scene, upstream, callers).await
    });
}

#[test]
fn who_showed_the_right_token_goes_on_and_another_tenant_learns_nothing() {
    scene::run("away_tokens", async |scene| {
        let upstream = with_tokens(scene).await?;
        let callers = |client: &Client| Callers {
            alice: client.with_token(ALICE),
            strangers: vec![
                client.clone(),
                client.with_token(BOB),
                client.with_token("wrong"),
            ],
        };
        goes_on_for_one(scene, upstream, callers).await
    });
}

/// A mirror whose clock can be set forward.
async fn start_with_clock(scene: &Scene, upstream: &Upstream) -> Result<(Darner, Clock)> {
    let clock = Clock::new(scene, "up")?;
    let mut command = darner::command()?;
    clock.give(&mut command);
    let settings = up_settings(scene, upstream)?;
    let up = Darner::start_by(scene, "up", "up", &settings, command).await?;
    Ok((up, clock))
}

#[test]
fn a_grant_ends_an_hour_after_it_was_given() {
    scene::run("away_hour", async |scene| {
        let mut upstream = with_passwords(scene).await?;
        let (up, clock) = start_with_clock(scene, &upstream).await?;
        let image = scene.images().multi.clone();
        // Connections of before have idled for as long.
        let at = |minutes: u32| -> Result<[Client; 2]> {
            clock.set_ahead(minutes * MINUTE)?;
            let stranger = Client::new(&up, NAME)?;
            Ok([stranger.with_credentials(USER, PASSWORD), stranger])
        };
        at(0)?[0].pull(&image).await?;
        // What is asked for by its digest is not asked for again, for five minutes.
        let blob = image.blob_path(image.largest()?);
        for (minutes, asked) in [(4, 0), (6, 1), (8, 0)] {
            let before = upstream.ledger().count();
            let answer = at(minutes)?[0].get(&blob).await?;
            ensure!(answer.status == 200, "{}", answer.describe());
            let requests = upstream.ledger().requests();
            let mut shown = requests[before..].to_vec();
            shown.retain(|one| one.authorization.is_some());
            ensure!(shown.len() == asked, "{minutes}: {shown:?}");
        }
        // It was given at the sixth.
        upstream.off();
        for minutes in [10, 12, 65] {
            let [alice, stranger] = at(minutes)?;
            let what = || format!("{minutes} minutes");
            has_it(&alice, &image).await.with_context(what)?;
            tells_nothing(&image, &[stranger])
                .await
                .with_context(what)?;
        }
        for minutes in [67, 24 * 60] {
            let callers = at(minutes)?;
            let what = || format!("{minutes} minutes");
            tells_nothing(&image, &callers).await.with_context(what)?;
        }
        // The content is there still, for whom the registry lets in.
        upstream.on().await?;
        let before = upstream.ledger().blob_bytes(&image);
        let [alice, stranger] = at(24 * 60 + 1)?;
        alice.pull(&image).await?;
        ensure!(upstream.ledger().blob_bytes(&image) == before);
        let refused = stranger.get(&blob).await?;
        ensure!(refused.status == 401, "{}", refused.describe());
        Ok(())
    });
}

#[test]
fn a_registry_that_says_nothing_is_waited_for_once() {
    scene::run("away_silent", async |scene| {
        let upstream = with_tokens(scene).await?;
        let (up, clock) = start_with_clock(scene, &upstream).await?;
        let image = scene.images().multi.clone();
        Client::new(&up, NAME)?
            .with_token(ALICE)
            .pull(&image)
            .await?;
        // So much later that the registry is to be asked about everything.
        clock.set_ahead(10 * MINUTE)?;
        let stranger = Client::new(&up, NAME)?;
        let alice = stranger.with_token(ALICE);
        upstream.rule(all(Fault::Silent));
        let began = Instant::now();
        alice.pull(&image).await?;
        let took = began.elapsed();
        ensure!(took < Duration::from_secs(11), "{took:?}");
        let began = Instant::now();
        has_it(&alice, &image).await?;
        let took = began.elapsed();
        ensure!(took < Duration::from_secs(2), "{took:?}");
        let began = Instant::now();
        tells_nothing(&image, std::slice::from_ref(&stranger)).await?;
        let took = began.elapsed();
        ensure!(took < Duration::from_secs(11), "{took:?}");
        Ok(())
    });
}

#[test]
fn a_node_that_was_granted_it_has_the_rest_from_its_seed_and_another_node_nothing() {
    scene::run("away_nodes", async |scene| {
        let mut upstream = with_tokens(scene).await?;
        let cluster = Cluster::start(scene, &upstream, seeds(1).mirrors(3)).await?;
        let image = scene.images().multi.clone();
        let clients = cluster.clients()?;
        let [first, second, third] = [0, 1, 2].map(|number| clients[number].with_token(ALICE));
        first.pull(&image).await?;
        // Of this one nothing but manifests has been asked for.
        for manifest in &image.manifests {
            let path = format!("{}/manifests/{}", image.repository, manifest.digest);
            let answer = second.get(&path).await?;
            ensure!(answer.status == 200, "{}", answer.describe());
        }
        upstream.off();
        has_it(&first, &image)
            .await
            .context("where it was pulled")?;
        for blob in &image.blobs {
            let answer = second.get(&image.blob_path(blob)).await?;
            ensure!(answer.status == 200, "{}", answer.describe());
            ensure!(answer.header(SOURCE)? == "seed" && blob.digest.matches(&answer.body));
        }
        tells_nothing(&image, &[third])
            .await
            .context("a node that never asked")?;
        let others = [clients[0].with_token(BOB), clients[1].clone()];
        tells_nothing(&image, &others).await.context("others")?;
        upstream.read_once(&image)
    });
}
