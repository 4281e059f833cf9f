//! How much a registry still lets us ask, as its headers say: pure.
//!
//! Docker Hub sends `RateLimit-Limit: 100;w=21600` and `RateLimit-Remaining: 76;w=21600`; others
//! follow the drafts of the IETF, in three headers or in one (`RateLimit: limit=100, remaining=50,
//! reset=5`).

use std::time::Duration;

use http::HeaderMap;

/// What the headers say.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowance {
    pub(super) limit: Option<u64>,
    pub(super) remaining: Option<u64>,
    /// When there is more again.
    pub(super) reset: Option<Duration>,
}

impl Allowance {
    /// Reads the headers of an answer; `None` when it has none of them.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        let alone = |name: &str| number(text(name)?.split([';', ',']).next()?);
        let mut found = Self {
            limit: alone("ratelimit-limit"),
            remaining: alone("ratelimit-remaining"),
            reset: alone("ratelimit-reset").map(Duration::from_secs),
        };
        for part in text("ratelimit").unwrap_or_default().split([',', ';']) {
            let Some((name, value)) = part.split_once('=') else {
                continue;
            };
            match name.trim() {
                "limit" => found.limit = number(value),
                "remaining" | "r" => found.remaining = number(value),
                "reset" | "t" => found.reset = number(value).map(Duration::from_secs),
                _ => {}
            }
        }
        (found != Self::default()).then_some(found)
    }

    /// How long to wait before the next request, when nothing is left and it says until when.
    pub(super) fn wait(&self) -> Option<Duration> {
        self.reset.filter(|_| self.remaining == Some(0))
    }
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(list: &[(&'static str, &str)]) -> Option<Allowance> {
        let headers = list.iter().map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, value.parse().unwrap())
        });
        Allowance::of(&headers.collect())
    }

    #[test]
    fn every_form_in_use_is_read() {
        let hub = of(&[
            ("ratelimit-limit", "100;w=21600"),
            ("ratelimit-remaining", "76;w=21600"),
        ]);
        let hub = hub.unwrap();
        assert_eq!((hub.limit, hub.remaining), (Some(100), Some(76)));
        assert_eq!(hub.wait(), None);
        let three = of(&[
            ("ratelimit-limit", "10, 10;w=1"),
            ("ratelimit-remaining", "0"),
            ("ratelimit-reset", "7"),
        ]);
        assert_eq!(three.unwrap().wait(), Some(Duration::from_secs(7)));
        let one = of(&[("ratelimit", "limit=100, remaining=0, reset=5")]);
        assert_eq!(one.unwrap().wait(), Some(Duration::from_secs(5)));
        let newest = of(&[("ratelimit", "\"default\";r=50;t=30")]).unwrap();
        assert_eq!(newest.remaining, Some(50));
    }

    #[test]
    fn nonsense_is_nothing() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("ratelimit-limit", "many")]), None);
        assert_eq!(of(&[("ratelimit-remaining", "-1")]), None);
        assert_eq!(of(&[("ratelimit", ";;=,")]), None);
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in "[ -~]{0,40}") {
            let _ = of(&[("ratelimit", &text), ("ratelimit-limit", &text)]);
        }
    }
}
