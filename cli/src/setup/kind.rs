//! What a file is to us: all ours, or somebody else's with something of ours in it.

use serde::{Deserialize, Serialize};

use super::edit::{EditError, hosts, json, toml, yaml};

/// How a file can be had without us when somebody has changed it since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Ours alone.
    Own,
    /// Somebody's hosts.toml.
    Hosts,
    /// Docker's daemon.json.
    DaemonJson,
    /// containerd's config.toml.
    ContainerdConfig,
    /// registries.yaml of k3s or RKE2.
    RegistriesYaml,
}

impl Kind {
    /// The text without what was added for `mirror`; `None`: nothing would be left.
    pub(crate) fn strip(self, text: &str, mirror: &str) -> Result<Option<String>, EditError> {
        match self {
            Self::Own => Ok(None),
            Self::Hosts => hosts::strip(text).map(Some),
            Self::DaemonJson => json::strip(text, mirror),
            Self::ContainerdConfig => toml::unset(text).map(Some),
            Self::RegistriesYaml => yaml::strip(text),
        }
    }
}
