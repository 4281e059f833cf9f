//! `darner setup` and `darner teardown`, with the runtime that they are for.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use darner_e2e::cluster::{start_up, up_settings};
use darner_e2e::containerd::Host;
use darner_e2e::darner::Darner;
use darner_e2e::docker::Dockerd;
use darner_e2e::upstream::{Guard, NAME, Upstream};
use darner_e2e::{darner, place, process, scene, skopeo, tree};
use rustix::process::{Pid, Signal, kill_process};

fn on_host(subcommand: &str, root: &Path) -> Result<Command> {
    let mut command = darner::command()?;
    command.args([subcommand, "containerd", "--root"]).arg(root);
    Ok(command)
}

fn set_up(root: &Path, mirror: &str, image: &str) -> Result<Command> {
    let mut command = on_host("setup", root)?;
    command.args(["--mirror", mirror, "--probe", image]);
    Ok(command)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn set_up_containerd_pulls_through_the_mirror_and_torn_down_its_files_are_as_before() {
    scene::run("setup_containerd", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let up = start_up(scene, &upstream).await?;
        let host = Host::new(scene, "containerd").await?;
        let (root, mirror) = (host.root(), up.url("registry")?);
        let before = tree::read(&root)?;
        let image = &upstream.images.middle;
        let probe = upstream.images.tiny.reference(NAME);

        let mut dry = set_up(&root, &mirror, &probe)?;
        dry.arg("--dry-run");
        let dry = process::finish(dry).await?;
        ensure!(dry.status.code() == Some(6), "{dry:?}");
        let diff = text(&dry);
        ensure!(diff.contains("+++ /etc/containerd/config.toml"), "{diff}");
        ensure!(tree::read(&root)? == before, "a dry run changed something");

        let done = text(&process::run(set_up(&root, &mirror, &probe)?).await?);
        ensure!(done.contains("systemctl restart containerd"), "{done}");
        ensure!(done.contains("was pulled"), "{done}");
        let up_files = tree::read(&root)?;
        ensure!(up_files != before, "nothing was set up");
        let again = text(&process::run(set_up(&root, &mirror, &probe)?).await?);
        ensure!(again.contains("nothing to change"), "{again}");
        ensure!(
            tree::read(&root)? == up_files,
            "a second run changed something"
        );

        let containerd = host.start().await?;
        containerd.pull(&image.reference(NAME)).await?;
        containerd.check_blobs(&image.blobs)?;
        let (bytes, whole) = (upstream.ledger().blob_bytes(image), image.bytes());
        ensure!(bytes == whole, "upstream sent {bytes} for {whole} bytes");
        let served = up.metrics().await?.sum("darner_served_bytes_total", "");
        ensure!(served >= whole as f64, "the mirror served {served} bytes");

        process::run(on_host("teardown", &root)?).await?;
        ensure!(tree::read(&root)? == before, "files are not as they were");
        Ok(())
    });
}

#[test]
fn a_mirror_that_cannot_get_the_image_leaves_everything_as_it_was() {
    scene::run("setup_taken_back", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let mut up = start_up(scene, &upstream).await?;
        let host = Host::new(scene, "containerd").await?;
        let (root, mirror) = (host.root(), up.url("registry")?);
        let before = tree::read(&root)?;
        let absent = format!("{NAME}/nobody/has:this");
        let failed = process::finish(set_up(&root, &mirror, &absent)?).await?;
        let said = String::from_utf8_lossy(&failed.stderr).into_owned();
        ensure!(failed.status.code() == Some(1), "{failed:?}");
        ensure!(
            said.contains("taken back") && said.contains("404"),
            "{said}"
        );
        ensure!(tree::read(&root)? == before, "files are not as they were");

        up.kill()?;
        let image = upstream.images.tiny.reference(NAME);
        let failed = process::finish(set_up(&root, &mirror, &image)?).await?;
        ensure!(failed.status.code() == Some(4), "{failed:?}");
        ensure!(tree::read(&root)? == before, "files are not as they were");
        Ok(())
    });
}

