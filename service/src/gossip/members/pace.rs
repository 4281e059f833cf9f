//! How fast the protocol goes, by how many members there are.

use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use darner_proto::gossip::MAX_PACKET;
use foca::{Config, Foca, NoCustomBroadcast, PeriodicParams, Timer};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::wishes::Wake;
use crate::gossip::node::{Node, Wire};

/// Every member pings one other this often.
const PROBE_PERIOD: Duration = Duration::from_secs(1);
/// So many times that where there are more than [`FEW`]: every ping there takes a new connection, and
/// who is gone is noticed by those before it on the ring.
const PROBE_PERIODS_OF_MANY: u32 = 5;
/// An answer that takes longer is asked for by way of others. New connections are made in it.
const PROBE_RTT: Duration = Duration::from_millis(400);
/// Members by way of whom.
const INDIRECT: usize = 3;
/// A suspect has this long to object: word of it has to go there and back.
const SUSPICION: Duration = Duration::from_millis(1500);
/// So long where there are more than [`FEW`].
const SUSPICION_OF_MANY: Duration = Duration::from_secs(6);
/// Who is down is remembered for so long, so that old word of it does not bring it back.
const REMEMBERED: Duration = Duration::from_secs(120);
/// News that waits goes to one more member this often.
const NEWS: Duration = Duration::from_millis(100);
/// And this often where there are more than [`FEW`], and so there is always some.
const NEWS_OF_MANY: Duration = Duration::from_millis(500);
/// Up to so many members are few: news is rare and has a short way.
pub(super) const FEW: usize = 100;
/// One that is down is tried this often: it may only have been cut off.
const RETRY_DOWN: Duration = Duration::from_secs(10);

pub(super) fn foca(
    me: &Node,
    seed: u64,
    live: &Arc<AtomicU32>,
) -> Foca<Node, Wire, SmallRng, NoCustomBroadcast> {
    let wire = Wire { live: live.clone() };
    Foca::new(me.clone(), config(1), SmallRng::seed_from_u64(seed), wire)
}

/// Of a process among so many.
pub(super) fn config(members: usize) -> Config {
    let every = |frequency| {
        Some(PeriodicParams {
            frequency,
            num_members: NonZeroUsize::MIN,
        })
    };
    Config {
        probe_period: PROBE_PERIOD,
        probe_rtt: PROBE_RTT,
        num_indirect_probes: NonZeroUsize::new(INDIRECT).unwrap_or(NonZeroUsize::MIN),
        max_transmissions: transmissions(members),
        suspect_to_down_after: suspicion(members),
        remove_down_after: Some(REMEMBERED),
        max_packet_size: NonZeroUsize::new(MAX_PACKET).unwrap_or(NonZeroUsize::MIN),
        notify_down_members: true,
        // See `Members::compare`.
        periodic_announce: None,
        periodic_announce_to_down_members: every(RETRY_DOWN),
        periodic_gossip: every(news(members)),
    }
}

/// After how long the next of this kind is due among so many, where the library says `after`.
pub(super) fn paused(members: usize, what: &Wake, after: Duration) -> Duration {
    match what {
        Wake::Protocol(Timer::ProbeRandomMember(_)) if members > FEW => {
            after * PROBE_PERIODS_OF_MANY
        }
        _ => after,
    }
}

/// How long news waits among so many, for more to go with it.
pub(super) fn news(members: usize) -> Duration {
    if members > FEW { NEWS_OF_MANY } else { NEWS }
}

/// How long a suspect among so many has to object.
pub(super) fn suspicion(members: usize) -> Duration {
    if members > FEW {
        SUSPICION_OF_MANY
    } else {
        SUSPICION
    }
}

/// How often one member passes on one piece of news. The next of the ring is among those who hear it,
/// and of anybody else all but one in a hundred do at five times.
fn transmissions(members: usize) -> NonZeroU8 {
    let times = if members > FEW { 5 } else { 6 };
    NonZeroU8::new(times).unwrap_or(NonZeroU8::MIN)
}
