//! Requests for a file: to a mirror, or to the file's own server.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use darner_mirror::files::local;
use darner_proto::digest::Digest;
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderName,
    HeaderValue, IF_MODIFIED_SINCE, IF_RANGE, LAST_MODIFIED, RANGE,
};
use reqwest::{Response, StatusCode, Url, redirect};

use super::objects::Objects;
use super::{Args, GetError, What};

/// A mirror is on this host; a file's server may be far.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A mirror answers within ten seconds, and then bytes keep moving.
const SILENCE: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 5;
/// More of a refusal's body is not shown.
const MAX_DETAIL: usize = 300;

/// Where a file is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// At the mirror.
    Mirror,
    /// At its own server.
    Server,
}

/// Asks for one file.
#[derive(Debug)]
pub(super) struct Client {
    near: reqwest::Client,
    far: reqwest::Client,
    via: Url,
    headers: HeaderMap,
    expected: Option<Digest>,
    only_mirror: bool,
    objects: Objects,
}

/// What of a file is wanted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Part<'a> {
    /// From a byte on, if that is of the version with this tag.
    pub(super) from: Option<(u64, &'a str)>,
    /// Nothing, if it has not changed since.
    pub(super) since: Option<SystemTime>,
}

/// The bytes of a file from `at` on, as they come.
#[derive(Debug)]
pub(super) struct Body {
    response: Response,
    pub(super) at: u64,
    /// Of the whole file, where it is told.
    pub(super) size: Option<u64>,
    /// By what this version can be asked for again.
    pub(super) tag: Option<String>,
    /// Where the mirror says the first byte came from.
    pub(super) source: Option<String>,
    /// When it was changed last, by its server's word.
    pub(super) modified: Option<SystemTime>,
    /// Whether it is a page for people.
    pub(super) is_page: bool,
}