#[test]
fn killed_at_any_moment_the_next_run_takes_it_back() {
    scene::run("setup_killed", async |scene| {
        let upstream = Upstream::start(scene).await?;
        // Takes the connection and says nothing, so that every run is killed before its end.
        let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
        let mirror = format!("http://{}", silent.local_addr()?);
        let host = Host::new(scene, "containerd").await?;
        let root = host.root();
        let before = tree::read(&root)?;
        let image = upstream.images.tiny.reference(NAME);
        let config = host.etc().join("certs.d/_default/hosts.toml");
        let mut run = set_up(&root, &mirror, &image)?.spawn()?;
        darner_e2e::wait::until_true("the files are written", || config.exists()).await?;
        kill_process(Pid::from_child(&run), Signal::INT)?;
        ensure!(run.wait()?.code() == Some(130), "not interrupted");
        ensure!(
            tree::read(&root)? == before,
            "an interrupted run left something"
        );

        let mut run = set_up(&root, &mirror, &image)?.spawn()?;
        darner_e2e::wait::until_true("the files are written", || config.exists()).await?;
        run.kill()?;
        run.wait()?;
        ensure!(tree::read(&root)? != before, "it was killed too early");
        let look = process::finish({
            let mut command = on_host("teardown", &root)?;
            command.args(["--dry-run", "-o", "json"]);
            command
        });
        let look = look.await?;
        let told: serde_json::Value = serde_json::from_slice(&look.stdout)?;
        let recovered = told["recovered"].as_array().context("recovered")?;
        ensure!(
            look.status.code() == Some(6) && recovered.len() == 2,
            "{told}"
        );
        let done = text(&process::run(on_host("teardown", &root)?).await?);
        ensure!(done.contains("half done"), "{done}");
        ensure!(tree::read(&root)? == before, "files are not as they were");
        Ok(())
    });
}

#[test]
fn the_doctor_sees_a_whole_mirror_and_what_is_wrong_with_a_broken_one() {
    scene::run("doctor", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let mut up = start_up(scene, &upstream).await?;
        let host = Host::new(scene, "containerd").await?;
        let (root, mirror) = (host.root(), up.url("registry")?);
        let image = upstream.images.tiny.reference(NAME);
        process::run(set_up(&root, &mirror, &image)?).await?;
        let listen = format!("registry.listen={}", up.address("registry")?);
        let settings = scene.path("doctor.toml");
        let url = upstream.url();
        fs::write(
            &settings,
            format!(
                "data_dir = \"{}\"\n[[upstream]]\nname = \"{NAME}\"\nurl = \"{url}\"\n",
                scene.path("data-up").display()
            ),
        )?;
        let doctor = async |image: &str| -> Result<(Option<i32>, String)> {
            let mut command = darner::command()?;
            command.args(["doctor", "--image", image, "--set", &listen]);
            command.arg("--config").arg(&settings);
            command.arg("--root").arg(&root);
            let output = process::finish(command).await?;
            Ok((output.status.code(), text(&output)))
        };
        let (status, said) = doctor(&image).await?;
        // Registries that nobody configured may be out of reach.
        ensure!(status == Some(0), "{said}");
        for line in [
            format!("ok       mirror {mirror}: answers"),
            format!("ok       upstream {NAME} ({url}): has {image}, read without credentials"),
            format!("ok       round-trip {image}: the mirror has it for every runtime"),
            "is set up, in 2 files".to_owned(),
        ] {
            ensure!(said.contains(&line), "no {line:?} in\n{said}");
        }
        let (status, said) = doctor(&format!("{NAME}/nobody/has:this")).await?;
        ensure!(status == Some(1), "{said}");
        ensure!(said.contains("BROKEN   upstream"), "{said}");
        ensure!(said.contains("BROKEN   round-trip"), "{said}");
        let (status, said) = doctor("other.test/a:b").await?;
        ensure!(status == Some(1), "{said}");
        ensure!(said.contains("add an [[upstream]]"), "{said}");
        up.kill()?;
        let (status, said) = doctor(&image).await?;
        ensure!(status == Some(1), "{said}");
        ensure!(
            said.contains(&format!("BROKEN   mirror {mirror}")),
            "{said}"
        );
        Ok(())
    });
}

#[test]
fn set_up_skopeo_pulls_through_the_mirror() {
    scene::run("setup_skopeo", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let up = start_up(scene, &upstream).await?;
        let root = scene.make_directory("host")?;
        let etc = root.join("etc/containers");
        fs::create_dir_all(&etc)?;
        fs::create_dir_all(root.join("var/lib"))?;
        fs::write(etc.join("registries.conf"), "# nothing yet\n")?;
        let before = tree::read(&root)?;
        let mut setup = darner::command()?;
        setup
            .args(["setup", "podman", "--registry", NAME, "--root"])
            .arg(&root);
        setup.args(["--mirror", &up.url("registry")?]);
        setup.args(["--probe", &upstream.images.tiny.reference(NAME)]);
        process::run(setup).await?;
        let image = &upstream.images.middle;
        let copy = skopeo::copy_on(&root, &image.reference(NAME), &scene.path("copied"))?;
        process::run(copy).await?;
        let (bytes, whole) = (upstream.ledger().blob_bytes(image), image.bytes());
        ensure!(bytes == whole, "upstream sent {bytes} for {whole} bytes");
        let mut teardown = darner::command()?;
        teardown.args(["teardown", "podman", "--root"]).arg(&root);
        process::run(teardown).await?;
        ensure!(tree::read(&root)? == before, "files are not as they were");
        Ok(())
    });
}

