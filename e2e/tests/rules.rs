//! What the manager sets for nodes: where a registry is and what seeds read it with, how fast, and what is
//! not served. Nodes follow while they run, and know it when they start without the manager.

use anyhow::{Context as _, Result, ensure};
use darner_e2e::client::Client;
use darner_e2e::cluster::{add_scheduler, join_with, manager_settings, unknowing_settings};
use darner_e2e::darner::Darner;
use darner_e2e::image::Image;
use darner_e2e::operator::{self, ask, told};
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::{Guard, NAME, Upstream};
use darner_e2e::wait;

const USER: &str = "alice";
const PASSWORD: &str = "canary-password-of-a-caller";
/// `alice:canary-password-of-a-caller`.
const BASIC: &str = "Basic YWxpY2U6Y2FuYXJ5LXBhc3N3b3JkLW9mLWEtY2FsbGVy";

/// A cluster whose nodes know nothing of the test registry.
struct Unknowing {
    manager: Darner,
    _scheduler: Darner,
    seed: Darner,
    mirrors: Vec<Darner>,
}

impl Unknowing {
    async fn start(scene: &Scene) -> Result<Self> {
        let key = scene.path("seal");
        std::fs::write(&key, "7".repeat(64))?;
        let settings = manager_settings(scene)?;
        let settings = settings.set("manager.seal_key_file", key.display().to_string());
        let manager = Darner::start(scene, "manager", "manager", &settings).await?;
        operator::set_up(scene, &manager)?;
        let node = async |role: &'static str, name: &'static str| {
            let settings = unknowing_settings(scene, name)?.set("log.filter", "debug");
            join_with(scene, &manager, settings, (role, name)).await
        };
        Ok(Self {
            _scheduler: add_scheduler(scene, &manager, "scheduler").await?,
            seed: node("seed", "seed-1").await?,
            mirrors: vec![
                node("mirror", "mirror-1").await?,
                node("mirror", "mirror-2").await?,
            ],
            manager,
        })
    }

    /// Waits until every mirror answers `path` with `status`.
    async fn answer(&self, path: &str, status: u16) -> Result<()> {
        for mirror in &self.mirrors {
            answers(mirror, path, status).await?;
        }
        Ok(())
    }
}

async fn answers(mirror: &Darner, path: &str, status: u16) -> Result<()> {
    let client = Client::new(mirror, NAME)?;
    let what = format!("{} answers {path} with {status}", mirror.name());
    wait::until(&what, async || {
        let answer = client.get(path).await.ok()?;
        (answer.status == status).then_some(())
    })
    .await
}

fn manifest(image: &Image) -> String {
    format!("{}/manifests/{}", image.repository, image.tag)
}

fn say(scene: &Scene, arguments: &[&str], input: &str) -> Result<()> {
    let said = ask(scene, arguments, input)?;
    ensure!(said.status.success(), "{arguments:?}: {said:?}");
    Ok(())
}

