//! What can go wrong in the store, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use darner_proto::digest::Digest;

/// The store cannot do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The content cannot be made room for. Content passes without being kept.
    #[error(
        "there is no room for {needed} bytes: the store may take {capacity} bytes and leaves a reserve on its disk; raise [store] capacity or free the disk"
    )]
    Full {
        /// Bytes asked for.
        needed: u64,
        /// Bytes the store may take in all.
        capacity: u64,
    },
    /// The bytes do not have the digest they were given for.
    #[error("the bytes do not have the digest {0}; they are discarded")]
    Mismatch(Digest),
    /// A piece came with other bytes than those of it that clients have been given.
    #[error(
        "a piece of {0} came with other bytes than those that were given out of it; the download fails"
    )]
    Changed(Digest),
    /// It is in the store already: read it from there.
    #[error("{0} is in the store already")]
    Held(Digest),
    /// A download of the same digest is told to be of another size.
    #[error("{digest} is being downloaded as {present} bytes, not {asked}; one of both is wrong")]
    Size {
        /// The content.
        digest: Digest,
        /// The size of the download under way.
        present: u64,
        /// The size asked for.
        asked: u64,
    },
    /// The download was discarded, or its content evicted.
    #[error("{0} is gone; ask for it again")]
    Gone(Digest),
    /// Bytes that are not there, or not there yet.
    #[error("bytes {start} to {end} of {digest} are not there")]
    Missing {
        /// The content.
        digest: Digest,
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
    },
    /// The operating system refuses.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Several writes failed within a short time: the disk is left alone for a while.
    #[error("the disk failed several writes within a minute; nothing is written until it recovers")]
    Failing,
    /// The index cannot be written. What it should say is kept in memory and tried again.
    #[error("the index cannot be written; it is tried again")]
    Index(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Written by a later version.
    #[error(
        "{path} has format {found}, and this version knows formats up to {known}; start the version that wrote it, or give this one an empty directory"
    )]
    Newer {
        /// The store.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format known.
        known: u32,
    },
    /// A directory with something else in it.
    #[error("{0} holds something that is not a store; give the store an empty directory")]
    NotAStore(PathBuf),
    /// Another process works on it.
    #[error("{0} is in use by another process; stop that one or give this one its own data_dir")]
    InUse(PathBuf),
    /// Somebody else could change what is in it.
    #[error("{0} belongs to another user; change its owner to the user that runs this process")]
    Foreign(PathBuf),
    /// Too much is to stay already.
    #[error(
        "{0} cannot be kept for a time: half of the store is pinned, or 4096 contents are; make the store larger or let some end"
    )]
    Pinned(Digest),
    /// The process is stopping.
    #[error("the process is stopping")]
    Stopping,
}

impl StoreError {
    /// A failed system call on `path`.
    pub(super) fn io(doing: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io {
            doing,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// Whether the disk has no room for what was to be written.
    pub(super) fn is_out_of_space(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
                    | io::ErrorKind::FileTooLarge
            ),
            _ => false,
        }
    }

    /// The value of the `kind` label.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Full { .. } | Self::Pinned(_) => "full",
            Self::Mismatch(_) | Self::Changed(_) => "mismatch",
            Self::Io { .. } => "io",
            Self::Failing => "failing",
            Self::Index(_) => "index",
            _ => "refused",
        }
    }
}
