//! What a run came to, as a table and as JSON.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::queue::Time;
use super::world::World;

/// The figures of a run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    /// Hosts that pull.
    peers: usize,
    /// Bytes of one image.
    image_bytes: u64,
    /// The seed of chance.
    seed: u64,
    /// The least time any scheme needs, in seconds.
    bound_s: f64,
    /// From a host's own start until it has everything, in seconds.
    completion_s: Spread,
    /// The same as multiples of the bound.
    over_bound: Spread,
    /// Measured hosts that have everything.
    completed: usize,
    /// Measured hosts whose pull failed, or was not over at the end.
    unfinished: usize,
    /// Hosts that died or left before they had everything.
    gone: usize,
    /// Bytes read upstream over the bytes of all images.
    upstream_ratio: f64,
    /// Range requests to upstream.
    upstream_requests: u64,
    bytes_from: BytesFrom,
    /// Share of the bytes between hosts that crossed zones.
    cross_zone_share: f64,
    /// Messages to and from the scheduler.
    control_messages: u64,
    control_messages_per_host: f64,
    /// Requests that were told "busy", for every piece that came.
    busy_per_piece: f64,
    timeouts: u64,
    /// Wrong pieces that were noticed, and that were taken in.
    wrong_pieces: u64,
    wrong_accepted: u64,
    mismatches: u64,
    /// Sessions the scheduler ended.
    sessions_closed: u64,
    /// Events of the model.
    events: u64,
    /// Events of the model in a second of the wall's clock.
    events_per_s: f64,
    /// Events the scheduler took in, and how many it would take in a second on this machine.
    scheduler_events: u64,
    scheduler_events_per_s: f64,
    /// How long the pulls took on the model's clock.
    model_s: f64,
    wall_s: f64,
    peak_memory_bytes: Option<u64>,
    #[serde(skip)]
    completions: Vec<f64>,
}

/// Bytes by where they came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct BytesFrom {
    upstream: u64,
    seed: u64,
    peer: u64,
}

/// How values are spread.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(super) struct Spread {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p99_9: f64,
    pub(super) max: f64,
    pub(super) mean: f64,
}

impl Spread {
    /// Of values in ascending order. A percentile is the least value that so many do not exceed.
    fn of(sorted: &[f64]) -> Self {
        let Some(max) = sorted.last().copied() else {
            return Self::default();
        };
        let at = |share: f64| {
            let rank = (sorted.len() as f64 * share).ceil() as usize;
            sorted[rank.clamp(1, sorted.len()) - 1]
        };
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max,
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
        }
    }

    fn over(&self, bound: f64) -> Self {
        Self {
            p50: self.p50 / bound,
            p90: self.p90 / bound,
            p99: self.p99 / bound,
            p99_9: self.p99_9 / bound,
            max: self.max / bound,
            mean: self.mean / bound,
        }
    }
}

impl Report {
    pub(super) fn new(world: &World, begins: Time, seed: u64, wall: Duration) -> Self {
        let measured = (0u32..)
            .zip(&world.nodes)
            .filter(|(number, _)| world.counts_for(*number));
        let (mut completions, mut gone, mut unfinished) = (Vec::new(), 0, 0);
        for (_, node) in measured {
            match (node.started, node.finished, node.gone) {
                // Who had everything before it died has shown how long it takes.
                (Some(started), Some(finished), _) => {
                    completions.push(Duration::from_nanos(finished - started).as_secs_f64());
                }
                (_, _, Some(_)) => gone += 1,
                _ => unfinished += 1,
            }
        }
        completions.sort_by(f64::total_cmp);
        let completion_s = Spread::of(&completions);
        let (counts, attendance) = (&world.counts, &world.attendance);
        let (bound_s, wall_s) = (world.plan.bound(), wall.as_secs_f64());
        let exchanged = counts.from_seeds + counts.from_peers;
        Self {
            peers: world.plan.peers,
            image_bytes: world.plan.image_bytes(),
            seed,
            bound_s,
            over_bound: completion_s.over(bound_s),
            completion_s,
            completed: completions.len(),
            unfinished,
            gone,
            upstream_ratio: counts.from_upstream as f64 / world.plan.bytes() as f64,
            upstream_requests: counts.upstream_requests,
            bytes_from: BytesFrom {
                upstream: counts.from_upstream,
                seed: counts.from_seeds,
                peer: counts.from_peers,
            },
            cross_zone_share: counts.cross_zone as f64 / exchanged.max(1) as f64,
            control_messages: attendance.messages,
            control_messages_per_host: attendance.messages as f64 / world.nodes.len() as f64,
            busy_per_piece: counts.busy as f64 / counts.pieces.max(1) as f64,
            timeouts: counts.timeouts,
            wrong_pieces: counts.wrong_pieces,
            wrong_accepted: counts.wrong_accepted,
            mismatches: counts.mismatches,
            sessions_closed: counts.sessions_closed,
            events: world.queue.taken,
            events_per_s: world.queue.taken as f64 / wall_s,
            scheduler_events: attendance.events,
            scheduler_events_per_s: attendance.events as f64 / attendance.spent.as_secs_f64(),
            model_s: Duration::from_nanos(world.queue.now.saturating_sub(begins)).as_secs_f64(),
            wall_s,
            peak_memory_bytes: peak_memory(),
            completions,
        }
    }

