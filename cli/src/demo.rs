//! `darner demo`: a whole cluster on this machine, for as long as one pull takes. No root, no
//! network, nothing left behind.
//!
//! Everything is the real thing: an upstream registry (small, and it counts), a manager, a
//! scheduler, a seed and the mirrors, each with a data directory and ports of its own, talking to
//! each other over loopback as processes do; the clients are those of `darner pull`. What the table
//! says of upstream was counted by the upstream registry itself.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytesize::ByteSize;
use darner_service::settings::Log;
use darner_service::telemetry;
use futures_util::future::try_join_all;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

mod bars;
mod cluster;
mod counts;
mod image;
mod link;
mod pace;
mod report;
mod upstream;

use bars::{Bars, NodeBar};
use cluster::{Base, Cluster, Node};
use image::Image;
use report::{NodeRow, Round};
use upstream::Upstream;

use crate::pull::{self, Choice};
use crate::run::say;

/// As shells report a process that SIGINT ended.
const INTERRUPTED: u8 = 130;
/// More nodes than this on one machine show nothing new.
const MAX_NODES: i64 = 16;
/// A smaller image is over before anybody sees it, a larger one fills the memory it is made in.
const SIZES: std::ops::RangeInclusive<u64> = (1 << 20)..=(1 << 30);
/// At a lower rate the demonstration lasts minutes.
const LEAST_RATE: u64 = 1_000_000;
/// Upstream may be read this many times over; more is what Darner promises not to do.
const MAX_RATIO: f64 = 1.01;
/// A cluster that takes longer than this to find itself has failed.
const START_TIMEOUT: Duration = Duration::from_secs(15);

/// Flags of `darner demo`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Mirrors that pull at the same moment
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=MAX_NODES))]
    nodes: u16,
    /// Size of the image
    #[arg(long, value_name = "BYTES", default_value = "64MiB", value_parser = parse_size)]
    size: u64,
    /// What the upstream registry sends in a second, all connections together; 0 is without limit
    #[arg(long, value_name = "BYTES", default_value = "50MB", value_parser = parse_rate)]
    upstream_rate: u64,
    /// What each node sends to the others in a second; 0 is without limit
    #[arg(long, value_name = "BYTES", default_value = "100MB", value_parser = parse_rate)]
    link_rate: u64,
    /// Show the log of every part
    #[arg(long, short)]
    verbose: bool,
}

