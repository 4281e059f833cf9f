//! The lying peer's session with a scheduler: as any node's, but for what it claims to hold.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use darner_proto::digest::Digest;
use darner_proto::id::{Host, Role};
use darner_proto::piece_map::PieceSigner;
use darner_proto::scheduler::NodeMessage;
use darner_proto::wire;
use darner_proto::wire::scheduler_client::SchedulerClient;
use darner_proto::wire::scheduler_message::Body;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

const HEARTBEAT: Duration = Duration::from_secs(1);

/// Attends until `tasks` is dropped; returns once the scheduler has taken it in and been told of
/// `digests`.
pub(super) async fn attend(
    scheduler: &str,
    address: SocketAddr,
    digests: Vec<Digest>,
    tasks: &mut JoinSet<()>,
) -> Result<()> {
    let channel = Endpoint::from_shared(scheduler.to_owned())?
        .connect()
        .await?;
    let mut client = SchedulerClient::new(channel);
    let (messages, queue) = mpsc::channel(16);
    messages.send(NodeMessage::Hello(host(address)?)).await?;
    let claim = NodeMessage::Inventory {
        keys: digests,
        listed: true,
    };
    messages.send(claim).await?;
    let outgoing = ReceiverStream::new(queue).map(|message| wire::NodeMessage::from(&message));
    let mut incoming = client.attend(outgoing).await?.into_inner();
    let first = incoming.message().await?.context("no welcome")?;
    anyhow::ensure!(matches!(first.body, Some(Body::Welcome(_))), "{first:?}");
    tasks.spawn(async move {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        loop {
            tokio::select! {
                // What the scheduler wants of it, it does not do.
                message = incoming.message() => {
                    if !matches!(message, Ok(Some(_))) {
                        return;
                    }
                }
                _ = heartbeat.tick() => {
                    if messages.send(NodeMessage::Heartbeat).await.is_err() {
                        return;
                    }
                }
            }
        }
    });
    Ok(())
}

fn host(address: SocketAddr) -> Result<Host> {
    let id = "liar".parse()?;
    let signer = PieceSigner::from_pkcs8(id, &PieceSigner::generate()?)?;
    Ok(Host {
        id: signer.host().clone(),
        address: address.to_string(),
        role: Role::Mirror,
        labels: BTreeMap::new(),
        signing_key: Some(signer.public()),
        upload_slots: 16,
    })
}
