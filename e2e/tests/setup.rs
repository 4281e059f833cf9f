//! `darner setup` and `darner teardown`, with the runtime that they are for.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use darner_e2e::cluster::start_up;
use darner_e2e::containerd::Host;
use darner_e2e::upstream::{NAME, Upstream};
use darner_e2e::{darner, process, scene};

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

/// The names of the files in a directory and below, with what is in them.
fn files(directory: &Path) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.display().to_string();
        if path.is_dir() {
            found.push((name, "a directory".to_owned()));
            found.extend(files(&path)?);
        } else {
            found.push((name, fs::read_to_string(&path)?));
        }
    }
    found.sort();
    Ok(found)
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
        let before = files(&root)?;
        let image = &upstream.images.middle;
        let probe = upstream.images.tiny.reference(NAME);

        let mut dry = set_up(&root, &mirror, &probe)?;
        dry.arg("--dry-run");
        let dry = process::finish(dry).await?;
        ensure!(dry.status.code() == Some(6), "{dry:?}");
        let diff = text(&dry);
        ensure!(diff.contains("+++ /etc/containerd/config.toml"), "{diff}");
        ensure!(files(&root)? == before, "a dry run changed something");

        let done = text(&process::run(set_up(&root, &mirror, &probe)?).await?);
        ensure!(done.contains("systemctl restart containerd"), "{done}");
        ensure!(done.contains("was pulled"), "{done}");
        let up_files = files(&root)?;
        ensure!(up_files != before, "nothing was set up");
        let again = text(&process::run(set_up(&root, &mirror, &probe)?).await?);
        ensure!(again.contains("nothing to change"), "{again}");
        ensure!(files(&root)? == up_files, "a second run changed something");

        let containerd = host.start().await?;
        containerd.pull(&image.reference(NAME)).await?;
        containerd.check_blobs(&image.blobs)?;
        let (bytes, whole) = (upstream.ledger().blob_bytes(image), image.bytes());
        ensure!(bytes == whole, "upstream sent {bytes} for {whole} bytes");
        let served = up.metrics().await?.sum("darner_served_bytes_total", "");
        ensure!(served >= whole as f64, "the mirror served {served} bytes");

        process::run(on_host("teardown", &root)?).await?;
        ensure!(files(&root)? == before, "files are not as they were");
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
        let before = files(&root)?;
        let absent = format!("{NAME}/nobody/has:this");
        let failed = process::finish(set_up(&root, &mirror, &absent)?).await?;
        let said = String::from_utf8_lossy(&failed.stderr).into_owned();
        ensure!(failed.status.code() == Some(1), "{failed:?}");
        ensure!(
            said.contains("taken back") && said.contains("404"),
            "{said}"
        );
        ensure!(files(&root)? == before, "files are not as they were");

        up.kill()?;
        let image = upstream.images.tiny.reference(NAME);
        let failed = process::finish(set_up(&root, &mirror, &image)?).await?;
        ensure!(failed.status.code() == Some(4), "{failed:?}");
        ensure!(files(&root)? == before, "files are not as they were");
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
        let before = files(&root)?;
        let image = upstream.images.tiny.reference(NAME);
        let mut run = set_up(&root, &mirror, &image)?.spawn()?;
        let config = host.etc().join("certs.d/_default/hosts.toml");
        darner_e2e::wait::until_true("the files are written", || config.exists()).await?;
        run.kill()?;
        run.wait()?;
        ensure!(files(&root)? != before, "it was killed too early");
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
        ensure!(files(&root)? == before, "files are not as they were");
        Ok(())
    });
}
