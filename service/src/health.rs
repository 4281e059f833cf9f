//! Whether the process is ready: it is when every part that registered says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

type Parts = BTreeMap<&'static str, Option<String>>;

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
        waiting(&self.parts.borrow())
    }

    /// Completes when the process is ready.
    pub async fn ready(&self) {
        self.until(|parts| parts.values().all(Option::is_none))
            .await;
    }

    /// Completes when the process is not ready.
    pub async fn not_ready(&self) {
        self.until(|parts| parts.values().any(Option::is_some))
            .await;
    }

    async fn until(&self, holds: impl FnMut(&Parts) -> bool) {
        let mut parts = self.parts.subscribe();
        // The sender is here, so waiting cannot fail.
        let _ = parts.wait_for(holds).await;
    }
}

fn waiting(parts: &Parts) -> Vec<(&'static str, String)> {
    parts
        .iter()
        .filter_map(|(name, reason)| Some((*name, reason.clone()?)))
        .collect()
}

impl Part {
    /// The part can do its work.
    pub fn ready(&self) {
        self.set(None);
    }

    /// The part cannot do its work, and why.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    fn set(&self, reason: Option<String>) {
        self.health.parts.send_modify(|parts| {
            parts.insert(self.name, reason);
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
        one.not_ready("stopping");
        health.not_ready().await;
    }
}