#[test]
fn a_running_dockerd_is_told_without_a_restart_and_untold_again() {
    scene::run("setup_docker", async |scene| {
        let upstream = Upstream::start(scene).await?;
        // Docker has mirrors of Docker Hub only.
        let settings = up_settings(scene, &upstream)?
            .set("registry.default_upstream", "docker.io")
            .upstream("docker.io", &upstream.url());
        let up = Darner::start(scene, "up", "up", &settings).await?;
        let mirror = up.url("registry")?;
        let root = scene.make_directory("host")?;
        fs::create_dir_all(root.join("etc/docker"))?;
        fs::create_dir_all(root.join("var/lib"))?;
        let theirs = "{\n  \"debug\": false, \"registry-mirrors\": []\n}\n";
        fs::write(root.join("etc/docker/daemon.json"), theirs)?;
        let dockerd = Dockerd::start(scene, &root).await?;
        // With the key that dockerd makes for itself.
        let before = tree::read(&root)?;
        ensure!(dockerd.mirrors().await?.is_empty(), "it has mirrors");

        let mut setup = dockerd.beside(&place::darner()?)?;
        setup.args(["setup", "docker", "--mirror", &mirror]);
        setup.args(["--probe", &upstream.images.tiny.reference("docker.io")]);
        let done = text(&process::run(setup).await?);
        ensure!(done.contains("reloaded dockerd"), "{done}");
        ensure!(done.contains("is there as Docker asks for it"), "{done}");
        let told = format!("{mirror}/");
        darner_e2e::wait::until("dockerd knows the mirror", async || {
            let mirrors = dockerd.mirrors().await.ok()?;
            (mirrors == [told.clone()]).then_some(())
        })
        .await?;
        let image = &upstream.images.middle;
        dockerd.pull(&image.repository, &image.tag).await?;
        let (bytes, whole) = (upstream.ledger().blob_bytes(image), image.bytes());
        ensure!(bytes == whole, "upstream sent {bytes} for {whole} bytes");

        let mut teardown = dockerd.beside(&place::darner()?)?;
        teardown.args(["teardown", "docker"]);
        process::run(teardown).await?;
        darner_e2e::wait::until("dockerd knows no mirror", async || {
            let mirrors = dockerd.mirrors().await.ok()?;
            mirrors.is_empty().then_some(())
        })
        .await?;
        ensure!(tree::read(&root)? == before, "files are not as they were");
        Ok(())
    });
}

#[test]
fn the_doctor_tries_the_configured_credentials() {
    scene::run("doctor_credentials", async |scene| {
        let upstream = Upstream::start(scene).await?;
        // alice:canary-password-of-a-caller
        let basic = "Basic YWxpY2U6Y2FuYXJ5LXBhc3N3b3JkLW9mLWEtY2FsbGVy";
        upstream.guard(Guard::Basic(basic.to_owned()));
        let password = scene.path("password");
        let settings = up_settings(scene, &upstream)?
            .of_upstream("username", "alice")
            .of_upstream("password_file", password.display().to_string());
        let config = scene.path("doctor.toml");
        fs::write(&config, settings.text())?;
        fs::write(&password, "canary-password-of-a-caller")?;
        let up = Darner::start(scene, "up", "up", &settings).await?;
        let listen = format!("registry.listen={}", up.address("registry")?);
        let image = upstream.images.tiny.reference(NAME);
        let root = scene.make_directory("host")?;
        let doctor = async || -> Result<(Option<i32>, String)> {
            let mut command = darner::command()?;
            command.args(["doctor", "--image", &image, "--set", &listen]);
            command.arg("--config").arg(&config);
            command.arg("--root").arg(&root);
            let output = process::finish(command).await?;
            Ok((output.status.code(), text(&output)))
        };
        let (status, said) = doctor().await?;
        ensure!(status == Some(0), "{said}");
        let read = format!("has {image}, read with the configured credentials");
        ensure!(said.contains(&read), "{said}");
        ensure!(said.contains("note     round-trip"), "{said}");
        fs::write(&password, "canary-of-yesterday")?;
        let (status, said) = doctor().await?;
        ensure!(status == Some(1), "{said}");
        let refused = format!("BROKEN   upstream {NAME} ({})", upstream.url());
        ensure!(said.contains(&refused), "{said}");
        ensure!(said.contains("401"), "{said}");
        ensure!(!said.contains("canary"), "a secret is told");
        Ok(())
    });
}
