//! How often members are heard from, and how long they are waited for.

use std::time::Duration;

use darner_proto::id::Role;

/// How often members are asked to say that they live. With [`MISSED_KEEP_ALIVES`] a host that died is out
/// of the lists in six seconds.
pub const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Keep-alives that may fail to come in a row before a host is dropped: two can be lost to a pause or
/// a reconnect, three are a death.
pub const MISSED_KEEP_ALIVES: u32 = 3;
/// How long members need to report to a manager that came back: they wait up to five seconds between
/// tries, and connecting may take three more.
pub const REPORT_TIME: Duration = Duration::from_secs(10);
/// Keep-alives of mirrors in a second beyond which each comes less often: one costs some 70 us (measured with
/// e2e/bench manager), and a manager is to have most of a core for people.
const A_SECOND: u32 = 1250;
/// None comes less often than this many times [`Timing::keep_alive`]: jobs take a node that was not heard
/// for longer ([`crate::jobs::board::SILENT_MS`]) for one that may have been elsewhere.
const SLOWEST: u32 = 2;

/// The periods membership goes by.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Between a member's keep-alives, where there are not very many.
    pub keep_alive: Duration,
    /// Keep-alives that may fail to come.
    pub missed: u32,
    /// From a start until members had time to report.
    pub report: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            keep_alive: KEEP_ALIVE,
            missed: MISSED_KEEP_ALIVES,
            report: REPORT_TIME,
        }
    }
}

impl Timing {
    /// Between the keep-alives of a member of `role`, of which there are `count`. Schedulers and seeds are
    /// few, and what everybody is told.
    pub(super) fn keep_alive_of(&self, role: Role, count: usize) -> Duration {
        if role != Role::Mirror {
            return self.keep_alive;
        }
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let crowd = Duration::from_secs(1) * count / A_SECOND;
        crowd.clamp(self.keep_alive, self.keep_alive * SLOWEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::board::SILENT_MS;

    #[test]
    fn a_crowd_of_mirrors_is_heard_less_often_and_never_so_seldom_that_it_seems_elsewhere() {
        let timing = Timing::default();
        let of = |count| timing.keep_alive_of(Role::Mirror, count);
        assert_eq!(of(0), KEEP_ALIVE);
        assert_eq!(of(2500), KEEP_ALIVE);
        assert_eq!(of(3750), Duration::from_secs(3));
        assert_eq!(of(5000), Duration::from_secs(4));
        assert_eq!(of(usize::MAX), Duration::from_secs(4));
        assert!(of(usize::MAX) < Duration::from_millis(SILENT_MS));
        assert_eq!(timing.keep_alive_of(Role::Seed, 5000), KEEP_ALIVE);
    }
}
