//! What a registry's client is made of: this node's settings, and what the manager adds to them that
//! is in no file.

use std::path::PathBuf;
use std::sync::Arc;

use darner_proto::rules::Login;
use darner_service::settings;
use reqwest::Certificate;

use super::error::Fault;

/// One registry's. Two that are equal make clients that do the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// As this node's file could say it.
    pub settings: settings::Upstream,
    /// Authorities to trust in place of the system's, PEM; counts more than `ca_file`.
    pub ca: Option<Arc<str>>,
    /// To read with; counts more than what the settings name.
    pub login: Option<Login>,
}

/// Whom a server's certificate may be of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Authorities {
    System,
    /// PEM, by this node's settings.
    File(PathBuf),
    /// PEM, by the manager.
    Given(Arc<str>),
}

impl From<&settings::Upstream> for Setup {
    fn from(settings: &settings::Upstream) -> Self {
        Self {
            settings: settings.clone(),
            ca: None,
            login: None,
        }
    }
}

impl Setup {
    /// The same for one of the registry's mirrors: what belongs to the registry's own host stays there.
    pub(super) fn of_mirror(&self, url: &str) -> Self {
        Self {
            settings: settings::Upstream {
                url: url.to_owned(),
                credentials: None,
                client_cert_file: None,
                client_key_file: None,
                ..self.settings.clone()
            },
            ca: self.ca.clone(),
            login: None,
        }
    }

    pub(super) fn authorities(&self) -> Authorities {
        match (&self.ca, &self.settings.ca_file) {
            (Some(pem), _) => Authorities::Given(pem.clone()),
            (None, Some(path)) => Authorities::File(path.clone()),
            (None, None) => Authorities::System,
        }
    }
}

impl Authorities {
    pub(super) fn of_file(path: Option<&PathBuf>) -> Self {
        path.map_or(Self::System, |path| Self::File(path.clone()))
    }

    /// Their certificates; `None` for the system's.
    pub(super) fn roots(&self) -> Result<Option<Vec<Certificate>>, Fault> {
        let roots = match self {
            Self::System => return Ok(None),
            Self::File(path) => roots(&std::fs::read(path).map_err(Fault::CaFile)?),
            Self::Given(pem) => roots(pem.as_bytes()),
        };
        roots.map(Some)
    }
}

fn roots(pem: &[u8]) -> Result<Vec<Certificate>, Fault> {
    let roots = Certificate::from_pem_bundle(pem).map_err(Fault::Client)?;
    if roots.is_empty() {
        return Err(Fault::Setup("its ca_file holds no certificate"));
    }
    Ok(roots)
}
