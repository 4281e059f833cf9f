//! Piece maps: the BLAKE3 hash of every piece of some content, and who says so.
//!
//! Whoever reads content from upstream states the hashes of what it read, signed with its node key.
//! Statements travel with the pieces through any number of peers, so a child can check a piece it
//! got from anybody against the word of somebody it trusts. Integrity never rests on the map alone:
//! the content's whole digest decides.

use std::collections::HashMap;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::geometry::{Geometry, MAX_PIECES};
use crate::id::{HostId, SigningKey, TaskId};
use crate::invalid::Invalid;
use crate::wire;

/// The BLAKE3 hash of a piece.
pub type PieceHash = [u8; 32];

/// What separates these signatures from any other use of the same key.
const CONTEXT: &[u8] = b"darner piece map v1\0";

/// A signed statement about consecutive pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceRun {
    /// Index of the first piece.
    pub first: u32,
    /// Their hashes in order; never empty.
    pub hashes: Vec<PieceHash>,
    /// Who says so.
    pub signer: HostId,
    /// Ed25519 over the content's digest and size, `first` and the hashes.
    pub signature: Vec<u8>,
}

/// The private half of a node's signing key.
#[derive(Debug)]
pub struct PieceSigner {
    host: HostId,
    pair: Ed25519KeyPair,
}

/// The public keys that count for a task, by host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedSigners(pub HashMap<HostId, SigningKey>);

/// The hash of a piece.
pub fn hash(piece: &[u8]) -> PieceHash {
    *blake3::hash(piece).as_bytes()
}

impl PieceSigner {
    /// A signer for `host` from the PKCS#8 document that [`PieceSigner::generate`] made.
    pub fn from_pkcs8(host: HostId, document: &[u8]) -> Result<Self, Invalid> {
        let pair = Ed25519KeyPair::from_pkcs8(document)
            .map_err(|refusal| Invalid::new("signing key", refusal.to_string()))?;
        Ok(Self { host, pair })
    }

    /// A new key, as a PKCS#8 document.
    pub fn generate() -> Result<Vec<u8>, Invalid> {
        let random = aws_lc_rs::rand::SystemRandom::new();
        let document = Ed25519KeyPair::generate_pkcs8(&random)
            .map_err(|_| Invalid::new("signing key", "cannot be generated"))?;
        Ok(document.as_ref().to_vec())
    }

    /// The host that signs.
    pub fn host(&self) -> &HostId {
        &self.host
    }

    /// The public half.
    pub fn public(&self) -> SigningKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.pair.public_key().as_ref());
        SigningKey(key)
    }

    /// States that the pieces of `task` from `first` on have these hashes.
    pub fn sign(&self, task: &TaskId, size: u64, first: u32, hashes: Vec<PieceHash>) -> PieceRun {
        let statement = statement(task, size, first, &hashes);
        PieceRun {
            first,
            signature: self.pair.sign(&statement).as_ref().to_vec(),
            hashes,
            signer: self.host.clone(),
        }
    }

    /// The same statements, with this node's own about single pieces that lie side by side joined
    /// into one: who gets them has one signature to check rather than one for each piece. Of a
    /// longer one only some pieces may have been looked at, whoever it says has signed it.
    pub fn join(&self, task: &TaskId, size: u64, runs: Vec<PieceRun>) -> Vec<PieceRun> {
        let own = |run: &PieceRun| run.signer == self.host && run.hashes.len() == 1;
        let side_by_side =
            |one: &PieceRun, next: &PieceRun| own(one) && own(next) && one.first + 1 == next.first;
        let join = |group: &[PieceRun]| match group {
            [first, _, ..] => {
                let hashes = group.iter().flat_map(|run| run.hashes.clone()).collect();
                vec![self.sign(task, size, first.first, hashes)]
            }
            _ => group.to_vec(),
        };
        runs.chunk_by(side_by_side).flat_map(join).collect()
    }
}

impl TrustedSigners {
    /// Whether the run is signed by somebody who counts.
    pub fn vouch_for(&self, task: &TaskId, size: u64, run: &PieceRun) -> bool {
        let Some(key) = self.0.get(&run.signer) else {
            return false;
        };
        let statement = statement(task, size, run.first, &run.hashes);
        UnparsedPublicKey::new(&ED25519, key.0)
            .verify(&statement, &run.signature)
            .is_ok()
    }
}

impl PieceRun {
    /// The indexes the run is about.
    pub fn indexes(&self) -> std::ops::Range<u32> {
        // `hashes` was bounded by MAX_PIECES when the run was parsed or made.
        self.first..self.first + u32::try_from(self.hashes.len()).unwrap_or(u32::MAX)
    }

