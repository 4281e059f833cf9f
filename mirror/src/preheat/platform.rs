//! Which manifest of an index is for a platform: pure.

use darner_proto::digest::Digest;
use darner_proto::preheat::Platform;
use serde::Deserialize;

use super::Failure;

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    digest: String,
    platform: Option<Described>,
}

#[derive(Deserialize)]
struct Described {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

impl Described {
    fn is(&self, wanted: &Platform) -> bool {
        let variant = wanted.variant.as_ref();
        self.os == wanted.os
            && self.architecture == wanted.architecture
            && variant.is_none_or(|variant| *variant == self.variant)
    }
}

/// The first manifest in an index that is for `wanted`.
pub(super) fn chosen(index: &[u8], wanted: Platform) -> Result<Digest, Failure> {
    let index: Index = serde_json::from_slice(index).map_err(|_| Failure::Manifest)?;
    let is_for = |entry: &&Entry| {
        let platform = entry.platform.as_ref();
        platform.is_some_and(|platform| platform.is(&wanted))
    };
    match index.manifests.iter().find(is_for) {
        Some(entry) => entry.digest.parse().map_err(|_| Failure::Manifest),
        None => {
            let there = index.manifests.iter().filter_map(|entry| {
                let platform = entry.platform.as_ref()?;
                Some(format!("{}/{}", platform.os, platform.architecture))
            });
            let there = there.collect::<Vec<_>>().join(", ");
            Err(Failure::Platform { wanted, there })
        }
    }
}

/// What a runtime on this node would choose, in the words of the image specification.
pub(super) fn own_platform() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    };
    Platform {
        os: "linux".to_owned(),
        architecture: architecture.to_owned(),
        variant: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(digest: &Digest, architecture: &str, variant: &str) -> serde_json::Value {
        json!({ "digest": digest.to_string(), "size": 1,
            "platform": { "os": "linux", "architecture": architecture, "variant": variant } })
    }

    #[test]
    fn an_index_is_resolved_by_platform() {
        let digests: Vec<_> = (0..3u8).map(|n| Digest::sha256(&[n])).collect();
        let index = json!({ "schemaVersion": 2, "manifests": [
            entry(&digests[0], "arm", "v6"),
            entry(&digests[1], "arm", "v7"),
            entry(&digests[2], "amd64", ""),
        ]});
        let index = index.to_string().into_bytes();
        for (platform, expected) in [("linux/arm", 0), ("linux/arm/v7", 1), ("linux/amd64", 2)] {
            let found = chosen(&index, platform.parse().unwrap()).unwrap();
            assert_eq!(found, digests[expected], "{platform}");
        }
        let none = chosen(&index, "windows/amd64".parse().unwrap()).unwrap_err();
        assert!(none.is_for_good());
        assert!(
            none.to_string()
                .contains("linux/arm, linux/arm, linux/amd64"),
            "{none}"
        );
    }
}
