//! Half an hour of everything at once, with a store that is too small for it: whether memory, open files
//! and threads grow. Only run when it is named; `BENCH_SCALE` makes it shorter.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use darner_proto::digest::Digest;

use crate::alone::{Alone, Node};
use crate::content::Blob;
use crate::load::{self, Target};
use crate::plot::Series;
use crate::report::{Figure, Report};
use crate::{MIB, scale};

/// Sizes of blobs in KiB, and how many of each there are: 876 MiB in all.
const KIB: [u64; 4] = [64, 1024, 8 << 10, 64 << 10];
const OF_EACH: u64 = 12;
/// What the store takes, so that content comes and goes all the time.
const CAPACITY: &str = "400MiB";
const CLIENTS: u64 = 4;
/// A client rests between two requests.
const REST: Duration = Duration::from_millis(50);
/// The process is looked at this often.
const LOOK: Duration = Duration::from_secs(5);
const MINUTES: u64 = 30;

/// What the process has at a moment.
#[derive(Clone, Copy)]
struct Look {
    minute: f64,
    anonymous: f64,
    files: f64,
    threads: f64,
}

pub(crate) fn run(directory: &Path, report: &mut Report) -> Result<()> {
    let lasts = Duration::from_secs(60 * MINUTES / scale());
    let sizes = (0..OF_EACH).flat_map(|_| KIB).map(|kib| kib << 10);
    let sizes: Vec<_> = sizes.collect();
    let alone = Alone::start_with(directory, "mixed", Node::Mirror, &sizes, |settings| {
        settings.set("store.capacity", CAPACITY)
    })?;
    let until = Instant::now() + lasts;
    let (requests, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let looks = std::thread::scope(|scope| {
        let (alone, requests, failed) = (&alone, &requests, &failed);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| scope.spawn(move || client(alone, number, until, (requests, failed))))
            .collect();
        let looks = watch(alone, until, failed);
        for client in clients {
            client
                .join()
                .map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        looks
    })?;
    tell(&alone, &looks, requests.into_inner(), report)
}

fn tell(alone: &Alone, looks: &[Look], requests: u64, report: &mut Report) -> Result<()> {
    let last = looks.last().context("nothing was looked at")?.minute;
    let name = format!("{last:.0} minutes of mixed load, the last sixth beside the second");
    let mean = |from: f64, of: fn(&Look) -> f64| {
        let sixth = last / 6.0;
        let within = looks
            .iter()
            .filter(|look| (from..from + 1.0).contains(&(look.minute / sixth)));
        let values: Vec<_> = within.map(of).collect();
        values.iter().sum::<f64>() / values.len().max(1) as f64
    };
    for (unit, of) in [
        ("MiB anonymous", (|look| look.anonymous) as fn(&Look) -> f64),
        ("open files", |look| look.files),
        ("threads", |look| look.threads),
    ] {
        report.beside(&name, "then", unit, mean(1.0, of), mean(5.0, of));
    }
    report.alone(&name, Figure::new("requests", requests as f64));
    let evictions = alone.metric("darner_store_evictions_total")?;
    report.alone(&name, Figure::new("contents evicted", evictions));
    report.grows(Series {
        name: "memory under mixed load".to_owned(),
        along: "minutes",
        unit: "MiB anonymous",
        points: looks
            .iter()
            .map(|look| (look.minute.max(0.01), look.anonymous))
            .collect(),
    });
    Ok(())
}

/// Looks at the process until the end, or until a client has failed.
fn watch(alone: &Alone, until: Instant, failed: &AtomicBool) -> Result<Vec<Look>> {
    let begun = Instant::now();
    let mut looks = Vec::new();
    while Instant::now() < until && !failed.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK);
        let pid = alone.mirror.pids.first().context("no process")?;
        looks.push(Look {
            minute: begun.elapsed().as_secs_f64() / 60.0,
            anonymous: alone.mirror.memory("RssAnon")? as f64 / MIB as f64,
            files: std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as f64,
            threads: std::fs::read_dir(format!("/proc/{pid}/task"))?.count() as f64,
        });
    }
    Ok(looks)
}

fn client(
    alone: &Alone,
    number: u64,
    until: Instant,
    (requests, failed): (&AtomicU64, &AtomicBool),
) -> Result<()> {
    let mut chance = number + 1;
    while Instant::now() < until && !failed.load(Ordering::Relaxed) {
        if let Err(error) = one(alone, &mut chance) {
            failed.store(true, Ordering::Relaxed);
            return Err(error);
        }
        requests.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(REST);
    }
    Ok(())
}

/// Something that clients do.
fn one(alone: &Alone, chance: &mut u64) -> Result<()> {
    let mut below = |most: u64| {
        *chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (*chance >> 33) % most
    };
    // One in two asks for one of a few that are asked for often.
    let count = alone.blobs.len() as u64;
    let popular = if below(2) == 0 { count / 6 } else { count };
    let blob = &alone.blobs[usize::try_from(below(popular))?];
    let target = |path: &str| Target::file(alone.mirror.address, path);
    let whole = target(&blob.path());
    match below(8) {
        0 => load::read(&target(&alone.manifest)).map(drop),
        1 => {
            let start = below(blob.size);
            range(&whole, blob, start..blob.size.min(start + MIB))
        }
        2 => {
            // It has seen enough.
            let mut stream = whole.connect()?;
            stream.write_all(whole.whole().as_bytes())?;
            let seen = stream.read(&mut [0; 512])?;
            ensure!(seen > 0, "no answer about {}", blob.digest);
            Ok(())
        }
        3 => {
            let unknown = Digest::sha256(&below(1 << 20).to_be_bytes());
            let path = blob
                .path()
                .replace(&blob.digest.to_string(), &unknown.to_string());
            let status = status(&target(&path))?;
            ensure!(status.contains(" 404 "), "of unknown content: {status}");
            Ok(())
        }
        _ => load::pull(&whole, blob).map(drop),
    }
}

fn range(target: &Target, blob: &Blob, bytes: std::ops::Range<u64>) -> Result<()> {
    let mut stream = target.connect()?;
    stream.write_all(target.request(bytes.start, bytes.end).as_bytes())?;
    let got = load::read_body(&mut stream, &mut vec![0; 64 << 10], |_| Ok(()))?;
    let length = bytes.end - bytes.start;
    ensure!(got == length, "{got} of {length} bytes of {}", blob.digest);
    Ok(())
}

fn status(target: &Target) -> Result<String> {
    let mut stream = target.connect()?;
    stream.write_all(target.whole().as_bytes())?;
    let mut answer = [0; 64];
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}
