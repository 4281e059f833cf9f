//! How values stand in the index and in the journals of partials.
//!
//! Every value begins with a version byte. A value of an unknown version counts as absent: all of it
//! can be had again. Bytes after the fields a reader knows are ignored, so that fields can be added.
//! Integers are big-endian.

use bytes::{Buf as _, BufMut as _};
use darner_proto::digest::Digest;
use darner_proto::geometry::MAX_PIECES;
use darner_proto::piece_map::{PieceHash, PieceRun};

use super::{LinkRecord, TagRecord};

const VERSION: u8 = 1;

/// What the index says of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlobRecord {
    /// Bytes.
    pub(super) size: u64,
    /// Unix milliseconds; of two uses the later one has the greater value.
    pub(super) last_use: u64,
}

/// How far the store has been read again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ScrubPass {
    /// Unix milliseconds.
    pub(super) began_ms: u64,
    /// The last content that was read; they are read in the order of their digests.
    pub(super) after: Option<Digest>,
    /// All have been.
    pub(super) done: bool,
}

/// What the index says of a repository itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RepositoryRecord {
    /// Unix milliseconds of the last anonymous yes.
    pub(super) public_ms: Option<u64>,
    /// Unix milliseconds of the last use, to the hour or so.
    pub(super) used_ms: u64,
}

fn versioned(capacity: usize) -> Vec<u8> {
    let mut value = Vec::with_capacity(capacity + 1);
    value.push(VERSION);
    value
}

fn unversioned(value: &[u8]) -> Option<&[u8]> {
    let (version, rest) = value.split_first()?;
    (*version == VERSION).then_some(rest)
}

fn put_digest(value: &mut Vec<u8>, digest: &Digest) {
    let wire = digest.to_wire();
    // At most 65 bytes.
    value.put_u8(u8::try_from(wire.len()).unwrap_or(u8::MAX));
    value.extend_from_slice(&wire);
}

fn take<'a>(value: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = value.split_at_checked(length)?;
    *value = rest;
    Some(taken)
}

fn take_digest(value: &mut &[u8]) -> Option<Digest> {
    let length = value.try_get_u8().ok()?;
    Digest::from_wire(take(value, usize::from(length))?).ok()
}

impl BlobRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut value = versioned(16);
        value.put_u64(self.size);
        value.put_u64(self.last_use);
        value
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let mut rest = unversioned(value)?;
        Some(Self {
            size: rest.try_get_u64().ok()?,
            last_use: rest.try_get_u64().ok()?,
        })
    }
}

impl ScrubPass {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut value = versioned(80);
        value.put_u64(self.began_ms);
        value.put_u8(u8::from(self.done));
        if let Some(after) = &self.after {
            put_digest(&mut value, after);
        }
        value
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let mut rest = unversioned(value)?;
        Some(Self {
            began_ms: rest.try_get_u64().ok()?,
            done: rest.try_get_u8().ok()? == 1,
            after: take_digest(&mut rest),
        })
    }
}

impl RepositoryRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut value = versioned(17);
        value.put_u8(u8::from(self.public_ms.is_some()));
        value.put_u64(self.public_ms.unwrap_or(0));
        value.put_u64(self.used_ms);
        value
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let mut rest = unversioned(value)?;
        let public = rest.try_get_u8().ok()? == 1;
        let since = rest.try_get_u64().ok()?;
        Some(Self {
            public_ms: public.then_some(since),
            used_ms: rest.try_get_u64().ok()?,
        })
    }
}

impl TagRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut value = versioned(80);
        value.put_u64(self.checked_ms);
        put_digest(&mut value, &self.digest);
        value
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let mut rest = unversioned(value)?;
        let checked_ms = rest.try_get_u64().ok()?;
        let digest = take_digest(&mut rest)?;
        Some(Self { digest, checked_ms })
    }
}

impl LinkRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut value = versioned(16 + self.media_type.len());
        value.put_u8(u8::from(self.manifest));
        value.put_u64(self.size);
        value.put_u32(u32::try_from(self.media_type.len()).unwrap_or(u32::MAX));
        value.extend_from_slice(self.media_type.as_bytes());
        value
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let mut rest = unversioned(value)?;
        let manifest = rest.try_get_u8().ok()? == 1;
        let size = rest.try_get_u64().ok()?;
        let length = usize::try_from(rest.try_get_u32().ok()?).ok()?;
        let media_type = std::str::from_utf8(take(&mut rest, length)?).ok()?;
        Some(Self {
            manifest,
            media_type: media_type.to_owned(),
            size,
        })
    }
}

