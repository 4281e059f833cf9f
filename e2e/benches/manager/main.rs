//! Thousands of nodes at one real manager process: how soon a change reaches all of them, what they
//! cost while nothing changes, and how much memory they take.
//!
//! ```text
//! cargo build --release -p darner
//! cargo bench -p darner-e2e --bench manager -- [nodes=5000] [changes=5] [seconds=60]
//! ```
//! The manager has one thread and SQLite. Each node is what a real one is to a manager: it has joined
//! with a token, has a certificate and a connection of its own under mutual TLS 1.3, is registered, sends
//! its keep-alives with its figures, and follows the configuration with the very code of a mirror. They
//! run in another process of the same machine, so what the manager costs is told in its own processor
//! time.

mod fleet;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use darner_e2e::darner::{Darner, Settings};
use darner_e2e::scene::{self, Scene};
use darner_proto::id::Role;
use darner_service::identity::token::JoinToken;

use fleet::Fleet;

/// How much there is of everything.
#[derive(Debug, Clone, Copy)]
struct Shape {
    nodes: usize,
    changes: usize,
    seconds: u64,
}

/// What the project asks of itself, for 5,000 nodes.
const BARS: [(&str, f64); 3] = [
    ("a change is with every node after, seconds", 2.0),
    ("steady, hundredths of a core", 10.0),
    ("memory at its peak, MiB", 512.0),
];
/// After the last node has come: what is written late is written.
const SETTLE: Duration = Duration::from_secs(10);

fn main() {
    let shape = shape().unwrap_or_else(|wrong| {
        eprintln!("{wrong}");
        std::process::exit(2);
    });
    scene::run_for("bench_manager", Duration::from_secs(1800), async |scene| {
        let figures = measure(scene, shape).await?;
        println!("\n{:<52} {:>12} {:>12}", "", "measured", "bar");
        for ((what, bar), figure) in BARS.iter().zip(figures) {
            let verdict = if figure <= *bar { "met" } else { "MISSED" };
            println!("{what:<52} {figure:>12.2} {bar:>12.2} {verdict}");
        }
        Ok(())
    });
}

/// `name=value` each; what cargo itself passes begins with a dash.
fn shape() -> Result<Shape, String> {
    let mut shape = Shape {
        nodes: 5000,
        changes: 5,
        seconds: 60,
    };
    for argument in std::env::args().skip(1).filter(|one| !one.starts_with('-')) {
        let wrong = || format!("{argument}: expected nodes=, changes= or seconds= and a number");
        let (name, value) = argument.split_once('=').ok_or_else(wrong)?;
        let value: usize = value.parse().map_err(|_| wrong())?;
        match name {
            "nodes" => shape.nodes = value,
            "changes" => shape.changes = value,
            "seconds" => shape.seconds = value as u64,
            _ => return Err(wrong()),
        }
    }
    Ok(shape)
}

/// The figures, in the order of [`BARS`].
async fn measure(scene: &Scene, shape: Shape) -> Result<[f64; 3]> {
    let manager = start(scene).await?;
    let began = Instant::now();
    let cpu = processor_seconds(&manager)?;
    let fleet = Fleet::join(scene, &manager, shape.nodes).await?;
    say(
        "all nodes have joined and follow, seconds",
        began.elapsed().as_secs_f64(),
    );
    say(
        "and cost the manager, processor seconds",
        processor_seconds(&manager)? - cpu,
    );

    let mut slowest: f64 = 0.0;
    for number in 0..shape.changes {
        tokio::time::sleep(SETTLE).await;
        let cpu = processor_seconds(&manager)?;
        let took = fleet.change(number).await?;
        slowest = slowest.max(took.as_secs_f64());
        say(
            "a change is with every node after, seconds",
            took.as_secs_f64(),
        );
        say(
            "and cost the manager, processor seconds",
            processor_seconds(&manager)? - cpu,
        );
    }

    tokio::time::sleep(SETTLE).await;
    let (cpu, began) = (processor_seconds(&manager)?, Instant::now());
    tokio::time::sleep(Duration::from_secs(shape.seconds)).await;
    let steady = (processor_seconds(&manager)? - cpu) / began.elapsed().as_secs_f64();
    let registered = registered(&manager).await?;
    anyhow::ensure!(
        registered as usize >= shape.nodes,
        "only {registered} are members"
    );
    Ok([
        slowest,
        steady * 100.0,
        peak_memory(&manager)? / f64::from(1 << 20),
    ])
}

async fn start(scene: &Scene) -> Result<Darner> {
    // Good for any number of processes, so that joining is not what is measured.
    let tokens = [Role::Mirror, Role::Seed].map(JoinToken::generate);
    let tokens: Result<Vec<_>, _> = tokens.into_iter().collect();
    let tokens = tokens.ok().context("no randomness")?;
    let lines = tokens.iter().map(|token| token.reveal() + "\n");
    std::fs::write(scene.path("tokens"), lines.collect::<String>())?;
    for token in &tokens {
        std::fs::write(
            scene.path(format!("{}.token", token.role())),
            token.reveal(),
        )?;
    }
    let settings = Settings::new(&scene.path("data-manager"))
        .set("node.id", "manager")
        .set("manager.listen", "127.0.0.1:0")
        .set("manager.api_listen", "127.0.0.1:0")
        .set(
            "manager.join_tokens_file",
            scene.path("tokens").display().to_string(),
        )
        .set("log.filter", "warn,darner=info,darner_manager::rpc=warn");
    let environment = [("TOKIO_WORKER_THREADS", "1")];
    Darner::start_in(scene, "manager", "manager", &settings, &environment).await
}

async fn registered(manager: &Darner) -> Result<f64> {
    let metrics = manager.metrics().await?;
    Ok(metrics.sum("darner_manager_hosts", "role=\"mirror\""))
}

fn say(what: &str, figure: f64) {
    println!("{what:<60} {figure:>10.3}");
}

/// Clock ticks a second in `/proc/<pid>/stat`: the same on every Linux that Rust runs on.
const TICKS: f64 = 100.0;

fn processor_seconds(process: &Darner) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id()))?;
    // The name, in brackets, may have spaces; utime and stime are the 12th and 13th after it.
    let (_, fields) = stat.rsplit_once(')').context("no name")?;
    let fields: Vec<_> = fields.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / TICKS)
}

fn peak_memory(process: &Darner) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    let kib: f64 = kib.context("no VmHWM")?.parse()?;
    Ok(kib * 1024.0)
}
