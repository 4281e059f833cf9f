//! Which bytes of a content a request wants (RFC 9110, section 14): pure.

use std::ops::Range;

use axum::http::{HeaderMap, header};

/// The part of a content that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it, answered with 200.
    Whole,
    /// These bytes, which are not none, answered with 206.
    Part(Range<u64>),
    /// None that it has: 416.
    Outside,
}

/// What a `GET` with these headers wants of content that has `size` bytes and this entity tag.
///
/// Several ranges are answered with the whole, as the RFC allows. So is any range of empty content:
/// a client that asks for everything in ranges could not read it otherwise.
pub(crate) fn wanted(headers: &HeaderMap, size: u64, etag: &str) -> Wanted {
    let mut lines = headers.get_all(header::RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return Wanted::Whole;
    };
    let other_version = headers
        .get(header::IF_RANGE)
        .is_some_and(|tag| tag.as_bytes() != etag.as_bytes());
    if size == 0 || other_version {
        return Wanted::Whole;
    }
    let Ok(line) = line.to_str() else {
        return Wanted::Outside;
    };
    match line.split_once('=') {
        Some((unit, ranges)) if unit.trim().eq_ignore_ascii_case("bytes") => {
            if ranges.contains(',') {
                return Wanted::Whole;
            }
            part(ranges.trim(), size).map_or(Wanted::Outside, Wanted::Part)
        }
        // A unit that is not known is ignored.
        Some(_) => Wanted::Whole,
        None => Wanted::Outside,
    }
}

/// `first-last`, `first-` or `-length`, as far as the content reaches.
fn part(range: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = range.split_once('-')?;
    let range = match (first, last) {
        ("", length) => size.saturating_sub(number(length)?)..size,
        (first, "") => number(first)?..size,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(size)
        }
    };
    (range.start < range.end).then_some(range)
}

/// Digits only. A number beyond 64 bits is beyond every content.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(range: &str, size: u64) -> Wanted {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, range.parse().unwrap());
        wanted(&headers, size, "\"tag\"")
    }

    #[test]
    fn single_ranges() {
        assert_eq!(of("bytes=0-9", 100), Wanted::Part(0..10));
        assert_eq!(of("bytes=0-", 100), Wanted::Part(0..100));
        assert_eq!(of("bytes=99-", 100), Wanted::Part(99..100));
        assert_eq!(of("bytes=-5", 100), Wanted::Part(95..100));
        assert_eq!(of("bytes=-500", 100), Wanted::Part(0..100));
        assert_eq!(of("bytes=90-500", 100), Wanted::Part(90..100));
        assert_eq!(of("Bytes= 1-1 ", 100), Wanted::Part(1..2));
        assert_eq!(
            of("bytes=5-99999999999999999999999999", 100),
            Wanted::Part(5..100)
        );
    }

    #[test]
    fn ranges_that_are_not_there() {
        for range in [
            "bytes=100-",
            "bytes=100-200",
            "bytes=-0",
            "bytes=9-5",
            "bytes=a-b",
            "bytes=",
            "bytes=-",
            "bytes=+1-2",
            "bytes=1",
            "0-5",
            "bytes=99999999999999999999999999-",
        ] {
            assert_eq!(of(range, 100), Wanted::Outside, "{range}");
        }
    }

    #[test]
    fn what_is_answered_with_the_whole() {
        assert_eq!(wanted(&HeaderMap::new(), 100, ""), Wanted::Whole);
        assert_eq!(of("bytes=0-1,5-6", 100), Wanted::Whole);
        assert_eq!(of("lines=0-1", 100), Wanted::Whole);
        assert_eq!(of("bytes=0-", 0), Wanted::Whole);
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, "bytes=0-1".parse().unwrap());
        headers.append(header::RANGE, "bytes=5-6".parse().unwrap());
        assert_eq!(wanted(&headers, 100, "\"tag\""), Wanted::Whole);
    }

    #[test]
    fn a_range_of_another_version_is_answered_with_the_whole() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, "bytes=0-1".parse().unwrap());
        headers.insert(header::IF_RANGE, "\"tag\"".parse().unwrap());
        assert_eq!(wanted(&headers, 100, "\"tag\""), Wanted::Part(0..2));
        assert_eq!(wanted(&headers, 100, "\"other\""), Wanted::Whole);
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_content(range in "bytes=[0-9]{0,4}-[0-9]{0,4}", size in 0u64..5000) {
            if let Wanted::Part(part) = of(&range, size) {
                prop_assert!(part.start < part.end && part.end <= size);
            }
        }

        #[test]
        fn any_text_is_taken(range in "[ -~]{0,40}", size: u64) {
            let _ = of(&range, size);
        }
    }
}
