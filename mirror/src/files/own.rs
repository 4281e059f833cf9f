//! Files that a caller shows credentials for: kept on this node alone, and given only to who may read
//! them by their host's own word, each time.
//!
//! The host is asked with everything that the caller shows. Only if it answers *this* caller with a
//! version that it says depends on nothing else (no `Cache-Control: private`, no cookie set, no `Vary`), is
//! that version read, in the caller's name, or given out of what another caller's request brought here:
//! one strong tag means the same bytes to all (RFC 9110, section 8.8.3). Whatever else passes.

use std::time::Duration;

use axum::http::{HeaderMap, header};
use darner_proto::file::Validator;
use tokio::time::timeout_at;
use url::Url;

use super::passing::end_to_end;
use super::version::Version;
use super::{Asked, FileFront};
use crate::task::Tasks;

/// What a caller shows counts no longer than this for a read that goes on.
const SHOWN_FOR: Duration = Duration::from_secs(300);
/// What a request says of which bytes it wants, not of who wants them.
const OF_THE_BYTES: [header::HeaderName; 8] = [
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::ACCEPT_ENCODING,
    header::CONTENT_LENGTH,
];

impl FileFront {
    /// The version that the host has for this very caller, and the downloads it may come by; `None` when
    /// the request is to pass.
    pub(super) async fn own_version(&self, asked: &Asked<'_>) -> Option<(Version, &Tasks)> {
        let own = self.own.as_ref()?;
        let wallet = own.parts().wallet.as_ref()?;
        // A name in a URL would be in what is kept.
        if !is_plain(asked.url) {
            return None;
        }
        let shown = shown(asked.headers);
        let head = timeout_at(asked.deadline, self.hosts().head_as(asked.url, &shown)).await;
        let head = head.ok()?.ok()?;
        if !matches!(head.validator, Some(Validator::Tag(_))) {
            return None;
        }
        let version = Version::of(head, self.hosts(), (asked.url, None))?;
        wallet.put_file(version.key, shown, SHOWN_FOR);
        Some((version, own))
    }
}

fn is_plain(url: &Url) -> bool {
    url.username().is_empty() && url.password().is_none()
}

/// All that a caller says of itself.
fn shown(headers: &HeaderMap) -> HeaderMap {
    let mut shown = end_to_end(headers);
    for name in OF_THE_BYTES {
        shown.remove(name);
    }
    for value in shown.values_mut() {
        value.set_sensitive(true);
    }
    shown
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn who_asks_is_shown_and_what_for_is_not() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("private-token", "y"),
            ("range", "bytes=0-1"),
            ("if-none-match", "*"),
            ("connection", "keep-alive"),
            ("darner-url", "z"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let shown = shown(&headers);
        let names: Vec<_> = shown.keys().map(header::HeaderName::as_str).collect();
        assert_eq!(names, ["authorization", "private-token"]);
        assert!(shown.values().all(HeaderValue::is_sensitive));
    }
}
