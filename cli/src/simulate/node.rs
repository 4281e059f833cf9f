//! One host of the model: the production cores it runs, and what their drivers would keep.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use darner_mirror::swarm::sessions::Sessions;
use darner_mirror::task::state::Task;
use darner_proto::geometry::Geometry;
use darner_proto::id::{Host, TaskId};
use darner_proto::name::Source;
use darner_proto::piece_map::PieceRun;
use darner_proto::piece_set::PieceSet;
use darner_scheduler::swarm::SessionId;

use super::exchange::ExchangeId;
use super::queue::Time;
use super::uploader::Uploader;

/// Which content, by its place among all.
pub(super) type ContentId = u16;

/// What is pulled: a layer of an image.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) task: TaskId,
    pub(super) geometry: Geometry,
    pub(super) source: Source,
    /// The statement about each piece that has been read, and the host that made it.
    pub(super) statements: Vec<Option<(u32, Arc<PieceRun>)>>,
}

/// How a host behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nature {
    Honest,
    /// Sends wrong bytes for every piece.
    Liar,
    /// Says it has everything, and has nothing.
    Boaster,
}

/// How a host is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gone {
    /// Its connections were closed.
    Left,
    /// It fell silent.
    Died,
}

/// A host.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) host: Host,
    pub(super) zone: u16,
    pub(super) nature: Nature,
    pub(super) gone: Option<Gone>,
    pub(super) sessions: Sessions,
    /// The open session with each scheduler.
    pub(super) sessions_with: Vec<Option<SessionId>>,
    pub(super) last_heartbeat: Time,
    pub(super) downloads: BTreeMap<ContentId, Download>,
    pub(super) offers: BTreeMap<ContentId, Offer>,
    pub(super) stored: Vec<ContentId>,
    pub(super) uploader: Uploader,
    /// When its processor is through with the pieces to verify and write.
    pub(super) busy_until: Time,
    /// What its clients pull, and has not come yet.
    pub(super) wanted: Vec<ContentId>,
    pub(super) started: Option<Time>,
    pub(super) finished: Option<Time>,
    pub(super) failed: bool,
}

/// A content on its way to a host.
#[derive(Debug)]
pub(super) struct Download {
    pub(super) task: Task,
    pub(super) began: Time,
    pub(super) parents: Vec<Following>,
    /// By the task's numbers, which only grow.
    pub(super) exchanges: Vec<(u64, ExchangeId)>,
    /// Whose statements count.
    pub(super) signers: Vec<u32>,
    /// The piece the client reads, if one reads in order.
    pub(super) cursor: Option<u32>,
    /// A piece came that the true content does not have.
    pub(super) tainted: bool,
    pub(super) received: u64,
    /// When it is to be woken next.
    pub(super) wake: Time,
}

/// A parent whose availability stream is open.
#[derive(Debug)]
pub(super) struct Following {
    pub(super) parent: u32,
    pub(super) heard: Time,
}

/// What a host tells its children of a content.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) children: Vec<Follower>,
    /// Pieces enter the swarm here.
    pub(super) source: bool,
    pub(super) fresh: Vec<u32>,
    /// When the next frame is due.
    pub(super) frame_due: Time,
    pub(super) last_frame: Time,
    /// Everything it has.
    pub(super) held: PieceSet,
}

/// A child that is told.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) child: u32,
    /// What it has not been told of yet, although it is here.
    pub(super) owed: Vec<u32>,
}

impl Download {
    /// The exchange that the task calls so.
    pub(super) fn exchange(&self, number: u64) -> Option<ExchangeId> {
        let at = self.place_of(number)?;
        Some(self.exchanges[at].1)
    }

    pub(super) fn forget_exchange(&mut self, number: u64) {
        if let Some(at) = self.place_of(number) {
            self.exchanges.remove(at);
        }
    }

    fn place_of(&self, number: u64) -> Option<usize> {
        let place = self
            .exchanges
            .binary_search_by_key(&number, |(one, _)| *one);
        place.ok()
    }

    /// The download's own clock.
    pub(super) fn clock(&self, now: Time) -> Duration {
        Duration::from_nanos(now - self.began)
    }
}

impl Offer {
    pub(super) fn new(held: PieceSet, source: bool) -> Self {
        Self {
            children: Vec::new(),
            source,
            fresh: Vec::new(),
            frame_due: Time::MAX,
            last_frame: 0,
            held,
        }
    }
}
