//! Accounts that Podman and its kin keep under the mirror's own address: `[registry] logins`.

use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Result, ensure};
use darner_e2e::cluster::{self, Cluster, mirror_settings, seeds, up_settings};
use darner_e2e::containerd::Containerd;
use darner_e2e::darner::{Darner, Settings};
use darner_e2e::docker::Dockerd;
use darner_e2e::image::Image;
use darner_e2e::scene::{self, Scene};
use darner_e2e::skopeo::Skopeo;
use darner_e2e::upstream::{Guard, NAME, TOKEN, Upstream};
use darner_e2e::{darner, place, process, raw};
use tempfile::TempDir;

const PASSWORD: &str = "canary-password-of-a-caller";
/// `alice:canary-password-of-a-caller`.
const ACCOUNT: &str = "YWxpY2U6Y2FuYXJ5LXBhc3N3b3JkLW9mLWEtY2FsbGVy";
const SECRETS: [&str; 3] = [PASSWORD, ACCOUNT, TOKEN];
/// `alice:wrong`.
const WRONG: &str = "YWxpY2U6d3Jvbmc=";

async fn start(scene: &Scene, upstream: &Upstream) -> Result<Darner> {
    let settings = with_logins(up_settings(scene, upstream)?);
    Darner::start(scene, "up", "up", &settings).await
}

/// A mirror of a cluster that takes accounts of the test registry.
async fn joined(
    scene: &Scene,
    upstream: &Upstream,
    cluster: &Cluster,
    name: &str,
) -> Result<Darner> {
    let settings = with_logins(mirror_settings(scene, upstream, name)?);
    cluster::join_with(scene, &cluster.manager, settings, ("mirror", name)).await
}

fn with_logins(settings: Settings) -> Settings {
    let named = toml::Value::Array(vec![NAME.into()]);
    settings
        .set("registry.logins", named)
        .set("log.filter", "trace")
}

fn secrets_stay(scene: &Scene, up: &Darner) -> Result<()> {
    logs_none(up)?;
    scene.holds_none_of("data-up", &SECRETS)
}

fn logs_none(process: &Darner) -> Result<()> {
    let log = process.output();
    for secret in SECRETS {
        let name = process.name();
        ensure!(!log.contains(secret), "{secret} is in the log of {name}");
    }
    Ok(())
}

/// The same with an account (`user:password`, in base64) under a place: a host, or a path of it.
fn keeping(scene: &Scene, skopeo: &Skopeo, place: &str, account: &str) -> Result<Skopeo> {
    let text = format!("{{\"auths\": {{\"{place}\": {{\"auth\": \"{account}\"}}}}}}");
    let path = scene.path(format!("{account}.json"));
    std::fs::write(&path, text)?;
    Ok(skopeo.with_logins(&path))
}

/// Whoever has the account under the mirror gets what is private, once from upstream; nobody else.
async fn skopeo_gets_it(scene: &Scene, guard: Guard) -> Result<()> {
    let mut upstream = Upstream::start(scene).await?;
    upstream.guard(guard);
    let up = start(scene, &upstream).await?;
    let mirror = up.address("registry")?.to_string();
    let image = upstream.images.middle.clone();
    let reference = image.reference(NAME);
    let stranger = Skopeo::new(scene, "stranger", NAME, &mirror)?;
    ensure!(
        stranger.copy(&image, &reference).await.is_err(),
        "nobody's account opens it"
    );
    let alice = Skopeo::new(scene, "alice", NAME, &mirror)?;
    for place in [format!("{mirror}/{NAME}"), mirror.clone()] {
        let alice = keeping(scene, &alice, &place, ACCOUNT)?;
        alice.copy(&image, &reference).await?;
        let (bytes, whole) = (upstream.ledger().blob_bytes(&image), image.bytes());
        ensure!(bytes == whole, "upstream sent {bytes} for {whole} bytes");
    }
    let mallory = Skopeo::new(scene, "mallory", NAME, &mirror)?;
    let mallory = keeping(scene, &mallory, &mirror, WRONG)?;
    for who in [&mallory, &stranger] {
        ensure!(
            who.copy(&image, &reference).await.is_err(),
            "it is given out"
        );
    }
    // Who was let in goes on for a while without upstream.
    upstream.off();
    let alice = keeping(scene, &alice, &mirror, ACCOUNT)?;
    alice.copy(&image, &image.digest_reference(NAME)).await?;
    ensure!(
        mallory.copy(&image, &reference).await.is_err(),
        "it is given out"
    );
    secrets_stay(scene, &up)
}

