//! What is counted during a run.

/// Counters.
#[derive(Debug, Default, Clone)]
pub(super) struct Counts {
    /// Hosts whose pull is measured and not over.
    pub(super) unfinished: usize,
    pub(super) from_upstream: u64,
    pub(super) from_seeds: u64,
    pub(super) from_peers: u64,
    pub(super) cross_zone: u64,
    pub(super) upstream_requests: u64,
    pub(super) pieces: u64,
    pub(super) busy: u64,
    pub(super) timeouts: u64,
    /// Wrong pieces that were noticed.
    pub(super) wrong_pieces: u64,
    /// Wrong pieces that were not.
    pub(super) wrong_accepted: u64,
    /// Downloads whose whole digest did not match.
    pub(super) mismatches: u64,
    pub(super) doubts: u64,
    pub(super) unvouched: u64,
    pub(super) sessions_closed: u64,
    pub(super) seeds_lost: u64,
}
