//! Several managers over one PostgreSQL: one dies at once in the middle of many jobs, and the others
//! finish them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use darner_e2e::balancer::Balancer;
use darner_e2e::cluster::{mirror_settings, node};
use darner_e2e::darner::{Darner, Settings, field, messages};
use darner_e2e::operator::{self, ask, told};
use darner_e2e::postgres::Postgres;
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::{NAME, Upstream};
use darner_e2e::wait;
use serde_json::Value;

/// Jobs that are under way when a manager dies.
const JOBS: usize = 20;
/// Slow enough that none is over before.
const SLOW: u64 = 2 << 20;
/// A cluster of eight processes and a database, on a machine that does other things too.
const LIMIT: Duration = Duration::from_secs(180);

async fn manager(scene: &Scene, name: &str) -> Result<Darner> {
    let url = scene.path("postgres-url").display().to_string();
    let settings = node(scene, name)?
        .set("manager.listen", "127.0.0.1:0")
        .set("manager.api_listen", "127.0.0.1:0")
        .set("manager.postgres_url_file", url);
    Darner::start(scene, name, "manager", &settings).await
}

fn member(scene: &Scene, balancer: &Balancer, role: &str, settings: Settings) -> Settings {
    let token = scene.path(format!("{role}.token"));
    settings
        .set("manager.address", format!("https://{}", balancer.address()))
        .set("identity.token_file", token.display().to_string())
}

async fn nodes(scene: &Scene, upstream: &Upstream, balancer: &Balancer) -> Result<Vec<Darner>> {
    let mut nodes = Vec::new();
    for (name, role) in [
        ("seed-1", "seed"),
        ("seed-2", "seed"),
        ("mirror-1", "mirror"),
        ("mirror-2", "mirror"),
    ] {
        let settings = mirror_settings(scene, upstream, name)?.set("mirror.role", role);
        let settings = member(scene, balancer, role, settings);
        nodes.push(Darner::start(scene, name, "mirror", &settings).await?);
    }
    Ok(nodes)
}

/// From now on the commands ask this manager.
fn log_in_at(scene: &Scene, manager: &Darner) -> Result<()> {
    let path = scene.path("login.json");
    let mut kept: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    kept["manager"] = manager.url("api")?.into();
    Ok(std::fs::write(&path, kept.to_string())?)
}

/// How often each job was begun on a node, by the node's own word.
fn begun(node: &Darner) -> BTreeMap<String, usize> {
    let mut begun = BTreeMap::new();
    for message in messages(&node.output()) {
        if field(&message, "message") == Some("bringing something here")
            && let Some(job) = field(&message, "job")
        {
            *begun.entry(job.to_owned()).or_default() += 1;
        }
    }
    begun
}

#[test]
fn jobs_of_a_manager_that_was_killed_end_right_and_are_run_once() {
    scene::run_for("replicas_killed", LIMIT, async |scene| {
        let upstream = Upstream::start(scene).await?;
        let postgres = Postgres::start().await?;
        std::fs::write(scene.path("postgres-url"), postgres.url())?;
        let mut one = manager(scene, "one").await?;
        let other = manager(scene, "other").await?;
        operator::set_up(scene, &one)?;
        for role in ["seed", "mirror", "scheduler"] {
            one.join_token(role)?;
        }
        let backends = vec![one.address("manager")?, other.address("manager")?];
        let balancer = Balancer::start(backends).await?;
        let settings = node(scene, "scheduler")?.set("scheduler.listen", "127.0.0.1:0");
        let settings = member(scene, &balancer, "scheduler", settings);
        let scheduler = Darner::start(scene, "scheduler", "scheduler", &settings).await?;
        let nodes = nodes(scene, &upstream, &balancer).await?;
        wait::until("every node to attend the scheduler", async || {
            let metrics = scheduler.metrics().await.ok()?;
            (metrics.sum("darner_scheduler_hosts", "") == 4.0).then_some(())
        })
        .await?;
        let all = async || (told(scene, &["nodes"]).ok()?.as_array()?.len() == 5).then_some(());
        for manager in [&one, &other] {
            log_in_at(scene, manager)?;
            wait::until("every manager to know of every node", all).await?;
        }

        upstream.throttle(Some(SLOW));
        let images = &upstream.images;
        let mut ids = Vec::new();
        for number in 0..JOBS {
            log_in_at(scene, if number % 2 == 0 { &one } else { &other })?;
            let image = [&images.middle, &images.multi, &images.tiny][number % 3];
            let to = ["nodes", "seeds"][number % 2];
            let job = told(scene, &["preheat", &image.reference(NAME), "--to", to])?;
            ids.push(job["id"].as_str().context("no id")?.to_owned());
        }
        let held = async || {
            let job = told(scene, &["job", "show", &ids[0]]).ok()?;
            let items = job["items"].as_array()?.iter();
            let bytes: u64 = items.filter_map(|item| item["bytes"].as_u64()).sum();
            (bytes > 0 && job["phase"] == "running").then_some(())
        };
        wait::until("progress", held).await?;
        one.kill()?;
        log_in_at(scene, &other)?;
        upstream.throttle(None);
        for id in &ids {
            let ended = ask(scene, &["job", "wait", id, "-o", "json"], "")?;
            let job: Value = serde_json::from_slice(&ended.stdout)?;
            ensure!(job["phase"] == "done", "{job}");
            for item in job["items"].as_array().context("no items")? {
                ensure!(item["attempt"] == 1, "{job}");
            }
        }
        for node in &nodes {
            let begun = begun(node);
            ensure!(!begun.is_empty(), "{} did nothing", node.name());
            let twice: Vec<_> = begun.iter().filter(|(_, times)| **times != 1).collect();
            ensure!(twice.is_empty(), "{}: {twice:?}", node.name());
        }
        for image in [&images.middle, &images.tiny] {
            upstream.read_once(image)?;
        }
        Ok(())
    });
}
