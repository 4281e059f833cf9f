//! The journal beside a partial: which pieces have been written and what each must hash to.
//!
//! Records are only ever added. Each is `length u32, kind u8, payload, checksum`; reading stops at
//! the first that is cut or does not have its checksum, and writing goes on from there. Nothing in
//! here is believed: after a restart the pieces themselves are hashed. A journal of another version
//! is worth nothing, and neither is its partial.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use bytes::{Buf as _, BufMut as _};
use darner_proto::digest::Digest;
use darner_proto::geometry::Geometry;
use darner_proto::piece_map::PieceRun;

use super::disk;
use super::encoding::{decode_runs, encode_runs};

const VERSION: u8 = 1;
const BEGIN: u8 = 0;
const RUN: u8 = 1;
const HELD: u8 = 2;
const CHECKSUM: usize = 8;
/// Longer than any honest journal: 4096 pieces, each signed by itself, take 0.5 MiB. Pieces beyond
/// this are not noted and have to be had again after a restart.
const MAX_LENGTH: u64 = 16 << 20;

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    end: u64,
    /// The number of each run in the order of the file.
    numbers: HashMap<(u32, Vec<u8>), u32>,
    /// Runs in the file.
    runs: u32,
}

/// What a journal says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) runs: Vec<PieceRun>,
    /// Pieces, and which of the runs each belongs to.
    pub(super) held: Vec<(u32, u32)>,
}

impl Journal {
    /// Begins a journal in an empty file.
    pub(super) fn begin(file: File, digest: &Digest, size: u64) -> io::Result<Self> {
        let mut journal = Self {
            file,
            end: 0,
            numbers: HashMap::new(),
            runs: 0,
        };
        let mut payload = vec![VERSION];
        payload.put_u64(size);
        payload.extend_from_slice(&digest.to_wire());
        journal.add(&record(BEGIN, &payload))?;
        Ok(journal)
    }

    /// Goes on with a journal. `None` when it is of another content, or of another version.
    pub(super) fn resume(
        file: File,
        digest: &Digest,
        size: u64,
    ) -> io::Result<Option<(Self, Noted)>> {
        let length = file.metadata()?.len().min(MAX_LENGTH);
        let bytes = disk::read(&file, 0..length)?;
        let Some((noted, end)) = parse(&bytes, digest, size) else {
            return Ok(None);
        };
        file.set_len(end)?;
        let numbers = noted
            .runs
            .iter()
            .zip(0..)
            .map(|(run, number)| (key(run), number));
        let journal = Self {
            file,
            end,
            numbers: numbers.collect(),
            runs: u32::try_from(noted.runs.len()).unwrap_or(u32::MAX),
        };
        Ok(Some((journal, noted)))
    }

    /// Notes that a piece has been written and which statement is about it.
    pub(super) fn note(&mut self, index: u32, run: &PieceRun) -> io::Result<()> {
        let known = self.numbers.get(&key(run)).copied();
        let number = known.unwrap_or(self.runs);
        let mut records = Vec::new();
        if known.is_none() {
            records = record(RUN, &encode_runs(std::slice::from_ref(run)));
        }
        let mut held = Vec::with_capacity(8);
        held.put_u32(index);
        held.put_u32(number);
        records.extend(record(HELD, &held));
        if self.end + records.len() as u64 > MAX_LENGTH {
            return Ok(());
        }
        self.add(&records)?;
        if known.is_none() {
            self.numbers.insert(key(run), number);
            self.runs += 1;
        }
        Ok(())
    }

    /// Makes what is noted durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn add(&mut self, records: &[u8]) -> io::Result<()> {
        // What a failed write leaves is overwritten by the next.
        self.file.write_all_at(records, self.end)?;
        self.end += records.len() as u64;
        Ok(())
    }
}

/// The same runs are the same statement: a signature covers all of it.
fn key(run: &PieceRun) -> (u32, Vec<u8>) {
    (run.first, run.signature.clone())
}

fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(payload.len() + 5 + CHECKSUM);
    record.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    record.put_u8(kind);
    record.extend_from_slice(payload);
    let checksum = checksum(&record);
    record.extend_from_slice(&checksum);
    record
}

fn checksum(record: &[u8]) -> [u8; CHECKSUM] {
    let mut sum = [0; CHECKSUM];
    sum.copy_from_slice(&blake3::hash(record).as_bytes()[..CHECKSUM]);
    sum
}

/// The first record: its kind, its payload, and what follows it.
fn first(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let mut rest = bytes;
    let length = usize::try_from(rest.try_get_u32().ok()?).ok()?;
    let kind = rest.try_get_u8().ok()?;
    let (payload, rest) = rest.split_at_checked(length)?;
    let (sum, rest) = rest.split_at_checked(CHECKSUM)?;
    (checksum(&bytes[..5 + length]) == sum).then_some((kind, payload, rest))
}

