//! What a mirror's pod does to the node it runs on: one host file, one directory. It sees nothing of
//! the node but these, so it keeps no journal; it changes each in one step, and leaves alone what
//! somebody else wrote. A second run changes nothing.
//!
//! A host is set up by the rest of `darner setup`.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use darner_proto::id::parse_address;
use darner_proto::invalid::Invalid;

use super::edit::hosts::table;
use super::plan::OURS;

#[cfg(test)]
mod tests;

/// containerd's directory for every registry that has none of its own.
const EVERY_REGISTRY: &str = "_default";
const FILE: &str = "hosts.toml";

/// Steps of a mirror's pod
#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    HostsFile(HostsFile),
    DataDir(DataDir),
}

/// Write containerd's host file for every registry into a directory, and nothing else
///
/// Writes _default/hosts.toml in the directory that containerd's config_path names. containerd reads
/// it at every pull and needs no restart.
#[derive(Debug, Args)]
pub(crate) struct HostsFile {
    /// containerd's directory of host files
    #[arg(long, value_name = "DIR", default_value = "/etc/containerd/certs.d")]
    certs_dir: PathBuf,
    /// Where the mirror listens
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7420", value_parser = mirror_url)]
    mirror: String,
    /// Exit 0 when the file is somebody else's; it is left as it is in any case
    #[arg(long)]
    leave_foreign: bool,
}

/// Make a directory the mirror's own
///
/// Creates it (mode 0700) where it is absent, and gives it, and nothing in it, to the owner.
#[derive(Debug, Args)]
pub(crate) struct DataDir {
    /// The directory
    directory: PathBuf,
    /// The numbers of the user and group that the mirror runs as
    #[arg(long, value_name = "UID:GID", value_parser = owner)]
    owner: Owner,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    user: u32,
    group: u32,
}

/// What was done about a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    Written,
    Unchanged,
    LeftAlone,
}

/// The machine cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// The file is not ours to write.
    #[error(
        "{path} was not written by darner and was left as it is; add this table to it:\n{table}"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What the file would have to say.
        table: String,
    },
    /// The file system refuses.
    #[error("{path} cannot be written")]
    File {
        /// What was to be written.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Node {
    /// Does it, and tells on standard output what was done.
    ///
    /// # Errors
    /// What stood in the way. Nothing is left half written.
    pub(crate) fn run(&self) -> Result<(), NodeError> {
        let (path, done) = match self {
            Self::HostsFile(file) => (file.path(), file.run()?),
            Self::DataDir(data_dir) => (data_dir.directory.clone(), data_dir.run()?),
        };
        let done = match done {
            Done::Written => "written",
            Done::Unchanged => "is as it should be",
            Done::LeftAlone => "was not written by darner, left as it is",
        };
        println!("{}: {done}", path.display());
        Ok(())
    }
}

impl HostsFile {
    fn path(&self) -> PathBuf {
        self.certs_dir.join(EVERY_REGISTRY).join(FILE)
    }

    fn run(&self) -> Result<Done, NodeError> {
        let path = self.path();
        let table = table(&self.mirror, None);
        let wanted = format!(
            "{OURS} hosts-file`, which overwrites changes.\n# To undo it, remove this file.\n{table}"
        );
        let failed = |source| NodeError::File {
            path: path.clone(),
            source,
        };
        match state(&path, &wanted).map_err(failed)? {
            State::AsWanted => Ok(Done::Unchanged),
            State::AbsentOrOurs => write(&path, &wanted).map_err(failed),
            State::Foreign if self.leave_foreign => Ok(Done::LeftAlone),
            State::Foreign => Err(NodeError::Foreign { path, table }),
        }
    }
}

enum State {
    AbsentOrOurs,
    AsWanted,
    Foreign,
}

fn state(path: &Path, wanted: &str) -> io::Result<State> {
    match fs::symlink_metadata(path) {
        // A link leads to somebody else's file.
        Ok(found) if !found.is_file() => return Ok(State::Foreign),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::AbsentOrOurs),
        Err(error) => return Err(error),
    }
    let found = fs::read(path)?;
    Ok(if found == wanted.as_bytes() {
        State::AsWanted
    } else if found.starts_with(OURS.as_bytes()) {
        State::AbsentOrOurs
    } else {
        State::Foreign
    })
}

/// As one step: containerd, which may read at any moment, sees the old file or the new one.
fn write(path: &Path, text: &str) -> io::Result<Done> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let partial = path.with_extension("toml.darner-new");
    let mut file = File::create(&partial)?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    File::open(directory)?.sync_all()?;
    Ok(Done::Written)
}

impl DataDir {
    fn run(&self) -> Result<Done, NodeError> {
        let done = give(&self.directory, self.owner);
        done.map_err(|source| NodeError::File {
            path: self.directory.clone(),
            source,
        })
    }
}

fn give(directory: &Path, owner: Owner) -> io::Result<Done> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let now = fs::metadata(directory)?;
    if (now.uid(), now.gid()) == (owner.user, owner.group) {
        return Ok(Done::Unchanged);
    }
    std::os::unix::fs::chown(directory, Some(owner.user), Some(owner.group))?;
    Ok(Done::Written)
}

/// `http://host:port`: what containerd is to ask has no path, and needs no certificate on the
/// machine's own loopback.
pub(super) fn mirror_url(text: &str) -> Result<String, Invalid> {
    let bad = || Invalid::new("mirror", "is not http://host:port");
    let address = text.strip_prefix("http://").ok_or_else(bad)?;
    let address = parse_address(address.trim_end_matches('/').to_owned()).map_err(|_| bad())?;
    Ok(format!("http://{address}"))
}

fn owner(text: &str) -> Result<Owner, Invalid> {
    let parsed = text.split_once(':').and_then(|(user, group)| {
        Some(Owner {
            user: user.parse().ok()?,
            group: group.parse().ok()?,
        })
    });
    parsed.ok_or_else(|| Invalid::new("owner", "is not UID:GID, two numbers"))
}
