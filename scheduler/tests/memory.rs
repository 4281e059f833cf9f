//! What the scheduler keeps for every host and content costs little: measured by the bytes that its
//! decisions hold, with nothing of connections, messages and what an allocator keeps for itself.
//! `e2e/bench scheduler` measures the process.
//!
//! One test, as the allocator counts what every thread of this program takes.

use std::alloc::System;
use std::time::Duration;

use darner_proto::digest::Digest;
use darner_proto::geometry::Geometry;
use darner_proto::id::{Host, Role, SigningKey};
use darner_proto::name::Source;
use darner_proto::piece_set::PieceSet;
use darner_proto::scheduler::{Join, NodeMessage};
use darner_scheduler::swarm::{Event, Options, SessionId, Swarm};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const HOSTS: u64 = 5000;
/// Contents that every host holds complete.
const HELD: u64 = 300;
/// Hosts of a task, each of which is a parent and a child of others.
const TOGETHER: u64 = 10;
/// Downloads of every host.
const DOWNLOADS: u64 = 3;
const PIECES: u32 = 2000;

/// What the project asks of itself, in bytes: for a complete holding, for a download under way beside the set of
/// its pieces, and for a content that is downloaded anywhere beside two bytes for each piece.
const PER_HOLDING: usize = 16;
const PER_DOWNLOAD: usize = 300;
const PER_CONTENT: usize = 2000;

struct Fleet {
    swarm: Swarm,
    now: Duration,
}

impl Fleet {
    /// The scheduler has attended to its settling, and all hosts are there.
    fn new() -> Self {
        let options = Options {
            scheduler: "scheduler".parse().expect("valid"),
            settle: Duration::from_secs(1),
            first_lease: 1,
        };
        let swarm = Swarm::new(Duration::ZERO, options);
        let now = Duration::from_secs(2);
        let mut fleet = Self { swarm, now };
        for host in 0..HOSTS {
            fleet.say(host, NodeMessage::Hello(named(host)));
        }
        fleet
    }

    /// What the scheduler answers is sent at once, as far as it is concerned.
    fn say(&mut self, host: u64, message: NodeMessage) {
        let told = Event::Message(SessionId(host), message);
        drop(self.swarm.apply(self.now, told));
    }

    fn list_held(&mut self) {
        let keys: Vec<_> = (0..HELD).map(|content| digest("held", content)).collect();
        for host in 0..HOSTS {
            for (keys, listed) in [(&keys[..200], false), (&keys[200..], true)] {
                let keys = keys.to_vec();
                self.say(host, NodeMessage::Inventory { keys, listed });
            }
        }
    }

    /// These hosts begin so many further downloads, and everybody has been told his parents.
    fn join(&mut self, mut whoever: impl FnMut(u64) -> bool) {
        for host in (0..HOSTS).filter(|host| whoever(*host)) {
            for round in 0..DOWNLOADS {
                let content = round * HOSTS + host / TOGETHER;
                self.say(host, NodeMessage::Join(join(content)));
            }
        }
        while self.swarm.is_behind() {
            self.now += Duration::from_millis(1);
            drop(self.swarm.apply(self.now, Event::Turn));
        }
    }
}

fn digest(kind: &str, number: u64) -> Digest {
    Digest::sha256(format!("{kind} {number}").as_bytes())
}

fn named(number: u64) -> Host {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.to_be_bytes());
    Host {
        id: format!("node-{number}").parse().expect("valid"),
        address: format!("node-{number}:7421"),
        role: Role::Mirror,
        labels: [("zone".to_owned(), format!("z{}", number % 4))].into(),
        signing_key: Some(SigningKey(key)),
        upload_slots: 16,
    }
}

fn join(content: u64) -> Join {
    let geometry = Geometry::of(u64::from(PIECES) << 20);
    Join {
        task: digest("task", content),
        size: geometry.size(),
        sources: vec![Source {
            registry: "registry.example".parse().expect("valid"),
            repository: "image".parse().expect("valid"),
        }],
        held: PieceSet::empty(geometry.pieces()),
        lease: None,
    }
}

/// Bytes that are held now and were not when the region began.
fn held_since(region: &Region<'_, System>) -> usize {
    let change = region.change();
    change.bytes_allocated - change.bytes_deallocated
}

#[test]
fn a_holding_and_a_download_cost_what_they_may() {
    let mut fleet = Fleet::new();
    let region = Region::new(ALLOCATOR);
    fleet.list_held();
    let per_holding = held_since(&region) / (HOSTS * HELD) as usize;

    let region = Region::new(ALLOCATOR);
    fleet.join(|host| host % TOGETHER == 0);
    let contents = (HOSTS / TOGETHER * DOWNLOADS) as usize;
    let per_content = held_since(&region) / contents;

    let region = Region::new(ALLOCATOR);
    fleet.join(|host| host % TOGETHER != 0);
    let downloads = (HOSTS * DOWNLOADS) as usize - contents;
    let per_download = held_since(&region) / downloads;

    let pieces = Geometry::of(u64::from(PIECES) << 20).pieces() as usize;
    let set = pieces.div_ceil(8);
    assert!(per_download > set, "the downloads are not there");
    assert!(per_content > 2 * pieces, "the contents are not there");
    let beside = per_download - set;
    let of_content = per_content - 2 * pieces;
    println!(
        "bytes: {per_holding} for a holding, {set} and {beside} for a download, {} and {of_content} for a content",
        2 * pieces
    );
    assert!((1..=PER_HOLDING).contains(&per_holding), "{per_holding}");
    assert!(beside <= PER_DOWNLOAD, "{beside}");
    assert!(of_content <= PER_CONTENT, "{of_content}");
}
