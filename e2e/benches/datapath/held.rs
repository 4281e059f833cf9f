//! What a node with much in its store costs beside one with little; and one that is given much at once.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use darner_proto::digest::Digest;

use crate::alone::{Alone, Node};
use crate::content::Blob;
use crate::load::{self, Load, Target};
use crate::plot::Series;
use crate::report::{Figure, Report};
use crate::{GIB, MIB, scale, wait};

/// Blobs that a store holds besides those that are asked for.
const HELD: [u32; 3] = [1, 1000, 100_000];
/// Pulled cold once, and then served again and again.
const SERVED: u64 = 256 * MIB;
/// Bytes of one load.
const LOAD: u64 = 4 << 30;

/// Blobs that come and go at once, and the bytes of each.
const AT_ONCE: u64 = 16;
const LARGE: u64 = 1024 * MIB;
/// Memory is looked at this often.
const LOOK: Duration = Duration::from_millis(20);

/// A cold pull and a cached blob, with ever more other blobs in the store.
pub(crate) fn grow(directory: &Path, report: &mut Report) -> Result<()> {
    let (mut cold, mut cached) = (Vec::new(), Vec::new());
    for held in HELD {
        let name = format!("held-{held}");
        fill(&directory.join(format!("data-{name}/store")), held)?;
        let alone = Alone::start(directory, &name, Node::AllRoles, &[SERVED])?;
        let mirror = &alone.mirror;
        wait("the store to know its blobs", || {
            let metrics = alone.metrics()?;
            let mut values = metrics
                .lines()
                .filter_map(|line| line.strip_prefix("darner_store_blobs "));
            Ok(values.any(|value| {
                value
                    .parse()
                    .is_ok_and(|blobs: f64| blobs >= f64::from(held))
            }))
        })?;
        let blob = alone.blobs.first().context("a blob")?;
        let target = Target::file(mirror.address, &blob.path());
        let before = mirror.processor_time()?;
        load::read(&target)?;
        alone.wait_held(blob)?;
        let used = (mirror.processor_time()? - before).as_secs_f64();
        cold.push((f64::from(held), used / (blob.size as f64 / GIB)));
        let load = Load {
            connections: 4,
            bytes: LOAD,
            request: 4 * MIB,
            size: blob.size,
        };
        load.warm(&target)?;
        let before = mirror.processor_time()?;
        load.run(&target)?;
        let used = (mirror.processor_time()? - before).as_secs_f64();
        cached.push((f64::from(held), used / (LOAD as f64 / GIB)));
    }
    for (name, points) in [("a cold pull", cold), ("a cached blob", cached)] {
        report.grows(Series {
            name: name.to_owned(),
            along: "blobs in the store",
            unit: "CPU s/GiB",
            points,
        });
    }
    Ok(())
}

/// Small blobs, in a store that has not been opened yet.
fn fill(store: &Path, count: u32) -> Result<()> {
    let blobs = store.join("blobs/sha256");
    std::fs::create_dir_all(&blobs)?;
    for number in 0..count {
        let bytes = number.to_be_bytes().repeat(64);
        let path = blobs.join(Digest::sha256(&bytes).hex());
        let mut file = std::fs::File::create(&path).context("a blob")?;
        file.write_all(&bytes)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o400))?;
    }
    Ok(())
}

/// Sixteen blobs come from upstream and go out to a client each, all at once.
pub(crate) fn memory(directory: &Path, report: &mut Report) -> Result<()> {
    let size = LARGE / scale();
    let sizes = vec![size; AT_ONCE as usize];
    let alone = Alone::start(directory, "memory", Node::Mirror, &sizes)?;
    let idle = alone.mirror.memory("RssAnon")?;
    let over = AtomicBool::new(false);
    let most = std::thread::scope(|scope| {
        let watched = scope.spawn(|| {
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                most = most.max(alone.mirror.memory("RssAnon")?);
                std::thread::sleep(LOOK);
            }
            Ok::<_, anyhow::Error>(most)
        });
        let read = |blob: &Blob| load::read(&Target::file(alone.mirror.address, &blob.path()));
        let clients: Vec<_> = alone
            .blobs
            .iter()
            .map(|blob| scope.spawn(move || read(blob)))
            .collect();
        let ended: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        over.store(true, Ordering::Relaxed);
        let panicked = |_| anyhow::anyhow!("a thread panicked");
        let most = watched.join().map_err(panicked)??;
        for client in ended {
            client.map_err(panicked)??;
        }
        Ok::<_, anyhow::Error>(most)
    })?;
    let name = format!("mirror, 16 blobs of {} MiB in and out at once", size / MIB);
    let figure = |bytes: u64| Figure::new("MiB anonymous", bytes as f64 / MIB as f64);
    report.alone("mirror, before that", figure(idle));
    report.alone(&name, figure(most));
    for blob in &alone.blobs {
        alone.wait_held(blob)?;
    }
    // What is used again is given back after a moment.
    std::thread::sleep(Duration::from_secs(2));
    let after = alone.mirror.memory("RssAnon")?;
    report.alone("the same, 2 s afterwards", figure(after));
    Ok(())
}
