//! What one download does next: pure. [`Task::apply`] takes in what happened and says what is to be
//! done; the driver carries it out and waits.
//!
//! A piece goes through these states; the sets in brackets say where each is kept:
//!
//! ```text
//! missing --(lease)--> reading from upstream [reads] --+
//!    |  ^------------(read ended, revoked)-------------|
//!    |                                                 v
//!    +--(a parent has it)--> asked for [requests] --> held [held]
//!       ^----(busy, failed, parent chose another)--+
//! ```
//! A piece is asked for only once its hash is known from a trusted signer; if for a while there is
//! nobody else, the word of an untrusted one is taken and the task turns *unvouched*: its readers
//! then get nothing before the whole digest has matched.

mod elsewhere;
mod events;
mod expected;
mod links;
mod picker;
mod reads;
mod requests;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use darner_proto::file::Supply;
use darner_proto::geometry::Geometry;
use darner_proto::id::{Host, HostId, SigningKey, TaskId};
use darner_proto::piece_set::PieceSet;
use darner_proto::scheduler::{Lease, MAX_SOURCES, Progress};

use crate::swarm::sessions::{Input, TaskEvent};
use elsewhere::Elsewhere;
pub use events::{Action, Event, Failure, RequestEnd};
use expected::Expected;
use links::Links;
use reads::{Lead, Read, Streams};
use requests::Requests;

/// Without a scheduler this long, the task helps itself.
const ALONE_GRACE: Duration = Duration::from_secs(1);
/// A parent that is asked in a scheduler's place gets this long to move.
const OWNER_GRACE: Duration = Duration::from_secs(3);
/// Without any progress this long, an untrusted piece map is better than none.
const UNVOUCHED_AFTER: Duration = Duration::from_millis(1500);
/// Without any progress this long, and with clients waiting, the task reads upstream on its own
/// authority: one read too many is better than a pull that hangs.
const STUCK_AFTER: Duration = Duration::from_secs(5);
/// Without any progress this long the task fails.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);
/// The scheduler is told of progress this often; of the first at once.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// The number of a lease that a task takes for itself. Schedulers count from one.
const OWN_AUTHORITY: u64 = 0;

/// The state of one download.
#[derive(Debug)]
pub struct Task {
    id: TaskId,
    me: HostId,
    geometry: Geometry,
    sources: Vec<Supply>,
    held: PieceSet,
    /// What each missing piece must hash to, once somebody who counts has said so.
    expected: Expected,
    unvouched: bool,
    signers: Vec<(HostId, SigningKey)>,
    links: Links,
    requests: Requests,
    reads: BTreeMap<u64, Read>,
    streams: Streams,
    next_number: u64,
    /// Where in the content this node begins, where nothing else says so.
    place: u64,
    /// How long a piece takes to come.
    piece_time: Option<Duration>,
    /// No parent is busy after this.
    busy_until: Duration,
    elsewhere: Elsewhere,
    /// Pieces asked for at a second parent because they were late.
    hedges: u32,
    lead: Lead,
    /// The highest number of any lease so far: an older one no longer counts.
    newest_lease: u64,
    lease: Option<HeldLease>,
    leased_at: Duration,
    ranged: Option<bool>,
    ranged_told: bool,
    cursors: BTreeMap<u64, u32>,
    /// Downloads under way on this node, this one included.
    beside: u32,
    alone: Option<Alone>,
    last_progress: Duration,
    last_report: Duration,
    gained: BTreeSet<u32>,
    read_bytes: u64,
    ended: bool,
    gives_way: bool,
    /// When a child last asked for something that is waited for there.
    wanted_at: Option<Duration>,
    /// When it was last decided what to do.
    looked_at: Duration,
}

#[derive(Debug)]
struct HeldLease {
    number: u64,
    ranges: Vec<Range<u32>>,
}

/// The task has no scheduler.
#[derive(Debug)]
struct Alone {
    owners: Vec<Host>,
    /// When the next step of helping itself is due.
    next_step: Duration,
}

impl Task {
    /// A download of `id` that already holds `held`, whose pieces may be read from `sources`.
    pub fn new(
        now: Duration,
        id: TaskId,
        me: HostId,
        held: PieceSet,
        geometry: Geometry,
        sources: Vec<Supply>,
    ) -> Self {
        let place = place_of(&me);
        let pieces = geometry.pieces();
        Self {
            id,
            me,
            geometry,
            sources,
            held,
            expected: Expected::new(pieces),
            unvouched: false,
            signers: Vec::new(),
            links: Links::default(),
            requests: Requests::default(),
            reads: BTreeMap::new(),
            streams: Streams::new(),
            next_number: 0,
            place,
            piece_time: None,
            busy_until: Duration::ZERO,
            elsewhere: Elsewhere::default(),
            hedges: 0,
            lead: Lead::new(pieces),
            newest_lease: OWN_AUTHORITY,
            lease: None,
            leased_at: now,
            ranged: None,
            ranged_told: false,
            cursors: BTreeMap::new(),
            beside: 1,
            alone: None,
            last_progress: now,
            last_report: Duration::ZERO,
            gained: BTreeSet::new(),
            read_bytes: 0,
            ended: false,
            gives_way: false,
            wanted_at: None,
            looked_at: now,
        }
    }

