//! The process under load, and what it costs.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use darner_e2e::darner::Darner;
use darner_e2e::{cluster, scene::Scene};

/// Clock ticks a second in `/proc/<pid>/stat`: the same on every Linux that Rust runs on.
const TICKS: f64 = 100.0;
/// Nothing that is waited for takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// A scheduler with one thread.
#[derive(Debug)]
pub(crate) struct Scheduler {
    process: Darner,
}

impl Scheduler {
    /// Starts it.
    pub(crate) async fn start(scene: &Scene) -> Result<Self> {
        let settings = cluster::node(scene, "scheduler")?
            .set("scheduler.listen", "127.0.0.1:0")
            .set("scheduler.settle", "0s")
            .set("identity.insecure", true)
            .set("log.filter", "warn,darner=info");
        let environment = [("TOKIO_WORKER_THREADS", "1")];
        let process =
            Darner::start_in(scene, "scheduler", "scheduler", &settings, &environment).await?;
        Ok(Self { process })
    }

    /// Where nodes attend it.
    pub(crate) fn url(&self) -> Result<String> {
        self.process.url("scheduler")
    }

    /// Bytes of memory it takes.
    pub(crate) fn memory(&self) -> Result<f64> {
        let status = std::fs::read_to_string(self.proc("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        let kib: f64 = kib.context("no VmRSS")?.parse()?;
        Ok(kib * 1024.0)
    }

    /// Processor time it has taken.
    pub(crate) fn processor_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(self.proc("stat"))?;
        // The name, in brackets, may have spaces; utime and stime are the 12th and 13th after it.
        let (_, fields) = stat.rsplit_once(')').context("no name")?;
        let fields: Vec<_> = fields.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        Ok(ticks / TICKS)
    }

    fn proc(&self, file: &str) -> impl AsRef<Path> {
        format!("/proc/{}/{file}", self.process.id())
    }

    /// Waits until a gauge is at least `least`.
    pub(crate) async fn wait_for(&self, gauge: &str, least: usize) -> Result<()> {
        let begun = std::time::Instant::now();
        loop {
            let now = self.process.metrics().await?.sum(gauge, "");
            if now >= least as f64 {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                bail!("{gauge} is {now} after {PATIENCE:?}, expected {least}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Messages it has taken in.
    pub(crate) async fn heard(&self) -> Result<f64> {
        let metrics = self.process.metrics().await?;
        Ok(metrics.sum("darner_scheduler_messages_total", "direction=\"in\""))
    }

    /// The bound of its histogram that this share of all decisions stayed within, in seconds.
    pub(crate) async fn decision_quantile(&self, share: f64) -> Result<f64> {
        let text = self.process.metrics().await?.text;
        let buckets = text.lines().filter_map(|line| {
            let line = line.strip_prefix("darner_scheduler_decision_seconds_bucket{le=\"")?;
            let (bound, count) = line.split_once("\"} ")?;
            Some((bound.to_owned(), count.parse::<f64>().ok()?))
        });
        let buckets: Vec<_> = buckets.collect();
        let (_, all) = buckets.last().context("no histogram")?;
        let within = buckets.iter().find(|(_, count)| *count >= all * share);
        let (bound, _) = within.context("no bucket")?;
        Ok(bound.replace("+Inf", "inf").parse()?)
    }
}