impl Client {
    pub(super) fn new(args: &Args, expected: Option<Digest>) -> Result<Self, GetError> {
        let builder = || {
            reqwest::Client::builder()
                .user_agent(concat!("darner/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(SILENCE)
        };
        let near = builder().redirect(redirect::Policy::none()).no_proxy();
        let far = builder().redirect(redirect::Policy::limited(MAX_REDIRECTS));
        Ok(Self {
            near: near.build().map_err(GetError::Client)?,
            far: far.build().map_err(GetError::Client)?,
            via: (*args.via).clone(),
            headers: args.headers.iter().cloned().collect(),
            expected,
            only_mirror: args.only_mirror,
            objects: Objects::new(&args.profile),
        })
    }

    /// Where to ask next when a request has failed with `error`, if that is elsewhere.
    pub(super) fn after(
        &self,
        place: Place,
        what: &What,
        error: &GetError,
        fruitless: u32,
    ) -> Option<Place> {
        let has_server = !matches!(what, What::Digest(_)) && !self.only_mirror;
        let given_up = match error {
            GetError::Unreachable { .. } | GetError::Status { .. } => true,
            GetError::Cut { .. } => fruitless > 1,
            _ => false,
        };
        (place == Place::Mirror && has_server && given_up).then_some(Place::Server)
    }

    /// The objects below one, and where each goes.
    pub(super) async fn objects_below(
        &self,
        start: &Url,
        most: usize,
    ) -> Result<Vec<(Url, PathBuf)>, GetError> {
        self.objects.below(start, most).await
    }

    /// The file, or a part of it.
    pub(super) async fn open(
        &self,
        place: Place,
        what: &What,
        part: Part<'_>,
    ) -> Result<Body, GetError> {
        let signed;
        let what = match what {
            What::Object(url) => {
                signed = What::Url(Box::new(self.objects.signed(url).await?));
                &signed
            }
            what => what,
        };
        let (request, whom) = self.request(place, what);
        let mut request = request
            .headers(self.headers.clone())
            .header(ACCEPT_ENCODING, "identity");
        if let Some(since) = part.since {
            request = request.header(IF_MODIFIED_SINCE, httpdate::fmt_http_date(since));
        }
        if let Some((at, tag)) = part.from {
            request = request
                .header(RANGE, format!("bytes={at}-"))
                .header(IF_RANGE, tag);
        }
        let sent = request.send().await;
        let response = sent.map_err(|source| GetError::Unreachable {
            whom: whom.clone(),
            source: source.without_url(),
        })?;
        opened(response, whom, part).await
    }

    fn request(&self, place: Place, what: &What) -> (reqwest::RequestBuilder, String) {
        let mirror = format!("the mirror at {}", shown(&self.via));
        match (place, what) {
            (Place::Server, What::Url(url)) => {
                let host = url.host_str().unwrap_or_default();
                (self.far.get((**url).clone()), format!("the host {host}"))
            }
            (_, What::Digest(digest)) => {
                let url = path(&self.via, &format!("file/{digest}"));
                (self.near.get(url), mirror)
            }
            (_, What::Url(url) | What::Object(url)) => {
                let mut request = self.near.get(path(&self.via, "file"));
                // A URL is ASCII once it is parsed.
                if let Ok(mut value) = HeaderValue::from_str(url.as_str()) {
                    value.set_sensitive(true);
                    request = request.header(local::URL, value);
                }
                if let Some(expected) = &self.expected {
                    request = request.header(local::DIGEST, expected.to_string());
                }
                (request, mirror)
            }
        }
    }
}

/// A path of a mirror.
pub(crate) fn path(via: &Url, path: &str) -> Url {
    let mut url = via.clone();
    let prefix = via.path().trim_end_matches('/');
    url.set_path(&format!("{prefix}/{path}"));
    url
}

/// A mirror's address, for messages.
pub(crate) fn shown(via: &Url) -> &str {
    via.as_str().trim_end_matches('/')
}

async fn opened(response: Response, whom: String, part: Part<'_>) -> Result<Body, GetError> {
    let status = response.status();
    let headers = response.headers().clone();
    let length = text(&headers, &CONTENT_LENGTH).and_then(|length| length.parse().ok());
    let (at, size) = match (status, part.from) {
        (StatusCode::OK, _) => (0, length),
        (StatusCode::NOT_MODIFIED, _) if part.since.is_some() => (0, None),
        (StatusCode::PARTIAL_CONTENT, Some((at, _))) => {
            let range = text(&headers, &CONTENT_RANGE).and_then(content_range);
            match range {
                Some((first, size)) if first == at => (at, size),
                // Nothing else was asked for.
                _ => return Err(refused(response, whom).await),
            }
        }
        // All of it is here.
        (StatusCode::RANGE_NOT_SATISFIABLE, Some((at, _)))
            if text(&headers, &CONTENT_RANGE) == Some(&format!("bytes */{at}")) =>
        {
            (at, Some(at))
        }
        _ => return Err(refused(response, whom).await),
    };
    Ok(Body {
        at,
        size,
        tag: tag(&headers),
        modified: text(&headers, &LAST_MODIFIED)
            .and_then(|date| httpdate::parse_http_date(date).ok()),
        is_page: text(&headers, &CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/html")),
        source: text(&headers, &HeaderName::from_static("x-darner-source")).map(str::to_owned),
        response,
    })
}

impl Body {
    /// Nothing of it comes: it has not changed since it was asked for.
    pub(super) fn is_unchanged(&self) -> bool {
        self.response.status() == StatusCode::NOT_MODIFIED
    }

    /// The next bytes; `None` at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, GetError> {
        if self.response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(None);
        }
        let chunk = self.response.chunk().await;
        chunk.map_err(|source| GetError::Cut {
            source: Some(source.without_url()),
        })
    }
}

async fn refused(mut response: Response, whom: String) -> GetError {
    let status = response.status();
    let first = response.chunk().await.ok().flatten().unwrap_or_default();
    let words = String::from_utf8_lossy(&first);
    let line = words.lines().next().unwrap_or_default();
    let line = line.trim().trim_start_matches("darner: ");
    let is_page = line.starts_with('<');
    let line: String = line.chars().take(MAX_DETAIL).collect();
    let detail = match line.is_empty() || is_page {
        true => String::new(),
        false => format!(": {line}"),
    };
    GetError::Status {
        whom,
        status,
        detail,
    }
}

/// What `If-Range` takes: a strong tag, or a date.
fn tag(headers: &HeaderMap) -> Option<String> {
    let tag = text(headers, &ETAG).filter(|tag| tag.starts_with('"'));
    let tag = tag.or_else(|| text(headers, &LAST_MODIFIED));
    tag.map(str::to_owned)
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// `bytes 5-9/10`: the first byte, and the size of the whole where it is told.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.parse().ok()?, size.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for text in ["bytes */10", "items 0-1/2", "bytes a-9/10", ""] {
            assert_eq!(content_range(text), None, "{text}");
        }
    }
}
