//! The manager as people meet it: the first administrator, the commands that ask it, backups, and a
//! database that is full or away.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use darner_e2e::client::Client;
use darner_e2e::cluster::join_mirror;
use darner_e2e::darner::{self, Darner, Settings};
use darner_e2e::operator::{PASSWORD, ask, set_up, setup_link};
use darner_e2e::postgres::Postgres;
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::{NAME, Upstream};
use darner_e2e::wait;

fn settings(scene: &Scene, name: &str) -> Settings {
    Settings::new(&scene.path(format!("data-{name}")))
        .set("node.id", name)
        .set("manager.listen", "127.0.0.1:0")
        .set("manager.api_listen", "127.0.0.1:0")
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn token(scene: &Scene) -> Result<String> {
    let kept: serde_json::Value =
        serde_json::from_slice(&std::fs::read(scene.path("login.json"))?)?;
    Ok(kept["token"].as_str().context("no token")?.to_owned())
}

/// The status of the answer to who the nodes are, and their names.
async fn nodes(manager: &Darner, token: &str) -> Result<(u16, Vec<String>)> {
    let url = format!("{}/api/v1/nodes", manager.url("api")?);
    let answer = reqwest::Client::new()
        .get(url)
        .bearer_auth(token)
        .send()
        .await?;
    let status = answer.status().as_u16();
    let told: serde_json::Value = serde_json::from_slice(&answer.bytes().await?)?;
    let items = told["items"].as_array().into_iter().flatten();
    let names = items.filter_map(|item| Some(item["id"].as_str()?.to_owned()));
    Ok((status, names.collect()))
}

/// What the manager does with something missing, as its health tells.
async fn degraded(manager: &Darner) -> Result<Option<String>> {
    let (status, body) = manager.admin("/readyz").await?;
    ensure!(status == 200, "not ready: {body}");
    let told: serde_json::Value = serde_json::from_str(&body)?;
    Ok(told["degraded"]["database"].as_str().map(str::to_owned))
}

#[test]
fn the_first_administrator_logs_in_and_the_commands_answer() {
    scene::run("manager_login", async |scene| {
        let mut manager =
            Darner::start(scene, "manager", "manager", &settings(scene, "manager")).await?;
        let early = ask(scene, &["nodes"], "")?;
        ensure!(code(&early) == Some(5), "not logged in: {early:?}");
        set_up(scene, &manager)?;
        let mode = std::fs::metadata(scene.path("login.json"))?
            .permissions()
            .mode();
        ensure!(mode & 0o777 == 0o600, "{mode:o}");
        let link = setup_link(&manager)?;
        let again = ask(
            scene,
            &["login", "--user", "eve", "--setup", &link],
            PASSWORD,
        )?;
        ensure!(code(&again) == Some(5), "the link works twice: {again:?}");

        let status = ask(scene, &["status", "-o", "json"], "")?;
        ensure!(code(&status) == Some(3), "no scheduler: {status:?}");
        let told: serde_json::Value = serde_json::from_slice(&status.stdout)?;
        ensure!(told["healthy"] == false && told["mirrors"] == 0, "{told}");
        let users = ask(
            scene,
            &["user", "create", "bob", "--role", "operator"],
            PASSWORD,
        )?;
        ensure!(users.status.success(), "{users:?}");
        let role = ask(scene, &["user", "role", "bob", "viewer"], "")?;
        ensure!(role.status.success(), "{role:?}");
        let users = ask(scene, &["user", "list"], "")?;
        let expected = "NAME  ROLE\nann   admin\nbob   viewer\n";
        ensure!(users.stdout == expected.as_bytes(), "{users:?}");
        let admins = ask(scene, &["user", "list", "--role", "admin"], "")?;
        ensure!(admins.stdout == b"NAME  ROLE\nann   admin\n", "{admins:?}");
        let last = ask(scene, &["user", "remove", "ann"], "")?;
        ensure!(code(&last) == Some(1), "the last administrator: {last:?}");

        let api = manager.url("api")?;
        let wrong = ask(scene, &["login", &api, "--user", "bob"], "wrong password\n")?;
        ensure!(code(&wrong) == Some(5), "{wrong:?}");
        let log = manager.output();
        let secret = token(scene)?;
        for secret in [PASSWORD.trim(), &secret, "wrong password"] {
            ensure!(!log.contains(secret), "a secret is in the log");
        }
        manager.stop().await?;
        let away = ask(scene, &["nodes"], "")?;
        ensure!(code(&away) == Some(4), "{away:?}");
        Ok(())
    });
}

#[test]
fn a_backup_is_taken_while_the_manager_runs_and_can_be_started_from() {
    scene::run("manager_backup", async |scene| {
        let mut manager =
            Darner::start(scene, "manager", "manager", &settings(scene, "manager")).await?;
        set_up(scene, &manager)?;
        let data = scene.path("data-copy");
        std::fs::create_dir(&data)?;
        let copy = data.join("manager.db");
        let mut command = darner::command()?;
        command.args(["manager", "backup", "--config"]);
        command.arg(scene.path("manager.toml")).arg(&copy);
        let copied = command.output()?;
        ensure!(copied.status.success(), "{copied:?}");
        manager.stop().await?;

        let other = Darner::start(scene, "copy", "manager", &settings(scene, "copy")).await?;
        ensure!(setup_link(&other).is_err(), "it has its accounts");
        let (status, _) = nodes(&other, &token(scene)?).await?;
        ensure!(status == 200, "{status}");
        Ok(())
    });
}

#[test]
fn several_managers_share_a_database_and_go_on_without_it() {
    scene::run("manager_postgres", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let mut postgres = Postgres::start().await?;
        std::fs::write(scene.path("postgres-url"), postgres.url())?;
        let url_file = scene.path("postgres-url").display().to_string();
        let start = async |name: &str| {
            let settings = settings(scene, name).set("manager.postgres_url_file", &*url_file);
            Darner::start(scene, name, "manager", &settings).await
        };
        let (mut one, other) = (start("one").await?, start("other").await?);
        set_up(scene, &one)?;
        let token = token(scene)?;
        let mirror = join_mirror(scene, &upstream, &one, "node").await?;
        let client = Client::new(&mirror, NAME)?;
        client.pull(&upstream.images.tiny).await?;
        // Heard by the one, known to the other, with the same accounts.
        let knows = async |manager: &Darner| {
            let (status, names) = nodes(manager, &token).await.ok()?;
            (status == 200 && names == ["node"]).then_some(())
        };
        wait::until("the other to hear of the node", async || {
            knows(&other).await
        })
        .await?;

        postgres.pause().await?;
        let unavailable = async || {
            let (status, _) = nodes(&other, &token).await.ok()?;
            (status == 503).then_some(())
        };
        wait::until("503 without the database", unavailable).await?;
        let worse = async || degraded(&one).await.ok().flatten();
        wait::until("degraded health", worse).await?;
        client.pull(&upstream.images.middle).await?;
        postgres.resume().await?;
        let better = async || degraded(&one).await.ok()?.is_none().then_some(());
        wait::until("good health", better).await?;
        wait::until("the same answer", async || knows(&other).await).await?;

        one.kill()?;
        let forgets = async || {
            let (status, names) = nodes(&other, &token).await.ok()?;
            (status == 200 && names.is_empty()).then_some(())
        };
        wait::until("who only the dead one heard to be dropped", forgets).await?;
        Ok(())
    });
}

