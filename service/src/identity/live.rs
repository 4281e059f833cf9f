//! The connections that are open, and when each has to end: when its peer's certificate is over or
//! revoked.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use darner_proto::trust::Trust;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::peer::Peer;

/// All of a process's part. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Live {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    next: AtomicU64,
    connections: Mutex<HashMap<u64, (Peer, CancellationToken)>>,
}

/// A connection's place among them; it is given up when dropped.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    token: CancellationToken,
    live: Live,
}

impl Live {
    /// A connection with `peer` was opened.
    pub(super) fn add(&self, peer: &Peer) -> Place {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let token = CancellationToken::new();
        let entry = (peer.clone(), token.clone());
        self.lock().insert(number, entry);
        Place {
            number,
            token,
            live: self.clone(),
        }
    }

    /// Ends those that `trust` does not allow at `now`; says how many.
    pub(super) fn sweep(&self, trust: &Trust, now: u64) -> usize {
        let connections = self.lock();
        let ended = connections
            .values()
            .filter(|(peer, token)| !token.is_cancelled() && !counts(peer, trust, now));
        ended.map(|(_, token)| token.cancel()).count()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, (Peer, CancellationToken)>> {
        let connections = self.shared.connections.lock();
        connections.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a certificate counts at `now`.
pub(super) fn counts(peer: &Peer, trust: &Trust, now: u64) -> bool {
    now <= peer.not_after && !trust.is_revoked(&peer.id, peer.not_before)
}

impl Place {
    /// Completes when the connection has to end.
    pub(super) fn closed(&self) -> WaitForCancellationFutureOwned {
        self.token.clone().cancelled_owned()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.token.is_cancelled()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.live.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use darner_proto::id::Role;

    use super::*;

    fn peer(id: &str) -> Peer {
        Peer {
            id: id.parse().unwrap(),
            role: Role::Mirror.into(),
            not_before: 100,
            not_after: 200,
        }
    }

    #[test]
    fn connections_end_with_their_certificate_or_its_revocation_and_no_others() {
        let live = Live::default();
        let (one, two) = (live.add(&peer("one")), live.add(&peer("two")));
        let revoked = Trust {
            revoked: [("one".parse().unwrap(), 100)].into(),
            ..Trust::default()
        };
        assert_eq!(live.sweep(&Trust::default(), 200), 0);
        assert_eq!(live.sweep(&revoked, 200), 1);
        assert!(one.is_closed() && !two.is_closed());
        assert_eq!(live.sweep(&revoked, 201), 1);
        assert!(two.is_closed());
        drop((one, two));
        assert!(live.lock().is_empty());
    }
}
