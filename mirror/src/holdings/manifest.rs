//! What a held manifest is: an image, or an index of images.

use std::collections::BTreeSet;
use std::sync::Arc;

use darner_proto::digest::Digest;
use darner_proto::holdings::{Blob, Facts, MAX_BLOBS};
use serde::Deserialize;

use crate::resolve::links;

/// A manifest that has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Manifest {
    /// Lists blobs.
    Image(Arc<Facts>),
    /// Lists manifests, each with its platform where the index says so.
    Index(Vec<(Digest, String)>),
    /// Neither, as far as can be told.
    Other,
}

#[derive(Deserialize)]
struct Document {
    config: Option<Entry>,
    #[serde(default)]
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    digest: String,
    platform: Option<Platform>,
}

/// As an index and an image's configuration write it.
#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

impl Manifest {
    /// The manifest in `bytes`, whose digest this is.
    pub(super) fn read(digest: &Digest, bytes: &[u8]) -> Self {
        // Bounded by that parser; what it takes can be read again.
        let links = links(bytes);
        let Ok(document) = serde_json::from_slice::<Document>(bytes) else {
            return Self::Other;
        };
        if links.is_empty() {
            return Self::Other;
        }
        if links.iter().any(|(_, link)| link.manifest) {
            let listed = document.manifests.into_iter().filter_map(|entry| {
                let platform = entry.platform.map(|platform| platform.written());
                Some((entry.digest.parse().ok()?, platform.unwrap_or_default()))
            });
            return Self::Index(listed.collect());
        }
        let config = document
            .config
            .and_then(|config| config.digest.parse().ok());
        let mut seen = BTreeSet::new();
        let blobs = links
            .into_iter()
            .filter(|(blob, _)| seen.insert(*blob))
            .map(|(blob, link)| Blob {
                digest: blob,
                size: link.size,
                config: Some(blob) == config,
            });
        Self::Image(Arc::new(Facts {
            digest: *digest,
            platform: String::new(),
            blobs: blobs.take(MAX_BLOBS).collect(),
        }))
    }
}

/// The platform that an image's configuration names.
pub(super) fn platform_of(config: &[u8]) -> Option<String> {
    let platform: Platform = serde_json::from_slice(config).ok()?;
    Some(platform.written()).filter(|written| !written.is_empty())
}

impl Platform {
    fn written(&self) -> String {
        let words = [&self.os, &self.architecture, &self.variant];
        let words = words.into_iter().filter(|word| !word.is_empty());
        words.map(String::as_str).collect::<Vec<_>>().join("/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn images_list_blobs_and_indexes_list_images() {
        let digest = |n: u8| Digest::sha256(&[n]);
        let entry = |n: u8| json!({ "digest": digest(n).to_string(), "size": n });
        let image = json!({ "schemaVersion": 2, "config": entry(1), "layers": [entry(2), entry(3), entry(2)] });
        let Manifest::Image(facts) = Manifest::read(&digest(0), image.to_string().as_bytes())
        else {
            panic!("no image");
        };
        let blobs: Vec<_> = facts
            .blobs
            .iter()
            .map(|blob| (blob.size, blob.config))
            .collect();
        assert_eq!(blobs, [(1, true), (2, false), (3, false)]);

        let mut arm = entry(4);
        arm["platform"] = json!({ "os": "linux", "architecture": "arm64", "variant": "v8" });
        let index = json!({ "schemaVersion": 2, "manifests": [arm, entry(5)] });
        let listed = vec![
            (digest(4), "linux/arm64/v8".to_owned()),
            (digest(5), String::new()),
        ];
        let read = Manifest::read(&digest(0), index.to_string().as_bytes());
        assert_eq!(read, Manifest::Index(listed));
        for other in ["{}", "", "[]", "{\"schemaVersion\":2}"] {
            assert_eq!(
                Manifest::read(&digest(0), other.as_bytes()),
                Manifest::Other
            );
        }
    }

    #[test]
    fn a_configuration_names_its_platform() {
        let config = br#"{"architecture":"amd64","os":"linux","rootfs":{}}"#;
        assert_eq!(platform_of(config).as_deref(), Some("linux/amd64"));
        assert_eq!(platform_of(b"{}"), None);
    }
}
