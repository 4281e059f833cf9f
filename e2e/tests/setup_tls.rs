//! `darner setup --tls`: runtimes speak TLS to the mirror on their machine, and to nobody who takes
//! its place.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use darner_e2e::cluster::up_settings;
use darner_e2e::containerd::Host;
use darner_e2e::darner::{Darner, Settings};
use darner_e2e::docker::Dockerd;
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::{NAME, Upstream};
use darner_e2e::{darner, place, process, skopeo, tree, wait};
use darner_service::identity::local::Local;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A mirror that speaks TLS, and the file of its authority.
async fn start(scene: &Scene, settings: Settings) -> Result<(Darner, PathBuf)> {
    let settings = settings.set("registry.tls", true);
    let up = Darner::start(scene, "up", "up", &settings).await?;
    Ok((up, scene.path("data-up/registry-tls/authority.pem")))
}

fn secured(up: &Darner) -> Result<String> {
    Ok(format!("https://{}", up.address("registry")?))
}

/// Sets a runtime up for the mirror `up` under TLS.
fn set_up(command: &mut Command, runtime: &str, up: &Darner, authority: &Path) -> Result<()> {
    command.args(["setup", runtime, "--tls", "--mirror", &secured(up)?]);
    command.arg("--ca").arg(authority);
    Ok(())
}

/// Somebody who took the mirror's port: what came to it.
#[derive(Debug)]
struct Impostor {
    seen: Arc<Seen>,
    _listening: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Seen {
    connections: AtomicUsize,
    /// Of these, those that were not TLS, or whose client took a certificate of somebody else.
    deceived: AtomicUsize,
}

impl Impostor {
    async fn take(scene: &Scene, port: SocketAddr) -> Result<Self> {
        let local = Local::open(&scene.make_directory("impostor")?, port.ip())?;
        let listener = wait::until("the port is free", async || {
            TcpListener::bind(port).await.ok()
        });
        let listener = listener.await?;
        let (told, mut listening) = (Arc::new(Seen::default()), JoinSet::new());
        let seen = told.clone();
        listening.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let mut first = [0];
                let begun = tcp.peek(&mut first).await;
                // A client may look whether anybody is there, and go.
                if !matches!(begun, Ok(1)) {
                    continue;
                }
                seen.connections.fetch_add(1, Ordering::Relaxed);
                if first[0] != 0x16 || local.accept(tcp).await.is_ok() {
                    seen.deceived.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(Self {
            seen: told,
            _listening: listening,
        })
    }

    fn seen(&self) -> (usize, usize) {
        let read = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        (read(&self.seen.connections), read(&self.seen.deceived))
    }
}

#[test]
fn containerd_pulls_under_tls_and_tells_nothing_to_who_takes_the_mirrors_port() {
    scene::run("setup_tls_containerd", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let (mut up, authority) = start(scene, up_settings(scene, &upstream)?).await?;
        let host = Host::new(scene, "containerd").await?;
        let root = host.root();
        // As of somebody whose registry is not where its name says.
        let own = host.etc().join("certs.d").join(NAME);
        fs::create_dir_all(&own)?;
        let theirs = format!("# ours\nserver = \"{}\"\n", upstream.url());
        fs::write(own.join("hosts.toml"), theirs)?;
        let before = tree::read(&root)?;
        let mut setup = darner::command()?;
        set_up(&mut setup, "containerd", &up, &authority)?;
        setup
            .args(["--registry", NAME, "--adopt", "--root"])
            .arg(&root);
        setup.args(["--probe", &upstream.images.tiny.reference(NAME)]);
        process::run(setup).await?;

        let etc = host.etc();
        let containerd = host.start().await?;
        let image = &upstream.images.middle;
        containerd.pull(&image.reference(NAME)).await?;
        containerd.check_blobs(&image.blobs)?;
        let (bytes, whole) = (upstream.ledger().blob_bytes(image), image.bytes());
        ensure!(bytes == whole, "upstream sent {bytes} for {whole} bytes");
        let served = up.metrics().await?.sum("darner_served_bytes_total", "");
        ensure!(served >= whole as f64, "the mirror served {served} bytes");

        let port = up.address("registry")?;
        up.kill()?;
        let impostor = Impostor::take(scene, port).await?;
        let other = &upstream.images.multi;
        containerd.pull(&other.reference(NAME)).await?;
        let (connections, deceived) = impostor.seen();
        ensure!(connections > 0, "it was not asked");
        ensure!(deceived == 0, "{deceived} of {connections} were deceived");

        let certificate = fs::read(etc.join("certs.d/darner-ca.crt"))?;
        let told = String::from_utf8(certificate)?;
        ensure!(told.contains("BEGIN CERTIFICATE") && !told.contains("PRIVATE"));
        let mut teardown = darner::command()?;
        teardown
            .args(["teardown", "containerd", "--root"])
            .arg(&root);
        process::run(teardown).await?;
        ensure!(tree::read(&root)? == before, "files are not as they were");
        Ok(())
    });
}

#[test]
fn skopeo_pulls_under_tls_and_takes_nobody_else_for_the_mirror() {
    scene::run("setup_tls_skopeo", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let (mut up, authority) = start(scene, up_settings(scene, &upstream)?).await?;
        let root = scene.make_directory("host")?;
        fs::create_dir_all(root.join("etc/containers"))?;
        fs::create_dir_all(root.join("var/lib"))?;
        fs::write(root.join("etc/containers/registries.conf"), "# nothing\n")?;
        let before = tree::read(&root)?;
        let mut setup = darner::command()?;
        set_up(&mut setup, "podman", &up, &authority)?;
        setup.args(["--registry", NAME, "--root"]).arg(&root);
        setup.args(["--probe", &upstream.images.tiny.reference(NAME)]);
        process::run(setup).await?;
        let image = &upstream.images.middle;
        let copy = |name: &str| skopeo::copy_on(&root, &image.reference(NAME), &scene.path(name));
        process::run(copy("copied")?).await?;
        let (bytes, whole) = (upstream.ledger().blob_bytes(image), image.bytes());
        ensure!(bytes == whole, "upstream sent {bytes} for {whole} bytes");

        let port = up.address("registry")?;
        up.kill()?;
        let impostor = Impostor::take(scene, port).await?;
        // Nobody answers at the registry's own name.
        let failed = process::finish(copy("not-copied")?).await?;
        ensure!(!failed.status.success(), "{failed:?}");
        let (connections, deceived) = impostor.seen();
        ensure!(connections > 0, "it was not asked");
        ensure!(deceived == 0, "{deceived} of {connections} were deceived");
        let mut teardown = darner::command()?;
        teardown.args(["teardown", "podman", "--root"]).arg(&root);
        process::run(teardown).await?;
        ensure!(tree::read(&root)? == before, "files are not as they were");
        Ok(())
    });
}

