//! Makes the world of a plan: hosts and their links, contents, and when everything begins.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use darner_mirror::swarm::sessions::{Input, Sessions};
use darner_proto::digest::Digest;
use darner_proto::geometry::Geometry;
use darner_proto::id::{Host, HostId, Role, SigningKey};
use darner_proto::name::Source;

use super::attendance::Attendance;
use super::count::Counts;
use super::exchange::Exchanges;
use super::fault::{Failing, Fault};
use super::network::Network;
use super::node::{Content, ContentId, Gone, Nature, Node};
use super::plan::Plan;
use super::queue::{Queue, Time, nanos};
use super::uploader::Uploader;
use super::world::{Event, World};

/// Hosts attend the scheduler within this time, seeds first.
const ATTEND: Time = 500_000_000;
/// A host attends the scheduler at least this long before its clients ask.
const BEFORE: Time = 500_000_000;

impl World {
    /// The world, and when pulls begin.
    pub(super) fn new(plan: Plan) -> Result<(Self, Time), darner_proto::invalid::Invalid> {
        let begins = nanos(plan.settle) + 2 * ATTEND;
        let scheduler: HostId = "scheduler".parse()?;
        let mut world = Self {
            queue: Queue::new(),
            network: Network::new(plan.latency.0),
            nodes: Vec::new(),
            contents: contents(&plan)?,
            exchanges: Exchanges::default(),
            attendance: Attendance::new(scheduler),
            counts: Counts::default(),
            upstream_off: false,
            todo: VecDeque::new(),
            plan,
        };
        world.add_hosts()?;
        world.network.add(world.plan.upstream, 1);
        world.plan_faults(begins);
        world.schedule(begins);
        Ok((world, begins))
    }

    fn add_hosts(&mut self) -> Result<(), darner_proto::invalid::Invalid> {
        let (seeds, peers) = (self.plan.seeds, self.plan.peers);
        let per_image = self.contents.len() / self.plan.images;
        for number in 0..seeds + peers {
            let role = if number < seeds {
                Role::Seed
            } else {
                Role::Mirror
            };
            let zone = u16::try_from(number % usize::from(self.plan.zones)).unwrap_or(0);
            let image = (number.max(seeds) - seeds) % self.plan.images;
            let wanted = (image * per_image..(image + 1) * per_image)
                .filter(|_| role == Role::Mirror)
                .filter_map(|content| ContentId::try_from(content).ok());
            let mut node = Node {
                host: host(number, role, zone, self.plan.slots)?,
                zone,
                nature: Nature::Honest,
                gone: None,
                sessions: Sessions::default(),
                session: None,
                last_heartbeat: 0,
                downloads: BTreeMap::new(),
                offers: BTreeMap::new(),
                stored: Vec::new(),
                uploader: Uploader::new(self.plan.slots),
                busy_until: 0,
                wanted: wanted.collect(),
                started: None,
                finished: None,
                failed: false,
            };
            let schedulers = vec![(self.attendance.id.clone(), String::new())];
            node.sessions.apply(Input::Schedulers(schedulers));
            self.nodes.push(node);
            self.network.add(self.plan.up, self.plan.down);
        }
        Ok(())
    }

    /// Who is honest and who is not, and what happens when.
    fn plan_faults(&mut self, begins: Time) {
        let (seeds, peers) = (self.plan.seeds, self.plan.peers);
        for fault in self.plan.faults.clone() {
            match fault {
                Fault::Die(share, from, to) | Fault::Leave(share, from, to) => {
                    let how = match fault {
                        Fault::Die(..) => Gone::Died,
                        _ => Gone::Left,
                    };
                    for host in self.some_hosts(share) {
                        let span = nanos(to.saturating_sub(from)) + 1;
                        let at = begins + nanos(from) + self.plan.chance.below(span);
                        self.queue.at(at, Event::Fault(Failing::Host(host, how)));
                    }
                }
                Fault::Slow(share, part) => {
                    let up = (self.plan.up as f64 * part) as u64;
                    for host in self.some_hosts(share) {
                        self.network.set_up(host, up);
                    }
                }
                Fault::Liars(share) => self.set_nature(share, Nature::Liar),
                Fault::Boasters(share) => self.set_nature(share, Nature::Boaster),
                Fault::Scheduler(at) => self.fault_at(begins, at, Failing::Scheduler),
                Fault::Upstream(at) => self.fault_at(begins, at, Failing::Upstream),
                Fault::Seed(at) => {
                    let seed = self.plan.chance.below(seeds.max(1) as u64);
                    let seed = u32::try_from(seed).unwrap_or(0);
                    if seeds > 0 {
                        self.fault_at(begins, at, Failing::Host(seed, Gone::Died));
                    }
                }
            }
        }
        let all = 0..u32::try_from(seeds + peers).unwrap_or(u32::MAX);
        self.counts.unfinished = all.filter(|host| self.counts_for(*host)).count();
    }

    fn fault_at(&mut self, begins: Time, at: Duration, failing: Failing) {
        self.queue.at(begins + nanos(at), Event::Fault(failing));
    }

    fn set_nature(&mut self, share: f64, nature: Nature) {
        for host in self.some_hosts(share) {
            self.nodes[host as usize].nature = nature;
        }
    }

    fn some_hosts(&mut self, share: f64) -> Vec<u32> {
        let (seeds, peers) = (self.plan.seeds, self.plan.peers);
        let count = (peers as f64 * share).round() as usize;
        let some = self.plan.chance.some(count, peers).into_iter();
        some.filter_map(|one| u32::try_from(seeds + one).ok())
            .collect()
    }

    /// When everybody attends and asks, and the clocks.
    fn schedule(&mut self, begins: Time) {
        self.scheduler_starts();
        self.queue.at(0, Event::SchedulerTick);
        let seeds = self.plan.seeds;
        let join = nanos(self.plan.join);
        for number in 0..self.nodes.len() {
            let host = u32::try_from(number).unwrap_or(u32::MAX);
            let seed = number < seeds;
            let asks = begins
                + if seed {
                    0
                } else {
                    self.plan.chance.below(join + 1)
                };
            let attends = if seed {
                0
            } else {
                let spread = self.plan.chance.below(ATTEND) + 1;
                spread.max(asks.saturating_sub(BEFORE + ATTEND))
            };
            self.queue.at(attends, Event::Attend(host));
            let phase = self.plan.chance.below(Self::TICK);
            self.queue.at(attends + phase, Event::Tick(host));
            if !seed {
                self.queue.at(asks, Event::Begin(host));
            }
        }
    }
}

fn host(
    number: usize,
    role: Role,
    zone: u16,
    slots: u32,
) -> Result<Host, darner_proto::invalid::Invalid> {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&(number as u64).to_be_bytes());
    Ok(Host {
        id: format!("{role}-{number}").parse()?,
        address: format!("{role}-{number}:7421"),
        role,
        labels: [("zone".to_owned(), format!("z{zone}"))].into(),
        signing_key: Some(SigningKey(key)),
        upload_slots: slots,
    })
}

fn contents(plan: &Plan) -> Result<Vec<Content>, darner_proto::invalid::Invalid> {
    let per_image = plan.layers.len() / plan.images;
    let sizes = plan.layers.iter().enumerate();
    sizes
        .map(|(number, size)| {
            let geometry = Geometry::of(*size);
            Ok(Content {
                task: Digest::sha256(format!("content {number}").as_bytes()),
                geometry,
                source: Source {
                    registry: "registry.example".parse()?,
                    repository: format!("image-{}", number / per_image).parse()?,
                },
                statements: vec![None; geometry.pieces() as usize],
            })
        })
        .collect()
}
