//! A part of the swarm that no scheduler hears of: downloads of what is not public.
//!
//! Its tasks know two sources: the seed that comes first for their repository, and upstream. That seed
//! reads upstream, once for everybody; every other node has the content from it, or, when it does not
//! do what it is asked, from the next and last from upstream itself.

use std::sync::Arc;

use darner_proto::geometry::Geometry;
use darner_proto::id::{Host, HostId, Role, TaskId, repository_key};
use darner_proto::name::Source;
use darner_proto::rendezvous;
use darner_proto::scheduler::{Join, Lease, Parent};
use darner_service::shutdown::Shutdown;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::sessions::{Input, TaskEvent};
use super::{INPUTS, Swarm, lock};

/// Leases here last as long as their task does.
const FOR_EVER: u32 = u32::MAX;

/// Which seeds private content can be had from. Clones share it.
#[derive(Clone)]
pub struct Seeds {
    me: HostId,
    owners: watch::Receiver<Vec<Host>>,
    /// Whether what opens this repository may be shown to a seed.
    travels: Arc<dyn Fn(&Source) -> bool + Send + Sync>,
}

impl std::fmt::Debug for Seeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seeds")
            .field("me", &self.me)
            .finish_non_exhaustive()
    }
}

impl Seeds {
    /// The seeds that `swarm` knows; content travels where `travels` says so.
    pub fn of(swarm: &Swarm, travels: Arc<dyn Fn(&Source) -> bool + Send + Sync>) -> Self {
        Self {
            me: swarm.me.id.clone(),
            owners: swarm.owners.clone(),
            travels,
        }
    }

    /// Whom to have content of `source` from, in this order. None when this node is to read it.
    pub fn before_me(&self, source: &Source) -> Vec<Host> {
        if !(self.travels)(source) {
            return Vec::new();
        }
        let owners = self.owners.borrow();
        let seeds = owners.iter().filter(|host| host.role == Role::Seed);
        let key = repository_key(source);
        rendezvous::order_by_weight(&key, seeds, |host| host)
            .into_iter()
            .take_while(|host| host.id != self.me)
            .cloned()
            .collect()
    }

    /// What a task that begins is told.
    fn begin(&self, join: &Join) -> Vec<TaskEvent> {
        let source = join.sources.first();
        let mut seeds = source.map_or_else(Vec::new, |source| self.before_me(source));
        if seeds.is_empty() {
            let pieces = Geometry::of(join.size).pieces();
            return vec![TaskEvent::Lease(Lease {
                task: join.task,
                size: join.size,
                lease: 1,
                ranges: std::iter::once(0..pieces).collect(),
                expires_ms: FOR_EVER,
                sources: join.sources.clone(),
            })];
        }
        let keys = seeds
            .iter()
            .filter_map(|seed| Some((seed.id.clone(), seed.signing_key?)));
        let signers = keys.collect();
        let first = seeds.remove(0);
        vec![
            TaskEvent::Parents {
                parents: vec![Parent {
                    host: first,
                    complete: false,
                }],
                signers,
            },
            TaskEvent::Alone {
                owners: seeds,
                expected: true,
            },
        ]
    }
}

impl Swarm {
    /// The same node in a swarm of its own, with these seeds and no scheduler.
    pub fn apart(&self, seeds: Seeds, shutdown: &Shutdown) -> Self {
        let (inputs, incoming) = mpsc::channel(INPUTS);
        let swarm = Self {
            inputs,
            tasks: Arc::default(),
            finds: Arc::default(),
            next_find: Arc::default(),
            stopped: CancellationToken::new(),
            ..self.clone()
        };
        shutdown.spawn(run(swarm.clone(), seeds, incoming, shutdown.clone()));
        swarm
    }
}

async fn run(swarm: Swarm, seeds: Seeds, mut inputs: mpsc::Receiver<Input>, shutdown: Shutdown) {
    loop {
        let input = tokio::select! {
            Some(input) = inputs.recv() => input,
            () = swarm.stopped.cancelled() => return,
            () = shutdown.cancelled() => return,
        };
        let (task, events) = match input {
            Input::Join(join) => (join.task, seeds.begin(&join)),
            // There is no other reader to give it to.
            Input::LeaseReturn(task, _, reason) => (task, vec![TaskEvent::NoSource(reason)]),
            _ => continue,
        };
        notify(&swarm, &task, events);
    }
}

fn notify(swarm: &Swarm, task: &TaskId, events: Vec<TaskEvent>) {
    let tasks = lock(&swarm.tasks);
    let Some(told) = tasks.get(task) else { return };
    for event in events {
        if told.try_send(event).is_err() {
            tracing::warn!(%task, "a private download does not take what it is told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darner_proto::digest::Digest;
    use darner_proto::id::SigningKey;
    use darner_proto::piece_set::PieceSet;

    fn host(name: &str, role: Role) -> Host {
        Host {
            id: name.parse().unwrap(),
            address: "127.0.0.1:1".to_owned(),
            role,
            labels: Default::default(),
            signing_key: Some(SigningKey([7; 32])),
            upload_slots: 1,
        }
    }

    fn source() -> Source {
        Source {
            registry: "reg.test".parse().unwrap(),
            repository: "alice/app".parse().unwrap(),
        }
    }

    fn seeds(me: &str, owners: Vec<Host>, travels: bool) -> Seeds {
        Seeds {
            me: me.parse().unwrap(),
            owners: watch::channel(owners).1,
            travels: Arc::new(move |_| travels),
        }
    }

    fn join() -> Join {
        let size = 3 << 20;
        Join {
            task: Digest::sha256(b"x"),
            size,
            sources: vec![source()],
            held: PieceSet::empty(Geometry::of(size).pieces()),
            lease: None,
        }
    }

    fn reads(events: &[TaskEvent]) -> bool {
        matches!(events, [TaskEvent::Lease(lease)] if lease.ranges == [0..3])
    }

    #[test]
    fn the_first_seed_reads_and_the_others_have_it_from_there() {
        let all: Vec<_> = (0..4)
            .map(|number| host(&format!("seed-{number}"), Role::Seed))
            .collect();
        let order = seeds("mirror", all.clone(), true).before_me(&source());
        assert_eq!(order.len(), 4);
        for (place, seed) in order.iter().enumerate() {
            let its = seeds(seed.id.as_str(), all.clone(), true);
            assert_eq!(its.before_me(&source()), order[..place]);
            assert_eq!(reads(&its.begin(&join())), place == 0);
        }
        let told = seeds("mirror", all, true).begin(&join());
        let [
            TaskEvent::Parents { parents, signers },
            TaskEvent::Alone { owners, expected },
        ] = &told[..]
        else {
            panic!("{told:?}")
        };
        assert_eq!((&parents[0].host, parents.len()), (&order[0], 1));
        assert_eq!((owners, *expected), (&order[1..].to_vec(), true));
        assert_eq!(signers.len(), 4);
    }

    #[test]
    fn without_seeds_or_where_it_may_not_travel_each_node_reads_for_itself() {
        let mirrors = vec![host("a", Role::Mirror), host("b", Role::Mirror)];
        assert!(reads(&seeds("c", mirrors, true).begin(&join())));
        let seed = vec![host("seed", Role::Seed)];
        assert!(reads(&seeds("c", seed.clone(), false).begin(&join())));
        assert!(!reads(&seeds("c", seed, true).begin(&join())));
    }
}