#[test]
fn dockerd_pulls_under_tls_and_is_said_to_take_any_certificate_on_loopback() {
    scene::run("setup_tls_docker", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let settings = up_settings(scene, &upstream)?
            .set("registry.default_upstream", "docker.io")
            .upstream("docker.io", &upstream.url());
        let (mut up, authority) = start(scene, settings).await?;
        let root = scene.make_directory("host")?;
        fs::create_dir_all(root.join("etc/docker"))?;
        fs::create_dir_all(root.join("var/lib"))?;
        fs::write(root.join("etc/docker/daemon.json"), "{}\n")?;
        let dockerd = Dockerd::start(scene, &root).await?;
        let before = tree::read(&root)?;
        let mut setup = dockerd.beside(&place::darner()?)?;
        set_up(&mut setup, "docker", &up, &authority)?;
        setup.args(["--probe", &upstream.images.tiny.reference("docker.io")]);
        let done = process::run(setup).await?;
        let done = String::from_utf8_lossy(&done.stdout).into_owned();
        ensure!(done.contains("takes any certificate"), "{done}");
        let told = format!("{}/", secured(&up)?);
        wait::until("dockerd knows the mirror", async || {
            let mirrors = dockerd.mirrors().await.ok()?;
            (mirrors == [told.clone()]).then_some(())
        })
        .await?;
        let image = &upstream.images.middle;
        dockerd.pull(&image.repository, &image.tag).await?;
        let (bytes, whole) = (upstream.ledger().blob_bytes(image), image.bytes());
        ensure!(bytes == whole, "upstream sent {bytes} for {whole} bytes");

        // What is said of it is so.
        let port = up.address("registry")?;
        up.kill()?;
        let impostor = Impostor::take(scene, port).await?;
        let other = &upstream.images.multi;
        let _ = dockerd.pull(&other.repository, &other.tag).await;
        let (_, deceived) = impostor.seen();
        ensure!(deceived > 0, "it takes no certificate but the mirror's");

        let mut teardown = dockerd.beside(&place::darner()?)?;
        teardown.args(["teardown", "docker"]);
        process::run(teardown).await?;
        ensure!(tree::read(&root)? == before, "files are not as they were");
        Ok(())
    });
}

#[test]
fn a_mirror_without_tls_is_said_to_be_one_and_nothing_is_changed() {
    scene::run("setup_tls_absent", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let up = Darner::start(scene, "up", "up", &up_settings(scene, &upstream)?).await?;
        let host = Host::new(scene, "containerd").await?;
        let root = host.root();
        let before = tree::read(&root)?;
        let run = async |authority: &Path| {
            let mut setup = darner::command()?;
            set_up(&mut setup, "containerd", &up, authority)?;
            setup.arg("--root").arg(&root);
            setup.args(["--probe", &upstream.images.tiny.reference(NAME)]);
            let failed = process::finish(setup).await?;
            let said = String::from_utf8_lossy(&failed.stderr).into_owned();
            anyhow::Ok((failed.status.code().context("killed")?, said))
        };
        let (status, said) = run(&scene.path("data-up/registry-tls/authority.pem")).await?;
        ensure!(status == 1 && said.contains("tls = true"), "{said}");
        let elsewhere = scene.make_directory("elsewhere")?;
        Local::open(&elsewhere, [127, 0, 0, 1].into())?;
        let (status, said) = run(&elsewhere.join("authority.pem")).await?;
        ensure!(status == 4 && said.contains("taken back"), "{said}");
        ensure!(tree::read(&root)? == before, "files are not as they were");
        Ok(())
    });
}
