//! What this node tells the manager of its own counters.

use std::collections::BTreeMap;

use darner_proto::figures::{Figures, MAX_UPSTREAMS, Served, UpstreamFigures};
use darner_service::directory::orders::Orders;
use darner_service::metrics::Metrics;
use darner_service::metrics::samples::{samples, sum};

/// Has each keep-alive of `orders` tell what `metrics` have counted by then.
pub(crate) fn tell(orders: &Orders, metrics: &Metrics) {
    let metrics = metrics.clone();
    orders.count(move || Some(read(&metrics.encode().ok()?)));
}

/// A node's numbers, out of the Prometheus text of its metrics.
fn read(text: &str) -> Figures {
    let mut served = Served::default();
    for sample in samples(text, "darner_served_bytes_total") {
        let part = match sample.label("source") {
            Some("store") => &mut served.store,
            Some("peer") => &mut served.peer,
            Some("seed") => &mut served.seed,
            _ => &mut served.upstream,
        };
        *part += sample.value;
    }
    Figures {
        served,
        requests: sum(text, "darner_served_requests_total"),
        errors: sum(text, "darner_request_errors_total"),
        uploaded_bytes: sum(text, "darner_uploaded_bytes_total"),
        running: sum(text, "darner_tasks_running"),
        held_bytes: sum(text, "darner_store_bytes"),
        capacity_bytes: sum(text, "darner_store_capacity_bytes"),
        upstreams: upstreams(text),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn upstreams(text: &str) -> Vec<UpstreamFigures> {
    let mut found: BTreeMap<&str, UpstreamFigures> = BTreeMap::new();
    let mut each = |name: &str, add: fn(&mut UpstreamFigures, u64)| {
        for sample in samples(text, name) {
            let Some(registry) = sample.label("registry") else {
                continue;
            };
            if let Ok(parsed) = registry.parse() {
                let upstream = found.entry(registry).or_insert_with(|| UpstreamFigures {
                    registry: parsed,
                    requests: 0,
                    bytes: 0,
                    errors: 0,
                    limit: None,
                    remaining: None,
                    quiet_until: 0,
                });
                add(upstream, sample.value);
            }
        }
    };
    each("darner_upstream_requests_total", |to, value| {
        to.requests += value
    });
    each("darner_upstream_bytes_total", |to, value| to.bytes += value);
    each("darner_upstream_errors_total", |to, value| {
        to.errors += value
    });
    each("darner_upstream_rate_limit", |to, value| {
        to.limit = Some(value)
    });
    each("darner_upstream_rate_limit_remaining", |to, value| {
        to.remaining = Some(value);
    });
    each(
        "darner_upstream_quiet_until_timestamp_seconds",
        |to, value| {
            to.quiet_until = value;
        },
    );
    found.into_values().take(MAX_UPSTREAMS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_numbers_are_those_of_its_metrics() {
        let text = "\
darner_served_bytes_total{source=\"store\"} 10
darner_served_bytes_total{source=\"seed\"} 5
darner_served_requests_total{kind=\"blob\",status=\"2xx\",source=\"store\"} 2
darner_served_requests_total{kind=\"ping\",status=\"2xx\",source=\"none\"} 1
darner_tasks_running 3
darner_store_bytes 15
darner_store_capacity_bytes 100
darner_upstream_requests_total{registry=\"docker.io\",method=\"GET\",kind=\"blob\",status=\"2xx\"} 4
darner_upstream_requests_total{registry=\"docker.io\",method=\"HEAD\",kind=\"manifest\",status=\"2xx\"} 2
darner_upstream_rate_limit{registry=\"docker.io\"} 100
darner_upstream_rate_limit_remaining{registry=\"docker.io\"} 97
darner_upstream_bytes_total{registry=\"ghcr.io\",kind=\"blob\"} 9
";
        let figures = read(text);
        assert_eq!((figures.served.store, figures.served.seed), (10, 5));
        assert_eq!((figures.requests, figures.running), (3, 3));
        assert_eq!((figures.held_bytes, figures.capacity_bytes), (15, 100));
        let [docker, ghcr] = &figures.upstreams[..] else {
            panic!("{figures:?}");
        };
        assert_eq!((docker.requests, docker.remaining), (6, Some(97)));
        assert_eq!((docker.limit, ghcr.limit), (Some(100), None));
        assert_eq!((ghcr.registry.as_str(), ghcr.bytes), ("ghcr.io", 9));
    }
}
