//! What is wrong with the settings, and where.

use std::fmt;
use std::path::PathBuf;

/// More than this many faults are only counted: a file of another kind has one on every line.
const SHOWN: usize = 50;

/// Where a setting was given. Ordered as faults are listed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// In the settings file.
    File {
        /// The file, as given.
        path: PathBuf,
        /// Counted from 1; `None` for what concerns the file as a whole.
        line: Option<usize>,
    },
    /// In a variable, by its name.
    Environment(String),
    /// In a flag, as written.
    Flag(String),
    /// Nowhere.
    Default,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Where.
    pub origin: Origin,
    /// The setting, such as `[registry] listen`; empty when it is not about one.
    pub setting: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// The settings cannot be used: every fault, one on each line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one; sorted by where they are.
    pub faults: Vec<Fault>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::File {
                path,
                line: Some(line),
            } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) | Self::Flag(name) => f.write_str(name),
            Self::Default => f.write_str("settings"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named_by_origin = matches!(self.origin, Origin::Environment(_) | Origin::Flag(_));
        write!(f, "{}: ", self.origin)?;
        if !self.setting.is_empty() && !named_by_origin {
            write!(f, "{}: ", self.setting)?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().take(SHOWN).enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{fault}")?;
        }
        match self.faults.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for ConfigError {}
