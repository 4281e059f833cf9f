//! The name of an image, as people write it.

use std::fmt;
use std::str::FromStr;

use darner_proto::invalid::Invalid;
use darner_proto::name::{Reference, Source, Tag};

/// An image to be pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    /// The repository it is in.
    pub(crate) source: Source,
    /// What to ask for: the digest where there is one, whatever the tag means by now.
    pub(crate) reference: Reference,
    /// The tag, if it was written beside a digest.
    beside: Option<Tag>,
}

/// A name that no image has.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// By the grammar of references.
    #[error("an image is named like debian:12, ghcr.io/owner/name or name@sha256:…: {0}")]
    Form(oci_distribution::ParseError),
    /// A part of it.
    #[error(transparent)]
    Part(#[from] Invalid),
}

impl Image {
    /// What a layout calls it: the tag, else the digest.
    pub(crate) fn short_name(&self) -> String {
        match &self.beside {
            Some(tag) => tag.to_string(),
            None => self.reference.to_string(),
        }
    }
}

impl FromStr for Image {
    type Err = ImageError;

    /// Short names are Docker Hub's, and no tag is `latest`, as everywhere.
    fn from_str(text: &str) -> Result<Self, ImageError> {
        let parsed = oci_distribution::Reference::try_from(text).map_err(ImageError::Form)?;
        let tag = parsed.tag().map(str::parse::<Tag>).transpose()?;
        let (reference, beside) = match (parsed.digest(), tag) {
            (Some(digest), tag) => (Reference::Digest(digest.parse()?), tag),
            (None, Some(tag)) => (Reference::Tag(tag), None),
            (None, None) => (Reference::Tag("latest".parse()?), None),
        };
        Ok(Self {
            source: Source {
                registry: parsed.registry().parse()?,
                repository: parsed.repository().parse()?,
            },
            reference,
            beside,
        })
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)?;
        if let Some(tag) = &self.beside {
            write!(f, ":{tag}")?;
        }
        match &self.reference {
            Reference::Tag(tag) => write!(f, ":{tag}"),
            Reference::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_written_out_as_docker_does() {
        let cases = [
            ("debian", "docker.io/library/debian:latest", "latest"),
            ("debian:12", "docker.io/library/debian:12", "12"),
            ("owner/name", "docker.io/owner/name:latest", "latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c", "c"),
            (
                &format!("ghcr.io/o/n@{DIGEST}"),
                &format!("ghcr.io/o/n@{DIGEST}"),
                DIGEST,
            ),
            (
                &format!("ghcr.io/o/n:1@{DIGEST}"),
                &format!("ghcr.io/o/n:1@{DIGEST}"),
                "1",
            ),
        ];
        for (text, whole, short) in cases {
            let image: Image = text.parse().unwrap();
            assert_eq!(image.to_string(), whole);
            assert_eq!(image.short_name(), short);
        }
        let both: Image = format!("n:1@{DIGEST}").parse().unwrap();
        assert_eq!(both.reference, Reference::Digest(DIGEST.parse().unwrap()));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let short = "name@sha256:abc";
        for text in [
            "",
            "UPPER/case",
            "name:",
            "a b",
            "../x",
            "https://x/y",
            short,
        ] {
            assert!(text.parse::<Image>().is_err(), "{text:?}");
        }
    }
}
