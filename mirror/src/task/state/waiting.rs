//! Who waits for a download, and what that means for it.

use super::{Duration, Task};

/// A child for whose clients pieces are asked for here asks again within this time.
const WANTED_FOR: Duration = Duration::from_secs(2);

impl Task {
    /// Whether clients of this node read along.
    pub fn has_readers(&self) -> bool {
        !self.cursors.is_empty()
    }

    /// Whether clients of this node wait for it, or somebody's at a child.
    pub fn is_awaited(&self, now: Duration) -> bool {
        let wanted = |at: Duration| now.saturating_sub(at) < WANTED_FOR;
        self.has_readers() || self.wanted_at.is_some_and(wanted)
    }

    /// Others are waited for and this is not: it goes on with one transfer at a time.
    pub fn give_way(&mut self, gives_way: bool) {
        self.gives_way = gives_way;
    }
}
