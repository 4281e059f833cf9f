//! What the registries of the comparisons hold.

use anyhow::Result;
use bytes::Bytes;
use darner_e2e::registry::Pusher;
use darner_proto::digest::Digest;
use serde_json::json;

use crate::servers::COLD_SIZE;
use crate::{COLD, MIB};

const REPOSITORY: &str = "bench/blobs";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// How many blobs of how many mebibytes show how cost grows with size.
const SIZES: [(u64, u64); 4] = [(64, 1), (8, 16), (1, 256), (1, 1024)];
const SERVED_SIZE: u64 = 512 * MIB;

/// Content of the registry.
#[derive(Debug)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl Blob {
    /// Its path in a registry, and in a mirror of one whose default that registry is.
    pub(crate) fn path(&self) -> String {
        format!("/v2/{REPOSITORY}/blobs/{}", self.digest)
    }

    /// Its path in the registry's storage.
    pub(crate) fn file_path(&self) -> String {
        let hex = self.digest.hex();
        let algorithm = self.digest.algorithm();
        format!(
            "/docker/registry/v2/blobs/{algorithm}/{}/{hex}/data",
            &hex[..2]
        )
    }
}

/// What the registry was given.
pub(crate) struct Pushed {
    pub(crate) cold: Vec<Blob>,
    pub(crate) caches: Vec<Blob>,
    pub(crate) sizes: Vec<(u64, Vec<Blob>)>,
    pub(crate) small: Blob,
    pub(crate) served: Blob,
    pub(crate) manifest: String,
}

pub(crate) async fn push(pusher: &Pusher) -> Result<Pushed> {
    let mut next = 0;
    let mut some = async |count: u64, size: u64| {
        let mut blobs = Vec::new();
        for _ in 0..count {
            next += 1;
            blobs.push(push_blob(pusher, next, size).await?);
        }
        Ok::<_, anyhow::Error>(blobs)
    };
    let cold = some(COLD as u64, COLD_SIZE).await?;
    let caches = some(3, COLD_SIZE).await?;
    let mut sizes = Vec::new();
    for (count, size) in SIZES {
        sizes.push((size * MIB, some(count, size * MIB).await?));
    }
    let small = push_blob(pusher, u64::MAX, 10 * MIB).await?;
    let served = push_blob(pusher, 0, SERVED_SIZE).await?;
    let sized = sizes.iter().flat_map(|(_, blobs)| blobs);
    let layers = cold.iter().chain(&caches).chain(sized);
    let manifest = push_manifest(pusher, layers.chain([&small, &served])).await?;
    Ok(Pushed {
        cold,
        caches,
        sizes,
        small,
        served,
        manifest,
    })
}

/// Pushes an image of these blobs, and gives its path.
pub(crate) async fn push_manifest(
    pusher: &Pusher,
    blobs: impl Iterator<Item = &Blob>,
) -> Result<String> {
    let layer = |blob: &Blob| {
        let media_type = "application/vnd.oci.image.layer.v1.tar";
        json!({"mediaType": media_type, "digest": blob.digest.to_string(), "size": blob.size})
    };
    let config = pusher.blob(REPOSITORY, Bytes::from_static(b"{}")).await?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config.to_string(),
            "size": 2,
        },
        "layers": blobs.map(layer).collect::<Vec<_>>(),
    });
    let bytes = Bytes::from(manifest.to_string());
    let digest = pusher
        .manifest(REPOSITORY, "latest", MANIFEST, bytes)
        .await?;
    Ok(format!("/v2/{REPOSITORY}/manifests/{digest}"))
}

pub(crate) async fn push_blob(pusher: &Pusher, seed: u64, size: u64) -> Result<Blob> {
    let bytes = random(seed, size);
    let digest = pusher.blob(REPOSITORY, bytes.into()).await?;
    Ok(Blob { digest, size })
}

/// Bytes that nothing compresses, the same for the same seed.
pub(crate) fn random(seed: u64, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
    let mut random = blake3::Hasher::new();
    random
        .update(&seed.to_be_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}
