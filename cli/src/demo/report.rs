//! What is told of a round of pulls.

use std::fmt::Write as _;
use std::time::Duration;

use indicatif::BinaryBytes;

use super::counts::Fetched;
use super::upstream::Sent;

/// The headings, and how wide their columns are.
const COLUMNS: [(&str, usize); 6] = [
    ("upstream", 12),
    ("seed", 12),
    ("peers", 12),
    ("store", 12),
    ("all", 12),
    ("time", 9),
];
/// The column of names.
const NAMES: usize = 8;

/// One node's pull.
#[derive(Debug)]
pub(super) struct NodeRow {
    pub(super) name: String,
    /// What came to the node.
    pub(super) fetched: Fetched,
    /// What its client got besides: the node had it.
    pub(super) store: u64,
    pub(super) took: Duration,
}

/// Pulls on all nodes at once.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) nodes: Vec<NodeRow>,
    /// What came to the seed, which has no clients.
    pub(super) seed: Fetched,
    pub(super) image_bytes: u64,
    /// What the upstream registry counted.
    pub(super) upstream: Sent,
    pub(super) took: Duration,
}

impl Round {
    /// Upstream bytes over image bytes.
    pub(super) fn ratio(&self) -> f64 {
        self.upstream.blob_bytes as f64 / self.image_bytes as f64
    }

    /// Who got how much from where.
    pub(super) fn table(&self) -> String {
        let mut text = line("bytes", &COLUMNS.map(|(heading, _)| heading.to_owned()));
        for node in &self.nodes {
            text += &row(&node.name, node.fetched, node.store, node.took);
        }
        text += &line("seed", &cells(self.seed, 0, None));
        let (mut all, mut store) = (self.seed, 0);
        for node in &self.nodes {
            all.upstream += node.fetched.upstream;
            all.seed += node.fetched.seed;
            all.peers += node.fetched.peers;
            store += node.store;
        }
        text += &row("together", all, store, self.took);
        let Sent {
            blob_bytes,
            blob_requests,
            manifest_requests,
        } = self.upstream;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "\nThe upstream registry sent {} in {blob_requests} requests for blobs (and answered {manifest_requests} for manifests):\n\
             upstream bytes / image bytes = {:.2} for {} nodes. Every image is the same, byte for byte.",
            bytes(blob_bytes),
            self.ratio(),
            self.nodes.len(),
        );
        text
    }

    /// The round in a sentence, for pulls that found everything there.
    pub(super) fn sentence(&self) -> String {
        let sum = |of: fn(&NodeRow) -> u64| bytes(self.nodes.iter().map(of).sum());
        format!(
            "Pulled again on all nodes at once, in {}: {} from the nodes' own stores, {} from seed and peers; the upstream registry sent {}.",
            seconds(self.took),
            sum(|node| node.store),
            sum(|node| node.fetched.sum()),
            bytes(self.upstream.blob_bytes),
        )
    }
}

/// As people read it.
pub(super) fn bytes(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn row(name: &str, fetched: Fetched, store: u64, took: Duration) -> String {
    line(name, &cells(fetched, store, Some(took)))
}

fn cells(fetched: Fetched, store: u64, took: Option<Duration>) -> [String; COLUMNS.len()] {
    let amount = |amount: u64| match amount {
        // What is not there should not catch the eye.
        0 => "-".to_owned(),
        amount => bytes(amount),
    };
    [
        amount(fetched.upstream),
        amount(fetched.seed),
        amount(fetched.peers),
        amount(store),
        amount(fetched.sum() + store),
        took.map(seconds).unwrap_or_default(),
    ]
}

fn line(name: &str, cells: &[String; COLUMNS.len()]) -> String {
    let mut text = format!("{name:NAMES$}");
    for (cell, (_, width)) in cells.iter().zip(COLUMNS) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{cell:>width$}");
    }
    format!("{}\n", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round() -> Round {
        let node = |number: u64| NodeRow {
            name: format!("node-{number}"),
            fetched: Fetched {
                upstream: 0,
                seed: number << 20,
                peers: (4 - number) << 20,
            },
            store: 0,
            took: Duration::from_millis(1500),
        };
        Round {
            nodes: vec![node(1), node(2)],
            seed: Fetched {
                upstream: 4 << 20,
                ..Fetched::default()
            },
            image_bytes: 4 << 20,
            upstream: Sent {
                blob_bytes: 4 << 20,
                blob_requests: 5,
                manifest_requests: 2,
            },
            took: Duration::from_millis(1600),
        }
    }

    #[test]
    fn a_table_adds_up() {
        let expected = "\
bytes       upstream        seed       peers       store         all     time
node-1             -    1.00 MiB    3.00 MiB           -    4.00 MiB    1.5 s
node-2             -    2.00 MiB    2.00 MiB           -    4.00 MiB    1.5 s
seed        4.00 MiB           -           -           -    4.00 MiB
together    4.00 MiB    3.00 MiB    5.00 MiB           -   12.00 MiB    1.6 s

The upstream registry sent 4.00 MiB in 5 requests for blobs (and answered 2 for manifests):
upstream bytes / image bytes = 1.00 for 2 nodes. Every image is the same, byte for byte.
";
        assert_eq!(round().table(), expected);
    }

    #[test]
    fn a_second_round_is_a_sentence() {
        let mut round = round();
        for node in &mut round.nodes {
            node.store = std::mem::take(&mut node.fetched).sum();
        }
        round.upstream.blob_bytes = 0;
        let expected = "Pulled again on all nodes at once, in 1.6 s: 8.00 MiB from the nodes' own stores, \
                        0 B from seed and peers; the upstream registry sent 0 B.";
        assert_eq!(round.sentence(), expected);
        assert!(round.ratio() == 0.0);
    }
}
