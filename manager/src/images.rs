//! Which nodes hold which images, as they say themselves: kept in memory, told anew to a manager
//! that starts. Only nodes that this manager hears are among them. [`catalog`] decides; [`Images`]
//! shares it and forgets who is no member any more.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use darner_proto::holdings::{HoldingsReply, HoldingsReport};
use darner_service::shutdown::Shutdown;

use crate::members::Members;
use crate::membership::MemberKey;

pub mod catalog;
mod seen;
#[cfg(test)]
pub(crate) mod tests;

use catalog::Catalog;
pub use seen::{BlobSeen, Cursor, Filter, Holder, ImageSeen, NameSeen, Row, Sees};

/// Between looks at who is still a member.
const STEP: Duration = Duration::from_secs(5);

/// What nodes hold. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Images {
    catalog: Arc<Mutex<Catalog>>,
}

impl Images {
    /// A node tells what it holds.
    pub fn heard(&self, key: &MemberKey, report: HoldingsReport) -> HoldingsReply {
        self.lock().apply(key, report)
    }

    /// The last report of the node that was heard.
    pub fn sequence(&self, key: &MemberKey) -> u64 {
        self.lock().sequence(key)
    }

    /// Lets `read` look at it. It must be quick: nodes wait.
    pub fn look<T>(&self, read: impl FnOnce(&Catalog) -> T) -> T {
        read(&self.lock())
    }

    /// Forgets who is no member any more, until the process drains.
    pub async fn run(self, members: Members, shutdown: Shutdown) {
        let forget = |present: &BTreeSet<_>| self.lock().only(|key| present.contains(key));
        members.each_step(STEP, &shutdown, forget).await;
    }

    fn lock(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
