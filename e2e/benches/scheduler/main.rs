//! Load on a real scheduler process over real connections: what it takes in, how fast it chooses,
//! and what it needs for that.
//!
//! ```text
//! cargo build --release -p darner
//! cargo bench -p darner-e2e --bench scheduler -- [hosts=10000] [tasks=1000] [held=1000] [seconds=20]
//! ```
//! The scheduler has one thread. The load comes from another process on the same machine, so its
//! capacity is told per second of its own processor time, which does not depend on what else the
//! machine does.

mod fleet;
mod scheduler;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use darner_e2e::scene;

use fleet::{Fleet, Latencies};
use scheduler::Scheduler;

/// How much there is of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Hosts that attend.
    hosts: usize,
    /// Tasks under way; every host downloads one.
    tasks: usize,
    /// Further contents that every host holds complete.
    held: usize,
    /// How long each load lasts.
    seconds: u64,
}

/// Pieces of every content under way.
pub(crate) const PIECES: u32 = 2000;
/// Piece completions in one message: two messages a second and host make the rate.
const RUN: u32 = 10;
/// Hosts that leave their task and join it again in a second. Each is a selection for itself and one
/// for every child that it had.
const JOINS: u64 = 500;
/// Downloads of one host, when memory is measured: the first is not counted, since with it the
/// connection's own buffers grow.
const DOWNLOADS: usize = 5;
/// What the project asks of itself.
const BARS: [(&str, f64, bool); 5] = [
    (
        "piece completions per second of processor time",
        200_000.0,
        true,
    ),
    ("selections per second of processor time", 5_000.0, true),
    ("p99 of a decision, ms", 2.0, false),
    ("bytes per complete holding", 16.0, false),
    (
        "bytes per active download, without its piece set",
        300.0,
        false,
    ),
];

fn main() {
    let shape = shape().unwrap_or_else(|wrong| {
        eprintln!("{wrong}");
        std::process::exit(2);
    });
    scene::run_for("bench_scheduler", Duration::from_secs(900), async |scene| {
        let figures = measure(&Scheduler::start(scene).await?, shape).await?;
        println!("\n{:<52} {:>12} {:>12}", "", "measured", "bar");
        for ((what, bar, at_least), figure) in BARS.iter().zip(figures) {
            let met = if *at_least {
                figure >= *bar
            } else {
                figure <= *bar
            };
            let verdict = if met { "met" } else { "MISSED" };
            println!("{what:<52} {figure:>12.1} {bar:>12.1} {verdict}");
        }
        Ok(())
    });
}

/// `name=value` each; what cargo itself passes begins with a dash.
fn shape() -> Result<Shape, String> {
    let mut shape = Shape {
        hosts: 10_000,
        tasks: 1000,
        held: 1000,
        seconds: 20,
    };
    for argument in std::env::args().skip(1).filter(|one| !one.starts_with('-')) {
        let wrong =
            || format!("{argument}: expected hosts=, tasks=, held= or seconds= and a number");
        let (name, value) = argument.split_once('=').ok_or_else(wrong)?;
        let value: usize = value.parse().map_err(|_| wrong())?;
        match name {
            "hosts" => shape.hosts = value,
            "tasks" => shape.tasks = value,
            "held" => shape.held = value,
            "seconds" => shape.seconds = value as u64,
            _ => return Err(wrong()),
        }
    }
    Ok(shape)
}

