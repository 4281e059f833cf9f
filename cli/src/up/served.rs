//! What a mirror has served, out of its own metrics, in one line.

use std::collections::BTreeMap;

use bytesize::ByteSize;
use darner_service::metrics::samples::{samples, sum};

const BYTES: &str = "darner_served_bytes_total";
const REQUESTS: &str = "darner_served_requests_total";

/// Such as `served 12 requests, 34.5 MiB: store 20.0 MiB, upstream 14.5 MiB`, out of the Prometheus
/// text of all metrics.
pub(super) fn line(metrics: &str) -> String {
    let requests = sum(metrics, REQUESTS);
    let mut sources: BTreeMap<&str, u64> = BTreeMap::new();
    for sample in samples(metrics, BYTES) {
        let source = sample.label("source").unwrap_or("other");
        *sources.entry(source).or_default() += sample.value;
    }
    let total: u64 = sources.values().sum();
    let parts: Vec<_> = sources
        .iter()
        .filter(|(_, bytes)| **bytes > 0)
        .map(|(source, bytes)| format!("{source} {}", ByteSize::b(*bytes)))
        .collect();
    let separator = if parts.is_empty() { "" } else { ": " };
    let parts = parts.join(", ");
    format!(
        "served {requests} requests, {}{separator}{parts}",
        ByteSize::b(total)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_served_is_said_so() {
        assert_eq!(line(""), "served 0 requests, 0 B");
    }

    #[test]
    fn series_are_summed_by_source() {
        let metrics = "\
# TYPE darner_served_bytes_total counter
darner_served_bytes_total{source=\"store\"} 1048576
darner_served_bytes_total{source=\"upstream\",other=\"a\"} 512
darner_served_bytes_total{other=\"b\",source=\"upstream\"} 512
darner_served_bytes_total{source=\"peer\"} 0
darner_served_requests_total{kind=\"blob\",status=\"2xx\",source=\"store\"} 3
darner_served_requests_total{kind=\"ping\",status=\"2xx\",source=\"\"} 4
darner_served_requests_total_other 9
";
        let expected = "served 7 requests, 1.0 MiB: store 1.0 MiB, upstream 1.0 KiB";
        assert_eq!(line(metrics), expected);
    }
}
