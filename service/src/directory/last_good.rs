//! The last good answer of the manager, on disk: `<data_dir>/membership-<role>.json`. Processes of
//! different roles may share a data directory.
//!
//! It is a copy, so a damaged one is logged and done without; but one of a later format is somebody
//! else's to read, and stops the start before anything is overwritten.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use darner_proto::id::{Host, Role};
use darner_proto::invalid::Invalid;
use darner_proto::manager::Configuration;
use darner_proto::rules::Rules;
use darner_proto::wire;
use serde::{Deserialize, Serialize};

use super::DirectoryError;
use crate::replace::replace;

/// Raised when a reader of the format before could misread the file.
const FORMAT: u32 = 1;

/// The file, and whose answers it holds.
#[derive(Debug)]
pub(super) struct LastGood {
    path: PathBuf,
    manager: String,
}

/// Read first, and alone, so that a later format is told from a damaged file.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    manager: String,
    version: u64,
    schedulers: Vec<HostRecord>,
    seeds: Vec<HostRecord>,
    /// By process, until when its certificates do not count. The authorities are kept with the
    /// process's own certificate.
    #[serde(default)]
    revoked: BTreeMap<String, u64>,
    /// As they are on the wire, without passwords.
    #[serde(default)]
    rules: RulesRecord,
}

#[derive(Default, Serialize, Deserialize)]
struct RulesRecord {
    upstreams: Vec<UpstreamRecord>,
    upload: u64,
    download: u64,
    upstream: u64,
    blocked: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct UpstreamRecord {
    registry: String,
    url: String,
    mirrors: Vec<String>,
    ca: String,
    tag_ttl_ms: Option<u64>,
    tag_stale_ms: Option<u64>,
    max_connections: u32,
}

#[derive(Serialize, Deserialize)]
struct HostRecord {
    id: String,
    address: String,
    role: i32,
    labels: BTreeMap<String, String>,
    signing_key: Vec<u8>,
    upload_slots: u32,
}

impl LastGood {
    /// The file of `role` in `data_dir` and what it knows of the manager at `manager`.
    pub(super) fn open(
        data_dir: &Path,
        role: Role,
        manager: &str,
    ) -> Result<(Self, Configuration), DirectoryError> {
        let last_good = Self {
            path: data_dir.join(format!("membership-{role}.json")),
            manager: manager.to_owned(),
        };
        let configuration = last_good.read()?.unwrap_or_default();
        Ok((last_good, configuration))
    }

    /// Replaces the file as one step: a crash leaves the old answer or the new one.
    pub(super) fn write(&self, configuration: &Configuration) -> io::Result<()> {
        let record = Record::new(&self.manager, configuration);
        replace(&self.path, &serde_json::to_vec_pretty(&record)?)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self) -> Result<Option<Configuration>, DirectoryError> {
        let path = &self.path;
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                let path = path.clone();
                return Err(DirectoryError::Read { path, source });
            }
        };
        match serde_json::from_slice::<Format>(&text) {
            Ok(Format { format }) if format > FORMAT => {
                return Err(DirectoryError::NewerFormat {
                    path: path.clone(),
                    found: format,
                    known: FORMAT,
                });
            }
            _ => {}
        }
        match self.parse(&text) {
            Ok(configuration) => Ok(configuration),
            Err(error) => {
                tracing::warn!(path = %path.display(), error, "last known members unreadable");
                Ok(None)
            }
        }
    }

    fn parse(&self, text: &[u8]) -> Result<Option<Configuration>, String> {
        let record: Record = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if record.manager != self.manager {
            tracing::info!(was = record.manager, now = self.manager, "another manager");
            return Ok(None);
        }
        let configuration = Configuration::try_from(record);
        configuration.map(Some).map_err(|error| error.to_string())
    }
}

impl Record {
    fn new(manager: &str, configuration: &Configuration) -> Self {
        Self {
            format: FORMAT,
            manager: manager.to_owned(),
            version: configuration.version,
            schedulers: configuration.schedulers.iter().map(Into::into).collect(),
            seeds: configuration.seeds.iter().map(Into::into).collect(),
            revoked: configuration
                .trust
                .revoked
                .iter()
                .map(|(id, until)| (id.to_string(), *until))
                .collect(),
            rules: configuration.rules.as_ref().into(),
        }
    }
}

impl From<&Rules> for RulesRecord {
    fn from(rules: &Rules) -> Self {
        let wire = wire::Rules::from(rules);
        let limits = wire.limits.unwrap_or_default();
        let upstreams = wire.upstreams.into_iter().map(|rule| UpstreamRecord {
            registry: rule.registry,
            url: rule.url,
            mirrors: rule.mirrors,
            ca: rule.ca,
            tag_ttl_ms: rule.tag_ttl_ms,
            tag_stale_ms: rule.tag_stale_ms,
            max_connections: rule.max_connections,
        });
        Self {
            upstreams: upstreams.collect(),
            upload: limits.upload,
            download: limits.download,
            upstream: limits.upstream,
            blocked: wire.blocked,
        }
    }
}

impl From<RulesRecord> for wire::Rules {
    fn from(record: RulesRecord) -> Self {
        let upstreams = record.upstreams.into_iter().map(|rule| wire::UpstreamRule {
            registry: rule.registry,
            url: rule.url,
            mirrors: rule.mirrors,
            ca: rule.ca,
            tag_ttl_ms: rule.tag_ttl_ms,
            tag_stale_ms: rule.tag_stale_ms,
            max_connections: rule.max_connections,
            login: None,
        });
        Self {
            upstreams: upstreams.collect(),
            limits: Some(wire::LimitRules {
                upload: record.upload,
                download: record.download,
                upstream: record.upstream,
            }),
            blocked: record.blocked,
        }
    }
}

impl TryFrom<Record> for Configuration {
    type Error = Invalid;

    fn try_from(record: Record) -> Result<Self, Invalid> {
        let hosts = |hosts: Vec<HostRecord>| hosts.into_iter().map(Into::into).collect();
        Self::try_from(wire::Configuration {
            version: record.version,
            schedulers: hosts(record.schedulers),
            seeds: hosts(record.seeds),
            trust: Some(wire::Trust {
                authorities: Vec::new(),
                revoked: record
                    .revoked
                    .into_iter()
                    .map(|(id, until)| wire::Revocation { id, until })
                    .collect(),
            }),
            rules: Some(record.rules.into()),
        })
    }
}

impl From<&Host> for HostRecord {
    fn from(host: &Host) -> Self {
        let wire = wire::Host::from(host);
        Self {
            id: wire.id,
            address: wire.address,
            role: wire.role,
            labels: host.labels.clone(),
            signing_key: wire.signing_key.to_vec(),
            upload_slots: wire.upload_slots,
        }
    }
}

impl From<HostRecord> for wire::Host {
    fn from(record: HostRecord) -> Self {
        Self {
            id: record.id,
            address: record.address,
            role: record.role,
            labels: record.labels.into_iter().collect(),
            signing_key: record.signing_key.into(),
            upload_slots: record.upload_slots,
        }
    }
}