/// The figures, in the order of [`BARS`].
async fn measure(scheduler: &Scheduler, shape: Shape) -> Result<[f64; 5]> {
    let empty = scheduler.memory()?;
    let mut fleet = Fleet::attend(scheduler.url()?, shape).await?;
    scheduler
        .wait_for("darner_scheduler_hosts", shape.hosts)
        .await?;
    let attended = scheduler.memory()?;
    say(
        "a host that attends, bytes",
        (attended - empty) / shape.hosts as f64,
    );

    let begun = Instant::now();
    // The first half is not counted: with it the connections' own buffers grow.
    let half = shape.hosts * (shape.held / 2);
    fleet.list_held(0..shape.held / 2, scheduler).await?;
    scheduler
        .wait_for("darner_scheduler_holdings", half)
        .await?;
    let listed = scheduler.memory()?;
    fleet
        .list_held(shape.held / 2..shape.held, scheduler)
        .await?;
    let holdings = shape.hosts * shape.held;
    scheduler
        .wait_for("darner_scheduler_holdings", holdings)
        .await?;
    let per_holding = (scheduler.memory()? - listed) / (holdings - half).max(1) as f64;
    say(
        "all holdings listed, seconds",
        begun.elapsed().as_secs_f64(),
    );

    fleet.hold_tasks().await?;
    fleet.join_all(0, scheduler).await?;
    fleet.settle(scheduler).await?;
    // Everybody has been told everything that there is to tell.
    tokio::time::sleep(TOLD).await;
    let one = scheduler.memory()?;
    for round in 1..DOWNLOADS {
        fleet.join_all(round, scheduler).await?;
        fleet.settle(scheduler).await?;
    }
    tokio::time::sleep(TOLD).await;
    let downloads = (DOWNLOADS - 1) * shape.hosts;
    let per_download =
        (scheduler.memory()? - one) / downloads as f64 - f64::from(PIECES).div_euclid(8.0);
    say(
        "an active download without its piece set, bytes",
        per_download,
    );
    for round in 1..DOWNLOADS {
        fleet.leave_all(round, scheduler).await?;
    }
    fleet.settle(scheduler).await?;

    let progress = load(scheduler, &mut fleet, shape, true, false).await?;
    say("under completions alone, processors", progress.processors);
    let selections = load(scheduler, &mut fleet, shape, false, true).await?;
    say("under selections alone, processors", selections.processors);
    selections
        .latencies
        .say("answer to a join, under selections alone");
    let both = load(scheduler, &mut fleet, shape, true, true).await?;
    say("under both, processors", both.processors);
    both.latencies.say("answer to a join, under both");
    let p99 = scheduler.decision_quantile(0.99).await?;
    Ok([
        progress.completions / progress.processor_seconds,
        selections.selections / selections.processor_seconds,
        p99 * 1000.0,
        per_holding,
        per_download,
    ])
}

struct Load {
    completions: f64,
    selections: f64,
    processor_seconds: f64,
    processors: f64,
    latencies: Latencies,
}

/// Runs for the shape's time: every host completes pieces, or some join and leave, or both.
async fn load(
    scheduler: &Scheduler,
    fleet: &mut Fleet,
    shape: Shape,
    completions: bool,
    selections: bool,
) -> Result<Load> {
    const STEP: Duration = Duration::from_millis(10);
    let steps = shape.seconds * 100;
    let (cpu, begun) = (scheduler.processor_seconds()?, Instant::now());
    let mut told = 0;
    let answered = fleet.answered();
    let mut clock = tokio::time::interval(STEP);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    for step in 0..steps {
        clock.tick().await;
        if completions {
            // Every host twice a second, evenly spread.
            let (from, to) = (step % 50, step % 50 + 1);
            let hosts = from * shape.hosts as u64 / 50..to * shape.hosts as u64 / 50;
            told += fleet.complete(hosts, RUN).await?;
        }
        if selections {
            fleet.select(JOINS / 100).await?;
        }
    }
    fleet.settle(scheduler).await?;
    let processor_seconds = scheduler.processor_seconds()? - cpu;
    let passed = begun.elapsed().as_secs_f64();
    let answered = fleet.answered() - answered;
    println!(
        "{passed:.1} s: {:.0} completions/s, {:.0} selections/s",
        told as f64 / passed,
        answered as f64 / passed
    );
    Ok(Load {
        completions: told as f64,
        selections: answered as f64,
        processor_seconds,
        processors: processor_seconds / passed,
        latencies: fleet.take_latencies().context("no latencies")?,
    })
}

/// After a crowd has joined, telling goes on for so long at most.
const TOLD: Duration = Duration::from_secs(5);

fn say(what: &str, figure: f64) {
    println!("{what:<60} {figure:>10.3}");
}
