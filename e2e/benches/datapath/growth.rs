//! How cost grows with blobs and with clients, and whether a crowd is served fairly.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::load::{self, Load, Target};
use crate::plot::Series;
use crate::report::{Figure, Report};
use crate::servers::Servers;
use crate::{GIB, MIB};

/// Clients that want one blob at the same moment.
const CROWD: usize = 1000;
/// A client of a crowd reads little at a time.
const SIP: usize = 16 << 10;
/// Bytes of one load of cached content.
const LOAD: u64 = 2 << 30;

/// Cold pulls of blobs of several sizes: what a mirror spends on a GiB, receiving and serving once.
pub(crate) fn sizes(servers: &Servers, report: &mut Report) -> Result<()> {
    let mut points = Vec::new();
    for (size, blobs) in &servers.sizes {
        let bytes: u64 = blobs.iter().map(|blob| blob.size).sum();
        servers.warm_memory(bytes)?;
        let before = servers.mirror.processor_time()?;
        for blob in blobs {
            load::read(&Target::file(servers.mirror.address, &blob.path()))?;
        }
        for blob in blobs {
            servers.wait_held(&servers.mirror, blob)?;
        }
        let used = servers.mirror.processor_time()? - before;
        let cost = used.as_secs_f64() / (bytes as f64 / GIB);
        points.push(((*size / MIB) as f64, cost));
    }
    let series = Series {
        name: "a cold pull through one mirror".to_owned(),
        along: "MiB of a blob",
        unit: "CPU s/GiB",
        points,
    };
    report.grows(series);
    Ok(())
}

/// A cached blob to ever more clients.
pub(crate) fn clients(servers: &Servers, report: &mut Report) -> Result<()> {
    let blob = &servers.served;
    let target = Target::file(servers.mirror.address, &blob.path());
    let mut points = Vec::new();
    for connections in [1, 4, 16, 64, 256] {
        let load = Load {
            connections,
            bytes: LOAD,
            request: 4 * MIB,
            size: blob.size,
        };
        load.warm(&target)?;
        let before = servers.mirror.processor_time()?;
        load.run(&target)?;
        let used = servers.mirror.processor_time()? - before;
        points.push((connections as f64, used.as_secs_f64() / (LOAD as f64 / GIB)));
    }
    let series = Series {
        name: "a cached blob to clients".to_owned(),
        along: "clients",
        unit: "CPU s/GiB",
        points,
    };
    report.grows(series);
    Ok(())
}

/// One of a crowd: reads a little, and lets the others read, as if each were a machine of its own.
async fn client(
    target: &Target,
    mut stream: tokio::net::TcpStream,
    begun: Instant,
) -> Result<Duration> {
    stream.write_all(target.whole().as_bytes()).await?;
    let (mut buffer, mut got) = ([0; SIP], Vec::new());
    let mut left = None;
    while left != Some(0) {
        let read = stream.read(&mut buffer).await?;
        ensure!(read > 0, "the connection ended early");
        match &mut left {
            Some(left) => *left -= read,
            None => {
                got.extend_from_slice(&buffer[..read]);
                left = load::body_left(&got)?;
            }
        }
        tokio::task::yield_now().await;
    }
    Ok(begun.elapsed())
}

/// A thousand clients ask one node for one cached blob of 10 MiB, all at once.
pub(crate) fn crowd(servers: &Servers, report: &mut Report) -> Result<()> {
    let target = Target::file(servers.mirror.address, &servers.small.path());
    load::pull(&target, &servers.small)?;
    servers.wait_held(&servers.mirror, &servers.small)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let times = runtime.block_on(async {
        let mut clients = Vec::new();
        for _ in 0..CROWD {
            clients.push(tokio::net::TcpStream::connect(target.address()).await?);
        }
        let begun = Instant::now();
        let clients = clients
            .into_iter()
            .map(|stream| client(&target, stream, begun));
        futures_util::future::try_join_all(clients).await
    })?;
    let fastest = times.iter().min().context("clients")?.as_secs_f64();
    let slowest = times.iter().max().context("clients")?.as_secs_f64();
    let name = "10 MiB to 1,000 clients at once";
    report.alone(name, Figure::new("s, the slowest", slowest));
    report.alone(name, Figure::new("slowest over fastest", slowest / fastest));
    Ok(())
}