/// A small file system that is gone when this is dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(path: &'a Path) -> Result<Self> {
        std::fs::create_dir_all(path)?;
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs"]);
        ensure!(mount.arg(path).status()?.success(), "only root can mount");
        Ok(Self(path))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let mut umount = std::process::Command::new("umount");
        let _ = umount.arg("--lazy").arg(self.0).status();
    }
}

#[test]
fn a_manager_starts_on_a_full_disk_and_is_well_once_there_is_room() {
    scene::run("manager_disk_full", async |scene| {
        let path = scene.path("data-manager");
        let disk = SmallDisk::mount(&path)?;
        let settings = settings(scene, "manager");
        let mut manager = Darner::start(scene, "manager", "manager", &settings).await?;
        set_up(scene, &manager)?;
        manager.stop().await?;
        let filler = path.join("of-somebody-else");
        let mut file = std::fs::File::create(&filler)?;
        for size in [1 << 16, 4 << 10, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        manager.restart().await?;
        let worse = async || degraded(&manager).await.ok().flatten();
        wait::until("degraded health", worse).await?;
        // It answers, and cannot take anything new.
        let token = token(scene)?;
        ensure!(nodes(&manager, &token).await?.0 == 200);
        drop(file);
        std::fs::remove_file(&filler)?;
        let better = async || degraded(&manager).await.ok()?.is_none().then_some(());
        wait::until("good health", better).await?;
        ensure!(nodes(&manager, &token).await?.0 == 200);
        manager.stop().await?;
        drop(disk);
        Ok(())
    });
}
