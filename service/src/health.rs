//! Whether the process is ready: it is when every part that registered says so.
//!
//! A part that is *degraded* does its work with something missing, which people should know of and
//! nobody should be sent elsewhere for: the process stays ready.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

type Parts = BTreeMap<&'static str, State>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Ready,
    Degraded(String),
    NotReady(String),
}

/// The parts of a process and what each still waits for. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Health {
    parts: Arc<watch::Sender<Parts>>,
}

/// One part's say in the process's readiness.
#[derive(Debug, Clone)]
pub struct Part {
    name: &'static str,
    health: Health,
}

impl Health {
    /// Registers a part that is not ready yet.
    pub fn part(&self, name: &'static str) -> Part {
        let part = Part {
            name,
            health: self.clone(),
        };
        part.not_ready("starting");
        part
    }

    /// What is not ready, with the reason; empty when the process is ready.
    pub fn waiting_for(&self) -> Vec<(&'static str, String)> {
        self.parts(|state| match state {
            State::NotReady(reason) => Some(reason.clone()),
            State::Ready | State::Degraded(_) => None,
        })
    }

    /// What does its work with something missing, and what that is.
    pub fn degraded(&self) -> Vec<(&'static str, String)> {
        self.parts(|state| match state {
            State::Degraded(reason) => Some(reason.clone()),
            State::Ready | State::NotReady(_) => None,
        })
    }

    /// Completes when the process is ready.
    pub async fn ready(&self) {
        self.until(|parts| !parts.values().any(State::is_not_ready))
            .await;
    }

    /// Completes when the process is not ready.
    pub async fn not_ready(&self) {
        self.until(|parts| parts.values().any(State::is_not_ready))
            .await;
    }

    fn parts(&self, reason: impl Fn(&State) -> Option<String>) -> Vec<(&'static str, String)> {
        let parts = self.parts.borrow();
        let told = parts.iter();
        told.filter_map(|(name, state)| Some((*name, reason(state)?)))
            .collect()
    }

    async fn until(&self, holds: impl FnMut(&Parts) -> bool) {
        let mut parts = self.parts.subscribe();
        // The sender is here, so waiting cannot fail.
        let _ = parts.wait_for(holds).await;
    }
}

impl State {
    fn is_not_ready(&self) -> bool {
        matches!(self, Self::NotReady(_))
    }
}

impl Part {
    /// The part can do its work.
    pub fn ready(&self) {
        self.set(State::Ready);
    }

    /// The part does its work with something missing, and what that is.
    pub fn degraded(&self, reason: impl Into<String>) {
        self.set(State::Degraded(reason.into()));
    }

    /// The part cannot do its work, and why.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(State::NotReady(reason.into()));
    }

    fn set(&self, state: State) {
        self.health.parts.send_modify(|parts| {
            parts.insert(self.name, state);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_ready_when_every_part_is() {
        let health = Health::default();
        let (one, other) = (health.part("one"), health.part("other"));
        one.ready();
        other.not_ready("no scheduler");
        let expected = vec![("other", "no scheduler".to_owned())];
        assert_eq!(health.waiting_for(), expected);
        let (waited, ()) = tokio::join!(
            async {
                health.ready().await;
                health.waiting_for()
            },
            async { other.ready() }
        );
        assert!(waited.is_empty());
        one.degraded("works from memory");
        assert!(health.waiting_for().is_empty());
        let expected = vec![("one", "works from memory".to_owned())];
        assert_eq!(health.degraded(), expected);
        one.not_ready("stopping");
        assert!(health.degraded().is_empty());
        health.not_ready().await;
    }
}
