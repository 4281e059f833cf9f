//! When a schedule fires: a cron expression of five fields, in UTC.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use croner::Cron as Parsed;
use croner::parser::{CronParser, Seconds, Year};
use darner_proto::invalid::Invalid;

/// Longer expressions than any that people read.
const MAX_LENGTH: usize = 256;

/// Minute, hour, day of the month, month, day of the week; or `@daily` and the like.
#[derive(Debug, Clone)]
pub struct Cron {
    text: String,
    parsed: Parsed,
}

impl Cron {
    /// The first time it fires after `ms` (unix time in ms, as is the answer); none for a day that never
    /// comes.
    pub fn after(&self, ms: i64) -> Option<i64> {
        let from: DateTime<Utc> = DateTime::from_timestamp_millis(ms)?;
        let next = self.parsed.find_next_occurrence(&from, false).ok()?;
        Some(next.timestamp_millis()).filter(|next| *next > ms)
    }
}

impl FromStr for Cron {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let text = text.trim();
        if text.len() > MAX_LENGTH {
            return Err(Invalid::new(
                "cron",
                format!("is longer than {MAX_LENGTH} letters"),
            ));
        }
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let parsed = parser.parse(text);
        let parsed = parsed.map_err(|error| {
            let form = "give minute, hour, day of the month, month and day of the week, such as `30 3 * * MON-FRI`";
            Invalid::new("cron", format!("{text:?} is no schedule ({error}); {form}"))
        })?;
        let cron = Self {
            text: text.to_owned(),
            parsed,
        };
        match cron.after(crate::users::now()) {
            Some(_) => Ok(cron),
            None => Err(Invalid::new("cron", format!("{text:?} never comes"))),
        }
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: i64 = 60_000;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;

    fn after(cron: &str, ms: i64) -> i64 {
        cron.parse::<Cron>().unwrap().after(ms).unwrap()
    }

    #[test]
    fn it_fires_in_utc() {
        // 2026-01-01 was a Thursday.
        let new_year = 1_767_225_600_000;
        assert_eq!(after("* * * * *", new_year), new_year + MINUTE);
        assert_eq!(
            after("30 3 * * *", new_year),
            new_year + 3 * HOUR + 30 * MINUTE
        );
        assert_eq!(after("0 0 * * MON", new_year), new_year + 4 * DAY);
        assert_eq!(after("0 0 1 * *", new_year), new_year + 31 * DAY);
        assert_eq!(
            after("*/20 9-17 * * 1-5", new_year + 1),
            new_year + 9 * HOUR
        );
        assert_eq!(after("@daily", new_year - 1), new_year);
        assert_eq!(
            after("0 0 29 2 *", new_year),
            1_835_395_200_000,
            "2028-02-29"
        );
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for bad in [
            "",
            "* * * *",
            "60 * * * *",
            "* * * * * *",
            "0 0 30 2 *",
            "a b c d e",
        ] {
            let refused = bad.parse::<Cron>().unwrap_err();
            assert!(
                refused.to_string().starts_with("cron: "),
                "{bad}: {refused}"
            );
        }
        assert!("0,".repeat(200).parse::<Cron>().is_err());
    }

    proptest! {
        /// Whatever the expression and the moment: the next time is later, and on a whole minute.
        #[test]
        fn it_never_fires_before_or_at_the_last_time(
            minute in 0u32..60, step in 1u32..30, hour in 0u32..24, from in 0i64..4_000_000_000_000
        ) {
            for cron in [format!("{minute} {hour} * * *"), format!("*/{step} * * * *")] {
                let cron: Cron = cron.parse().unwrap();
                let next = cron.after(from).unwrap();
                prop_assert!(next > from && next <= from + 2 * DAY);
                prop_assert_eq!(next % MINUTE, 0);
            }
        }
    }
}