#[test]
fn skopeo_reads_by_an_account_for_which_the_registry_gives_tokens() {
    scene::run("logins_bearer", async |scene| {
        skopeo_gets_it(scene, Guard::Bearer(Some(format!("Basic {ACCOUNT}")))).await
    });
}

#[test]
fn skopeo_reads_by_an_account_that_the_registry_wants_to_see_itself() {
    scene::run("logins_basic", async |scene| {
        skopeo_gets_it(scene, Guard::Basic(format!("Basic {ACCOUNT}"))).await
    });
}

/// Podman, with all it keeps in one directory.
struct Podman {
    directory: PathBuf,
    /// Podman wants it to have a short name.
    run: TempDir,
    mirror: String,
}

impl Podman {
    /// One that pulls through `mirror`.
    fn of(scene: &Scene, mirror: &Darner) -> Result<Self> {
        Ok(Self {
            directory: scene.make_directory(format!("podman-{}", mirror.name()))?,
            run: tempfile::Builder::new().prefix("e2e-").tempdir()?,
            mirror: mirror.address("registry")?.to_string(),
        })
    }

    async fn run(&self, arguments: &[&str]) -> Result<Output> {
        let directory = &self.directory;
        let registries = directory.join("registries.conf");
        let text = format!(
            "[[registry]]\nprefix = \"{NAME}\"\nlocation = \"{NAME}\"\n\
             [[registry.mirror]]\nlocation = \"{}/{NAME}\"\ninsecure = true\n",
            self.mirror
        );
        std::fs::write(&registries, text)?;
        let mut command = Command::new(place::required_tool("podman")?);
        command.arg("--root").arg(directory.join("root"));
        command.arg("--runroot").arg(self.run.path());
        command.args(["--storage-driver", "vfs"]).args(arguments);
        command.env("CONTAINERS_REGISTRIES_CONF", registries);
        command.env("REGISTRY_AUTH_FILE", directory.join("auth.json"));
        command.env("HOME", directory);
        process::finish(command).await
    }

    async fn log_in(&self, place: &str, password: &str) -> Result<Output> {
        let arguments = ["login", "--tls-verify=false", "--username", "alice"];
        let given = [&arguments[..], &["--password", password, place]].concat();
        self.run(&given).await
    }

    /// With the right account it pulls the image, of which upstream has sent no byte twice.
    async fn is_let_in(&self, upstream: &Upstream, image: &Image) -> Result<()> {
        let taken = self.log_in(&self.mirror, PASSWORD).await?;
        ensure!(taken.status.success(), "{taken:?}");
        let pulled = self
            .run(&["pull", "--quiet", &image.reference(NAME)])
            .await?;
        ensure!(pulled.status.success(), "{pulled:?}");
        let (bytes, whole) = (upstream.ledger().blob_bytes(image), image.bytes());
        ensure!(bytes == whole, "upstream sent {bytes} for {whole} bytes");
        Ok(())
    }
}

#[test]
fn podman_logs_in_to_the_mirror_and_pulls_what_is_private_through_it() {
    scene::run("logins_podman", async |scene| {
        let upstream = Upstream::start(scene).await?;
        upstream.guard(Guard::Bearer(Some(format!("Basic {ACCOUNT}"))));
        let up = start(scene, &upstream).await?;
        let podman = Podman::of(scene, &up)?;
        let image = &upstream.images.middle;
        let reference = image.reference(NAME);
        let pull = ["pull", "--quiet", &reference];
        ensure!(
            !podman.run(&pull).await?.status.success(),
            "nobody's account"
        );
        let refused = podman.log_in(&podman.mirror, "wrong").await?;
        ensure!(!refused.status.success(), "{refused:?}");
        podman.is_let_in(&upstream, image).await?;
        secrets_stay(scene, &up)
    });
}

