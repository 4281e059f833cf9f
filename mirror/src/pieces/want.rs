//! The list of pieces a child wants: `0-3,7-7`.

use std::ops::Range;

use darner_proto::geometry::MAX_PIECES;
use darner_proto::invalid::Invalid;

/// A child names a handful of ranges; a longer list is not one of ours.
const MAX_RANGES: usize = 64;

/// Parses a list of inclusive ranges, in the child's order of preference.
pub(super) fn parse(text: &str) -> Result<Vec<Range<u32>>, Invalid> {
    let bad = || Invalid::new("want", "is not a list of piece ranges such as 0-3,7-7");
    let ranges: Vec<_> = text
        .split(',')
        .take(MAX_RANGES + 1)
        .map(|range| {
            let (first, last) = range.split_once('-')?;
            let first: u32 = first.parse().ok()?;
            let last: u32 = last.parse().ok()?;
            (first <= last && u64::from(last) < MAX_PIECES).then_some(first..last + 1)
        })
        .collect::<Option<_>>()
        .ok_or_else(bad)?;
    if ranges.len() > MAX_RANGES {
        return Err(bad());
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_are_read_and_nonsense_refused() {
        assert_eq!(parse("0-3,7-7"), Ok(vec![0..4, 7..8]));
        for bad in [
            "",
            "3",
            "3-1",
            "a-b",
            "0-4096",
            "1-2,",
            "-1",
            "1--2",
            "99999999999-1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let many = vec!["1-1"; MAX_RANGES + 1].join(",");
        assert!(parse(&many).is_err());
    }

    proptest! {
        #[test]
        fn no_input_panics(text in "[0-9,-]{0,40}") {
            let _ = parse(&text);
        }
    }
}
