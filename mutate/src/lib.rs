//! Inputs for tests of parsers: a few that mean something, changed in the ways that break parsers.
//!
//! The run is the same every time: what coverage-guided runs have found worth keeping (`fuzz/corpus`, in
//! a directory of the test's name), then twenty thousand inputs that follow no coverage, in a second or
//! two. With `DARNER_FUZZ_SECONDS` it goes on for as long. Each test gives one of every form its parser
//! knows, and those that have broken it before.
//!
//! `fuzz/run` builds the same tests with libFuzzer in this crate's place: those that `fuzz/targets` lists.

#![allow(unexpected_cfgs, reason = "only fuzz/run sets `fuzzing`")]

mod corpus;

use std::time::{Duration, Instant};

/// Whether inputs follow coverage, so that none of them should be left out.
pub const GUIDED: bool = cfg!(fuzzing);

/// Inputs of a usual run.
const INPUTS: u64 = 20_000;
/// Changes are piled upon each other up to here; then it begins again with a good input.
const DEPTH: u64 = 6;
/// No input grows longer.
const MAX_INPUT: usize = 4096;
/// What parsers take for something else, or count wrong.
const PIECES: [&[u8]; 24] = [
    b"\0",
    b"\xff",
    b"\xc3\x28",
    b"\"",
    b"\\",
    b"'",
    b"%",
    b"%2f",
    b"..",
    b"//",
    b":",
    b"@",
    b",",
    b"=",
    b"-",
    b"\r\n",
    b"[[",
    b"}",
    b"0",
    b"-1",
    b"4294967296",
    b"18446744073709551616",
    b"\xff\xff\xff\xff\x0f",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
];

/// Gives `parse` every input of `good`, and then changed ones. A panic of `parse` names its input.
///
/// # Panics
/// When `parse` does.
pub fn each(good: &[&[u8]], parse: impl FnMut(&[u8])) {
    #[cfg(fuzzing)]
    let parse = corpus::guided(good, parse);
    change_each(good, parse);
}

fn change_each(good: &[&[u8]], mut parse: impl FnMut(&[u8])) {
    assert!(!good.is_empty(), "there is nothing to change");
    let kept = corpus::kept();
    for input in good.iter().copied().chain(kept.iter().map(Vec::as_slice)) {
        watched(input, &mut parse);
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (until, mut input) = (End::of_run(), good[0].to_vec());
    let mut count = 0;
    while !until.is_reached(count) {
        if random.below(DEPTH) == 0 || input.len() > MAX_INPUT {
            input = random.of(good).to_vec();
        }
        change(&mut input, good, &mut random);
        watched(&input, &mut parse);
        count += 1;
    }
}

/// As [`each`], for parsers of text.
pub fn each_text(good: &[&str], mut parse: impl FnMut(&str)) {
    let good: Vec<_> = good.iter().map(|text| text.as_bytes()).collect();
    each(&good, |bytes| parse(&String::from_utf8_lossy(bytes)));
}

enum End {
    Count(u64),
    Time(Instant),
}

impl End {
    #[allow(
        clippy::disallowed_methods,
        reason = "the length of a test's run is no setting of a process"
    )]
    fn of_run() -> Self {
        let asked = std::env::var("DARNER_FUZZ_SECONDS").ok();
        match asked.and_then(|text| text.parse().ok()) {
            Some(seconds) => Self::Time(Instant::now() + Duration::from_secs(seconds)),
            None => Self::Count(INPUTS),
        }
    }

    fn is_reached(&self, count: u64) -> bool {
        match self {
            Self::Count(most) => count >= *most,
            Self::Time(end) => count.is_multiple_of(64) && Instant::now() >= *end,
        }
    }
}

/// Says what the input was when `parse` panics.
fn watched(input: &[u8], parse: &mut impl FnMut(&[u8])) {
    struct Witness<'a>(&'a [u8]);
    impl Drop for Witness<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("the input was \"{}\"", self.0.escape_ascii());
            }
        }
    }
    let _witness = Witness(input);
    parse(input);
}

fn change(input: &mut Vec<u8>, good: &[&[u8]], random: &mut Random) {
    let at = random.below(input.len() as u64 + 1) as usize;
    let end = at + random.below((input.len() - at) as u64 + 1).min(16) as usize;
    match random.below(8) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.below(256) as u8,
        2 => drop(input.drain(at..end)),
        3 => input.truncate(at),
        4 => {
            let copy = input[at..end].to_vec();
            input.splice(at..at, copy);
        }
        5 => {
            let other = *random.of(good);
            let from = random.below(other.len() as u64 + 1) as usize;
            input.splice(at.., other[from..].iter().copied());
        }
        _ => {
            let piece: &&[u8] = random.of(&PIECES);
            input.splice(at..at, piece.iter().copied());
        }
    }
}

/// A generator whose every run is the same.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parser_that_trusts_a_length_is_found_out() {
        // The first byte says how long the rest is.
        let careless = |bytes: &[u8]| {
            if let [length, rest @ ..] = bytes {
                let _ = &rest[..usize::from(*length)];
            }
        };
        let found = std::panic::catch_unwind(|| change_each(&[b"\x03abc"], careless));
        assert!(found.is_err());
    }

    #[test]
    fn inputs_are_many_and_not_the_same() {
        let mut seen = std::collections::HashSet::new();
        let mut count = 0;
        change_each(&[b"one=1", b"two: 2"], |bytes| {
            count += 1;
            seen.insert(bytes.to_vec());
            assert!(bytes.len() < 2 * MAX_INPUT);
        });
        assert!(
            count >= INPUTS && seen.len() as u64 > INPUTS / 2,
            "{}",
            seen.len()
        );
    }
}
