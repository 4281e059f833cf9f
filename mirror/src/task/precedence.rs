//! Downloads that somebody waits for go before those that nobody does, such as an image that is
//! brought here ahead of time. Which a download is can change while it runs: a client comes, or the
//! last one hangs up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many downloads of the node are waited for. Clones share the count.
#[derive(Debug, Clone, Default)]
pub(super) struct Precedence(Arc<AtomicUsize>);

/// One download's part of that, until it is dropped.
#[derive(Debug)]
pub(super) struct Standing {
    all: Precedence,
    awaited: bool,
}

impl Precedence {
    /// A download that nobody is known to wait for.
    pub(super) fn stand(&self) -> Standing {
        Standing {
            all: self.clone(),
            awaited: false,
        }
    }
}

impl Standing {
    /// Says whether somebody waits for this download. Returns whether it has to give way: others are
    /// waited for and it is not.
    pub(super) fn gives_way(&mut self, awaited: bool) -> bool {
        if awaited != self.awaited {
            self.awaited = awaited;
            // A count of its own: nothing else is ordered by it.
            match awaited {
                true => self.all.0.fetch_add(1, Ordering::Relaxed),
                false => self.all.0.fetch_sub(1, Ordering::Relaxed),
            };
        }
        !awaited && self.all.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.gives_way(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_waited_for_gives_way_to_who_is() {
        let all = Precedence::default();
        let (mut pull, mut preheat) = (all.stand(), all.stand());
        assert!(!preheat.gives_way(false), "alone");
        assert!(!pull.gives_way(true));
        assert!(preheat.gives_way(false));
        assert!(!preheat.gives_way(true), "a client has come");
        assert!(pull.gives_way(false), "its client is gone");
        assert!(!preheat.gives_way(false));
        pull.gives_way(true);
        pull.gives_way(true);
        drop(pull);
        assert!(!preheat.gives_way(false), "it has ended");
    }
}