    /// A run from the wire, about pieces that content of this geometry has.
    pub fn from_wire(run: wire::PieceRun, geometry: &Geometry) -> Result<Self, Invalid> {
        let bad = |why: &str| Invalid::new("piece run", why);
        let hashes: Vec<PieceHash> = run
            .hashes
            .chunks(32)
            .map(|hash| {
                hash.try_into()
                    .map_err(|_| bad("has a hash that is not 32 bytes"))
            })
            .collect::<Result<_, _>>()?;
        let end = u64::from(run.first) + hashes.len() as u64;
        if hashes.is_empty() || end > u64::from(geometry.pieces()).min(MAX_PIECES) {
            return Err(bad("is empty or ends past the last piece"));
        }
        Ok(Self {
            first: run.first,
            hashes,
            signer: run.signer.parse()?,
            signature: run.signature.to_vec(),
        })
    }
}

impl From<&PieceRun> for wire::PieceRun {
    fn from(run: &PieceRun) -> Self {
        Self {
            first: run.first,
            hashes: run.hashes.concat().into(),
            signer: run.signer.as_str().to_owned(),
            signature: run.signature.clone().into(),
        }
    }
}

fn statement(task: &TaskId, size: u64, first: u32, hashes: &[PieceHash]) -> Vec<u8> {
    let mut statement = CONTEXT.to_vec();
    statement.extend(task.to_wire());
    statement.extend(size.to_be_bytes());
    statement.extend(first.to_be_bytes());
    for hash in hashes {
        statement.extend(hash);
    }
    statement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn signer(name: &str) -> PieceSigner {
        let key = PieceSigner::generate().expect("key");
        PieceSigner::from_pkcs8(name.parse().expect("valid"), &key).expect("signer")
    }

    #[test]
    fn only_the_very_statement_of_a_trusted_signer_counts() {
        let (seed, stranger) = (signer("seed"), signer("stranger"));
        let task = Digest::sha256(b"content");
        let trusted = TrustedSigners([(seed.host().clone(), seed.public())].into());
        let run = seed.sign(&task, 100, 3, vec![hash(b"a"), hash(b"b")]);
        assert!(trusted.vouch_for(&task, 100, &run));
        assert!(!trusted.vouch_for(&task, 101, &run));
        assert!(!trusted.vouch_for(&Digest::sha256(b"other"), 100, &run));
        let mut moved = run.clone();
        moved.first = 4;
        assert!(!trusted.vouch_for(&task, 100, &moved));
        let mut forged = stranger.sign(&task, 100, 3, run.hashes.clone());
        assert!(!trusted.vouch_for(&task, 100, &forged));
        forged.signer = seed.host().clone();
        assert!(!trusted.vouch_for(&task, 100, &forged));
    }

    #[test]
    fn own_statements_about_single_pieces_are_joined_and_no_others() {
        let (seed, other) = (signer("seed"), signer("other"));
        let task = Digest::sha256(b"content");
        let sign = |signer: &PieceSigner, first, pieces: &[&[u8]]| {
            let hashes = pieces.iter().map(|piece| hash(piece)).collect();
            signer.sign(&task, 100, first, hashes)
        };
        let runs = vec![
            sign(&seed, 0, &[b"a"]),
            sign(&seed, 1, &[b"b"]),
            sign(&other, 2, &[b"c"]),
            sign(&seed, 3, &[b"d", b"e"]),
            sign(&seed, 5, &[b"f"]),
            sign(&seed, 7, &[b"h"]),
            sign(&seed, 8, &[b"i"]),
        ];
        let joined = seed.join(&task, 100, runs.clone());
        let expected = [
            sign(&seed, 0, &[b"a", b"b"]),
            runs[2].clone(),
            runs[3].clone(),
            runs[4].clone(),
            sign(&seed, 7, &[b"h", b"i"]),
        ];
        assert_eq!(joined, expected);
        assert_eq!(other.join(&task, 100, runs.clone()), runs);
        assert!(seed.join(&task, 100, Vec::new()).is_empty());
    }

    #[test]
    fn a_run_past_the_end_is_refused() {
        let seed = signer("seed");
        let geometry = Geometry::of(3 << 20);
        let task = Digest::sha256(b"content");
        let run = seed.sign(&task, 3 << 20, 1, vec![hash(b"a"); 2]);
        assert_eq!(
            PieceRun::from_wire((&run).into(), &geometry),
            Ok(run.clone())
        );
        let past = PieceRun { first: 2, ..run };
        assert!(PieceRun::from_wire((&past).into(), &geometry).is_err());
    }
}
