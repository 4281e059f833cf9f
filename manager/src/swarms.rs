//! What is on its way between nodes: asked of the schedulers when somebody looks, at most once a
//! second however many look, and kept no longer. [`seen`] puts their answers together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use darner_proto::id::{Host, HostId, Role, TaskId};
use darner_proto::swarms::{MAX_REPLY, Swarms as Told};
use darner_proto::wire;
use darner_proto::wire::swarms_client::SwarmsClient;
use darner_service::identity::{Identity, PeerRole, Protocol};
use futures_util::future::join_all;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tonic::transport::{Channel, Endpoint};

use crate::members::Members;

pub mod seen;

use seen::{Seen, TaskSeen};

/// An answer counts this long.
const FRESH: Duration = Duration::from_millis(900);
/// A scheduler that takes longer is left out.
const PATIENCE: Duration = Duration::from_secs(2);
/// Schedulers that are asked; a cluster has a few.
const MAX_ASKED: usize = 64;
/// Tasks of which the last look is kept, to know how fast they are.
const MAX_WATCHED: usize = 64;
/// A look that is older says nothing about how fast something is now.
const STALE: Duration = Duration::from_secs(30);

/// What is on its way. Clones share it.
#[derive(Debug, Clone)]
pub struct Swarms {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    members: Members,
    identity: Identity,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    ways: BTreeMap<HostId, Way>,
    all: Option<(Instant, Arc<Seen>)>,
    tasks: BTreeMap<TaskId, (Instant, Arc<TaskSeen>)>,
}

/// The way to one scheduler.
#[derive(Debug, Clone)]
struct Way {
    address: String,
    client: SwarmsClient<Channel>,
}

impl Swarms {
    /// Asks the schedulers among `members`.
    pub fn new(members: Members, identity: Identity) -> Self {
        Self {
            shared: Arc::new(Shared {
                members,
                identity,
                state: Mutex::default(),
            }),
        }
    }

    /// Everything at a glance.
    pub async fn all(&self) -> Arc<Seen> {
        // Whoever looks meanwhile waits for the same answer.
        let mut state = self.shared.state.lock().await;
        let before = state.all.take();
        if let Some((at, seen)) = &before
            && at.elapsed() < FRESH
        {
            let seen = seen.clone();
            state.all = before;
            return seen;
        }
        let (asked, told) = self.ask(&mut state, Vec::new()).await;
        let before = before.as_ref().filter(|(at, _)| at.elapsed() < STALE);
        let before = before.map(|(at, seen)| (at.elapsed(), &**seen));
        let seen = Arc::new(Seen::of(asked, told, before));
        state.all = Some((Instant::now(), seen.clone()));
        seen
    }

    /// One task, with those who take part.
    pub async fn task(&self, id: &TaskId) -> Option<Arc<TaskSeen>> {
        let mut state = self.shared.state.lock().await;
        let before = state.tasks.remove(id);
        if let Some((at, seen)) = &before
            && at.elapsed() < FRESH
        {
            let seen = seen.clone();
            state.tasks.extend(before.map(|before| (*id, before)));
            return Some(seen);
        }
        let (_, told) = self.ask(&mut state, id.to_wire()).await;
        let before = before.as_ref().filter(|(at, _)| at.elapsed() < STALE);
        let before = before.map(|(at, seen)| (at.elapsed(), &**seen));
        let seen = Arc::new(TaskSeen::of(id, told, before)?);
        state.tasks.retain(|_, (at, _)| at.elapsed() < STALE);
        if state.tasks.len() < MAX_WATCHED {
            state.tasks.insert(*id, (Instant::now(), seen.clone()));
        }
        Some(seen)
    }

    /// How many schedulers there are, and what those that answer tell.
    async fn ask(&self, state: &mut State, task: Vec<u8>) -> (usize, Vec<Told>) {
        let schedulers: Vec<_> = self.shared.members.look(|members| {
            let records = members.of_role(Role::Scheduler, None).take(MAX_ASKED);
            records.map(|record| record.host.clone()).collect()
        });
        state.ways.retain(|id, way| {
            let mut known = schedulers.iter();
            known.any(|host| host.id == *id && host.address == way.address)
        });
        let asking = schedulers.iter().filter_map(|host| {
            let way = self.way(&mut state.ways, host)?;
            Some(look(way, task.clone()))
        });
        let asking: Vec<_> = asking.collect();
        let told = join_all(asking).await;
        (schedulers.len(), told.into_iter().flatten().collect())
    }

    fn way(&self, ways: &mut BTreeMap<HostId, Way>, host: &Host) -> Option<Way> {
        if let Some(way) = ways.get(&host.id) {
            return Some(way.clone());
        }
        let identity = &self.shared.identity;
        let url = format!("{}://{}", identity.scheme(), host.address);
        let endpoint = Endpoint::from_shared(url).ok()?.connect_timeout(PATIENCE);
        let connector = identity.connector(Protocol::Grpc, PeerRole::SCHEDULER);
        let channel = endpoint.connect_with_connector_lazy(connector);
        let way = Way {
            address: host.address.clone(),
            client: SwarmsClient::new(channel).max_decoding_message_size(MAX_REPLY),
        };
        ways.insert(host.id.clone(), way.clone());
        Some(way)
    }
}

async fn look(mut way: Way, task: Vec<u8>) -> Option<Told> {
    let request = wire::SwarmsRequest { task: task.into() };
    let told = match timeout(PATIENCE, way.client.look(request)).await {
        Ok(Ok(reply)) => Told::try_from(reply.into_inner()).map_err(|error| error.to_string()),
        Ok(Err(status)) => Err(format!("{:?}: {}", status.code(), status.message())),
        Err(_) => Err("it does not answer in time".to_owned()),
    };
    match told {
        Ok(told) => Some(told),
        Err(error) => {
            tracing::debug!(
                scheduler = way.address,
                error,
                "a scheduler does not tell what is on its way"
            );
            None
        }
    }
}