    /// When [`Event::Tick`] is of use, should nothing else happen: a parent is no longer busy.
    pub fn wake_at(&self) -> Option<Duration> {
        if self.busy_until <= self.looked_at {
            return None;
        }
        let busy = self.links.values().map(|link| link.busy_until);
        busy.filter(|until| *until > self.looked_at).min()
    }

    /// What is held.
    pub fn held(&self) -> &PieceSet {
        &self.held
    }

    /// Where its pieces may be read from.
    pub fn sources(&self) -> &[Supply] {
        &self.sources
    }

    /// Begins, or begins again on upstream alone: the clean read after a digest that did not match.
    pub fn start(&mut self, now: Duration, clean: bool) -> Vec<Action> {
        let mut out = Vec::new();
        if clean {
            self.take_own_lease();
        }
        self.advance(now, &mut out);
        out
    }

    /// Takes in what happened and says what is to be done about it.
    pub fn apply(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        if self.ended {
            return out;
        }
        self.looked_at = now;
        match event {
            Event::Scheduler(event) => self.scheduler(now, event, &mut out),
            Event::Offered {
                parent,
                available,
                runs,
                received_bytes,
            } => {
                if self.offered(&parent, available, runs, received_bytes) {
                    self.last_progress = now;
                }
            }
            Event::LinkClosed { parent, failure } => {
                self.link_closed(now, &parent, failure, &mut out)
            }
            Event::Arrived { index } => {
                self.arrived(now, index, &mut out);
                self.gain(now, index, &mut out);
            }
            Event::Chosen { request, pieces } => self.chosen(now, request, &pieces, &mut out),
            Event::Copied { pieces } => self.lead.copied(now, pieces),
            Event::Followed { children } => self.lead.followed(children),
            Event::Wanted => self.wanted_at = Some(now),
            Event::RequestEnded { request, end } => self.request_ended(now, request, end, &mut out),
            Event::ReadPiece { index } => {
                self.lead.read(index);
                self.arrived(now, index, &mut out);
                self.gain(now, index, &mut out);
            }
            Event::ReadBegun { read, ranged } => self.read_begun(now, read, ranged, &mut out),
            Event::ReadBytes { bytes } => self.read_bytes(now, bytes),
            Event::ReadEnded { read, result } => self.read_ended(read, result, &mut out),
            Event::Cursor { reader, piece } => {
                match piece {
                    Some(piece) => self.cursors.insert(reader, piece),
                    None => self.cursors.remove(&reader),
                };
            }
            Event::Beside { downloads } => self.beside = downloads,
            Event::Supplied(supply) => self.supplied(supply),
            Event::Tick => self.tick(now, &mut out),
        }
        self.advance(now, &mut out);
        out
    }

    fn scheduler(&mut self, now: Duration, event: TaskEvent, out: &mut Vec<Action>) {
        match event {
            TaskEvent::Attended => self.alone = None,
            TaskEvent::Alone { owners, expected } => {
                let grace = if expected {
                    ALONE_GRACE
                } else {
                    Duration::ZERO
                };
                let owners = owners.into_iter().take_while(|owner| owner.id != self.me);
                self.alone = Some(Alone {
                    owners: owners.take(2).collect(),
                    next_step: now + grace,
                });
            }
            TaskEvent::Parents { parents, signers } => {
                self.set_parents(parents, out);
                if self.signers != signers {
                    self.signers = signers;
                    self.ask_again(out);
                }
            }
            TaskEvent::Lease(lease) => self.leased(now, lease, out),
            TaskEvent::LeaseRevoked(number) => {
                if self
                    .lease
                    .as_ref()
                    .is_some_and(|lease| lease.number == number)
                {
                    self.drop_lease(out);
                }
            }
            TaskEvent::NoSource(reason) => {
                let helps_itself = self.lease.is_some() || !self.requests.is_empty();
                if !helps_itself {
                    self.fail(Failure::NoSource(reason), out);
                }
            }
        }
    }

    fn leased(&mut self, now: Duration, lease: Lease, out: &mut Vec<Action>) {
        // A message that was overtaken by a later decision.
        if lease.lease < self.newest_lease {
            return;
        }
        if lease.lease > self.newest_lease {
            self.leased_at = now;
        }
        self.newest_lease = lease.lease;
        self.last_progress = now;
        for source in lease.sources {
            self.supplied(source.into());
        }
        let ranges = lease.ranges;
        let outside: Vec<_> = self
            .reads
            .iter()
            .filter(|(_, read)| !read.is_within(&ranges))
            .map(|(number, _)| *number)
            .collect();
        for number in outside {
            self.reads.remove(&number);
            out.push(Action::CancelRead(number));
        }
        self.lease = Some(HeldLease {
            number: lease.lease,
            ranges,
        });
    }

