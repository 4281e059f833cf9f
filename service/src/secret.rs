//! A value that must not be seen: it has no way to be printed, compared or serialised.

use std::fmt;

/// A password or token. `Debug` prints asterisks; the value comes out only through
/// [`Secret::reveal`], so that every use can be found by name.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Wraps `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
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