    /// Completion times in seconds, ascending.
    pub(super) fn completions(&self) -> &[f64] {
        &self.completions
    }

    pub(super) fn bound(&self) -> f64 {
        self.bound_s
    }

    /// Whether every host that could has everything.
    pub(super) fn is_complete(&self) -> bool {
        self.unfinished == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "no scheme is faster than   {:.3} s", self.bound_s)?;
        writeln!(f)?;
        writeln!(
            f,
            "completion     p50      p90      p99    p99.9      max     mean"
        )?;
        let row = |f: &mut fmt::Formatter<'_>, name: &str, spread: &Spread| {
            let Spread {
                p50,
                p90,
                p99,
                p99_9,
                max,
                mean,
            } = spread;
            writeln!(
                f,
                "{name:10} {p50:7.3}  {p90:7.3}  {p99:7.3}  {p99_9:7.3}  {max:7.3}  {mean:7.3}"
            )
        };
        row(f, "seconds", &self.completion_s)?;
        row(f, "x limit", &self.over_bound)?;
        writeln!(f)?;
        self.write_transfers(f)?;
        self.write_costs(f)
    }
}

/// A named value.
fn line(f: &mut fmt::Formatter<'_>, name: &str, value: fmt::Arguments<'_>) -> fmt::Result {
    writeln!(f, "{name:26} {value}")
}

impl Report {
    /// Who has what from where.
    fn write_transfers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (done, gone, open) = (self.completed, self.gone, self.unfinished);
        line(
            f,
            "hosts",
            format_args!("{done} complete, {gone} gone, {open} without the image"),
        )?;
        let ratio = self.upstream_ratio;
        let requests = self.upstream_requests;
        line(
            f,
            "upstream",
            format_args!("{ratio:.4} of the images' bytes, in {requests} requests"),
        )?;
        let from = &self.bytes_from;
        let all = (from.seed + from.peer).max(1) as f64;
        let (seed, peer) = (
            from.seed as f64 / all * 100.0,
            from.peer as f64 / all * 100.0,
        );
        line(
            f,
            "between hosts",
            format_args!("{seed:.1} % from seeds, {peer:.1} % from peers"),
        )?;
        line(
            f,
            "across zones",
            format_args!("{:.1} %", self.cross_zone_share * 100.0),
        )?;
        let (per_host, busy) = (self.control_messages_per_host, self.busy_per_piece);
        line(
            f,
            "scheduler's messages",
            format_args!("{per_host:.1} for every host"),
        )?;
        line(f, "\"busy\"", format_args!("{busy:.3} for every piece"))?;
        line(f, "timeouts", format_args!("{}", self.timeouts))?;
        Ok(())
    }

    /// What went wrong, and what it took.
    fn write_costs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (wrong, taken, mismatches) = (self.wrong_pieces, self.wrong_accepted, self.mismatches);
        line(
            f,
            "wrong pieces",
            format_args!("{wrong} refused, {taken} taken in, {mismatches} downloads begun again"),
        )?;
        let (events, rate) = (self.scheduler_events, self.scheduler_events_per_s);
        line(
            f,
            "scheduler",
            format_args!("{events} events; {rate:.0} a second on this machine"),
        )?;
        let (events, wall) = (self.events, self.wall_s);
        line(
            f,
            "simulation",
            format_args!(
                "{events} events in {wall:.1} s, {:.0} a second",
                self.events_per_s
            ),
        )?;
        if let Some(memory) = self.peak_memory_bytes {
            line(
                f,
                "memory at most",
                format_args!("{}", bytesize::ByteSize(memory)),
            )?;
        }
        Ok(())
    }
}

/// The most memory this process has had.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<_> = (1..=1000).map(f64::from).collect();
        let spread = Spread::of(&values);
        assert_eq!((spread.p50, spread.p90, spread.p99), (500.0, 900.0, 990.0));
        assert_eq!(
            (spread.p99_9, spread.max, spread.mean),
            (999.0, 1000.0, 500.5)
        );
        assert_eq!(Spread::of(&[2.0]).p50, 2.0);
        assert_eq!(Spread::of(&[]), Spread::default());
    }
}
