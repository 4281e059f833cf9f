//! The scheduler over real gRPC.

use std::collections::BTreeMap;

use darner_proto::PROTOCOL;
use darner_proto::digest::Digest;
use darner_proto::id::HostId;
use darner_proto::piece_set::PieceSet;
use darner_proto::scheduler::{Join, NodeMessage, SchedulerMessage};
use darner_proto::wire;
use darner_proto::wire::scheduler_client::SchedulerClient;
use darner_service::config::{self, Flag, Sources};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::*;

/// Nothing here takes longer on a machine that works at all.
const PATIENCE: Duration = Duration::from_secs(20);

fn insecure() -> Identity {
    Identity::insecure(&darner_service::identity::IdentityMetrics::default())
}

fn id(name: &str) -> HostId {
    name.parse().unwrap()
}

fn settings(listen: &str) -> Settings {
    let flags = [
        format!("data_dir={}", std::env::temp_dir().display()),
        "node.id=scheduler-1".to_owned(),
        format!("scheduler.listen={listen}"),
        "scheduler.settle=0s".to_owned(),
        "identity.insecure=true".to_owned(),
    ];
    let sources = Sources {
        flags: flags.iter().map(|flag| Flag::set(flag)).collect(),
        ..Sources::default()
    };
    config::load(config::Command::Scheduler, &sources).unwrap()
}

/// A node's end of a session.
struct Node {
    outgoing: mpsc::Sender<wire::NodeMessage>,
    incoming: Streaming<wire::SchedulerMessage>,
}

fn host(name: &str, role: Role) -> Host {
    Host {
        id: id(name),
        address: format!("{name}:7421"),
        role,
        labels: BTreeMap::new(),
        signing_key: None,
        upload_slots: 8,
    }
}

async fn open(address: SocketAddr, first: wire::NodeMessage) -> Result<Node, Status> {
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut client = SchedulerClient::new(channel);
    let (outgoing, queue) = mpsc::channel(16);
    outgoing.send(first).await.unwrap();
    let incoming = client
        .attend(ReceiverStream::new(queue))
        .await?
        .into_inner();
    Ok(Node { outgoing, incoming })
}

impl Node {
    async fn attend(address: SocketAddr, name: &str, role: Role) -> Self {
        let hello = NodeMessage::Hello(host(name, role));
        let mut node = open(address, (&hello).into()).await.unwrap();
        node.say(NodeMessage::Inventory {
            keys: Vec::new(),
            listed: true,
        })
        .await;
        let scheduler = id("scheduler-1");
        let first = node.hear().await.unwrap();
        assert_eq!(first, SchedulerMessage::Welcome { scheduler });
        node
    }

    async fn say(&self, message: NodeMessage) {
        self.outgoing.send((&message).into()).await.unwrap();
    }

    async fn hear(&mut self) -> Result<SchedulerMessage, Status> {
        let message = tokio::time::timeout(PATIENCE, self.incoming.message())
            .await
            .expect("a message comes in time")?;
        let message = message.ok_or_else(|| Status::cancelled("the stream has ended"))?;
        Ok(message.try_into().unwrap())
    }

    async fn until<T>(&mut self, wanted: impl Fn(SchedulerMessage) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.hear().await.unwrap()) {
                return found;
            }
        }
    }

    /// How the session ends.
    async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.hear().await {
                return status;
            }
        }
    }
}

async fn started() -> (SocketAddr, Shutdown, Metrics, Health) {
    let (shutdown, metrics, health) = (Shutdown::default(), Metrics::default(), Health::default());
    let scheduler = Scheduler::bind(
        &settings("127.0.0.1:0"),
        &metrics,
        &health,
        insecure(),
        &shutdown,
    )
    .await
    .unwrap();
    let [("scheduler", address)] = scheduler.addresses()[..] else {
        panic!("one address");
    };
    scheduler.serve();
    (address, shutdown, metrics, health)
}

#[tokio::test]
async fn a_seed_is_leased_what_a_mirror_wants_and_becomes_its_parent() {
    let (address, shutdown, metrics, health) = started().await;
    let mut seed = Node::attend(address, "s-1", Role::Seed).await;
    let mut mirror = Node::attend(address, "m-1", Role::Mirror).await;
    let join = Join {
        task: Digest::sha256(b"content"),
        size: 10 << 20,
        sources: Vec::new(),
        held: PieceSet::empty(10),
        lease: None,
    };
    mirror.say(NodeMessage::Join(join.clone())).await;
    let lease = seed
        .until(|message| match message {
            SchedulerMessage::Lease(lease) => Some(lease),
            _ => None,
        })
        .await;
    assert_eq!((lease.size, lease.ranges), (10 << 20, vec![0..10]));
    assert!(lease.lease > 1_700_000_000_000);
    seed.say(NodeMessage::Join(join)).await;
    mirror
        .until(|message| match message {
            SchedulerMessage::Parents { parents, .. } => {
                parents.iter().find(|one| one.host.id == id("s-1")).cloned()
            }
            _ => None,
        })
        .await;
    assert_eq!(health.waiting_for(), []);
    drop(mirror);
    let text = metrics.register(|registry| {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        text
    });
    let granted = "darner_scheduler_leases_total{event=\"granted_seed\"} 1";
    assert!(text.contains(granted), "{text}");
    shutdown.drain();
    let ended = seed.end().await;
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
    assert!(shutdown.finish(PATIENCE).await);
}

#[tokio::test]
async fn the_newer_of_two_sessions_stays() {
    let (address, shutdown, ..) = started().await;
    let mut old = Node::attend(address, "m-1", Role::Mirror).await;
    let mut new = Node::attend(address, "m-1", Role::Mirror).await;
    let ended = old.end().await;
    assert_eq!(ended.code(), Code::Aborted, "{ended}");
    let find = NodeMessage::Find {
        request: 7,
        key: Digest::sha256(b"nothing"),
    };
    new.say(find).await;
    let found =
        |message| matches!(message, SchedulerMessage::Found { request: 7, .. }).then_some(());
    new.until(found).await;
    drop((old, new));
    assert!(shutdown.finish(PATIENCE).await);
}

#[tokio::test]
async fn another_protocol_version_and_a_session_without_hello_are_refused() {
    let (address, shutdown, ..) = started().await;
    let hello = NodeMessage::Hello(host("m-1", Role::Mirror));
    let mut later = wire::NodeMessage::from(&hello);
    if let Some(wire::node_message::Body::Hello(hello)) = &mut later.body {
        hello.protocol = PROTOCOL + 1;
    }
    let refused = open(address, later).await.err().expect("refused");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("version 2"), "{refused}");
    let silent = wire::NodeMessage::from(&NodeMessage::Heartbeat);
    let refused = open(address, silent).await.err().expect("refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(shutdown.finish(PATIENCE).await);
}

#[tokio::test]
async fn a_wildcard_needs_an_address_to_advertise_when_there_is_a_manager() {
    let mut settings = settings("0.0.0.0:0");
    settings.manager.address = Some("http://127.0.0.1:1".to_owned());
    let shutdown = Shutdown::default();
    let (metrics, health) = (Metrics::default(), Health::default());
    let bound = Scheduler::bind(&settings, &metrics, &health, insecure(), &shutdown).await;
    assert!(matches!(bound, Err(StartError::Advertise(_))));
}
