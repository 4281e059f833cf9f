//! A node made by hand: a session with a scheduler, and nothing behind it but what a test says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use darner_proto::id::{Host, Role};
use darner_proto::piece_map::PieceSigner;
use darner_proto::scheduler::{NodeMessage, SchedulerMessage};
use darner_proto::wire;
use darner_proto::wire::scheduler_client::SchedulerClient;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::wait::PATIENCE;

/// It says it lives this often, as every node does.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// What it has said and what it has heard that waits to be taken.
const WAITING: usize = 1024;

/// A session. Over when dropped.
#[derive(Debug)]
pub struct Attendant {
    say: mpsc::Sender<NodeMessage>,
    hear: mpsc::Receiver<SchedulerMessage>,
    _living: JoinSet<()>,
}

impl Attendant {
    /// Attends the scheduler at `url` as a mirror of this name and address. Returns once the
    /// scheduler has taken it in.
    pub async fn attend(url: &str, name: &str, address: SocketAddr) -> Result<Self> {
        let endpoint = Endpoint::from_shared(url.to_owned())?;
        Self::attend_over(endpoint.connect().await?, name, address).await
    }

    /// As [`Attendant::attend`], on a connection that is there already.
    pub async fn attend_over(channel: Channel, name: &str, address: SocketAddr) -> Result<Self> {
        let (say, queue) = mpsc::channel(WAITING);
        say.send(NodeMessage::Hello(host(name, address)?)).await?;
        let said = ReceiverStream::new(queue).map(|message| wire::NodeMessage::from(&message));
        let mut incoming = SchedulerClient::new(channel)
            .attend(said)
            .await?
            .into_inner();
        let (heard, hear) = mpsc::channel(WAITING);
        let mut living = JoinSet::new();
        let alive = say.clone();
        living.spawn(async move {
            let mut heartbeat = tokio::time::interval(HEARTBEAT);
            loop {
                heartbeat.tick().await;
                if alive.send(NodeMessage::Heartbeat).await.is_err() {
                    return;
                }
            }
        });
        living.spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                let Ok(message) = SchedulerMessage::try_from(message) else {
                    return;
                };
                if heard.send(message).await.is_err() {
                    return;
                }
            }
        });
        let mut new = Self {
            say,
            hear,
            _living: living,
        };
        let first = new.hear().await?;
        ensure!(
            matches!(first, SchedulerMessage::Welcome { .. }),
            "{first:?}"
        );
        Ok(new)
    }

    /// Says something.
    pub async fn say(&self, message: NodeMessage) -> Result<()> {
        let sent = self.say.send(message).await;
        sent.context("the session is over")
    }

    /// What the scheduler says next.
    pub async fn hear(&mut self) -> Result<SchedulerMessage> {
        let heard = tokio::time::timeout(PATIENCE, self.hear.recv()).await;
        heard
            .context("the scheduler says nothing")?
            .context("the session is over")
    }

    /// Hears everything and heeds nothing, until the session is over.
    pub async fn ignore(mut self) {
        while self.hear.recv().await.is_some() {}
    }
}

fn host(name: &str, address: SocketAddr) -> Result<Host> {
    let signer = PieceSigner::from_pkcs8(name.parse()?, &PieceSigner::generate()?)?;
    Ok(Host {
        id: signer.host().clone(),
        address: address.to_string(),
        role: Role::Mirror,
        labels: BTreeMap::new(),
        signing_key: Some(signer.public()),
        upload_slots: 16,
    })
}
