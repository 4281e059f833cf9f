//! A bar for each node while all of them pull.

use std::convert::Infallible;
use std::time::Duration;

use indicatif::{BinaryBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::cluster::Node;
use super::counts::Fetched;
use crate::pull::progress::{Event, Watch};

/// How often it is told where a node's bytes come from.
const EVERY: Duration = Duration::from_millis(100);

/// The bars of all nodes.
#[derive(Debug)]
pub(super) struct Bars {
    all: MultiProgress,
    nodes: Vec<NodeBar>,
    /// What had come to each node before.
    before: Vec<Fetched>,
}

/// One node's pull.
#[derive(Debug)]
pub(super) struct NodeBar(ProgressBar);

impl Bars {
    /// Bars up to `size` bytes; `visible` on a terminal only.
    pub(super) fn new(nodes: &[Node], size: u64, visible: bool) -> anyhow::Result<Self> {
        let target = match visible {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let all = MultiProgress::with_draw_target(target);
        let bar = |node: &Node| {
            let bar = all.add(ProgressBar::new(size).with_style(style()));
            bar.set_prefix(node.name.clone());
            NodeBar(bar)
        };
        let bars = nodes.iter().map(bar).collect();
        let before = nodes.iter().map(Node::fetched);
        Ok(Self {
            nodes: bars,
            before: before.collect::<Result<_, _>>()?,
            all,
        })
    }

    /// In the order of the nodes.
    pub(super) fn of_nodes(&self) -> &[NodeBar] {
        &self.nodes
    }

    /// Keeps telling where the bytes come from.
    pub(super) async fn follow(&self, nodes: &[Node]) -> anyhow::Result<Infallible> {
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            ticks.tick().await;
            for ((bar, node), before) in self.nodes.iter().zip(nodes).zip(&self.before) {
                bar.0.set_message(sources(node.fetched()? - *before));
            }
        }
    }

    /// Takes the bars away.
    pub(super) fn clear(&self) {
        // A terminal that is gone needs no clearing.
        let _ = self.all.clear();
    }
}

impl Watch for NodeBar {
    fn see(&self, event: Event<'_>) {
        match event {
            Event::Received { bytes, .. } => self.0.inc(bytes),
            Event::Cut { blob, at, error } => {
                tracing::warn!(digest = %blob.digest, at, %error, "a client was cut off");
            }
            Event::Done { .. } => self.0.finish(),
            _ => {}
        }
    }
}

fn sources(fetched: Fetched) -> String {
    let named = [
        ("upstream", fetched.upstream),
        ("seed", fetched.seed),
        ("peers", fetched.peers),
    ];
    let said = named.iter().filter(|(_, bytes)| *bytes > 0);
    let said = said.map(|(name, bytes)| format!("{name} {}", BinaryBytes(*bytes)));
    said.collect::<Vec<_>>().join(", ")
}

fn style() -> ProgressStyle {
    let template = "{prefix:8} [{bar:30}] {binary_bytes:>10} {binary_bytes_per_sec:>12}  {msg}";
    let style = ProgressStyle::with_template(template);
    style
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sources_that_gave_something_are_told() {
        let fetched = Fetched {
            upstream: 0,
            seed: 1 << 20,
            peers: 3 << 20,
        };
        assert_eq!(sources(fetched), "seed 1.00 MiB, peers 3.00 MiB");
        assert_eq!(sources(Fetched::default()), "");
    }
}