/// Runs the demonstration, and says how it went.
pub(crate) async fn run(args: Args) -> ExitCode {
    if args.verbose
        && let Err(error) = telemetry::start(&Log::default())
    {
        say(format_args!("error: {:#}", anyhow::Error::new(error)));
        return ExitCode::FAILURE;
    }
    match in_directory(&args).await {
        Ok(ended) => ended,
        Err(error) => {
            say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Whatever happens in it, the directory is gone afterwards.
async fn in_directory(args: &Args) -> anyhow::Result<ExitCode> {
    // From here on no signal ends the process half-way.
    let mut interrupt =
        signal(SignalKind::interrupt()).context("signals cannot be listened for")?;
    let mut terminate =
        signal(SignalKind::terminate()).context("signals cannot be listened for")?;
    let dir = make_directory()?;
    let mut cluster = Cluster::default();
    let ended = tokio::select! {
        ended = play(args, dir.path(), &mut cluster) => ended,
        _ = interrupt.recv() => Ok(ExitCode::from(INTERRUPTED)),
        _ = terminate.recv() => Ok(ExitCode::from(INTERRUPTED)),
    };
    cluster.stop().await;
    let path = dir.path().to_owned();
    let removed = dir.close();
    removed.with_context(|| format!("{} could not be removed; remove it", path.display()))?;
    ended
}

fn make_directory() -> anyhow::Result<TempDir> {
    let made = tempfile::Builder::new().prefix("darner-demo-").tempdir();
    made.with_context(|| {
        let parent = std::env::temp_dir();
        let parent = parent.display();
        format!("no directory can be made in {parent}; set TMPDIR to one that can be written")
    })
}

async fn play(args: &Args, dir: &Path, cluster: &mut Cluster) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let size = args.size;
    let image = tokio::task::spawn_blocking(move || Image::generate(size)).await?;
    let shutdown = cluster.add().shutdown;
    let upstream = Upstream::start(image.clone(), args.upstream_rate, &shutdown);
    let upstream = upstream
        .await
        .context("the upstream registry cannot listen on loopback")?;
    let base = Base::new(dir, upstream.address(), args.link_rate);
    let started = cluster.start(base, args.nodes);
    let started = tokio::time::timeout(START_TIMEOUT, started).await;
    started
        .context("the parts of the cluster do not find each other; --verbose shows their log")??;
    say(format_args!(
        "A registry, a manager, a scheduler, a seed and {} mirrors, up after {:.1} s. All mirrors pull an image of {} in {} layers at once.",
        args.nodes,
        began.elapsed().as_secs_f64(),
        report::bytes(image.size()),
        image.layers(),
    ));
    let stage = Stage {
        dir,
        image: &image,
        cluster,
        upstream: &upstream,
        bars: !args.verbose && io::stderr().is_terminal(),
    };
    let cold = stage.round("cold").await?;
    show(format_args!("\n{}\n", cold.table()))?;
    let again = stage.round("again").await?;
    show(format_args!("{}\n", again.sentence()))?;
    let ratio = cold.ratio() + again.ratio();
    if ratio > MAX_RATIO {
        bail!("upstream had to send the image {ratio:.2} times; that is a fault of Darner's");
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the pulls happen.
struct Stage<'a> {
    dir: &'a Path,
    image: &'a Image,
    cluster: &'a Cluster,
    upstream: &'a Upstream,
    /// Whether there is a terminal to draw on.
    bars: bool,
}

impl Stage<'_> {
    /// Pulls on all nodes at once, as clients that hold nothing.
    async fn round(&self, name: &str) -> anyhow::Result<Round> {
        let (seed, nodes) = (self.cluster.seed()?, self.cluster.mirrors());
        let (sent_before, seed_before) = (self.upstream.sent(), seed.fetched()?);
        let clients = self.dir.join(format!("clients-{name}"));
        let bars = Bars::new(nodes, self.image.size(), self.bars)?;
        let began = Instant::now();
        let pulls = nodes.iter().zip(bars.of_nodes());
        let pulls = pulls.map(|(node, bar)| self.pull(node, &clients, bar));
        let rows = tokio::select! {
            rows = try_join_all(pulls) => rows?,
            failed = bars.follow(nodes) => match failed? {},
        };
        let took = began.elapsed();
        bars.clear();
        let checked = rows.iter().map(|row| self.check(clients.join(&row.name)));
        try_join_all(checked).await?;
        Ok(Round {
            nodes: rows,
            seed: seed.fetched()? - seed_before,
            image_bytes: self.image.size(),
            upstream: self.upstream.sent() - sent_before,
            took,
        })
    }

    async fn pull(&self, node: &Node, clients: &Path, bar: &NodeBar) -> anyhow::Result<NodeRow> {
        let output = clients.join(&node.name);
        std::fs::create_dir_all(&output)?;
        let before = node.fetched()?;
        let began = Instant::now();
        let request = pull::Request {
            image: &image::NAME.parse()?,
            via: &format!("http://{}", node.address).parse()?,
            ca: None,
            output: &output,
            choice: Choice::Host,
        };
        let pulled = pull::pull(&request, bar).await;
        let pulled = pulled.with_context(|| format!("the pull on {} failed", node.name))?;
        let took = began.elapsed();
        if pulled.digest != self.image.digest() {
            bail!(
                "{} pulled {}, which is another image",
                node.name,
                pulled.digest
            );
        }
        let fetched = node.fetched()? - before;
        if !self.bars {
            let seconds = took.as_secs_f64();
            say(format_args!("{} has it after {seconds:.1} s", node.name));
        }
        Ok(NodeRow {
            name: node.name.clone(),
            fetched,
            store: pulled.fetched.saturating_sub(fetched.sum()),
            took,
        })
    }

    /// Compares what a client has with what was made, byte for byte, and makes room.
    async fn check(&self, output: PathBuf) -> anyhow::Result<()> {
        let image = self.image.clone();
        let work = move || {
            for (digest, bytes) in image.blobs() {
                let path = output.join("blobs/sha256").join(digest.hex());
                let held = std::fs::read(&path)?;
                if held != *bytes {
                    bail!("{} is not what the registry has", path.display());
                }
            }
            std::fs::remove_dir_all(&output).context("a pulled image cannot be removed")
        };
        tokio::task::spawn_blocking(work).await?
    }
}

fn parse_size(text: &str) -> Result<u64, String> {
    let ByteSize(size) = text.parse()?;
    if SIZES.contains(&size) {
        return Ok(size);
    }
    Err("the size is from 1MiB to 1GiB".to_owned())
}

/// `/s` may be said or not.
fn parse_rate(text: &str) -> Result<u64, String> {
    let ByteSize(rate) = text.trim_end_matches("/s").parse()?;
    if rate == 0 || rate >= LEAST_RATE {
        return Ok(rate);
    }
    Err("the rate is at least 1MB, or 0 for no limit".to_owned())
}

/// The result goes to standard output.
fn show(text: fmt::Arguments<'_>) -> io::Result<()> {
    write!(io::stdout(), "{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_rates_have_units_and_bounds() {
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert!(parse_size("64").is_err() && parse_size("2GiB").is_err());
        assert!(parse_size("much").is_err());
        assert_eq!(parse_rate("50MB"), Ok(50_000_000));
        assert_eq!(parse_rate("50MB/s"), Ok(50_000_000));
        assert_eq!(parse_rate("0"), Ok(0));
        assert!(parse_rate("1kB").is_err());
    }
}
