//! What operators see and touch: health, metrics, refusal to start, hints, and the end of a process.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use darner_e2e::client::Client;
use darner_e2e::cluster::{Cluster, node, seeds, start_up, up_settings};
use darner_e2e::darner::{self, Darner};
use darner_e2e::upstream::{NAME, Upstream};
use darner_e2e::{place, process, scene, wait};
use rustix::process::Signal;

#[test]
fn every_role_tells_its_health_and_metrics_that_promtool_accepts() {
    scene::run("surfaces_metrics", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let shape = seeds(1).mirrors(2);
        let cluster = Cluster::start(scene, &upstream, shape).await?;
        cluster.pull_everywhere(&upstream.images.multi).await?;
        let Cluster {
            manager,
            scheduler,
            seeds,
            mirrors,
        } = &cluster;
        for process in [manager, scheduler].into_iter().chain(seeds).chain(mirrors) {
            let name = process.name();
            let (health, _) = process.admin("/healthz").await?;
            let (ready, why) = process.admin("/readyz").await?;
            ensure!(
                health == 200 && ready == 200,
                "{name}: {health} {ready} {why}"
            );
            let metrics = process.metrics().await?;
            ensure!(metrics.require("darner_build_info")? == 1.0, "{name}");
            lint(&metrics.text).await.with_context(|| name.to_owned())?;
            on_the_page(&metrics.text).with_context(|| name.to_owned())?;
        }
        for mirror in mirrors {
            let metrics = mirror.metrics().await?;
            for name in [
                "darner_served_bytes_total",
                "darner_fetched_bytes_total",
                "darner_tasks_total",
                "darner_pieces_total",
                "darner_store_bytes",
            ] {
                ensure!(
                    metrics.require(name)? > 0.0,
                    "{name} of {} is 0",
                    mirror.name()
                );
            }
        }
        let seed = seeds[0].metrics().await?;
        ensure!(seed.require("darner_upstream_requests_total")? > 0.0);
        Ok(())
    });
}

async fn lint(metrics: &str) -> Result<()> {
    let promtool = place::required_tool("promtool")?;
    let metrics = metrics.to_owned();
    let output: Output = tokio::task::spawn_blocking(move || -> Result<Output> {
        let mut child = Command::new(promtool)
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut input = child.stdin.take().context("no stdin")?;
        input.write_all(metrics.as_bytes())?;
        drop(input);
        Ok(child.wait_with_output()?)
    })
    .await??;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.success() && said.is_empty(),
        "promtool: {said}"
    );
    Ok(())
}

/// Every metric is in the reference, with its type.
fn on_the_page(metrics: &str) -> Result<()> {
    let page = std::fs::read_to_string(place::workspace().join("docs/reference/metrics.md"))?;
    for line in metrics.lines() {
        let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|line| line.split_once(' '))
        else {
            continue;
        };
        let row = format!("| `{name}` | {kind} |");
        ensure!(
            page.contains(&row),
            "{row} is not in docs/reference/metrics.md"
        );
    }
    Ok(())
}

#[test]
fn all_faults_of_a_configuration_are_named_at_once_with_file_and_line() {
    scene::run("surfaces_faults", async |scene| {
        let file = scene.path("faulty.toml");
        let text = "data_dir = \"/nonexistent/never\"\n\
                    [registry]\n\
                    listen = \"not an address\"\n\
                    listne = \"127.0.0.1:0\"\n\
                    [[upstream]]\n\
                    name = \"UPPER\"\n\
                    url = \"ftp://example.test\"\n\
                    [store]\n\
                    capacity = \"many\"\n";
        std::fs::write(&file, text)?;
        for role in ["up", "mirror", "scheduler", "manager"] {
            let mut command = darner::command()?;
            command.arg(role).arg("--config").arg(&file);
            let output = process::finish(command).await?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(
                output.status.code() == Some(2),
                "{role}: {:?}\n{said}",
                output.status
            );
            for line in [3, 4, 6, 7, 9] {
                let place = format!("faulty.toml:{line}");
                ensure!(
                    said.contains(&place),
                    "{role}: nothing about line {line} in:\n{said}"
                );
            }
            ensure!(
                said.contains("listne") && said.contains("listen"),
                "{role}: {said}"
            );
        }
        let mut command = darner::command()?;
        command.args(["mirror", "--config", "/nonexistent/darner.toml"]);
        let output = process::finish(command).await?;
        ensure!(output.status.code() == Some(2), "{:?}", output.status);
        let mut command = darner::command()?;
        command.args(["mirror", "--no-such-flag"]);
        let output = process::finish(command).await?;
        ensure!(output.status.code() == Some(2), "{:?}", output.status);
        Ok(())
    });
}

