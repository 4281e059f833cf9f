//! A value that must not be seen: it has no way to be printed, compared or serialised.

use std::path::Path;
use std::{fmt, fs, io};

/// No password or token is longer.
const MAX_FILE: u64 = 64 << 10;

/// A password or token. `Debug` prints asterisks; the value comes out only through
/// [`Secret::reveal`], so that every use can be found by name.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Wraps `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// What a file holds, without the newline that editors end it with.
    ///
    /// # Errors
    /// A file that cannot be read, is empty, or is longer than any secret.
    pub fn read(path: &Path) -> io::Result<Self> {
        if fs::metadata(path)?.len() > MAX_FILE {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "it is longer than 64 KiB",
            ));
        }
        let text = fs::read_to_string(path)?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        match text {
            "" => Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty")),
            _ => Ok(Self::new(text)),
        }
    }

    /// The value, for the one place that sends it where it belongs.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_newline_at_the_end_of_a_file_does_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        for (text, secret) in [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n")] {
            fs::write(&path, text).unwrap();
            let read = Secret::read(&path).unwrap();
            assert_eq!(read.reveal(), secret);
            assert_eq!(format!("{read:?}"), "***");
        }
        for bad in ["", "\n"] {
            fs::write(&path, bad).unwrap();
            assert!(Secret::read(&path).is_err());
        }
        fs::write(&path, "x".repeat(70_000)).unwrap();
        assert!(Secret::read(&path).is_err());
    }
}
