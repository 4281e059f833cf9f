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

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