/// What is noted, and where the good records end.
fn parse(bytes: &[u8], digest: &Digest, size: u64) -> Option<(Noted, u64)> {
    let (kind, mut payload, mut rest) = first(bytes)?;
    let begun = kind == BEGIN
        && payload.try_get_u8().ok()? == VERSION
        && payload.try_get_u64().ok()? == size
        && payload == digest.to_wire();
    if !begun {
        return None;
    }
    let pieces = Geometry::of(size).pieces();
    let mut noted = Noted::default();
    while let Some((kind, payload, after)) = first(rest) {
        if take(&mut noted, kind, payload, pieces).is_none() {
            break;
        }
        rest = after;
    }
    Some((noted, (bytes.len() - rest.len()) as u64))
}

fn take(noted: &mut Noted, kind: u8, mut payload: &[u8], pieces: u32) -> Option<()> {
    match kind {
        RUN => {
            let [run] = <[PieceRun; 1]>::try_from(decode_runs(payload, pieces)?).ok()?;
            noted.runs.push(run);
        }
        HELD => {
            let index = payload.try_get_u32().ok()?;
            let number = payload.try_get_u32().ok()?;
            let run = noted.runs.get(usize::try_from(number).ok()?)?;
            if !run.indexes().contains(&index) {
                return None;
            }
            noted.held.push((index, number));
        }
        // Kinds of later versions within this one may be skipped.
        _ => {}
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: u64 = 40 << 20;

    fn run(first: u32, length: u32, signature: u8) -> PieceRun {
        PieceRun {
            first,
            hashes: (0..length)
                .map(|n| [u8::try_from(n).unwrap(); 32])
                .collect(),
            signer: "seed".parse().unwrap(),
            signature: vec![signature; 64],
        }
    }

    fn written(notes: &[(u32, PieceRun)]) -> (Vec<u8>, Digest) {
        let digest = Digest::sha256(b"content");
        let file = tempfile::tempfile().unwrap();
        let mut journal = Journal::begin(file.try_clone().unwrap(), &digest, SIZE).unwrap();
        for (index, run) in notes {
            journal.note(*index, run).unwrap();
        }
        let length = file.metadata().unwrap().len();
        (disk::read(&file, 0..length).unwrap(), digest)
    }

    #[test]
    fn a_statement_about_many_pieces_is_written_once() {
        let long = run(0, 40, 1);
        let notes: Vec<_> = (0..40).map(|index| (index, long.clone())).collect();
        let (bytes, digest) = written(&notes);
        let (noted, end) = parse(&bytes, &digest, SIZE).unwrap();
        assert_eq!(noted.runs, [long]);
        assert_eq!(noted.held.len(), 40);
        assert_eq!(end, bytes.len() as u64);
        assert!(bytes.len() < 4096, "{}", bytes.len());
    }

    #[test]
    fn another_content_or_version_is_worth_nothing() {
        let (mut bytes, digest) = written(&[(3, run(3, 1, 1))]);
        assert_eq!(parse(&bytes, &digest, SIZE + 1), None);
        assert_eq!(parse(&bytes, &Digest::sha256(b"other"), SIZE), None);
        let mut payload = vec![VERSION + 1];
        payload.put_u64(SIZE);
        payload.extend_from_slice(&digest.to_wire());
        bytes = record(BEGIN, &payload);
        assert_eq!(parse(&bytes, &digest, SIZE), None);
    }

    proptest! {
        #[test]
        fn a_torn_tail_costs_only_itself(
            notes in prop::collection::vec((0u32..40, any::<u8>()), 1..30),
            cut in any::<prop::sample::Index>(),
            garbage in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let notes: Vec<_> = notes
                .into_iter()
                .map(|(index, signature)| (index, run(index, 1, signature)))
                .collect();
            let (bytes, digest) = written(&notes);
            let mut torn = bytes[..cut.index(bytes.len())].to_vec();
            torn.extend(&garbage);
            let Some((noted, end)) = parse(&torn, &digest, SIZE) else {
                return Ok(());
            };
            prop_assert!(noted.held.len() <= notes.len());
            for ((index, number), (wrote, run)) in noted.held.iter().zip(&notes) {
                prop_assert_eq!(index, wrote);
                prop_assert_eq!(&noted.runs[*number as usize], run);
            }
            // Writing goes on behind the last good record.
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&torn, 0).unwrap();
            let (mut journal, _) = Journal::resume(file.try_clone().unwrap(), &digest, SIZE)
                .unwrap()
                .unwrap();
            journal.note(39, &run(39, 1, 7)).unwrap();
            let whole = disk::read(&file, 0..file.metadata().unwrap().len()).unwrap();
            prop_assert!(end as usize <= torn.len());
            let (after, _) = parse(&whole, &digest, SIZE).unwrap();
            prop_assert_eq!(after.held.len(), noted.held.len() + 1);
        }
    }

    #[test]
    fn journals_as_a_bad_disk_gives_them_end_where_they_are_bad() {
        let digest = Digest::sha256(b"x");
        let mut begin = vec![VERSION];
        begin.extend(SIZE.to_be_bytes());
        begin.extend(digest.to_wire());
        let begin = record(BEGIN, &begin);
        let noted = [&begin[..], &record(BEGIN + 1, b"payload")[..]].concat();
        darner_mutate::each(&[&begin, &noted], |bytes| {
            if let Some((_, end)) = parse(bytes, &digest, SIZE) {
                assert!(end <= bytes.len() as u64 && end >= begin.len() as u64);
            }
        });
    }
}
