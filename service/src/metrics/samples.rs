//! Reads the Prometheus text of [`super::Metrics::encode`] back, for those in this process who show or
//! tell what was counted.

/// One series: its labels and its value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample<'a> {
    labels: &'a str,
    /// Its value.
    pub value: u64,
}

/// Every series of `name` in `text`: of a counter, or of a gauge that is a whole number.
pub fn samples<'a>(text: &'a str, name: &str) -> impl Iterator<Item = Sample<'a>> {
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once("} ")?,
            None => ("", rest.strip_prefix(' ')?),
        };
        let value = value.parse().ok()?;
        Some(Sample { labels, value })
    })
}

/// All series of `name` together.
pub fn sum(text: &str, name: &str) -> u64 {
    let values = samples(text, name).map(|sample| sample.value);
    values.fold(0, u64::saturating_add)
}

impl<'a> Sample<'a> {
    /// The value of label `name`; our labels' values have no quotes or commas in them.
    pub fn label(&self, name: &str) -> Option<&'a str> {
        self.labels.split(',').find_map(|label| {
            let value = label.strip_prefix(name)?.strip_prefix("=\"")?;
            value.strip_suffix('"')
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_have_labels_and_values() {
        let text = "\
# TYPE darner_a_total counter
darner_a_total{source=\"store\",other=\"x\"} 10
darner_a_total{other=\"y\"} 5
darner_a_total_more 9
darner_b 7
darner_c 0.5
";
        let found: Vec<_> = samples(text, "darner_a_total").collect();
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].label("source"), found[0].value),
            (Some("store"), 10)
        );
        assert_eq!((found[1].label("source"), found[1].value), (None, 5));
        assert_eq!(sum(text, "darner_a_total"), 15);
        assert_eq!(sum(text, "darner_b"), 7);
        assert_eq!(sum(text, "darner_c"), 0);
        assert_eq!(sum(text, "darner_d"), 0);
    }
}
