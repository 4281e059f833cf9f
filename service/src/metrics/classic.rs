//! From OpenMetrics text, which the metrics library writes, to the classic Prometheus text format,
//! which everything reads.
//!
//! They differ in little: in the classic form a counter's family has the name of its samples
//! (`…_total`), the type `unknown` is called `untyped`, and there are no units and no end mark. The
//! libraries' `info` type is not used here: the classic form has none.

/// `text` in the classic form.
pub(super) fn from_open_metrics(text: &str) -> String {
    let mut classic = String::with_capacity(text.len());
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            // The type follows at once.
            let is_counter = lines.peek().is_some_and(|next| next.ends_with(" counter"));
            describe(&mut classic, "HELP", help, is_counter);
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            match kind.strip_suffix(" unknown") {
                Some(name) => describe(&mut classic, "TYPE", &format!("{name} untyped"), false),
                None => describe(&mut classic, "TYPE", kind, kind.ends_with(" counter")),
            }
        } else if !line.starts_with('#') {
            classic.push_str(line);
            classic.push('\n');
        }
    }
    classic
}

/// A line about a family, from its name and what is said of it.
fn describe(classic: &mut String, what: &str, line: &str, is_counter: bool) {
    let (name, said) = line.split_once(' ').unwrap_or((line, ""));
    let total = if is_counter { "_total" } else { "" };
    classic.push_str(&format!("# {what} {name}{total} {said}\n"));
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::metrics::histogram::Histogram;
    use prometheus_client::registry::{Registry, Unit};

    use super::*;

    #[test]
    fn families_have_the_names_of_their_samples() {
        let mut registry = Registry::with_prefix("darner");
        let counter: Counter = Counter::default();
        registry.register("tasks", "Tasks", counter.clone());
        let gauge: Gauge = Gauge::default();
        registry.register_with_unit("held", "Held", Unit::Bytes, gauge.clone());
        let histogram = Histogram::new([0.5]);
        registry.register("wait_seconds", "Waits", histogram.clone());
        counter.inc();
        histogram.observe(0.25);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let expected = "\
# HELP darner_tasks_total Tasks.
# TYPE darner_tasks_total counter
darner_tasks_total 1
# HELP darner_held_bytes Held.
# TYPE darner_held_bytes gauge
darner_held_bytes 0
# HELP darner_wait_seconds Waits.
# TYPE darner_wait_seconds histogram
darner_wait_seconds_sum 0.25
darner_wait_seconds_count 1
darner_wait_seconds_bucket{le=\"0.5\"} 1
darner_wait_seconds_bucket{le=\"+Inf\"} 1
";
        assert_eq!(from_open_metrics(&text), expected);
    }

    #[test]
    fn what_has_no_type_is_untyped() {
        let text = "# HELP x X.\n# TYPE x unknown\nx 1\n# EOF\n";
        let expected = "# HELP x X.\n# TYPE x untyped\nx 1\n";
        assert_eq!(from_open_metrics(text), expected);
    }
}