#[test]
fn a_registry_of_the_managers_is_read_once_with_its_login_and_outlives_the_manager() {
    scene::run("rules_registry", async |scene| {
        let upstream = Upstream::start(scene).await?;
        upstream.guard(Guard::Bearer(None));
        let mut cluster = Unknowing::start(scene).await?;
        let (image, later) = (&upstream.images.middle, &upstream.images.tiny);
        let stranger = Client::new(&cluster.mirrors[0], NAME)?;
        ensure!(stranger.pull(image).await.is_err(), "nobody knows it yet");

        let url = upstream.url();
        let set = ["cluster", "registry", "default", NAME, "--url", &url];
        let set = [&set[..], &["--username", USER, "--tag-ttl", "30s"]].concat();
        say(scene, &set, &format!("{PASSWORD}\n"))?;
        cluster.answer(&manifest(image), 200).await?;
        for mirror in &cluster.mirrors {
            let pulled = Client::new(mirror, NAME)?.pull(image).await;
            pulled.with_context(|| mirror.name().to_owned())?;
        }
        upstream.read_once(image)?;

        // The seed shows the login where tokens are given, and mirrors have none to show.
        let requests = upstream.ledger().requests();
        let tokens = requests
            .iter()
            .filter(|request| request.path.starts_with("/token"));
        let shown: Vec<_> = tokens.map(|token| token.authorization.as_deref()).collect();
        ensure!(shown.contains(&Some(BASIC)), "{shown:?}");
        let cluster_told = told(scene, &["cluster", "show", "default"])?;
        let rule = &cluster_told["rules"]["upstreams"][0];
        ensure!(
            rule["username"] == USER && rule["tag_ttl_seconds"] == 30,
            "{rule}"
        );
        ensure!(!cluster_told.to_string().contains(PASSWORD));
        for process in cluster
            .mirrors
            .iter()
            .chain([&cluster.seed, &cluster.manager])
        {
            let output = process.output();
            let told = output.contains(PASSWORD) || output.contains(&BASIC[6..]);
            ensure!(!told, "{}", process.name());
        }
        scene.holds_none_of("", &[PASSWORD, &BASIC[6..]])?;

        // A seed that starts anew hears the password again, though nothing has changed meanwhile.
        let before = upstream.ledger().requests().len();
        // Killed, so that it is the same member all the while.
        cluster.seed.kill()?;
        cluster.seed.restart().await?;
        Client::new(&cluster.mirrors[0], NAME)?
            .pull(&upstream.images.multi)
            .await?;
        let shown = async || {
            let requests = upstream.ledger().requests();
            let mut since = requests[before..].iter();
            since
                .any(|request| request.authorization.as_deref() == Some(BASIC))
                .then_some(())
        };
        wait::until("the seed to show the login again", shown).await?;

        // Without the manager a node that starts anew still knows it.
        cluster.manager.stop().await?;
        let mirror = &mut cluster.mirrors[0];
        mirror.stop().await?;
        mirror.restart().await?;
        Client::new(mirror, NAME)?.pull(later).await?;
        Ok(())
    });
}

#[test]
fn what_is_blocked_is_not_served_while_it_is_and_limits_are_kept() {
    scene::run("rules_blocked", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let cluster = Unknowing::start(scene).await?;
        let image = &upstream.images.tiny;
        let url = upstream.url();
        say(
            scene,
            &["cluster", "registry", "default", NAME, "--url", &url],
            "",
        )?;
        let path = manifest(image);
        cluster.answer(&path, 200).await?;

        // By repository, and what a tag means by its digest.
        let repository = format!("{NAME}/{}", image.repository);
        let digest = image.digest.to_string();
        for what in [repository.as_str(), "registry.*/*", &digest] {
            say(scene, &["cluster", "block", "default", what], "")?;
            cluster.answer(&path, 403).await?;
            let refused = Client::new(&cluster.mirrors[0], NAME)?.get(&path).await?;
            ensure!(refused.error_code()? == "DENIED", "{}", refused.describe());
            say(scene, &["cluster", "block", "default", what, "--undo"], "")?;
            cluster.answer(&path, 200).await?;
        }
        let blob = image.largest()?;
        say(
            scene,
            &["cluster", "block", "default", &blob.digest.to_string()],
            "",
        )?;
        cluster.answer(&image.blob_path(blob), 404).await?;
        let wanted = format!("{repository}:{}", image.tag);
        let job = ask(scene, &["preheat", &wanted, "--wait"], "")?;
        ensure!(job.status.code() == Some(1), "{job:?}");
        say(
            scene,
            &[
                "cluster",
                "block",
                "default",
                &blob.digest.to_string(),
                "--undo",
            ],
            "",
        )?;
        cluster.answer(&image.blob_path(blob), 200).await?;

        let limited = async |wanted: f64| {
            wait::until("the seed's limit", async || {
                let metrics = cluster.seed.metrics().await.ok()?;
                let of = r#"direction="upload""#;
                let is = metrics.sum("darner_bandwidth_limit_bytes_per_second", of);
                (is == wanted).then_some(())
            })
            .await
        };
        say(
            scene,
            &["cluster", "limit", "default", "--upload", "1MiB"],
            "",
        )?;
        limited(1_048_576.0).await?;
        say(
            scene,
            &["cluster", "limit", "default", "--upload", "none"],
            "",
        )?;
        limited(0.0).await?;

        // What cannot be meant is refused and changes nothing.
        for bad in [
            vec!["block", "default", "nothing"],
            vec!["registry", "default", "r.example"],
            vec!["registry", "nowhere", "quay.io"],
            vec!["limit", "default"],
        ] {
            let refused = ask(scene, &[&["cluster"][..], &bad].concat(), "")?;
            ensure!(!refused.status.success(), "{bad:?}");
        }
        cluster.answer(&path, 200).await
    });
}
