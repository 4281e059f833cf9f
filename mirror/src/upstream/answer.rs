//! What the headers of an answer say, checked against what was asked. Pure.

use std::ops::Range;

use darner_proto::digest::Digest;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, StatusCode};
use serde::Deserialize;

use super::error::Fault;

/// The digest of a manifest, as a registry states it.
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// What a server says of a file that it knows nothing about.
const VAGUE_TYPES: [&str; 4] = [
    "application/json",
    "application/octet-stream",
    "binary/octet-stream",
    "text/plain",
];
/// RFC 6838 allows 127 characters on each side of the slash.
const MAX_MEDIA_TYPE: usize = 255;

/// Refuses content that is not sent as it is.
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<(), Fault> {
    let encoded = headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if encoded {
        return Err(Fault::Nonsense("encoded content where none was asked for"));
    }
    Ok(())
}

/// `Content-Length`, if there is a readable one.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// `Docker-Content-Digest`. One of an algorithm that we do not know is as good as none.
pub(super) fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(CONTENT_DIGEST)?.to_str().ok()?.parse().ok()
}

/// `Content-Type` without parameters.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next().unwrap_or_default().trim();
    is_media_type(essence).then(|| essence.to_ascii_lowercase())
}

fn is_media_type(text: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
    let is_token = |part: &str| !part.is_empty() && part.bytes().all(token);
    text.len() <= MAX_MEDIA_TYPE
        && text
            .split_once('/')
            .is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype))
}

/// A manifest's media type: what the header says, or where that says nothing of use, what the
/// manifest says of itself, or is by its shape.
pub(super) fn manifest_type(headers: &HeaderMap, manifest: &[u8]) -> Result<String, Fault> {
    let told = media_type(headers);
    if let Some(told) = &told
        && !VAGUE_TYPES.contains(&told.as_str())
    {
        return Ok(told.clone());
    }
    let shape: Option<Shape> = serde_json::from_slice(manifest).ok();
    let shown = shape.and_then(Shape::media_type);
    shown
        .or(told)
        .ok_or(Fault::Nonsense("a manifest without a media type"))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

impl Shape {
    fn media_type(self) -> Option<String> {
        let written = self.media_type.filter(|text| is_media_type(text));
        written.or_else(|| match (self.manifests, self.layers) {
            (Some(_), None) => Some(OCI_INDEX.to_owned()),
            (None, Some(_)) => Some(OCI_MANIFEST.to_owned()),
            _ => None,
        })
    }
}

/// Which bytes of a content of `size` bytes an answer brings to a request for `asked`: `true` for
/// just those, `false` for all of them.
pub(super) fn blob_range(
    status: StatusCode,
    headers: &HeaderMap,
    asked: &Range<u64>,
    size: u64,
) -> Result<(bool, Range<u64>), Fault> {
    let (ranged, range) = match status {
        StatusCode::PARTIAL_CONTENT => {
            check_content_range(headers, asked, size)?;
            (true, asked.clone())
        }
        StatusCode::OK => (false, 0..size),
        _ => return Err(Fault::Status(status)),
    };
    match content_length(headers) {
        Some(length) if length != range.end - range.start => Err(Fault::Nonsense(
            "a blob of another size than its manifest says",
        )),
        _ => Ok((ranged, range)),
    }
}

fn check_content_range(headers: &HeaderMap, asked: &Range<u64>, size: u64) -> Result<(), Fault> {
    let value = headers
        .get(CONTENT_RANGE)
        .and_then(|value| value.to_str().ok());
    let (range, total) = value
        .and_then(content_range)
        .ok_or(Fault::Nonsense("a 206 without a readable Content-Range"))?;
    if range != *asked {
        return Err(Fault::Nonsense("another range than the one asked for"));
    }
    if total.is_some_and(|total| total != size) {
        return Err(Fault::Nonsense(
            "a blob of another size than its manifest says",
        ));
    }
    Ok(())
}

/// `bytes 0-9/10` or `bytes 0-9/*`: the range, and the total where it is told.
pub(super) fn content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (unit, rest) = text.split_once(' ')?;
    let (range, total) = rest.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let total = match total {
        "*" => None,
        total => Some(number(total)?),
    };
    let end = last.checked_add(1)?;
    let fits = first <= last && total.is_none_or(|total| end <= total);
    (unit.eq_ignore_ascii_case("bytes") && fits).then_some((first..end, total))
}

