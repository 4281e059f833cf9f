//! Small numbers in place of long names: what is kept for every host and task refers to others by
//! four bytes, not by a digest or a name.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use darner_proto::digest::Digest;

use super::mix;

/// A host, by a number that no other host ever gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct HostNumber(pub(super) u32);

/// A known task. The number is free again when the task is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct TaskNumber(u32);

/// A map by numbers of this process's own. It is never iterated over.
pub(super) type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// Mixes a number well enough for a table. Not for what others choose.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = mix(self.0, number);
    }
}

/// Digests by number.
#[derive(Debug, Default)]
pub(super) struct Digests {
    all: Vec<Digest>,
    free: Vec<u32>,
}

impl Digests {
    pub(super) fn take(&mut self, digest: Digest) -> TaskNumber {
        if let Some(number) = self.free.pop() {
            self.all[number as usize] = digest;
            return TaskNumber(number);
        }
        self.all.push(digest);
        // Tasks are bounded far below.
        TaskNumber(u32::try_from(self.all.len() - 1).unwrap_or(u32::MAX))
    }

    pub(super) fn give_back(&mut self, number: TaskNumber) {
        self.free.push(number.0);
    }

    pub(super) fn get(&self, number: TaskNumber) -> Digest {
        self.all[number.0 as usize]
    }

    pub(super) fn of(&self, numbers: impl IntoIterator<Item = TaskNumber>) -> Vec<Digest> {
        numbers.into_iter().map(|number| self.get(number)).collect()
    }
}
