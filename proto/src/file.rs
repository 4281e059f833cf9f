//! Files of any kind, known by where they lie and which version they are: the key of a file's task.
//!
//! Nobody knows a file's digest before all of it was read. So nodes that want the same file agree on
//! a key made of what its server tells before: the URL without what differs from caller to caller,
//! the size, and the validator. A file that changes gets another key; the pieces of two versions
//! never meet. What the bytes are, the signed statements of those who read them say.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::Digest as _;
use url::Url;

use crate::digest::Digest;
use crate::invalid::Invalid;
use crate::name::Source;

/// With a request for a file's availability: the URL it can be read at, for who reads it.
pub const FILE_URL: &str = "darner-file-url";
/// With the same: the [`Validator`] of the version that is meant.
pub const FILE_VALIDATOR: &str = "darner-file-validator";

/// A longer validator is no validator: those seen in the wild have some forty bytes.
const MAX_VALIDATOR: usize = 512;
/// A longer URL is none that is handed about.
const MAX_URL: usize = 4096;
/// Before the hashed text, so that it is never anything else's.
const KEY_PREFIX: &[u8] = b"darner file\0";

/// Where content can be read outside of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Supply {
    /// As a blob of this repository.
    Repository(Source),
    /// As a file. It goes from node to node, never to a scheduler: a URL may be signed.
    File(Arc<Located>),
}

/// A file at a URL.
#[derive(Clone, PartialEq, Eq)]
pub struct Located {
    /// The URL as a caller gave it: with it the file can be read.
    pub url: String,
    /// The version that is meant; `None` only where the digest of the content decides.
    pub validator: Option<Validator>,
}

/// The URL of a file that is handed from the manager to nodes, without a user or a password in it.
#[derive(Clone, PartialEq, Eq)]
pub struct FileUrl(Url);

impl FileUrl {
    /// All of it. Its query may be a secret.
    pub fn url(&self) -> &Url {
        &self.0
    }
}

impl FromStr for FileUrl {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |why| Invalid::new("file", why);
        if text.len() > MAX_URL {
            return Err(invalid("has a URL of more than 4096 bytes"));
        }
        let url = Url::parse(text).map_err(|_| invalid("has no URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid("is at no http:// or https:// URL"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("has a URL with a user in it"));
        }
        Ok(Self(url))
    }
}

/// Without what may be a secret.
impl fmt::Display for FileUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(shown(self.0.as_str()))
    }
}

impl fmt::Debug for FileUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileUrl({self})")
    }
}

/// A URL without what may be a secret: to be shown.
pub fn shown(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

impl From<Source> for Supply {
    fn from(source: Source) -> Self {
        Self::Repository(source)
    }
}

impl Supply {
    /// The repository, if it is one.
    pub fn repository(&self) -> Option<&Source> {
        match self {
            Self::Repository(source) => Some(source),
            Self::File(_) => None,
        }
    }
}

/// Without what may be a secret.
impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(shown(&self.url))
    }
}

impl fmt::Debug for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Located({self}, {:?})", self.validator)
    }
}

impl fmt::Display for Supply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repository(source) => source.fmt(f),
            Self::File(located) => located.fmt(f),
        }
    }
}

/// By what a server tells one version of a file from another (RFC 9110, section 8.8).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Validator {
    /// A strong entity tag, with its quotes.
    Tag(String),
    /// `Last-Modified`, as the server wrote it. Together with the size it has to do where there is
    /// no tag.
    Modified(String),
}

impl Validator {
    /// A strong entity tag as it stands in `ETag`; `None` for a weak one, and for what is none.
    pub fn strong_tag(text: &str) -> Option<Self> {
        let inner = text.strip_prefix('"')?.strip_suffix('"')?;
        let is_tag = |byte: u8| byte == 0x21 || (0x23..=0x7e).contains(&byte);
        let fits = text.len() <= MAX_VALIDATOR && inner.bytes().all(is_tag);
        fits.then(|| Self::Tag(text.to_owned()))
    }

    /// A date as it stands in `Last-Modified`; whether it is one, the caller knows.
    pub fn modified(text: &str) -> Option<Self> {
        let is_date = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        let fits = !text.is_empty() && text.len() <= MAX_VALIDATOR && text.bytes().all(is_date);
        fits.then(|| Self::Modified(text.to_owned()))
    }

    /// The key of the version that this is of the `size` bytes at `url`.
    pub fn key(&self, url: &str, size: u64) -> Digest {
        let mut hasher = sha2::Sha256::new();
        hasher.update(KEY_PREFIX);
        // A URL has no zero byte in it, and neither has a validator.
        hasher.update(format!("{url}\0{size}\0{self}"));
        Digest::File(hasher.finalize().into())
    }
}

/// As it travels: `tag "…"` or `modified …`.
impl fmt::Display for Validator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => write!(f, "tag {tag}"),
            Self::Modified(date) => write!(f, "modified {date}"),
        }
    }
}

impl FromStr for Validator {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parsed = match text.split_once(' ') {
            Some(("tag", tag)) => Self::strong_tag(tag),
            Some(("modified", date)) => Self::modified(date),
            _ => None,
        };
        parsed.ok_or_else(|| Invalid::new("validator", "is neither a strong tag nor a date"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_strong_tags_are_validators() {
        assert!(Validator::strong_tag("\"5f-61\"").is_some());
        assert!(Validator::strong_tag("\"\"").is_some());
        let long = format!("\"{}\"", "x".repeat(MAX_VALIDATOR));
        for text in [
            "W/\"5f\"", "5f", "\"", "", "\"a\"b\"", "\"a\nb\"", "\"é\"", &long,
        ] {
            assert_eq!(Validator::strong_tag(text), None, "{text}");
        }
    }

    #[test]
    fn a_key_depends_on_everything_it_is_made_of() {
        let tag = Validator::strong_tag("\"a\"").unwrap();
        let other = Validator::strong_tag("\"b\"").unwrap();
        let date = Validator::modified("\"a\"").unwrap();
        let mut keys: Vec<_> = [&tag, &other, &date]
            .iter()
            .flat_map(|validator| {
                [("https://a/", 1), ("https://a/", 2), ("https://b/", 1)]
                    .map(|(url, size)| validator.key(url, size))
            })
            .collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 9);
        assert!(keys.iter().all(|key| !key.is_of_content()));
    }

    #[test]
    fn a_url_that_is_handed_about_names_nobody() {
        let url: FileUrl = "https://a.example/b?sig=secret".parse().unwrap();
        assert_eq!(url.to_string(), "https://a.example/b");
        assert_eq!(format!("{url:?}"), "FileUrl(https://a.example/b)");
        assert_eq!(url.url().as_str(), "https://a.example/b?sig=secret");
        let long = format!("https://a.example/{}", "x".repeat(MAX_URL));
        for text in ["", "a/b", "file:///a", "http://", "https://u:p@a/b", &long] {
            assert!(text.parse::<FileUrl>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_a_validator_travels(tag in "\"[!#-~]{0,40}\"", date in "[!-~][ -~]{0,40}") {
            for validator in [Validator::strong_tag(&tag), Validator::modified(&date)] {
                let validator = validator.unwrap();
                prop_assert_eq!(validator.to_string().parse(), Ok(validator));
            }
        }

        #[test]
        fn any_text_is_taken(text in ".{0,60}") {
            let _ = text.parse::<Validator>();
        }
    }
}
