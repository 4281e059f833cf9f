//! Values nobody can guess.

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};

/// `N` random bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[allow(
        clippy::expect_used,
        reason = "without randomness there are no secrets, and nothing to go on with"
    )]
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the system gives random bytes");
    bytes
}

/// `N` random bytes as lower-case hexadecimal digits.
pub fn hexadecimal<const N: usize>() -> String {
    hex(&bytes::<N>())
}

/// The bytes that pairs of hexadecimal digits stand for.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let even = text.len().is_multiple_of(2);
    even.then(|| text.as_bytes().chunks(2).map(byte).collect())
        .flatten()
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