#[test]
fn variables_and_flags_come_before_the_file() {
    scene::run("surfaces_layers", async |scene| {
        let file = scene.path("good.toml");
        std::fs::write(&file, "[registry]\nlisten = \"127.0.0.1:0\"\n")?;
        let mut command = darner::command()?;
        command.args(["mirror", "--config"]).arg(&file);
        command.env("DARNER_REGISTRY__LISTEN", "nonsense");
        let output = process::finish(command).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(2), "{:?}", output.status);
        ensure!(said.contains("DARNER_REGISTRY__LISTEN"), "{said}");
        Ok(())
    });
}

#[test]
fn a_disk_format_newer_than_ours_is_refused_untouched() {
    scene::run("surfaces_newer_format", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let mut up = start_up(scene, &upstream).await?;
        Client::new(&up, NAME)?.pull(&upstream.images.tiny).await?;
        up.stop().await?;
        let store = scene.path("data-up/store");
        let format = find_format(&store)?;
        let known = std::fs::read_to_string(&format)?;
        let newer = known.replace(|byte: char| byte.is_ascii_digit(), "9");
        ensure!(newer != known, "no number in {}: {known}", format.display());
        std::fs::write(&format, &newer)?;
        let before = listing(&store)?;
        let mut command = darner::command()?;
        command.args(["up", "--config"]).arg(scene.path("up.toml"));
        let output = process::finish(command).await?;
        ensure!(!output.status.success(), "a newer format was taken");
        ensure!(listing(&store)? == before, "the refused store was touched");
        Ok(())
    });
}

/// The one small file at the top of the store that tells its version.
fn find_format(store: &std::path::Path) -> Result<std::path::PathBuf> {
    for entry in std::fs::read_dir(store)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_lowercase();
        if name.contains("format") || name.contains("version") {
            return Ok(path);
        }
    }
    anyhow::bail!("no file in {} tells the format's version", store.display())
}

fn listing(directory: &std::path::Path) -> Result<Vec<(std::path::PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            found.extend(listing(&entry.path())?);
        } else {
            found.push((entry.path(), metadata.len()));
        }
    }
    found.sort();
    Ok(found)
}

#[test]
fn up_is_ready_within_a_second_and_tells_how_to_point_runtimes_at_it() {
    scene::run("surfaces_up", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let started = Instant::now();
        let mut up = start_up(scene, &upstream).await?;
        let took = started.elapsed();
        // A debug build on a busy machine gets another second.
        ensure!(took < Duration::from_secs(2), "ready after {took:?}");
        let registry = up.url("registry")?;
        for hint in [
            registry.as_str(),
            "hosts.toml",
            "registry-mirrors",
            "[[registry.mirror]]",
        ] {
            wait::until_true(&format!("hint {hint}"), || up.output().contains(hint)).await?;
        }
        let client = Client::new(&up, NAME)?;
        let image = &upstream.images.multi;
        client.pull(image).await?;
        let asked = upstream.ledger().count();

        let status = up.end(Signal::INT).await?;
        ensure!(status.code() == Some(0), "Ctrl-C: {status}");
        up.restart().await?;
        Client::new(&up, NAME)?.pull_by_digest(image).await?;
        ensure!(
            upstream.ledger().count() == asked,
            "{}",
            upstream.ledger().describe()
        );
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(scene.path("data-up/store"))?.permissions(),
        );
        ensure!(mode & 0o077 == 0, "the store is open to others: {mode:o}");
        Ok(())
    });
}