/// Digits only: the standard parser takes a plus sign, too.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    fn range(
        status: u16,
        list: &[(&'static str, &str)],
        asked: Range<u64>,
    ) -> Option<(bool, Range<u64>)> {
        let status = StatusCode::from_u16(status).unwrap();
        blob_range(status, &headers(list), &asked, 100).ok()
    }

    #[test]
    fn a_206_must_be_what_was_asked_for() {
        let asked = 10..20;
        let good = [("content-range", "bytes 10-19/100")];
        assert_eq!(range(206, &good, asked.clone()), Some((true, 10..20)));
        let unknown_total = [("content-range", "bytes 10-19/*")];
        assert!(range(206, &unknown_total, asked.clone()).is_some());
        for bad in [
            "bytes 10-20/100",
            "bytes 0-9/100",
            "bytes 10-19/101",
            "bytes 10-19/15",
            "bytes 19-10/100",
            "bytes +10-19/100",
            "bytes 10-19",
            "items 10-19/100",
            "bytes */100",
            "10-19/100",
            "bytes 10-18446744073709551615/*",
        ] {
            let list = [("content-range", bad)];
            assert!(range(206, &list, asked.clone()).is_none(), "{bad}");
        }
        assert!(range(206, &[], asked.clone()).is_none());
        let short = [
            ("content-range", "bytes 10-19/100"),
            ("content-length", "9"),
        ];
        assert!(range(206, &short, asked).is_none());
    }

    #[test]
    fn a_200_is_the_whole_content() {
        let right = [("content-length", "100")];
        assert_eq!(range(200, &right, 10..20), Some((false, 0..100)));
        assert_eq!(range(200, &[], 0..100), Some((false, 0..100)));
        assert!(range(200, &[("content-length", "10")], 10..20).is_none());
        assert!(range(204, &[], 0..100).is_none());
    }

    #[test]
    fn encodings_are_refused() {
        assert!(check_encoding(&headers(&[])).is_ok());
        assert!(check_encoding(&headers(&[("content-encoding", "Identity")])).is_ok());
        assert!(check_encoding(&headers(&[("content-encoding", "gzip")])).is_err());
    }

    #[test]
    fn media_types_come_from_the_header_else_from_the_manifest() {
        let docker = "application/vnd.docker.distribution.manifest.v2+json";
        let written = format!(r#"{{"mediaType":"{docker}","layers":[]}}"#);
        for (header, json, expected) in [
            (Some(docker), "{}", Some(docker)),
            (
                Some("Application/vnd.oci.image.index.v1+json; charset=utf-8"),
                "{}",
                Some(OCI_INDEX),
            ),
            (None, written.as_str(), Some(docker)),
            (Some("application/json"), written.as_str(), Some(docker)),
            (
                Some("text/plain; charset=utf-8"),
                r#"{"manifests":[]}"#,
                Some(OCI_INDEX),
            ),
            (None, r#"{"layers":[]}"#, Some(OCI_MANIFEST)),
            (Some("application/json"), "{}", Some("application/json")),
            (None, "{}", None),
            (None, r#"{"mediaType":"a b\r\nc/d"}"#, None),
            (None, "not json", None),
        ] {
            let mut map = HeaderMap::new();
            if let Some(header) = header {
                map.insert(CONTENT_TYPE, header.parse().unwrap());
            }
            let found = manifest_type(&map, json.as_bytes()).ok();
            assert_eq!(found.as_deref(), expected, "{header:?} {json}");
        }
    }

    proptest! {
        #[test]
        fn content_ranges_are_read_as_written(first in 0..u64::MAX / 2, length in 1..u64::MAX / 4, more in 0..100u64) {
            let last = first + length - 1;
            let total = last + 1 + more;
            let text = format!("bytes {first}-{last}/{total}");
            prop_assert_eq!(content_range(&text), Some((first..last + 1, Some(total))));
        }

        #[test]
        fn any_text_is_read_without_panic(text in "[a-z0-9 /*+-]{0,40}") {
            let _ = content_range(&text);
        }
    }

    #[test]
    fn manifests_and_ranges_as_no_registry_sends_them() {
        let good = [
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#,
            r#"{"schemaVersion":1,"signatures":[{"header":{"jwk":{}}}]}"#,
            "bytes 0-5/10",
            "bytes */10",
            "bytes 5-9/*",
        ];
        darner_mutate::each_text(&good, |text| {
            if let Some((range, Some(size))) = content_range(text) {
                assert!(range.start <= range.end && range.end <= size, "{text}");
            }
            if let Ok(media_type) = manifest_type(&HeaderMap::new(), text.as_bytes()) {
                assert!(http::HeaderValue::from_str(&media_type).is_ok(), "{text}");
            }
        });
    }
}
