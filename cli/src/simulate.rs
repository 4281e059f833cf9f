//! `darner simulate`: the production cores of scheduler and mirrors over a model network. Shows how
//! near a cluster of any size comes to the limit that no scheme can beat, and what faults cost.
//!
//! What runs is what ships: `darner_scheduler::swarm`, and the mirror's `swarm::sessions`,
//! `task::state` and uploads. The model gives them events and carries out their actions as the
//! drivers do; it decides nothing. Hashing, signing, TCP and disks are not modelled beyond rates,
//! windows and latencies, so a result is a limit on choices and no forecast to the percent.
//!
//! Chance comes from `--seed` alone: the same flags and seed give the same result, bit for bit.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytesize::ByteSize;

mod attendance;
mod build;
mod count;
mod download;
mod exchange;
mod fault;
mod network;
mod node;
mod offer;
mod plan;
mod plot;
mod queue;
mod report;
mod transfer;
mod uploader;
mod world;

use fault::Fault;
use plan::Plan;
use report::Report;
use world::World;

use crate::run::say;

/// The scheduler takes no more nodes.
const MAX_PEERS: u64 = 19_000;
/// Hosts that are not done after this multiple of the limit, and this time, never will be.
const PATIENCE: (f64, Duration) = (20.0, Duration::from_secs(120));

/// Flags of `darner simulate`
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Faults, each flag one of them, times from the first pull:\n  \
    die=20%@0s..10s     hosts fall silent, each at a random moment of that time\n  \
    leave=20%@0s..10s   hosts end, and their connections close\n  \
    slow=5%*0.5         hosts with this part of the upload rate\n  \
    liars=20%           hosts that send wrong bytes for every piece\n  \
    boasters=5%         hosts that say they have everything and have nothing\n  \
    scheduler@4s        the (first) scheduler restarts without memory\n  \
    seed@4s             a seed dies\n  \
    upstream@4s         upstream can no longer be reached\n\n\
    Kraken's published shape:\n  \
    darner simulate --peers 2600 --size 3GB --layers 2 --link 300MB/s --seeds 5 --upstream 1.5GB/s\n\n\
    Exit status: 0 every host that could has its image, 1 some have not, 2 wrong usage."
)]
pub(crate) struct Args {
    /// Hosts that pull, seeds not counted
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = parse_peers)]
    peers: usize,
    /// Bytes of an image
    #[arg(long, value_name = "BYTES", default_value = "1GB", value_parser = parse_size)]
    size: u64,
    /// Layers of an image, of equal size
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    layers: u16,
    /// Layers that a host pulls at a time [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    layers_at_once: Option<u16>,
    /// Images; each host pulls one of them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    images: u16,
    /// What a host, or a seed, receives in a second
    #[arg(long, value_name = "BYTES/s", default_value = "300MB/s", value_parser = parse_rate)]
    link: u64,
    /// What a host, or a seed, sends in a second [default: as --link]
    #[arg(long, value_name = "BYTES/s", value_parser = parse_rate)]
    up_link: Option<u64>,
    /// Seeds
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(0..=64))]
    seeds: u16,
    /// Schedulers, among which the contents are divided
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    schedulers: u16,
    /// What upstream sends in a second, to all readers together
    #[arg(long, value_name = "BYTES/s", default_value = "1GB/s", value_parser = parse_rate)]
    upstream: u64,
    /// Upstream sends the whole content whatever range is asked for
    #[arg(long)]
    no_ranges: bool,
    /// Zones, over which hosts are spread evenly
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    zones: u16,
    /// One way's time between two hosts: within a zone, and between zones if that is longer
    #[arg(long, value_name = "TIME[,TIME]", default_value = "0.5ms", value_parser = parse_latency)]
    latency: (Duration, Duration),
    /// From a request to upstream to its answer
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = fault::parse_time)]
    upstream_latency: Duration,
    /// What a host verifies and writes in a second [default: as much as comes]
    #[arg(long, value_name = "BYTES/s", value_parser = parse_rate)]
    store: Option<u64>,
    /// Pieces a host sends at once, at most
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    upload_slots: u32,
    /// A client on every host reads its layers from the first byte on
    #[arg(long)]
    in_order: bool,
    /// Hosts ask at random moments of this time [default: all at once]
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = fault::parse_time)]
    join: Duration,
    /// Something that goes wrong; may be given several times
    #[arg(long, value_name = "FAULT", value_parser = str::parse::<Fault>)]
    fault: Vec<Fault>,
    /// The seed of chance
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How to print the result
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
    /// Draw how many hosts are done after what time into this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Runs the simulation and prints its figures.
pub(crate) fn run(args: &Args) -> ExitCode {
    let report = match simulate(args) {
        Ok(report) => report,
        Err(reason) => {
            say(format_args!("error: {reason}"));
            return ExitCode::from(2);
        }
    };
    if let Err(error) = show(args, &report) {
        say(format_args!("error: {error:#}"));
        return ExitCode::FAILURE;
    }
    if report.is_complete() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn simulate(args: &Args) -> Result<Report, String> {
    let plan = Plan::new(args)?;
    let patience = PATIENCE.1 + args.join + Duration::from_secs_f64(plan.bound() * PATIENCE.0);
    let began = Instant::now();
    let (mut world, begins) = World::new(plan).map_err(|invalid| invalid.to_string())?;
    world.run(begins.saturating_add(queue::nanos(patience)));
    Ok(Report::new(&world, begins, args.seed, began.elapsed()))
}

fn show(args: &Args, report: &Report) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match args.output {
        Output::Table => write!(out, "{report}"),
        Output::Json => {
            let json = serde_json::to_string_pretty(report)?;
            writeln!(out, "{json}")
        }
    }
    .context("the result cannot be printed")?;
    let Some(file) = &args.plot else {
        return Ok(());
    };
    let title = format!(
        "{} hosts, {}, {} seeds",
        args.peers,
        ByteSize(args.size),
        args.seeds
    );
    let written = std::fs::write(file, plot::draw(report, &title));
    written.with_context(|| format!("{} cannot be written", file.display()))
}

fn parse_peers(text: &str) -> Result<usize, String> {
    let peers: u64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    let fits = (1..=MAX_PEERS).contains(&peers);
    let peers = usize::try_from(peers).ok().filter(|_| fits);
    peers.ok_or_else(|| format!("it is from 1 to {MAX_PEERS}: a scheduler takes no more"))
}

fn parse_size(text: &str) -> Result<u64, String> {
    let ByteSize(size) = text.parse()?;
    match size {
        1..=darner_proto::geometry::MAX_SIZE => Ok(size),
        _ => Err("an image is from 1 byte to 64GiB".to_owned()),
    }
}

/// `/s` may be said or not.
fn parse_rate(text: &str) -> Result<u64, String> {
    let ByteSize(rate) = text.trim_end_matches("/s").parse()?;
    if rate < 1000 {
        return Err("a rate is at least 1kB/s".to_owned());
    }
    Ok(rate)
}

fn parse_latency(text: &str) -> Result<(Duration, Duration), String> {
    let (near, far) = text.split_once(',').unwrap_or((text, text));
    let (near, far) = (fault::parse_time(near)?, fault::parse_time(far)?);
    if far < near {
        return Err("zones are not nearer to each other than to themselves".to_owned());
    }
    Ok((near, far))
}

#[cfg(test)]
mod tests;
