//! Which nodes a job is for.

use std::fmt;
use std::str::FromStr;

use darner_proto::id::{Host, Role};
use darner_proto::invalid::Invalid;

/// Which nodes images are to be on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// Every seed.
    Seeds,
    /// Every seed and every mirror.
    Nodes,
    /// Every seed, and the mirrors with this label.
    Label(String, String),
}

impl To {
    /// Whether this host is one of them.
    pub(super) fn means(&self, host: &Host) -> bool {
        match self {
            _ if host.role == Role::Seed => true,
            Self::Seeds => false,
            Self::Nodes => true,
            Self::Label(key, value) => host.labels.get(key) == Some(value),
        }
    }
}

impl FromStr for To {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // `label=zone=a` says the same as `zone=a`.
        let named = text
            .strip_prefix("label=")
            .filter(|rest| rest.contains('='));
        let text = named.unwrap_or(text);
        match (text, text.split_once('=')) {
            ("seeds", _) => Ok(Self::Seeds),
            ("nodes", _) => Ok(Self::Nodes),
            (_, Some((key, value))) if !key.is_empty() && text.len() <= MAX_TO => {
                Ok(Self::Label(key.to_owned(), value.to_owned()))
            }
            _ => Err(Self::Err::new(
                "to",
                "is not seeds, nodes or label=KEY=VALUE",
            )),
        }
    }
}

/// A label is no longer than this, key and value.
const MAX_TO: usize = 512;

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seeds => f.write_str("seeds"),
            Self::Nodes => f.write_str("nodes"),
            Self::Label(key, value) => write!(f, "{key}={value}"),
        }
    }
}
