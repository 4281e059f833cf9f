//! The lying peer's session with a scheduler: as any node's, but for what it claims to hold.

use std::net::SocketAddr;

use anyhow::Result;
use darner_proto::digest::Digest;
use darner_proto::scheduler::NodeMessage;
use tokio::task::JoinSet;

use crate::attendant::Attendant;

/// Attends until `tasks` is dropped; returns once the scheduler has taken it in and been told of
/// `digests`.
pub(super) async fn attend(
    scheduler: &str,
    address: SocketAddr,
    digests: Vec<Digest>,
    tasks: &mut JoinSet<()>,
) -> Result<()> {
    let session = Attendant::attend(scheduler, "liar", address).await?;
    let claim = NodeMessage::Inventory {
        keys: digests,
        listed: true,
    };
    session.say(claim).await?;
    // What the scheduler wants of it, it does not do.
    tasks.spawn(session.ignore());
    Ok(())
}
