//! What nodes say of themselves, read from their metrics as Prometheus would.

use std::ops::Sub;

/// Bytes that came to a node, by where from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Fetched {
    pub(super) upstream: u64,
    pub(super) seed: u64,
    pub(super) peers: u64,
}

impl Fetched {
    /// Reads it from a node's metrics.
    pub(super) fn read(metrics: &str) -> Self {
        let from = |source| sum(metrics, "darner_fetched_bytes_total", ("source", source));
        Self {
            upstream: from("upstream"),
            seed: from("seed"),
            peers: from("peer"),
        }
    }

    /// From everywhere.
    pub(super) fn sum(self) -> u64 {
        self.upstream + self.seed + self.peers
    }
}

impl Sub for Fetched {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            upstream: self.upstream - before.upstream,
            seed: self.seed - before.seed,
            peers: self.peers - before.peers,
        }
    }
}

/// The sum of the samples of `metric` that have a label of this value. Label values of ours have no
/// characters that would need escapes.
pub(super) fn sum(text: &str, metric: &str, (label, value): (&str, &str)) -> u64 {
    text.lines()
        .filter_map(|line| {
            let (labels, sample) = line
                .strip_prefix(metric)?
                .strip_prefix('{')?
                .split_once("} ")?;
            let found = labels
                .split(',')
                .find_map(|pair| pair.strip_prefix(label))?;
            let found = found.strip_prefix("=\"")?.strip_suffix('"')?;
            // Metric values are spelt in either case.
            found.eq_ignore_ascii_case(value).then_some(sample)
        })
        .filter_map(|sample| sample.split(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP darner_fetched_bytes_total Bytes
# TYPE darner_fetched_bytes_total counter
darner_fetched_bytes_total{source=\"peer\"} 5
darner_fetched_bytes_total{source=\"Upstream\"} 70
darner_fetched_bytes_total_more{source=\"peer\"} 900
darner_hosts{zone=\"a\",role=\"mirror\"} 2
darner_hosts{zone=\"b\",role=\"mirror\"} 3
darner_hosts{zone=\"b\",role=\"seed\"} 1
darner_plain 7
";

    #[test]
    fn samples_are_summed_by_label() {
        let expected = Fetched {
            upstream: 70,
            seed: 0,
            peers: 5,
        };
        assert_eq!(Fetched::read(TEXT), expected);
        assert_eq!(expected.sum(), 75);
        assert_eq!(sum(TEXT, "darner_hosts", ("role", "mirror")), 5);
        assert_eq!(sum(TEXT, "darner_hosts", ("role", "scheduler")), 0);
        assert_eq!(sum(TEXT, "darner_plain", ("role", "mirror")), 0);
    }
}
