//! The data path beside nginx, Debian's registry and a bare program, in one run: see `e2e/bench`,
//! which builds this and gives it a network namespace.
//!
//! What is compared takes turns, so that what else the machine does falls on all alike, and the
//! median of the rounds counts. Processor time is the kernel's account of a process. The client is
//! this process; it reads and throws away, except where it says that it verifies.

#[path = "datapath/floor.rs"]
mod floor;
#[path = "datapath/load.rs"]
mod load;
#[path = "datapath/report.rs"]
mod report;
#[path = "datapath/servers.rs"]
mod servers;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use load::{Load, Target};
use report::{Figure, Report};
use servers::{Server, Servers};

const MIB: u64 = 1 << 20;
const GIB: f64 = (1u64 << 30) as f64;
/// Rounds of each comparison.
const ROUNDS: usize = 3;
/// Bytes of one load: enough that the grain of the kernel's account (10 ms) does not count.
const LOAD: u64 = 6 << 30;
/// One request of a load.
const REQUEST: u64 = 64 * MIB;
/// Blobs that are pulled cold, once each.
const COLD: usize = 6;

fn main() -> Result<()> {
    let json = std::env::args()
        .nth(1)
        .filter(|path| !path.starts_with("--"));
    let json = PathBuf::from(json.context("usage: datapath JSON (run e2e/bench)")?);
    let directory = json
        .parent()
        .context("a file in a directory")?
        .join("scene");
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    std::fs::create_dir_all(&directory)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let mut servers = runtime.block_on(Servers::start(&directory))?;
    let mut report = Report::default();
    idle(&servers, &mut report)?;
    cold(&servers, &mut report)?;
    from_peer(&servers, &mut report)?;
    cached(&servers, &mut report)?;
    pieces(&servers, &mut report)?;
    manifests(&servers, &mut report)?;
    servers.stop();
    report.write(&json)?;
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

fn idle(servers: &Servers, report: &mut Report) -> Result<()> {
    let resident = servers.mirror.memory("VmRSS")? as f64 / MIB as f64;
    report.alone("mirror, idle", Figure::new("MiB resident", resident));
    Ok(())
}

/// A blob in the store, to the runtime.
fn cached(servers: &Servers, report: &mut Report) -> Result<()> {
    let blob = &servers.served;
    for connections in [1, 4, 64] {
        let name = format!("cached blob, {connections} connections");
        let contenders = [
            (
                &servers.nginx,
                Target::file(servers.nginx.address, &blob.file_path()),
            ),
            (
                &servers.mirror,
                Target::file(servers.mirror.address, &blob.path()),
            ),
        ];
        let load = Load {
            connections,
            bytes: LOAD,
            request: REQUEST,
            size: blob.size,
        };
        compare(report, &name, &contenders, &load)?;
    }
    Ok(())
}

/// Pieces of a blob in the store, to a peer: runs of four.
fn pieces(servers: &Servers, report: &mut Report) -> Result<()> {
    let blob = &servers.served;
    for connections in [1, 4] {
        let name = format!("pieces to peers, {connections} connections");
        let contenders = [
            (
                &servers.nginx,
                Target::file(servers.nginx.address, &blob.file_path()),
            ),
            (
                &servers.mirror,
                Target::pieces(servers.mirror_pieces, &blob.digest),
            ),
        ];
        let request = 4 * MIB;
        let load = Load {
            connections,
            bytes: LOAD,
            request,
            size: blob.size,
        };
        compare(report, &name, &contenders, &load)?;
    }
    Ok(())
}

fn compare(
    report: &mut Report,
    name: &str,
    contenders: &[(&Server, Target); 2],
    load: &Load,
) -> Result<()> {
    for (_, target) in contenders {
        load.warm(target)?;
    }
    let mut rounds = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (round, (server, target)) in rounds.iter_mut().zip(contenders) {
            let before = server.processor_time()?;
            let took = load.run(target)?;
            let used = server.processor_time()? - before;
            let size = load.bytes as f64 / GIB;
            round.push((used.as_secs_f64() / size, size / took.as_secs_f64()));
        }
    }
    let figures = rounds.map(|round| {
        let (cpu, rate): (Vec<_>, Vec<_>) = round.into_iter().unzip();
        (report::median(cpu), report::median(rate))
    });
    let [nginx, mirror] = figures;
    report.beside(name, "nginx", "CPU s/GiB", nginx.0, mirror.0);
    report.beside(name, "nginx", "GiB/s", nginx.1, mirror.1);
    Ok(())
}

