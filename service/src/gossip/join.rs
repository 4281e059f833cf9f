//! Finds members to begin with, and finds them again: the addresses that an operator named, and what
//! a name such as that of a headless service, or a Kubernetes service, stands for at the moment.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::exchange::Exchanges;
use super::{Gossip, KubernetesService, endpoint_slices, pause};
use crate::telemetry::with_causes;

/// Between attempts while nobody is known: doubling from the first to the last.
const ALONE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Once others are known, the addresses are looked up this often for somebody who is not: two parts
/// of a cluster that were apart for long find each other this way.
const AGAIN: Duration = Duration::from_secs(30);
/// Addresses asked at a time. One answers for all it knows.
const ASKED: usize = 3;

pub(super) struct Joining {
    pub(super) addresses: Vec<String>,
    pub(super) service: Option<KubernetesService>,
    pub(super) exchanges: Exchanges,
    pub(super) gossip: Gossip,
}

impl Joining {
    /// Goes on for as long as it is polled.
    pub(super) async fn run(self) {
        let mut wait = ALONE.0;
        loop {
            let others = self.round().await;
            wait = match others {
                true => AGAIN,
                false => ALONE.1.min(wait * 2).max(ALONE.0),
            };
            pause(wait / 2).await;
        }
    }

    /// Asks addresses at which nobody is known to live. Says whether any other member is known.
    async fn round(&self) -> bool {
        let live = self.gossip.live().await.unwrap_or_default();
        let here = live.iter().filter_map(|member| member.place.as_ref());
        let known: BTreeSet<_> = here.map(|place| place.address.clone()).collect();
        let mut asked = 0;
        for address in self.resolved().await {
            if asked == ASKED || known.contains(&address) {
                continue;
            }
            asked += 1;
            match self.exchanges.listing(&address).await {
                Ok(members) => self.gossip.introduce(members).await,
                Err(error) => tracing::debug!(%address, %error, "nobody to join there"),
            }
        }
        live.len() > 1
    }

    /// What the addresses stand for now, each once, in an order that differs from process to process.
    async fn resolved(&self) -> Vec<String> {
        let mut found = BTreeSet::new();
        for address in &self.addresses {
            match tokio::net::lookup_host(address).await {
                Ok(sockets) => found.extend(sockets.map(|socket: SocketAddr| socket.to_string())),
                Err(error) => {
                    tracing::debug!(%address, %error, "a name to join by cannot be looked up")
                }
            }
        }
        if let Some(service) = &self.service {
            match endpoint_slices::addresses(service).await {
                Ok(addresses) => found.extend(addresses),
                Err(error) => {
                    let error = with_causes(&error);
                    tracing::warn!(service = %service.name, %error, "the members behind a service are not known");
                }
            }
        }
        let mut found: Vec<_> = found.into_iter().collect();
        let first = super::random() as usize % found.len().max(1);
        found.rotate_left(first);
        found
    }
}
