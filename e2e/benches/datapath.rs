//! The data path beside nginx, Debian's registry and a bare program, in one run: see `e2e/bench`,
//! which builds this and gives it a network namespace.
//!
//! What is compared takes turns, so that what else the machine does falls on all alike, and the
//! median of the rounds counts. Processor time is the kernel's account of a process. The client is
//! this process; it reads and throws away, except where it says that it verifies.

#[path = "datapath/alone.rs"]
mod alone;
#[path = "datapath/caches.rs"]
mod caches;
#[path = "datapath/content.rs"]
mod content;
#[path = "datapath/floor.rs"]
mod floor;
#[path = "datapath/growth.rs"]
mod growth;
#[path = "datapath/held.rs"]
mod held;
#[path = "datapath/load.rs"]
mod load;
#[path = "datapath/mixed.rs"]
mod mixed;
#[path = "datapath/plot.rs"]
mod plot;
#[path = "datapath/report.rs"]
mod report;
#[path = "datapath/secured.rs"]
mod secured;
#[path = "datapath/servers.rs"]
mod servers;
#[path = "datapath/shaped.rs"]
mod shaped;
#[path = "datapath/swarm.rs"]
mod swarm;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use content::Blob;
use load::{Load, Target};
use report::{Figure, Report};
use servers::{Server, Servers};
use shaped::Shaped;

const MIB: u64 = 1 << 20;
const GIB: f64 = (1u64 << 30) as f64;
/// Rounds of each comparison.
const ROUNDS: usize = 3;
/// Bytes of one load: enough that the grain of the kernel's account (10 ms) does not count.
const LOAD: u64 = 6 << 30;
/// One request of a load.
const REQUEST: u64 = 64 * MIB;
/// Each load of manifests.
const MANIFESTS_FOR: Duration = Duration::from_secs(3);
/// Blobs that are pulled cold, once each.
const COLD: usize = 6;

/// One comparison.
type Part = fn(&Servers, &mut Report) -> Result<()>;

/// All of them, by the names that choose them. What is measured cold comes first.
const PARTS: [(&str, Part); 13] = [
    ("idle", idle),
    ("cold", cold),
    ("cold-gigabit", cold_gigabit),
    ("one-parent", from_one_parent),
    ("four-parents", from_four_parents),
    ("cached", cached),
    ("pieces", pieces),
    ("pieces-tls", pieces_under_tls),
    ("manifests", manifests),
    ("caches", caches::compare),
    ("crowd", growth::crowd),
    ("sizes", growth::sizes),
    ("clients", growth::clients),
];

/// One that starts what it needs in a directory.
type Apart = fn(&Path, &mut Report) -> Result<()>;

/// All of those.
const APART: [(&str, Apart); 3] = [
    ("swarm", swarm::compare),
    ("held", held::grow),
    ("memory", held::memory),
];

/// What takes so long that it is run only when it is named.
const LONG: [(&str, Apart); 1] = [("mixed", mixed::run)];