/// A piece map. Signers are named once: one node often signs every run.
pub(super) fn encode_runs(runs: &[PieceRun]) -> Vec<u8> {
    let mut signers: Vec<&str> = Vec::new();
    for run in runs {
        if !signers.contains(&run.signer.as_str()) {
            signers.push(run.signer.as_str());
        }
    }
    let hashes: usize = runs.iter().map(|run| 32 * run.hashes.len()).sum();
    let mut value = versioned(hashes + 80 * runs.len() + 64 * signers.len());
    value.put_u32(length(signers.len()));
    for signer in &signers {
        // A host id has at most 253 bytes.
        value.put_u8(u8::try_from(signer.len()).unwrap_or(u8::MAX));
        value.extend_from_slice(signer.as_bytes());
    }
    value.put_u32(length(runs.len()));
    for run in runs {
        let signer = signers
            .iter()
            .position(|signer| *signer == run.signer.as_str());
        value.put_u32(length(signer.unwrap_or(usize::MAX)));
        value.put_u32(run.first);
        value.put_u32(length(run.hashes.len()));
        value.extend(run.hashes.iter().flatten());
        value.put_u32(length(run.signature.len()));
        value.extend_from_slice(&run.signature);
    }
    value
}

/// The inverse of [`encode_runs`], for content of `pieces` pieces.
pub(super) fn decode_runs(value: &[u8], pieces: u32) -> Option<Vec<PieceRun>> {
    let mut rest = unversioned(value)?;
    let count = usize::try_from(rest.try_get_u32().ok()?).ok()?;
    let mut signers = Vec::new();
    for _ in 0..count {
        let length = usize::from(rest.try_get_u8().ok()?);
        let name = std::str::from_utf8(take(&mut rest, length)?).ok()?;
        signers.push(name.parse().ok()?);
    }
    let mut runs = Vec::new();
    for _ in 0..rest.try_get_u32().ok()? {
        let signer = usize::try_from(rest.try_get_u32().ok()?).ok()?;
        let first = rest.try_get_u32().ok()?;
        let count = u64::from(rest.try_get_u32().ok()?);
        if count == 0 || u64::from(first) + count > u64::from(pieces).min(MAX_PIECES) {
            return None;
        }
        let hashes = take(&mut rest, 32 * usize::try_from(count).ok()?)?;
        let hashes = hashes
            .chunks_exact(32)
            .filter_map(|hash| PieceHash::try_from(hash).ok());
        let hashes = hashes.collect();
        let signature = usize::try_from(rest.try_get_u32().ok()?).ok()?;
        runs.push(PieceRun {
            first,
            hashes,
            signer: signers.get(signer).cloned()?,
            signature: take(&mut rest, signature)?.to_vec(),
        });
    }
    Some(runs)
}

fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digests() -> impl Strategy<Value = Digest> {
        prop_oneof![
            any::<[u8; 32]>().prop_map(Digest::Sha256),
            any::<[u8; 64]>().prop_map(Digest::Sha512),
        ]
    }

    fn runs() -> impl Strategy<Value = Vec<PieceRun>> {
        let run = (
            0u32..100,
            prop::collection::vec(any::<[u8; 32]>(), 1..20),
            "[a-z]{1,3}",
            prop::collection::vec(any::<u8>(), 0..80),
        );
        let run = run.prop_map(|(first, hashes, signer, signature)| PieceRun {
            first,
            hashes,
            signer: signer.parse().unwrap(),
            signature,
        });
        prop::collection::vec(run, 0..10)
    }

    proptest! {
        #[test]
        fn records_round_trip(
            digest in digests(),
            numbers in any::<(u64, u64, Option<u64>, bool)>(),
            media_type in "\\PC{0,80}",
        ) {
            let (first, second, optional, manifest) = numbers;
            let blob = BlobRecord { size: first, last_use: second };
            prop_assert_eq!(BlobRecord::decode(&blob.encode()), Some(blob));
            let repository = RepositoryRecord { public_ms: optional, used_ms: second };
            prop_assert_eq!(RepositoryRecord::decode(&repository.encode()), Some(repository));
            let tag = TagRecord { digest, checked_ms: first };
            prop_assert_eq!(TagRecord::decode(&tag.encode()), Some(tag));
            let link = LinkRecord { manifest, media_type, size: first };
            prop_assert_eq!(LinkRecord::decode(&link.encode()), Some(link.clone()));
            let mut longer = link.encode();
            longer.extend(b"a field of a later version");
            prop_assert_eq!(LinkRecord::decode(&longer), Some(link));
        }

        #[test]
        fn piece_maps_round_trip(runs in runs()) {
            prop_assert_eq!(decode_runs(&encode_runs(&runs), 120), Some(runs.clone()));
            let end = runs.iter().map(|run| run.indexes().end).max();
            if let Some(end) = end {
                prop_assert_eq!(decode_runs(&encode_runs(&runs), end - 1), None);
            }
        }

        #[test]
        fn other_versions_and_cut_values_count_as_absent(runs in runs(), at in any::<prop::sample::Index>()) {
            let mut value = encode_runs(&runs);
            let cut = at.index(value.len());
            prop_assert_eq!(decode_runs(&value[..cut], 120), None);
            value[0] = VERSION + 1;
            prop_assert_eq!(decode_runs(&value, 120), None);
        }

        #[test]
        fn any_bytes_are_taken_calmly(value in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut value = value;
            if let Some(version) = value.first_mut() {
                *version = VERSION;
            }
            let _ = (BlobRecord::decode(&value), RepositoryRecord::decode(&value));
            let _ = (TagRecord::decode(&value), LinkRecord::decode(&value));
            for run in decode_runs(&value, 50).unwrap_or_default() {
                prop_assert!(run.indexes().end <= 50);
            }
        }
    }
}
