//! Further nodes that hold what was put here, before who put it is told so.

use std::time::Duration;

use axum::http::StatusCode;
use darner_proto::digest::Digest;
use darner_proto::id::Host;
use darner_proto::rendezvous;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep};

use super::{FileFront, Refusal};
use crate::swarm::peers::PeerError;

/// Between questions to a node that is at it.
const LOOK: Duration = Duration::from_millis(200);
/// A node to which nothing has come for so long is left for another.
const PATIENCE: Duration = Duration::from_secs(20);
/// More copies are made by who pulls it.
pub(super) const MAX_REPLICAS: usize = 64;

/// A node does not hold what it should.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("nothing comes there")]
    Stalled,
    #[error(transparent)]
    Refused(#[from] PeerError),
}

impl FileFront {
    /// Returns when `count` other nodes hold the content: the first in its rendezvous order that do.
    /// Those are the seeds, or without seeds the mirrors that schedulers name as owners of
    /// repositories.
    pub(super) async fn replicate(
        &self,
        digest: &Digest,
        size: u64,
        (count, term): (usize, Option<Duration>),
    ) -> Result<(), Refusal> {
        let me = &self.tasks.parts().swarm.me().id;
        let owners = self.tasks.parts().swarm.owners();
        let others: Vec<_> = owners.iter().filter(|host| host.id != *me).collect();
        let mut next = rendezvous::order(digest, others, |host| &host.id).into_iter();
        let hold = |host: &Host| self.on(host.clone(), *digest, size, term);
        let mut coming: FuturesUnordered<_> = next.by_ref().take(count).map(hold).collect();
        let (mut held, mut why) = (0, String::new());
        while held < count {
            match coming.next().await {
                Some(Ok(())) => held += 1,
                Some(Err(lost)) => {
                    why = format!("; {lost}");
                    coming.extend(next.next().map(hold));
                }
                None => {
                    let message = format!(
                        "{held} other nodes hold {digest}, and no more can be had to{why}; this node holds it"
                    );
                    return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message));
                }
            }
        }
        Ok(())
    }

    async fn on(
        &self,
        host: Host,
        digest: Digest,
        size: u64,
        term: Option<Duration>,
    ) -> Result<(), String> {
        let held = self.held_by(&host, &digest, size, term).await;
        held.map_err(|lost| {
            tracing::warn!(%digest, host = %host.id, %lost, "another node does not hold what was put here");
            format!("{}: {lost}", host.id)
        })
    }

    async fn held_by(
        &self,
        host: &Host,
        digest: &Digest,
        size: u64,
        term: Option<Duration>,
    ) -> Result<(), Lost> {
        let peers = &self.tasks.parts().peers;
        let (mut most, mut moved) = (0, Instant::now());
        loop {
            match peers.hold(host, digest, size, term).await {
                Ok(held) if held >= size => return Ok(()),
                Ok(held) if held > most => (most, moved) = (held, Instant::now()),
                // It may be busy, or have just begun again.
                Ok(_) | Err(PeerError::Busy { .. } | PeerError::Silent | PeerError::NotHeld) => {}
                Err(error) => return Err(error.into()),
            }
            if moved.elapsed() > PATIENCE {
                return Err(Lost::Stalled);
            }
            sleep(LOOK).await;
        }
    }
}
