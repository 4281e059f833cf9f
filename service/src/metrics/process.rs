//! What the system knows of the process: time, memory, open files. Read at every scrape, from
//! `/proc`; what cannot be read is left out.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// The unit of times in `/proc/<pid>/stat`: a constant of the kernel's interface on every
/// architecture Rust supports Linux on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Adds `process_*`.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if let Some(stat) = Stat::read() {
            let help = "Processor time used, user and system";
            let cpu = ConstCounter::new(stat.cpu_seconds);
            add(&mut encoder, "process_cpu_seconds", help, &cpu)?;
            if let Some(start) = stat.start_seconds() {
                let help = "When the process started, in seconds since 1970";
                let start = ConstGauge::new(start);
                add(&mut encoder, "process_start_time_seconds", help, &start)?;
            }
        }
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Memory in use",
                status_bytes("VmRSS:"),
            ),
            (
                "process_virtual_memory_bytes",
                "Address space in use",
                status_bytes("VmSize:"),
            ),
            ("process_open_fds", "Open file descriptors", open_files()),
            (
                "process_max_fds",
                "Most file descriptors allowed",
                most_files(),
            ),
        ] {
            if let Some(value) = value {
                add(&mut encoder, name, help, &ConstGauge::new(value))?;
            }
        }
        Ok(())
    }
}

fn add(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> Result<(), fmt::Error> {
    let encoder = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
    metric.encode(encoder)
}

struct Stat {
    cpu_seconds: f64,
    /// Since the machine's start.
    start: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?)
    }

    /// The command's name stands in parentheses and may hold anything, parentheses too.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<_> = rest.split_whitespace().collect();
        // Counted as proc(5) does, less the two fields cut off and the one it starts with.
        let seconds = |field: usize| -> Option<f64> {
            let ticks: f64 = fields.get(field - 3)?.parse().ok()?;
            Some(ticks / TICKS_PER_SECOND)
        };
        Some(Self {
            cpu_seconds: seconds(14)? + seconds(15)?,
            start: seconds(22)?,
        })
    }

    fn start_seconds(&self) -> Option<f64> {
        let machine = fs::read_to_string("/proc/stat").ok()?;
        let line = machine
            .lines()
            .find_map(|line| line.strip_prefix("btime "))?;
        let boot: f64 = line.trim().parse().ok()?;
        Some(boot + self.start)
    }
}

fn status_bytes(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn open_files() -> Option<u64> {
    let entries = fs::read_dir("/proc/self/fd").ok()?;
    // The one that reads the directory is among them.
    Some((entries.count() as u64).saturating_sub(1))
}

fn most_files() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let text = "7 (a) b) c) S 1 1 1 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 9 0 1200 1 2";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(stat.cpu_seconds, 2.0);
        assert_eq!(stat.start, 12.0);
    }

    #[test]
    fn this_process_has_memory_and_files() {
        assert!(status_bytes("VmRSS:").unwrap() > 100_000);
        let before = open_files().unwrap();
        let held = fs::File::open("/proc/self/stat").unwrap();
        // Other tests of this process open and close files too.
        assert!(before > 0 && most_files().unwrap() > before);
        drop(held);
        assert!(Stat::read().unwrap().start_seconds().unwrap() > 1.6e9);
    }
}