/// Blobs that nobody has, through one mirror and straight from the registry, whose client verifies;
/// and what the mirror spends on one beside the bare program.
fn cold(servers: &Servers, report: &mut Report) -> Result<()> {
    let mut direct = Vec::new();
    let mut mirrored = Vec::new();
    let mut spent = Vec::new();
    let mut floor = Vec::new();
    for blob in &servers.cold {
        let size = blob.size as f64 / GIB;
        // What the registry's disk needs is not the question.
        let registry = Target::file(servers.registry.address, &blob.path());
        load::pull(&registry, blob)?;
        direct.push(load::pull(&registry, blob)?);
        let before = servers.mirror.processor_time()?;
        let target = Target::file(servers.mirror.address, &blob.path());
        mirrored.push(load::pull(&target, blob)?);
        servers.wait_held(&servers.mirror, blob)?;
        spent.push((servers.mirror.processor_time()? - before).as_secs_f64() / size);
        let used = floor::relay(&registry, blob, &servers.directory.join("floor"))?;
        floor.push(used.as_secs_f64() / size);
    }
    let seconds = |pulls: &[load::Pulled]| {
        report::median(pulls.iter().map(|pull| pull.took.as_secs_f64()).collect())
    };
    let first = |pulls: &[load::Pulled]| {
        let first = pulls
            .iter()
            .map(|pull| pull.first_byte.as_secs_f64() * 1000.0);
        report::median(first.collect())
    };
    let name = "cold pull through one mirror";
    report.beside(name, "straight", "s", seconds(&direct), seconds(&mirrored));
    report.beside(
        name,
        "straight",
        "ms to first byte",
        first(&direct),
        first(&mirrored),
    );
    let name = "receive from upstream, verify, store, serve once";
    report.beside(
        name,
        "bare program",
        "CPU s/GiB",
        report::median(floor),
        report::median(spent),
    );
    let peak = servers.mirror.memory("VmHWM")? as f64 / MIB as f64;
    report.alone(
        "mirror, after cold pulls",
        Figure::new("MiB resident at most", peak),
    );
    Ok(())
}

/// Blobs that a seed has, through another mirror.
fn from_peer(servers: &Servers, report: &mut Report) -> Result<()> {
    let (mut spent, mut floor, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    let mut first = Vec::new();
    for blob in &servers.cold {
        let size = blob.size as f64 / GIB;
        load::pull(&Target::file(servers.seed.address, &blob.path()), blob)?;
        servers.wait_held(&servers.seed, blob)?;
        let before = servers.child.processor_time()?;
        let pulled = load::pull(&Target::file(servers.child.address, &blob.path()), blob)?;
        servers.wait_held(&servers.child, blob)?;
        spent.push((servers.child.processor_time()? - before).as_secs_f64() / size);
        rates.push(size / pulled.took.as_secs_f64());
        first.push(pulled.first_byte.as_secs_f64() * 1000.0);
        let seed = Target::pieces(servers.seed_pieces, &blob.digest);
        let used = floor::relay(&seed, blob, &servers.directory.join("floor"))?;
        floor.push(used.as_secs_f64() / size);
    }
    let name = "receive from one parent, verify, store, serve once";
    report.beside(
        name,
        "bare program",
        "CPU s/GiB",
        report::median(floor),
        report::median(spent),
    );
    report.alone(name, Figure::new("ms to first byte", report::median(first)));
    let one_core = 1.0 / floor::sha256_seconds_per_gib()?;
    report.beside(
        name,
        "sha256 of one core",
        "GiB/s",
        one_core,
        report::median(rates),
    );
    Ok(())
}

/// A manifest by its digest, as fast as connections can ask.
fn manifests(servers: &Servers, report: &mut Report) -> Result<()> {
    let target = Target::file(servers.mirror.address, &servers.manifest);
    let mut rounds = Vec::new();
    let mut slowest = Vec::new();
    for _ in 0..ROUNDS {
        let before = servers.mirror.processor_time()?;
        let asked = load::ask(&target, 16, Duration::from_secs(3))?;
        let used = servers.mirror.processor_time()? - before;
        rounds.push(asked.count as f64 / used.as_secs_f64());
        slowest.push(asked.p99.as_secs_f64() * 1000.0);
    }
    let name = "manifests from cache, 16 connections";
    report.alone(
        name,
        Figure::new("requests per CPU s", report::median(rounds)),
    );
    report.alone(
        name,
        Figure::new("ms, 99 of 100 within", report::median(slowest)),
    );
    Ok(())
}

/// Waits until `done` says so.
fn wait(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !done()? {
        ensure!(
            begun.elapsed() < Duration::from_secs(60),
            "waited a minute for {what}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Where a listener is, at a port that this namespace has for itself.
fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}