#[test]
fn a_running_answer_is_finished_before_the_process_ends() {
    scene::run("surfaces_drain", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let mut up = start_up(scene, &upstream).await?;
        let client = Client::new(&up, NAME)?;
        let image = &upstream.images.middle;
        let blob = image.largest()?;
        client
            .get(&format!("{}/manifests/{}", image.repository, image.tag))
            .await?;
        upstream.throttle(Some(8 << 20));
        let (pulled, ended) = tokio::join!(client.blob(image, blob), async {
            wait::until_true("half of the blob", || {
                upstream.ledger().blob_bytes(image) > blob.size / 2
            })
            .await?;
            up.end(Signal::TERM).await
        });
        let (pulled, ended) = (pulled?, ended?);
        ensure!(
            pulled.cuts == 0 && ended.code() == Some(0),
            "{pulled:?} {ended}"
        );
        Ok(())
    });
}

#[test]
fn no_configuration_at_all_is_needed() {
    scene::run("surfaces_bare_up", async |scene| {
        let data = scene.make_directory("data")?;
        let mut command = darner::command()?;
        command.arg("up").arg("--data-dir").arg(&data);
        // The default ports may be taken on this machine; nothing else is set.
        for name in [
            "REGISTRY__LISTEN",
            "PIECES__LISTEN",
            "SCHEDULER__LISTEN",
            "MANAGER__LISTEN",
        ] {
            command.env(format!("DARNER_{name}"), "127.0.0.1:0");
        }
        command.env("DARNER_MANAGER__API_LISTEN", "127.0.0.1:0");
        command.env("DARNER_ADMIN__LISTEN", "127.0.0.1:0");
        let log = scene.path("bare-up.log");
        let mut up = process::Process::start("up", command, &log)?;
        up.wait_output("message \"ready\"", |output| {
            let mut messages = darner::messages(output);
            messages
                .any(|message| darner::field(&message, "message") == Some("ready"))
                .then_some(())
        })
        .await?;
        up.signal(Signal::INT)?;
        let status = up.wait().await?;
        ensure!(status.code() == Some(0), "{status}");
        Ok(())
    });
}

#[test]
fn an_address_in_use_is_said_so_and_the_process_ends() {
    scene::run("surfaces_port_in_use", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let up = start_up(scene, &upstream).await?;
        let taken = up.address("registry")?.to_string();
        let settings = up_settings(scene, &upstream)?
            .set(
                "data_dir",
                scene.make_directory("data-second")?.display().to_string(),
            )
            .set("registry.listen", taken.clone());
        let file = scene.path("second.toml");
        std::fs::write(&file, settings.text())?;
        let mut command = darner::command()?;
        command.args(["up", "--config"]).arg(&file);
        let output = process::finish(command).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(1),
            "{:?}\n{said}",
            output.status
        );
        ensure!(
            said.contains(&taken) || said.contains("[registry] listen"),
            "{said}"
        );
        Ok(())
    });
}

#[test]
fn a_manager_alone_is_ready_and_has_no_other_pages() {
    scene::run("surfaces_manager", async |scene| {
        let settings = node(scene, "manager")?
            .set("manager.listen", "127.0.0.1:0")
            .set("manager.api_listen", "127.0.0.1:0");
        let manager = Darner::start(scene, "manager", "manager", &settings).await?;
        let (status, body) = manager.admin("/readyz").await?;
        ensure!(status == 200, "{status} {body}");
        let (status, _) = manager.admin("/no-such-page").await?;
        ensure!(status == 404, "{status}");
        Ok(())
    });
}
