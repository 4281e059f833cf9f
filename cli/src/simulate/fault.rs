//! What goes wrong in a run, and when.

use std::str::FromStr;
use std::time::Duration;

use darner_mirror::task::state::RequestEnd;
use darner_proto::id::Role;
use darner_proto::scheduler::{FailureKind, ReturnReason};

use super::attendance::SchedulerNumber;
use super::node::Gone;
use super::queue::Time;
use super::world::{Event, World};

/// A scheduler is back this long after it ended.
const RESTART: Time = 1_000_000_000;
/// Hosts dial a scheduler again within this time.
const REDIAL: Time = 1_000_000_000;
/// Of several schedulers, the one that restarts.
const FIRST: SchedulerNumber = 0;
/// A reader notices that upstream is gone.
const READ_BREAKS: Time = 500_000_000;

/// A fault, as asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// A share of the hosts falls silent, each at a random moment of a time.
    Die(f64, Duration, Duration),
    /// A share ends its process.
    Leave(f64, Duration, Duration),
    /// A share has this part of the others' upload rate.
    Slow(f64, f64),
    /// A share sends wrong bytes for every piece.
    Liars(f64),
    /// A share says it has everything and has nothing.
    Boasters(f64),
    /// The scheduler restarts without memory.
    Scheduler(Duration),
    /// A seed dies.
    Seed(Duration),
    /// Upstream can no longer be reached.
    Upstream(Duration),
}

/// Something breaks now.
#[derive(Debug, Clone, Copy)]
pub(super) enum Failing {
    Host(u32, Gone),
    Scheduler,
    SchedulerBack,
    Upstream,
    ReadsBreak,
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (what, when) = match text.split_once('@') {
            Some((what, when)) => (what, Some(when)),
            None => (text, None),
        };
        let (kind, how) = what.split_once('=').unwrap_or((what, ""));
        let share = || parse_share(how);
        let moment = || when.ok_or_else(|| format!("{kind} needs a time: {kind}@4s"));
        let fault = match kind {
            "die" | "leave" => {
                let (from, to) = parse_span(when.unwrap_or("0s..10s"))?;
                let fault = if kind == "die" {
                    Self::Die
                } else {
                    Self::Leave
                };
                fault(share()?, from, to)
            }
            "slow" => {
                let (share, factor) = how.split_once('*').unwrap_or((how, "0.5"));
                let factor = factor
                    .parse()
                    .ok()
                    .filter(|part| (0.001..=1.0).contains(part));
                let factor = factor.ok_or("slow=5%*0.5: the part is from 0.001 to 1")?;
                Self::Slow(parse_share(share)?, factor)
            }
            "liars" => Self::Liars(share()?),
            "boasters" => Self::Boasters(share()?),
            "scheduler" => Self::Scheduler(parse_time(moment()?)?),
            "seed" => Self::Seed(parse_time(moment()?)?),
            "upstream" => Self::Upstream(parse_time(moment()?)?),
            _ => {
                return Err(format!(
                    "\"{kind}\" is none of die, leave, slow, liars, boasters, scheduler, seed, upstream"
                ));
            }
        };
        Ok(fault)
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    let percent = text.strip_suffix('%').and_then(|text| text.parse().ok());
    percent
        .filter(|percent: &f64| (0.0..=100.0).contains(percent))
        .map(|percent| percent / 100.0)
        .ok_or_else(|| format!("\"{text}\" is no share such as 20%"))
}

fn parse_span(text: &str) -> Result<(Duration, Duration), String> {
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    let (from, to) = (parse_time(from)?, parse_time(to)?);
    if from > to {
        return Err(format!("\"{text}\" ends before it begins"));
    }
    Ok((from, to))
}

/// `3s`, `500ms`, `10m`, `0.5ms`.
pub(super) fn parse_time(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(at.unwrap_or(text.len()));
    let factor = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        _ if number == "0" => 1.0,
        _ => return Err(format!("\"{text}\" is no time such as 3s, 500ms or 10m")),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("\"{text}\" is no time such as 3s, 500ms or 10m"))?;
    Duration::try_from_secs_f64(number * factor).map_err(|error| error.to_string())
}

impl World {
    pub(super) fn fail(&mut self, failing: Failing) {
        match failing {
            Failing::Host(host, how) => self.host_fails(host, how),
            Failing::Scheduler => {
                self.scheduler_stops(FIRST);
                self.queue
                    .after(RESTART, Event::Fault(Failing::SchedulerBack));
            }
            Failing::SchedulerBack => {
                self.scheduler_starts(FIRST);
                for host in 0..self.upstream() {
                    let wait = self.plan.chance.below(REDIAL);
                    self.queue.after(wait, Event::Attend(host, FIRST));
                }
            }
            Failing::Upstream => {
                self.upstream_off = true;
                let upstream = self.upstream();
                self.network.cut(upstream);
                let breaks = Event::Fault(Failing::ReadsBreak);
                self.queue.after(READ_BREAKS, breaks);
            }
            Failing::ReadsBreak => {
                for read in self.exchanges.reads() {
                    self.end_read(read, Err(ReturnReason::Unavailable));
                }
            }
        }
    }

    fn host_fails(&mut self, host: u32, how: Gone) {
        let node = &mut self.nodes[host as usize];
        if node.gone.is_some() {
            return;
        }
        node.gone = Some(how);
        let downloads = std::mem::take(&mut node.downloads);
        let measured = node.finished.is_none() && !node.failed;
        if measured && self.counts_for(host) {
            self.counts.unfinished -= 1;
        }
        let own = downloads.values().flat_map(|one| &one.exchanges);
        let own = own.map(|(_, id)| id);
        for exchange in own {
            self.close(*exchange);
        }
        self.network.cut(host);
        if how == Gone::Left {
            self.connections_close(host);
        }
        if self.nodes[host as usize].host.role == Role::Seed {
            self.counts.seeds_lost += 1;
        }
    }

    /// Whoever was connected to the host notices.
    fn connections_close(&mut self, host: u32) {
        for exchange in self.exchanges.from(host) {
            self.end_exchange(exchange, RequestEnd::Failed(FailureKind::Unreachable));
        }
        let offers = std::mem::take(&mut self.nodes[host as usize].offers);
        for (content, offer) in offers {
            for child in offer.children {
                let failure = Some(FailureKind::Unreachable);
                let ended = Event::Ended(child.child, host, content, failure);
                self.queue.after(self.latency(host, child.child), ended);
            }
        }
        self.hang_up(host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_and_nonsense_is_explained() {
        let second = Duration::from_secs(1);
        assert_eq!(
            "die=20%@0s..10s".parse(),
            Ok(Fault::Die(0.2, Duration::ZERO, second * 10))
        );
        assert_eq!(
            "leave=5%@1s".parse(),
            Ok(Fault::Leave(0.05, second, second))
        );
        assert_eq!("slow=5%*0.25".parse(), Ok(Fault::Slow(0.05, 0.25)));
        assert_eq!("liars=20%".parse(), Ok(Fault::Liars(0.2)));
        assert_eq!("scheduler@500ms".parse(), Ok(Fault::Scheduler(second / 2)));
        for bad in [
            "",
            "die",
            "die=20",
            "die=120%",
            "die=5%@9s..1s",
            "slow=5%*2",
            "seed",
            "seed@4",
            "flood=1%",
        ] {
            assert!(bad.parse::<Fault>().is_err(), "{bad}");
        }
    }
}
