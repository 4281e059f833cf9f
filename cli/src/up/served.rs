//! What a mirror has served, out of its own metrics, in one line.

use std::collections::BTreeMap;

use bytesize::ByteSize;

const BYTES: &str = "darner_served_bytes_total";
const REQUESTS: &str = "darner_served_requests_total";

/// Such as `served 12 requests, 34.5 MiB: store 20.0 MiB, upstream 14.5 MiB`, out of the Prometheus
/// text of all metrics.
pub(super) fn line(metrics: &str) -> String {
    let requests: u64 = series(metrics, REQUESTS).map(|(_, value)| value).sum();
    let mut sources: BTreeMap<&str, u64> = BTreeMap::new();
    for (labels, value) in series(metrics, BYTES) {
        *sources.entry(label(labels, "source")).or_default() += value;
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

/// The labels and value of every series of `name`, a counter.
fn series<'a>(metrics: &'a str, name: &str) -> impl Iterator<Item = (&'a str, u64)> {
    metrics.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once("} ")?,
            None => ("", rest.strip_prefix(' ')?),
        };
        Some((labels, value.parse().ok()?))
    })
}

/// The value of label `name`; its values have no quotes in them.
fn label<'a>(labels: &'a str, name: &str) -> &'a str {
    let value = labels.split(',').find_map(|label| {
        let value = label.strip_prefix(name)?.strip_prefix("=\"")?;
        value.strip_suffix('"')
    });
    value.unwrap_or("other")
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