    /// It can be read here, too.
    fn supplied(&mut self, supply: Supply) {
        let known = self.sources.contains(&supply);
        if !known && self.sources.len() < MAX_SOURCES {
            self.sources.push(supply);
        }
    }

    fn drop_lease(&mut self, out: &mut Vec<Action>) {
        self.lease = None;
        for number in std::mem::take(&mut self.reads).into_keys() {
            out.push(Action::CancelRead(number));
        }
    }

    /// Everything missing, read by this node because nobody says who else should.
    fn take_own_lease(&mut self) {
        self.lease = Some(HeldLease {
            number: OWN_AUTHORITY,
            ranges: self.held.complement().runs(),
        });
    }

    fn gain(&mut self, now: Duration, index: u32, out: &mut Vec<Action>) {
        if !self.held.insert(index) {
            return;
        }
        self.last_progress = now;
        self.gained.insert(index);
        self.expected.forget(index);
        for link in self.links.values_mut() {
            link.forget(index);
        }
        if self.held.is_full() {
            self.report(now, out);
            self.end(out);
            out.push(Action::Complete);
        }
    }

    fn tick(&mut self, now: Duration, out: &mut Vec<Action>) {
        let still = now.saturating_sub(self.last_progress);
        self.help_oneself(now, out);
        self.retry_links(now, out);
        self.return_unsupplied(now, out);
        // A file has no digest that would decide in the end.
        if still >= UNVOUCHED_AFTER
            && self.id.is_of_content()
            && !self.unvouched
            && self.lease.is_none()
            && self.requests.is_empty()
        {
            self.take_untrusted_word(out);
        }
        if still >= STUCK_AFTER && self.lease.is_none() && !self.cursors.is_empty() {
            tracing::warn!(task = %self.id, "nothing moves: this node reads upstream on its own authority");
            self.take_own_lease();
            self.last_progress = now;
        }
        if still >= GIVE_UP_AFTER {
            self.fail(Failure::Stalled, out);
        }
        if now.saturating_sub(self.last_report) >= REPORT_EVERY {
            self.report(now, out);
        }
    }

    /// Without a scheduler: the seed that would own the task, then the next, then upstream.
    fn help_oneself(&mut self, now: Duration, out: &mut Vec<Action>) {
        let Some(alone) = &mut self.alone else { return };
        if now < alone.next_step
            || self.lease.is_some()
            || now.saturating_sub(self.last_progress) < ALONE_GRACE / 2
        {
            return;
        }
        alone.next_step = now + OWNER_GRACE;
        if alone.owners.is_empty() {
            self.take_own_lease();
        } else {
            let owner = alone.owners.remove(0);
            self.add_parent(owner, out);
        }
    }

    fn report(&mut self, now: Duration, out: &mut Vec<Action>) {
        let learnt = self.ranged.filter(|_| !self.ranged_told);
        if self.gained.is_empty() && self.read_bytes == 0 && learnt.is_none() {
            return;
        }
        self.ranged_told |= learnt.is_some();
        self.last_report = now;
        let mut gained = PieceSet::empty(self.geometry.pieces());
        for index in std::mem::take(&mut self.gained) {
            gained.insert(index);
        }
        out.push(Action::Tell(Input::Gained(Progress {
            task: self.id,
            gained: gained.runs(),
            upstream_bytes: std::mem::take(&mut self.read_bytes),
            upstream_ranges: learnt,
            rates: Vec::new(),
        })));
    }

    fn fail(&mut self, failure: Failure, out: &mut Vec<Action>) {
        self.end(out);
        out.push(Action::Fail(failure));
    }

    fn end(&mut self, out: &mut Vec<Action>) {
        self.ended = true;
        self.drop_lease(out);
        for request in self.requests.take_numbers() {
            out.push(Action::CancelFetch(request));
        }
        for parent in self.links.take_ids() {
            out.push(Action::Unsubscribe(parent));
        }
    }

    /// Begins what can be begun.
    fn advance(&mut self, now: Duration, out: &mut Vec<Action>) {
        if self.ended {
            return;
        }
        self.begin_reads(now, out);
        self.ask_parents(now, out);
        let first = self.last_report == Duration::ZERO && !self.gained.is_empty();
        if first || (self.ranged.is_some() && !self.ranged_told) {
            self.report(now, out);
        }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}

/// A number that differs from node to node.
fn place_of(me: &HostId) -> u64 {
    // FNV-1a: any mixing of the bytes will do, provided that it is the same everywhere and always.
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    me.as_str()
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, mix)
}

#[cfg(test)]
mod schedules;
#[cfg(test)]
mod supplies;
#[cfg(test)]
mod tests;
