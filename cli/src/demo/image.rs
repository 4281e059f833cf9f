//! An image made up for the occasion: a real one, with layers of noise, so that no byte of it is
//! held anywhere yet and none can be compressed away. The same size gives the same image.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use darner_proto::digest::Digest;
use oci_distribution::manifest::{
    IMAGE_CONFIG_MEDIA_TYPE, IMAGE_LAYER_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE,
};
use serde_json::json;

/// What clients call it. The registry's name is one that is nobody's (RFC 2606).
pub(super) const NAME: &str = "registry.example/demo/noise:1";
/// The repository within the registry.
pub(super) const REPOSITORY: &str = "demo/noise";
/// The tag.
pub(super) const TAG: &str = "1";

/// Shares of the whole, in sixteenths: real images have a large base and smaller layers on it.
const LAYERS: [u64; 4] = [8, 4, 3, 1];
/// The unit that a tar file consists of.
const BLOCK: usize = 512;

/// An image in memory. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Image(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    manifest: Bytes,
    digest: Digest,
    /// The configuration and the layers.
    blobs: BTreeMap<String, (Digest, Bytes)>,
}

impl Image {
    /// Makes one of about `size` bytes. Takes a second or so for a GiB in a release build.
    pub(super) fn generate(size: u64) -> Self {
        let shares: u64 = LAYERS.iter().sum();
        let layers: Vec<_> = LAYERS
            .iter()
            .zip(1..)
            .map(|(share, seed)| blob(layer(size * share / shares, seed)))
            .collect();
        let diff_ids: Vec<_> = layers
            .iter()
            .map(|(digest, _)| digest.to_string())
            .collect();
        let config = blob(document(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        })));
        let descriptor = |kind: &str, (digest, bytes): &(Digest, Bytes)| json!({ "mediaType": kind, "digest": digest.to_string(), "size": bytes.len() });
        let of_layer = |layer| descriptor(IMAGE_LAYER_MEDIA_TYPE, layer);
        let manifest = document(&json!({
            "schemaVersion": 2,
            "mediaType": OCI_IMAGE_MEDIA_TYPE,
            "config": descriptor(IMAGE_CONFIG_MEDIA_TYPE, &config),
            "layers": layers.iter().map(of_layer).collect::<Vec<_>>(),
        }));
        let blobs = std::iter::once(config).chain(layers);
        Self(Arc::new(Inner {
            digest: Digest::sha256(&manifest),
            manifest,
            blobs: blobs.map(|blob| (blob.0.to_string(), blob)).collect(),
        }))
    }

    /// Of its manifest.
    pub(super) fn digest(&self) -> Digest {
        self.0.digest
    }

    /// Its manifest.
    pub(super) fn manifest(&self) -> &Bytes {
        &self.0.manifest
    }

    /// A blob by its digest as written.
    pub(super) fn blob(&self, digest: &str) -> Option<&Bytes> {
        self.0.blobs.get(digest).map(|(_, bytes)| bytes)
    }

    /// All blobs.
    pub(super) fn blobs(&self) -> impl Iterator<Item = (&Digest, &Bytes)> {
        self.0.blobs.values().map(|(digest, bytes)| (digest, bytes))
    }

    /// Bytes of all blobs.
    pub(super) fn size(&self) -> u64 {
        self.blobs().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// How many layers it has.
    pub(super) fn layers(&self) -> usize {
        LAYERS.len()
    }
}

fn blob(bytes: Bytes) -> (Digest, Bytes) {
    (Digest::sha256(&bytes), bytes)
}

fn document(value: &serde_json::Value) -> Bytes {
    value.to_string().into()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A tar file with one file of `size` bytes of noise in it.
fn layer(size: u64, seed: u64) -> Bytes {
    // Within what `--size` allows.
    let length = size as usize;
    let mut tar = BytesMut::with_capacity(length + 4 * BLOCK);
    tar.put_slice(&header(&format!("noise-{seed}"), size));
    noise(&mut tar, length, seed);
    let padded = tar.len().next_multiple_of(BLOCK);
    // Two empty blocks end a tar file.
    tar.put_bytes(0, padded - tar.len() + 2 * BLOCK);
    tar.freeze()
}

/// The header of a plain file, by POSIX.1-1988.
fn header(name: &str, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &str| {
        block[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    // The sum is made with spaces in its own place.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\0");
    put(263, "00");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// `SplitMix64`: not secret, only shapeless, and fast.
fn noise(out: &mut BytesMut, length: usize, seed: u64) {
    let end = out.len() + length;
    let mut state = seed;
    while out.len() < end {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        let left = (end - out.len()).min(8);
        out.put_slice(&word.to_le_bytes()[..left]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_size_gives_the_same_image() {
        let (one, other) = (Image::generate(1 << 20), Image::generate(1 << 20));
        assert_eq!(one.digest(), other.digest());
        assert_ne!(one.digest(), Image::generate(2 << 20).digest());
    }

    #[test]
    fn every_descriptor_is_right() {
        let image = Image::generate((1 << 20) + 3);
        let manifest: serde_json::Value = serde_json::from_slice(image.manifest()).unwrap();
        let layers = manifest["layers"].as_array().unwrap();
        assert_eq!(layers.len(), image.layers());
        for descriptor in layers.iter().chain([&manifest["config"]]) {
            let digest = descriptor["digest"].as_str().unwrap();
            let bytes = image.blob(digest).unwrap();
            assert_eq!(descriptor["size"], bytes.len());
            assert_eq!(Digest::sha256(bytes).to_string(), digest);
        }
        let share = image.size() as f64 / f64::from(1 << 20);
        assert!((1.0..1.01).contains(&share), "{share}");
        let config = manifest["config"]["digest"].as_str().unwrap();
        let config: serde_json::Value =
            serde_json::from_slice(image.blob(config).unwrap()).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], layers[0]["digest"]);
    }

    #[test]
    fn layers_are_tar_files_of_noise() {
        let bytes = layer(100_000, 7);
        assert_eq!(bytes.len() % BLOCK, 0);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layer.tar");
        std::fs::write(&path, &bytes).unwrap();
        let unpacked = std::process::Command::new("tar")
            .arg("-xf")
            .arg(&path)
            .arg("-C")
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(unpacked.success());
        let file = std::fs::read(dir.path().join("noise-7")).unwrap();
        assert_eq!(file.len(), 100_000);
        let mut counts = [0_u32; 256];
        file.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        assert!(counts.iter().all(|count| (250..550).contains(count)));
    }
}
