//! Where a process learns who schedules and who seeds: from a list of its own, or from the manager.
//!
//! A manager that is away, restarted, restored from an old backup or started over with nothing
//! must not cost a pull. Three rules see to that, and hold together with the manager's side
//! (`darner_manager::membership`):
//!
//! 1. *Versions never go backwards.* An answer with a version not above the one held is ignored; but the
//!    first after a start counts if it has the very one that was read from disk, where not all of it is.
//!    The manager counts `max(last + 1, unix time in ms)`, so a manager that lost its counter is
//!    above what it said before. [`Directory`] tells the version it holds when it asks, so a manager
//!    whose clock was set back learns where to go on, and one without memory waits until its
//!    members had time to report before it answers.
//! 2. *The last known schedulers are kept until others are named.* A configuration without any
//!    scheduler helps nobody, and the manager's not seeing them does not mean that nodes do not.
//! 3. *The last good answer is on disk*, with the manager's URL. It serves at start until the manager
//!    answers. Another manager's answer is not ours: with another URL it does not count. Passwords of
//!    registries are not in it: a process that starts while the manager is away reads with what its own
//!    settings give it.
//!
//! What the schedulers at these addresses say is not this module's business.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use darner_proto::digest::Digest;
use darner_proto::id::{Host, HostId};
use darner_proto::manager::Configuration;
use darner_proto::rules::Rules;
use tokio::sync::watch;
use url::Url;

use crate::identity::Identity;
use crate::shutdown::Shutdown;

pub mod holdings;
mod last_good;
pub mod orders;
mod session;
#[cfg(test)]
mod tests;

use holdings::Holdings;
use last_good::LastGood;
use orders::Orders;
use session::Links;

/// Who schedules and who seeds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Membership {
    /// The configuration's version; 0 while nothing is known, and in a fixed list.
    pub version: u64,
    /// The schedulers, by id.
    pub schedulers: Vec<SchedulerEntry>,
    /// The seeds, by id. A fixed list has none: nodes learn the seeds from their schedulers.
    pub seeds: Vec<Host>,
    /// What the manager sets for this node; nothing in a fixed list.
    pub rules: Arc<Rules>,
}

/// A scheduler, as nodes dial it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulerEntry {
    /// What it is known by in rendezvous order. In a fixed list this is made from the address and
    /// is not what the scheduler calls itself.
    pub id: HostId,
    /// `https://host:port`; `http://` in plain text.
    pub url: String,
}

/// A directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// `[manager] address` is no URL of a host.
    #[error(
        "manager address {url:?} is not https://host:port (http:// with [identity] insecure = true)"
    )]
    Address {
        /// As configured.
        url: String,
    },
    /// The last good answer is there and cannot be read.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the file system says.
        #[source]
        source: io::Error,
    },
    /// The last good answer was written by a later version. It is left as it is.
    #[error("{path} has format {found}, this version knows up to {known}; it was left untouched")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
}

/// Where to learn who schedules and who seeds. Clones share it; what [`Directory::watch`] gave out
/// stays open for as long as one of them lives.
#[derive(Debug, Clone)]
pub struct Directory {
    published: Arc<watch::Sender<Arc<Membership>>>,
    links: Links,
}

impl Directory {
    /// A list that never changes. Ids are made from the addresses, so that all nodes with the same
    /// list agree on the order of schedulers whatever these call themselves; the order and spelling
    /// (case, trailing slash) of the URLs do not matter.
    pub fn fixed(scheduler_urls: &[String]) -> Self {
        let mut schedulers: Vec<_> = scheduler_urls.iter().map(|url| fixed_entry(url)).collect();
        schedulers.sort_by(|left, right| left.id.cmp(&right.id));
        schedulers.dedup_by(|left, right| left.id == right.id);
        Self::publishing(Membership {
            version: 0,
            schedulers,
            seeds: Vec::new(),
            rules: Arc::default(),
        })
    }

