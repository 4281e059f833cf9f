//! What a manifest refers to: a bounded parser of OCI and Docker schema 2 manifests and indexes.
//! Anything else is content like any other, about whose parts nothing is known.

use darner_proto::digest::Digest;
use darner_proto::geometry::MAX_SIZE;
use serde::Deserialize;

use crate::store::LinkRecord;

/// More children than any real image or index has.
const MAX_CHILDREN: usize = 1000;
/// Objects within objects; an image manifest needs four levels.
const MAX_DEPTH: usize = 32;
/// A media type is two short words; the specification of media types allows 127 characters each.
pub(super) const MAX_MEDIA_TYPE: usize = 255;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    blobs: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
}

/// What the manifest in `bytes` links its repository to. Nothing, when the bytes are not a
/// manifest whose parts can be told: their sizes are then asked for one by one.
pub(crate) fn links(bytes: &[u8]) -> Vec<(Digest, LinkRecord)> {
    if depth(bytes) > MAX_DEPTH {
        return Vec::new();
    }
    let Ok(document) = serde_json::from_slice::<Document>(bytes) else {
        return Vec::new();
    };
    let blobs = document.config.into_iter().chain(document.layers);
    let blobs = blobs.chain(document.blobs).map(|child| (child, false));
    let children: Vec<_> = blobs
        .chain(document.manifests.into_iter().map(|child| (child, true)))
        .collect();
    if document.schema_version != 2 || children.len() > MAX_CHILDREN {
        return Vec::new();
    }
    children
        .into_iter()
        .filter_map(|(child, manifest)| link(child, manifest))
        .collect()
}

fn link(child: Descriptor, manifest: bool) -> Option<(Digest, LinkRecord)> {
    // A foreign layer need not be in the registry that lists it.
    let elsewhere =
        child.media_type.contains(".foreign.") || child.media_type.contains(".nondistributable.");
    if elsewhere || child.size > MAX_SIZE || child.media_type.len() > MAX_MEDIA_TYPE {
        return None;
    }
    let record = LinkRecord {
        manifest,
        media_type: child.media_type,
        size: child.size,
    };
    Some((child.digest.parse().ok()?, record))
}

/// How deep brackets nest outside of strings. Works on any bytes.
fn depth(bytes: &[u8]) -> usize {
    let (mut now, mut deepest) = (0usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                now += 1;
                deepest = deepest.max(now);
            }
            b'}' | b']' => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn digest(n: u32) -> String {
        Digest::sha256(&n.to_be_bytes()).to_string()
    }

    fn links_of(document: &serde_json::Value) -> Vec<(String, bool, u64)> {
        links(document.to_string().as_bytes())
            .into_iter()
            .map(|(digest, link)| (digest.to_string(), link.manifest, link.size))
            .collect()
    }

    #[test]
    fn an_image_links_its_config_and_layers() {
        let image = json!({
            "schemaVersion": 2,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(1), "size": 10},
            "layers": [
                {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(2), "size": 20},
                {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "digest": digest(3), "size": 30,
                 "urls": ["https://elsewhere.test/layer"]},
            ],
            "annotations": {"a": "b"},
        });
        assert_eq!(
            links_of(&image),
            [(digest(1), false, 10), (digest(2), false, 20)]
        );
    }

    #[test]
    fn an_index_links_its_manifests() {
        let index = json!({
            "schemaVersion": 2,
            "manifests": [
                {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(1), "size": 10,
                 "platform": {"architecture": "amd64", "os": "linux"}},
            ],
        });
        assert_eq!(links_of(&index), [(digest(1), true, 10)]);
    }

    #[test]
    fn what_is_not_understood_has_no_links() {
        let schema1 =
            json!({"schemaVersion": 1, "fsLayers": [{"blobSum": digest(1)}], "layers": []});
        assert!(links_of(&schema1).is_empty());
        let negative = json!({"schemaVersion": 2, "layers": [{"digest": digest(1), "size": -1}]});
        assert!(links_of(&negative).is_empty());
        let huge =
            json!({"schemaVersion": 2, "layers": [{"digest": digest(1), "size": MAX_SIZE + 1}]});
        assert!(links_of(&huge).is_empty());
        let weak = json!({"schemaVersion": 2, "layers": [{"digest": "md5:00", "size": 1}]});
        assert!(links_of(&weak).is_empty());
        assert!(links(b"").is_empty());
        assert!(links(b"not json").is_empty());
    }

    #[test]
    fn too_many_children_and_too_deep_documents_are_not_followed() {
        let many = |count: u32| {
            let layers: Vec<_> = (0..count)
                .map(|n| json!({"digest": digest(n), "size": 1}))
                .collect();
            json!({"schemaVersion": 2, "layers": layers})
        };
        assert_eq!(links_of(&many(1000)).len(), 1000);
        assert!(links_of(&many(1001)).is_empty());
        let nested = |levels: usize| {
            format!(
                r#"{{"schemaVersion":2,"layers":[{{"digest":"{}","size":1}}],"x":{}{}}}"#,
                digest(1),
                "[".repeat(levels),
                "]".repeat(levels)
            )
        };
        assert_eq!(links(nested(31).as_bytes()).len(), 1);
        assert!(links(nested(32).as_bytes()).is_empty());
    }

    #[test]
    fn brackets_in_strings_do_not_nest() {
        assert_eq!(depth(br#"{"a":"[[[[\"[["}"#), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = links(&bytes);
        }
    }

    #[test]
    fn manifests_as_nobody_writes_them_give_bounded_links() {
        let digest = Digest::sha256(b"x");
        let image = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"a/b","digest":"{digest}","size":5}},"layers":[{{"digest":"{digest}","size":18446744073709551615}}]}}"#
        );
        let index = format!(
            r#"{{"manifests":[{{"mediaType":"a/b","digest":"{digest}","size":-1,"platform":{{"os":"x"}}}}],"subject":{{"digest":"{digest}","size":1}}}}"#
        );
        let deep = "[".repeat(2000);
        let good = [image.as_bytes(), index.as_bytes(), deep.as_bytes()];
        darner_mutate::each(&good, |bytes| {
            let links = links(bytes);
            assert!(
                links
                    .iter()
                    .all(|(_, link)| link.media_type.len() <= MAX_MEDIA_TYPE)
            );
        });
    }
}
