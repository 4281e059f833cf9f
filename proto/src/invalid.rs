//! The one error of this crate: a value that does not mean what its place requires.

/// A message or name that was refused, and why. The text is safe to show to the sender.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Invalid {
    /// The field or kind of value.
    pub what: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl Invalid {
    /// An error about `what`.
    pub fn new(what: &'static str, why: impl Into<String>) -> Self {
        Self {
            what,
            why: why.into(),
        }
    }
}

impl From<Invalid> for tonic::Status {
    fn from(invalid: Invalid) -> Self {
        tonic::Status::invalid_argument(invalid.to_string())
    }
}
