//! What content is known by, parsed once and never a string after: its digest as the OCI image
//! specification writes it; or, for a file whose digest nobody knows before all of it was read, the
//! digest of where it lies and of which version it is (see [`crate::file`]).

use std::fmt;
use std::str::FromStr;

use sha2::Digest as _;

use crate::invalid::Invalid;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// What content is known by. Of digests of content only sha256 and sha512 exist: the OCI image
/// specification registers no weaker one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Digest {
    /// `sha256:` and 64 lower-case hex digits.
    Sha256([u8; 32]),
    /// `sha512:` and 128 lower-case hex digits.
    Sha512([u8; 64]),
    /// One version of the file at a URL. It says nothing about the bytes: these are as right as the
    /// statements of those who read them there. Written `file:` and 64 hex digits, which is no
    /// digest: no client, manifest or registry can name content so.
    File([u8; 32]),
}

/// Computes a digest of one algorithm over bytes that come in order.
#[derive(Debug, Clone)]
pub enum Hasher {
    /// sha256.
    Sha256(sha2::Sha256),
    /// sha512.
    Sha512(sha2::Sha512),
}

impl Digest {
    /// The sha256 of `bytes`.
    pub fn sha256(bytes: &[u8]) -> Self {
        Self::Sha256(sha2::Sha256::digest(bytes).into())
    }

    /// The algorithm's name as it stands before the colon.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "sha256",
            Self::Sha512(_) => "sha512",
            Self::File(_) => "file",
        }
    }

    /// Whether it is a digest of the content's own bytes.
    pub fn is_of_content(&self) -> bool {
        !matches!(self, Self::File(_))
    }

    /// Whether content with the digest `found` may be known by this: the very same, or for a file
    /// any, since only its pieces can be checked.
    pub fn admits(&self, found: &Self) -> bool {
        !self.is_of_content() || self == found
    }

    /// Parses what is not from outside the cluster: as [`str::parse`], and the form of files.
    ///
    /// # Errors
    /// Neither of them.
    pub fn parse_key(text: &str) -> Result<Self, Invalid> {
        let (algorithm, hex) = text
            .split_once(':')
            .ok_or_else(|| Invalid::new("digest", "has no algorithm"))?;
        Self::from_hex(algorithm, hex)
    }

    /// The raw hash.
    pub fn hash(&self) -> &[u8] {
        match self {
            Self::Sha256(hash) => hash,
            Self::Sha512(hash) => hash,
            Self::File(hash) => hash,
        }
    }

    /// The hash in lower-case hex: the file's name in an OCI layout.
    pub fn hex(&self) -> String {
        let digit = |value: u8| char::from(HEX[usize::from(value)]);
        let mut hex = String::with_capacity(2 * self.hash().len());
        for byte in self.hash() {
            hex.push(digit(byte >> 4));
            hex.push(digit(byte & 0xf));
        }
        hex
    }

    /// The inverse of [`Digest::algorithm`] and [`Digest::hex`].
    ///
    /// # Errors
    /// Another algorithm, or not lower-case hex of its length.
    pub fn from_hex(algorithm: &str, hex: &str) -> Result<Self, Invalid> {
        match algorithm {
            "sha256" => Ok(Self::Sha256(parse_hex(hex)?)),
            "sha512" => Ok(Self::Sha512(parse_hex(hex)?)),
            "file" => Ok(Self::File(parse_hex(hex)?)),
            _ => Err(Invalid::new(
                "digest",
                "algorithm is neither sha256 nor sha512",
            )),
        }
    }

    /// A hasher of this digest's algorithm; for a file, of sha256.
    pub fn hasher(&self) -> Hasher {
        match self {
            Self::Sha256(_) | Self::File(_) => Hasher::Sha256(sha2::Sha256::new()),
            Self::Sha512(_) => Hasher::Sha512(sha2::Sha512::new()),
        }
    }

    /// Whether `bytes` have this digest. Nothing has that of a file.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        hasher.finish() == *self
    }

    /// As it travels between our processes: one algorithm byte, then the hash.
    pub fn to_wire(&self) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha256(_) => 1,
            Self::Sha512(_) => 2,
            Self::File(_) => 3,
        };
        let mut wire = Vec::with_capacity(65);
        wire.push(algorithm);
        wire.extend_from_slice(self.hash());
        wire
    }

    /// The inverse of [`Digest::to_wire`].
    pub fn from_wire(wire: &[u8]) -> Result<Self, Invalid> {
        let bad = || Invalid::new("digest", "not an algorithm byte and its hash");
        match wire.split_first().ok_or_else(bad)? {
            (1, hash) => Ok(Self::Sha256(hash.try_into().map_err(|_| bad())?)),
            (2, hash) => Ok(Self::Sha512(hash.try_into().map_err(|_| bad())?)),
            (3, hash) => Ok(Self::File(hash.try_into().map_err(|_| bad())?)),
            _ => Err(bad()),
        }
    }
}

impl Hasher {
    /// Adds bytes that follow those added before.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of everything added.
    pub fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher) => Digest::Sha256(hasher.finalize().into()),
            Self::Sha512(hasher) => Digest::Sha512(hasher.finalize().into()),
        }
    }
}

impl FromStr for Digest {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parsed = Self::parse_key(text)?;
        match parsed.is_of_content() {
            true => Ok(parsed),
            false => Err(Invalid::new("digest", "is the key of a file")),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn parse_hex<const N: usize>(hex: &str) -> Result<[u8; N], Invalid> {
    let digits = hex.as_bytes();
    if digits.len() != 2 * N {
        return Err(Invalid::new(
            "digest",
            format!("is not {} hex digits", 2 * N),
        ));
    }
    let mut hash = [0; N];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (nibble(pair[0])? << 4) | nibble(pair[1])?;
    }
    Ok(hash)
}

fn nibble(digit: u8) -> Result<u8, Invalid> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(Invalid::new(
            "digest",
            "has a character that is not lower-case hex",
        )),
    }
}

#[cfg(test)]
mod tests;
