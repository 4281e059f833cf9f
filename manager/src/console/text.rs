//! Numbers and times as people read them.

use std::time::{Duration, UNIX_EPOCH};

use bytesize::ByteSize;
use maud::{Markup, html};

/// Such as `34.5 MiB`.
pub(super) fn bytes(count: u64) -> String {
    ByteSize::b(count).to_string()
}

/// With a thin space between thousands.
pub(super) fn number(count: u64) -> String {
    let digits = count.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups: Vec<_> = groups.map(String::from_utf8_lossy).collect();
    groups.join("\u{202f}")
}

/// Such as `97.5 %`.
pub(super) fn percent(ratio: f64) -> String {
    format!("{:.1} %", ratio * 100.0)
}

/// `part` of `whole` in hundredths, 0 when there is nothing.
pub(super) fn hundredths(part: u64, whole: u64) -> u64 {
    match whole {
        0 => 0,
        whole => u64::try_from(u128::from(part) * 100 / u128::from(whole)).unwrap_or(100),
    }
}

/// Enough of a digest to tell it from others.
pub(super) fn short(digest: &str) -> &str {
    digest.get(..19).unwrap_or(digest)
}

/// A unix time in ms.
pub(super) fn time(ms: u64) -> Markup {
    let at = UNIX_EPOCH + Duration::from_millis(ms);
    let written = humantime::format_rfc3339_seconds(at).to_string();
    let shown = written.replace('T', " ").replace('Z', " UTC");
    html! { time datetime=(written) { (shown) } }
}

/// The time of day of a unix time in ms, such as `14:05`.
pub(super) fn clock(ms: u64) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(ms);
    let written = humantime::format_rfc3339_seconds(at).to_string();
    written.get(11..16).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(number(7), "7");
        assert_eq!(number(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(hundredths(1, 3), 33);
        assert_eq!(hundredths(u64::MAX, u64::MAX), 100);
        assert_eq!(hundredths(1, 0), 0);
        assert_eq!(clock(50_700_000), "14:05");
    }
}