    /// Registers `host` with the manager at `url`, keeps it alive and follows the configuration,
    /// until the process drains; then deregisters. Never gives up. The last good answer is kept in
    /// `<data_dir>/membership-<role>.json`. What the manager says of certificates goes to `identity`.
    ///
    /// Returns at once with what that file knows; call it inside a tokio runtime.
    ///
    /// # Errors
    /// A URL that cannot work, or a last good answer that is of a later format or cannot be read. A
    /// damaged one is only logged: the manager has another.
    pub fn managed(
        url: &str,
        host: Host,
        data_dir: &Path,
        identity: &Identity,
        shutdown: &Shutdown,
    ) -> Result<Self, DirectoryError> {
        let endpoint = manager_endpoint(url, identity.scheme())?;
        let (last_good, known) = LastGood::open(data_dir, host.role, url)?;
        identity.learn(&known.trust);
        let directory = Self::publishing(membership(&known, identity.scheme()));
        let session = session::Session::new(
            &endpoint,
            host,
            session::Known {
                configuration: known,
                read: true,
                published: directory.published.clone(),
                last_good: Arc::new(last_good),
                identity: identity.clone(),
            },
            directory.links.clone(),
        );
        shutdown.spawn(session.run(shutdown.clone()));
        Ok(directory)
    }

    /// What is known, now and from now on.
    pub fn watch(&self) -> watch::Receiver<Arc<Membership>> {
        self.published.subscribe()
    }

    /// What the manager has this host do; nothing where there is none.
    pub fn orders(&self) -> &Orders {
        &self.links.orders
    }

    /// What the manager hears of the images that this host holds.
    pub fn holdings(&self) -> &Holdings {
        &self.links.holdings
    }

    fn publishing(membership: Membership) -> Self {
        Self {
            links: Links::default(),
            published: Arc::new(watch::Sender::new(Arc::new(membership))),
        }
    }
}

/// What a node acts on when it holds `current` and hears `new`: nothing unless `new` is newer, or `current`
/// is what was `read` from disk of the same; and then never without the schedulers it knew.
fn successor(current: &Configuration, mut new: Configuration, read: bool) -> Option<Configuration> {
    let same_in_full = read && new.version == current.version;
    if new.version <= current.version && !same_in_full {
        return None;
    }
    if new.schedulers.is_empty() {
        new.schedulers.clone_from(&current.schedulers);
    }
    Some(new)
}

fn membership(configuration: &Configuration, scheme: &str) -> Membership {
    let entry = |host: &Host| SchedulerEntry {
        id: host.id.clone(),
        url: format!("{scheme}://{}", host.address),
    };
    Membership {
        version: configuration.version,
        schedulers: configuration.schedulers.iter().map(entry).collect(),
        seeds: configuration.seeds.clone(),
        rules: configuration.rules.clone(),
    }
}

fn manager_endpoint(url: &str, scheme: &str) -> Result<tonic::transport::Endpoint, DirectoryError> {
    let bad = || DirectoryError::Address {
        url: url.to_owned(),
    };
    let parsed = Url::parse(url).map_err(|_| bad())?;
    if parsed.scheme() != scheme || !parsed.has_host() {
        return Err(bad());
    }
    tonic::transport::Endpoint::from_shared(url.to_owned()).map_err(|_| bad())
}

/// A URL that does not parse is refused by `crate::config` before it gets here; should one come all
/// the same it still has one id everywhere, and fails when it is dialled.
fn fixed_entry(url: &str) -> SchedulerEntry {
    let parsed = Url::parse(url).ok();
    let authority = parsed.as_ref().and_then(|url| {
        let host = url.host_str()?.to_ascii_lowercase();
        Some(format!("{host}_{}", url.port_or_known_default()?))
    });
    let id = authority
        .map(|text| text.replace(':', "-").replace(['[', ']'], ""))
        .and_then(|text| text.parse().ok());
    SchedulerEntry {
        id: id.unwrap_or_else(|| hashed_id(url)),
        url: url.trim_end_matches('/').to_owned(),
    }
}

fn hashed_id(text: &str) -> HostId {
    #[allow(
        clippy::expect_used,
        reason = "64 hexadecimal digits are a valid host id"
    )]
    Digest::sha256(text.as_bytes())
        .hex()
        .parse()
        .expect("64 hexadecimal digits are a valid host id")
}