#[test]
fn podman_on_two_nodes_has_what_is_private_from_a_seed_that_saw_the_accounts_token() {
    scene::run("logins_seed", async |scene| {
        let upstream = Upstream::start(scene).await?;
        upstream.guard(Guard::Bearer(Some(format!("Basic {ACCOUNT}"))));
        let cluster = Cluster::start(scene, &upstream, seeds(1)).await?;
        let image = &upstream.images.middle;
        let reference = image.reference(NAME);
        let pull = ["pull", "--quiet", &reference];
        let mut mirrors = Vec::new();
        for name in ["mirror-1", "mirror-2"] {
            let mirror = joined(scene, &upstream, &cluster, name).await?;
            let podman = Podman::of(scene, &mirror)?;
            // That the content is in the cluster by then opens it to nobody.
            let refused = podman.run(&pull).await?;
            ensure!(!refused.status.success(), "nobody's account: {refused:?}");
            podman.is_let_in(&upstream, image).await?;
            mirrors.push(mirror);
        }
        let given = cluster.seeds[0].metrics().await?;
        let given = given.sum("darner_private_tickets_total", "");
        ensure!(given >= 2.0, "{given} tickets");
        for process in mirrors.iter().chain(&cluster.seeds) {
            logs_none(process)?;
        }
        for name in ["mirror-1", "mirror-2", "seed-1"] {
            scene.holds_none_of(format!("data-{name}"), &SECRETS)?;
        }
        Ok(())
    });
}

#[test]
fn what_is_public_needs_no_account_whoever_asks() {
    scene::run("logins_public", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let settings = with_logins(up_settings(scene, &upstream)?)
            .set("registry.default_upstream", "docker.io")
            .upstream("docker.io", &upstream.url());
        let up = Darner::start(scene, "up", "up", &settings).await?;
        let mirror = up.address("registry")?;
        let ping = raw::exchange(
            mirror,
            b"GET /v2/ HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n",
        )
        .await?;
        let told = String::from_utf8_lossy(&ping).into_owned();
        ensure!(told.starts_with("HTTP/1.1 401"), "{told}");
        ensure!(told.contains("realm=\"http://a.test/token\""), "{told}");
        let image = &upstream.images.middle;
        let skopeo = Skopeo::new(scene, "skopeo", NAME, &mirror.to_string())?;
        skopeo.copy(image, &image.reference(NAME)).await?;
        let containerd = Containerd::start(scene, "containerd", &up.url("registry")?).await?;
        containerd.pull(&image.reference(NAME)).await?;
        let root = scene.make_directory("host")?;
        std::fs::create_dir_all(root.join("etc/containers/registries.conf.d"))?;
        std::fs::create_dir_all(root.join("var/lib"))?;
        std::fs::write(root.join("etc/containers/registries.conf"), "")?;
        let mut setup = darner::command()?;
        setup.args(["setup", "podman", "--registry", NAME, "--root"]);
        setup.arg(&root).args(["--mirror", &up.url("registry")?]);
        setup.args(["--probe", &image.reference(NAME)]);
        process::run(setup).await?;
        std::fs::create_dir_all(root.join("etc/docker"))?;
        let mirrors = format!("{{\"registry-mirrors\": [\"http://{mirror}\"]}}");
        std::fs::write(root.join("etc/docker/daemon.json"), mirrors)?;
        let dockerd = Dockerd::start(scene, &root).await?;
        dockerd.pull(&image.repository, &image.tag).await?;
        let (bytes, whole) = (upstream.ledger().blob_bytes(image), image.bytes());
        ensure!(bytes == whole, "upstream sent {bytes} for {whole} bytes");
        Ok(())
    });
}