fn main() -> Result<()> {
    let usage = || {
        let names = PARTS.map(|(name, _)| name).join(" ");
        let apart = [
            APART.map(|(name, _)| name).join(" "),
            LONG.map(|(name, _)| name).join(" "),
        ];
        let names = format!("{names} {}", apart.join(" "));
        format!("usage: datapath JSON [PART...] (run e2e/bench); the parts: {names}")
    };
    let mut arguments = std::env::args().skip(1).filter(|one| one != "--bench");
    let json = arguments.next().filter(|path| !path.starts_with("--"));
    let json = PathBuf::from(json.with_context(usage)?);
    let chosen: Vec<_> = arguments.collect();
    let wanted = |name: &str| chosen.is_empty() || chosen.iter().any(|one| one == name);
    let known = |name: &String| {
        let parts = PARTS.iter().map(|(part, _)| part);
        let apart = APART.iter().chain(&LONG).map(|(part, _)| part);
        parts.chain(apart).any(|part| part == name)
    };
    ensure!(chosen.iter().all(known), usage());
    let directory = json
        .parent()
        .context("a file in a directory")?
        .join("scene");
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    std::fs::create_dir_all(&directory)?;
    let mut report = Report::default();
    if PARTS.iter().any(|(name, _)| wanted(name)) {
        let runtime = tokio::runtime::Runtime::new()?;
        let mut servers = runtime.block_on(Servers::start(&directory))?;
        for (name, part) in PARTS.iter().filter(|(name, _)| wanted(name)) {
            part(&servers, &mut report).with_context(|| format!("the part {name}"))?;
        }
        servers.stop();
    }
    let named = |name: &str| chosen.iter().any(|one| one == name);
    let apart = APART.iter().filter(|(name, _)| wanted(name));
    for (name, part) in apart.chain(LONG.iter().filter(|(name, _)| named(name))) {
        // The logs that one waits for are not those of another.
        let directory = directory.join(name);
        std::fs::create_dir(&directory)?;
        part(&directory, &mut report).with_context(|| format!("the part {name}"))?;
    }
    report.write(&json)?;
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

fn idle(servers: &Servers, report: &mut Report) -> Result<()> {
    for (name, server) in [
        ("mirror, idle", &servers.child),
        ("all roles in one process, idle", &servers.mirror),
    ] {
        let resident = server.memory("VmRSS")? as f64 / MIB as f64;
        report.alone(name, Figure::new("MiB resident", resident));
    }
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

/// The same under TLS 1.3, as it is between nodes. Neither side has the kernel encrypt.
fn pieces_under_tls(servers: &Servers, report: &mut Report) -> Result<()> {
    let blob = &servers.served;
    let seed = Target::file(servers.seed.address, &blob.path());
    load::pull(&seed, blob)?;
    servers.wait_held(&servers.seed, blob)?;
    let member = servers.member()?;
    for connections in [1, 4] {
        let name = format!("pieces to peers under TLS, {connections} connections");
        let contenders = [
            (
                &servers.nginx,
                Target::file(servers.nginx_tls, &blob.file_path()).secured(&member),
            ),
            (
                &servers.seed,
                Target::pieces(servers.seed_pieces, &blob.digest).secured(&member),
            ),
        ];
        let load = Load {
            connections,
            bytes: LOAD / 2,
            request: 4 * MIB,
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
    let (mut spent, mut floor) = (Vec::new(), Vec::new());
    let mut pulls = Pulls::default();
    let (blobs, _) = servers.cold.split_at(COLD / 2);
    for blob in blobs {
        let size = blob.size as f64 / GIB;
        // The pull straight from the registry costs the mirror nothing.
        let before = servers.mirror.processor_time()?;
        pulls.cold(servers, blob)?;
        servers.wait_held(&servers.mirror, blob)?;
        spent.push((servers.mirror.processor_time()? - before).as_secs_f64() / size);
        let registry = Target::file(servers.registry.address, &blob.path());
        servers.warm_memory(blob.size)?;
        let used = floor::relay(&registry, blob, &servers.directory.join("floor"))?;
        floor.push(used.as_secs_f64() / size);
    }
    pulls.report(report, "cold pull through one mirror");
    let name = "receive from upstream, verify, store, serve once";
    let (floor, spent) = (report::median(floor), report::median(spent));
    report.beside(name, "bare program", "CPU s/GiB", floor, spent);
    let peak = servers.mirror.memory("VmHWM")? as f64 / MIB as f64;
    report.alone(
        "mirror, after cold pulls",
        Figure::new("MiB resident at most", peak),
    );
    Ok(())
}

/// The same from a registry that sends a gigabit a second.
fn cold_gigabit(servers: &Servers, report: &mut Report) -> Result<()> {
    let mut pulls = Pulls::default();
    let (_, blobs) = servers.cold.split_at(COLD / 2);
    let shaped = Shaped::begin(servers.registry.address.port(), "1gbit")?;
    for blob in blobs {
        pulls.cold(servers, blob)?;
        servers.wait_held(&servers.mirror, blob)?;
    }
    drop(shaped);
    pulls.report(report, "cold pull through one mirror, registry at 1 Gbit/s");
    Ok(())
}

/// The same blobs, pulled straight and through the mirror.
#[derive(Default)]
struct Pulls {
    straight: Vec<load::Pulled>,
    mirrored: Vec<load::Pulled>,
}

impl Pulls {
    fn cold(&mut self, servers: &Servers, blob: &Blob) -> Result<()> {
        // What the registry's disk needs is not the question.
        let registry = Target::file(servers.registry.address, &blob.path());
        load::pull(&registry, blob)?;
        self.straight.push(load::pull(&registry, blob)?);
        let mirror = Target::file(servers.mirror.address, &blob.path());
        servers.warm_memory(blob.size)?;
        self.mirrored.push(load::pull(&mirror, blob)?);
        Ok(())
    }

    fn report(&self, report: &mut Report, name: &str) {
        let pair = |of: fn(&load::Pulled) -> f64| {
            let median = |pulls: &[load::Pulled]| report::median(pulls.iter().map(of).collect());
            (median(&self.straight), median(&self.mirrored))
        };
        let (theirs, ours) = pair(|pull| pull.took.as_secs_f64());
        report.beside(name, "straight", "s", theirs, ours);
        let (theirs, ours) = pair(|pull| pull.first_byte.as_secs_f64() * 1000.0);
        report.beside(name, "straight", "ms to first byte", theirs, ours);
    }
}

/// Blobs that a seed has, through another mirror.
fn from_one_parent(servers: &Servers, report: &mut Report) -> Result<()> {
    let (blobs, _) = servers.cold.split_at(COLD / 2);
    from_parents(servers, report, ("one parent", &[&servers.seed]), blobs)
}

/// Blobs that a seed and three mirrors have, through another mirror.
fn from_four_parents(servers: &Servers, report: &mut Report) -> Result<()> {
    let (_, blobs) = servers.cold.split_at(COLD / 2);
    let [first, second, third] = &servers.parents;
    let parents = [&servers.seed, first, second, third];
    from_parents(servers, report, ("four parents", &parents), blobs)
}

/// The client throws away what it reads: with one that verifies, a machine with few processors
/// would measure that.
fn from_parents(
    servers: &Servers,
    report: &mut Report,
    (from, parents): (&str, &[&Server]),
    blobs: &[Blob],
) -> Result<()> {
    let (mut spent, mut floor, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    let (mut first, mut senders) = (Vec::new(), Vec::new());
    for blob in blobs {
        let size = blob.size as f64 / GIB;
        for parent in parents {
            load::pull(&Target::file(parent.address, &blob.path()), blob)?;
            servers.wait_held(parent, blob)?;
        }
        let sent = || {
            let times = parents.iter().map(|parent| parent.processor_time());
            times.sum::<Result<Duration>>()
        };
        servers.warm_memory(blob.size)?;
        let (before, sent_before) = (servers.child.processor_time()?, sent()?);
        let pulled = load::read(&Target::file(servers.child.address, &blob.path()))?;
        servers.wait_held(&servers.child, blob)?;
        spent.push((servers.child.processor_time()? - before).as_secs_f64() / size);
        senders.push((sent()? - sent_before).as_secs_f64() / size);
        rates.push(size / pulled.took.as_secs_f64());
        first.push(pulled.first_byte.as_secs_f64() * 1000.0);
        let seed = Target::pieces(servers.seed_pieces, &blob.digest).secured(&servers.member()?);
        servers.warm_memory(blob.size)?;
        let used = floor::relay(&seed, blob, &servers.directory.join("floor"))?;
        floor.push(used.as_secs_f64() / size);
    }
    let name = format!("receive from {from} under TLS, verify, store, serve once");
    let floor = report::median(floor);
    let spent = report::median(spent);
    report.beside(&name, "bare program", "CPU s/GiB", floor, spent);
    let first = Figure::new("ms to first byte", report::median(first));
    report.alone(&name, first);
    let senders = Figure::new("CPU s/GiB of all parents", report::median(senders));
    report.alone(&name, senders);
    let one_core = 1.0 / floor::sha256_seconds_per_gib()?;
    let rate = report::median(rates);
    report.beside(&name, "sha256 of one core", "GiB/s", one_core, rate);
    Ok(())
}

/// A manifest by its digest, as fast as connections can ask.
fn manifests(servers: &Servers, report: &mut Report) -> Result<()> {
    let target = Target::file(servers.mirror.address, &servers.manifest);
    let mut rounds = Vec::new();
    let mut slowest = Vec::new();
    for _ in 0..ROUNDS {
        let before = servers.mirror.processor_time()?;
        let asked = load::ask(&target, 16, MANIFESTS_FOR, None)?;
        let used = servers.mirror.processor_time()? - before;
        rounds.push(asked.count as f64 / used.as_secs_f64());
        // Half of what it has just answered in the same time.
        let pause = MANIFESTS_FOR * 2 * 16 / u32::try_from(asked.count)?.max(1);
        let asked = load::ask(&target, 16, MANIFESTS_FOR, Some(pause))?;
        slowest.push(asked.p99.as_secs_f64() * 1000.0);
    }
    let name = "manifests from cache, 16 connections";
    report.alone(
        name,
        Figure::new("requests per CPU s", report::median(rounds)),
    );
    report.alone(
        name,
        Figure::new(
            "ms, 99 of 100 within, at half the load",
            report::median(slowest),
        ),
    );
    Ok(())
}

/// By how much the largest parts are made smaller, for a machine that is busy: `BENCH_SCALE`.
fn scale() -> u64 {
    let scale = darner_e2e::place::setting("BENCH_SCALE").and_then(|scale| scale.parse().ok());
    scale.unwrap_or(1).max(1)
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
