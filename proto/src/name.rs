//! Registry, repository and tag names by the grammar of the OCI distribution specification.
//!
//! A value of these types can be put in a URL path or compared as it is. Whether a registry is one
//! that may be contacted is decided elsewhere.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::invalid::Invalid;

/// The longest repository name the specification allows implementations to count on.
const MAX_REPOSITORY: usize = 255;
/// The longest DNS name.
const MAX_REGISTRY: usize = 253;
/// The longest tag.
const MAX_TAG: usize = 128;

/// A registry as clients call it: `host` or `host:port`, lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistryName(String);

/// A repository within a registry, such as `library/debian`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName(String);

/// A tag.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(String);

/// A repository of a registry: where content may be read from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    /// The registry, as clients call it.
    pub registry: RegistryName,
    /// The repository in it.
    pub repository: RepositoryName,
}

/// What a manifest is asked for by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    /// A name that can move.
    Tag(Tag),
    /// The digest of the manifest itself.
    Digest(Digest),
}

impl RegistryName {
    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl RepositoryName {
    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Tag {
    /// The tag as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RegistryName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bad = |why: &str| Err(Invalid::new("registry name", why));
        if text.is_empty() || text.len() > MAX_REGISTRY {
            return bad("is empty or longer than 253 characters");
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        if let Some(port) = port
            && (!port.bytes().all(|byte| byte.is_ascii_digit())
                || port.starts_with('0')
                || port.parse::<u16>().is_err())
        {
            return bad("has a port that is not a number from 1 to 65535");
        }
        if !host.split('.').all(is_host_label) {
            return bad("is not a host name in lower case");
        }
        Ok(Self(text.to_owned()))
    }
}

/// A DNS label: letters, digits and inner hyphens.
fn is_host_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !label.is_empty()
        && label.len() <= 63
        && label.bytes().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl FromStr for RepositoryName {
    type Err = Invalid;

    /// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` for each component between slashes.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.len() > MAX_REPOSITORY {
            return Err(Invalid::new(
                "repository name",
                "is longer than 255 characters",
            ));
        }
        if !text.split('/').all(is_repository_component) {
            return Err(Invalid::new(
                "repository name",
                "is not lower-case words joined by '.', '_', '__', '-' and '/'",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

fn is_repository_component(component: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !is_word(*first) || !is_word(*last) {
        return false;
    }
    bytes
        .split(|byte| is_word(*byte))
        .all(|separator| match separator {
            [] | [b'.'] | [b'_'] | [b'_', b'_'] => true,
            hyphens => hyphens.iter().all(|byte| *byte == b'-'),
        })
}

impl FromStr for Tag {
    type Err = Invalid;

    /// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let bytes = text.as_bytes();
        let fits = bytes.first().is_some_and(|first| word(*first))
            && bytes.len() <= MAX_TAG
            && bytes
                .iter()
                .all(|byte| word(*byte) || matches!(byte, b'.' | b'-'));
        if !fits {
            return Err(Invalid::new(
                "tag",
                "is not up to 128 letters, digits, '_', '.' and '-' beginning with a letter, digit or '_'",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for Reference {
    type Err = Invalid;

    /// A colon can only stand in a digest.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.contains(':') {
            text.parse().map(Self::Digest)
        } else {
            text.parse().map(Self::Tag)
        }
    }
}

impl fmt::Display for RegistryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl From<&Source> for crate::wire::Source {
    fn from(source: &Source) -> Self {
        Self {
            registry: source.registry.0.clone(),
            repository: source.repository.0.clone(),
        }
    }
}

impl TryFrom<crate::wire::Source> for Source {
    type Error = Invalid;

    fn try_from(wire: crate::wire::Source) -> Result<Self, Invalid> {
        Ok(Self {
            registry: wire.registry.parse()?,
            repository: wire.repository.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn accepts<T: FromStr>(good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(text.parse::<T>().is_ok(), "refused {text:?}");
        }
        for text in bad {
            assert!(text.parse::<T>().is_err(), "accepted {text:?}");
        }
    }

    #[test]
    fn registry_names() {
        let long = "a".repeat(254);
        accepts::<RegistryName>(
            &[
                "docker.io",
                "localhost:5000",
                "127.0.0.1:5000",
                "registry-1.docker.io",
                "reg",
            ],
            &[
                "",
                "Docker.io",
                "a..b",
                "-a.io",
                "a/b",
                "a:0",
                "a:65536",
                "a:",
                "a:b",
                "a@b",
                "user:pw@host",
                "[::1]",
                "a b",
                "..",
                "a%2f",
                &long,
            ],
        );
    }

    #[test]
    fn repository_names() {
        let long = "a".repeat(256);
        accepts::<RepositoryName>(
            &["library/debian", "a", "a.b_c__d-e---f/0", "a/b/c/d"],
            &[
                "", "/", "a/", "/a", "A", "a//b", "..", "a/../b", "a..b", "a___b", "_a", "a_",
                "a-", "a._b", "a b", "a:b", &long,
            ],
        );
    }

    #[test]
    fn tags() {
        let long = "a".repeat(129);
        accepts::<Tag>(
            &["latest", "v1.2-3_x", "_x", "A", &long[..128]],
            &["", ".x", "-x", "a/b", "a b", "é", &long],
        );
    }

    proptest! {
        #[test]
        fn accepted_names_are_safe_in_a_path(text in "[a-z0-9._/:-]{0,40}") {
            if let Ok(name) = text.parse::<RepositoryName>() {
                prop_assert!(!name.as_str().contains(".."));
                prop_assert!(!name.as_str().contains("//"));
                prop_assert!(!name.as_str().starts_with('/'));
            }
        }
    }
}
