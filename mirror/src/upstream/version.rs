//! Which version of a file an answer is about, and whether it may be shared. Pure.

use std::time::Duration;

use darner_proto::file::Validator;
use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_RANGE, DATE, ETAG, LAST_MODIFIED, SET_COOKIE, VARY,
};
use http::{HeaderMap, StatusCode};

use super::answer::{content_length, content_range};

/// A file that was changed less than this before the answer may change again without its date
/// changing (RFC 9110, section 8.8.2.2).
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// What an answer may depend on without being another for another caller of ours: how it is
/// encoded, which is always not at all, and who may read it in a browser.
const HARMLESS: [&str; 5] = [
    "accept-encoding",
    "origin",
    "access-control-request-headers",
    "access-control-request-method",
    "range",
];

/// By what the answer's version is told from others.
pub(super) fn validator(headers: &HeaderMap) -> Option<Validator> {
    let text = |name| headers.get(name)?.to_str().ok();
    if let Some(tag) = text(ETAG).and_then(Validator::strong_tag) {
        return Some(tag);
    }
    let modified = text(LAST_MODIFIED)?;
    let changed = httpdate::parse_http_date(modified).ok()?;
    let answered = httpdate::parse_http_date(text(DATE)?).ok()?;
    let settled = answered.duration_since(changed).ok()? >= SETTLED_AFTER;
    settled.then(|| Validator::modified(modified)).flatten()
}

/// Whether the answer is about the version `expected`. A date that is too young to be a validator
/// of its own still says that nothing has changed.
pub(super) fn is_of(headers: &HeaderMap, expected: &Validator) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match expected {
        Validator::Tag(tag) => text(ETAG) == Some(tag),
        Validator::Modified(date) => text(LAST_MODIFIED) == Some(date),
    }
}

/// The size of the whole file, if the answer tells.
pub(super) fn size(status: StatusCode, headers: &HeaderMap) -> Option<u64> {
    match status {
        StatusCode::PARTIAL_CONTENT => {
            let range = headers.get(CONTENT_RANGE)?.to_str().ok()?;
            content_range(range)?.1
        }
        _ => content_length(headers),
    }
}

/// Whether one caller's answer is good for another.
pub(super) fn may_be_shared(headers: &HeaderMap) -> bool {
    let parts = |name| {
        let values = headers.get_all(name).into_iter();
        values
            .flat_map(|value| value.to_str().unwrap_or("*").split(','))
            .map(|part| part.trim().to_ascii_lowercase())
            .collect::<Vec<_>>()
    };
    let kept_back = parts(CACHE_CONTROL)
        .iter()
        .any(|part| part == "no-store" || part == "private" || part.starts_with("private="));
    let varies = parts(VARY)
        .iter()
        .any(|part| !part.is_empty() && !HARMLESS.contains(&part.as_str()));
    let encoded = parts(CONTENT_ENCODING)
        .iter()
        .any(|part| part != "identity");
    !kept_back && !varies && !encoded && !headers.contains_key(SET_COOKIE)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    const CHANGED: (&str, &str) = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
    const LATER: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:49:38 GMT");
    const AT_ONCE: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");

    #[test]
    fn a_strong_tag_counts_and_else_a_settled_date() {
        let tag = Validator::strong_tag("\"a\"");
        let date = Validator::modified(CHANGED.1);
        for (list, expected) in [
            (&[("etag", "\"a\""), CHANGED, LATER][..], &tag),
            (&[("etag", "\"a\"")], &tag),
            (&[("etag", "W/\"a\""), CHANGED, LATER], &date),
            (&[CHANGED, LATER], &date),
            (&[CHANGED, AT_ONCE], &None),
            (&[CHANGED], &None),
            (&[("etag", "W/\"a\"")], &None),
            (&[("last-modified", "yesterday"), LATER], &None),
            (&[], &None),
        ] {
            assert_eq!(&validator(&headers(list)), expected, "{list:?}");
        }
        assert!(is_of(&headers(&[CHANGED, AT_ONCE]), &date.unwrap()));
        assert!(!is_of(&headers(&[("etag", "\"b\"")]), &tag.unwrap()));
    }

    #[test]
    fn what_is_one_callers_is_not_shared() {
        for list in [
            &[("cache-control", "max-age=0, No-Store")][..],
            &[("cache-control", "private")],
            &[("vary", "*")],
            &[("vary", "Accept-Encoding, Cookie")],
            &[("content-encoding", "gzip")],
            &[("set-cookie", "a=b")],
        ] {
            assert!(!may_be_shared(&headers(list)), "{list:?}");
        }
        for list in [
            &[("cache-control", "public, max-age=60")][..],
            &[("vary", "Accept-Encoding, Origin")],
            &[],
        ] {
            assert!(may_be_shared(&headers(list)), "{list:?}");
        }
    }

    #[test]
    fn the_size_is_the_whole_files() {
        let part = headers(&[("content-range", "bytes 0-0/100"), ("content-length", "1")]);
        assert_eq!(size(StatusCode::PARTIAL_CONTENT, &part), Some(100));
        assert_eq!(size(StatusCode::OK, &part), Some(1));
        assert_eq!(size(StatusCode::OK, &headers(&[])), None);
    }
}
